//! The tracker's database in MySQL.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::MysqlStore;
use super::failure::Failure;
use crate::error::MetaError;
use crate::store::GroupStore;
use crate::text::{TextField, check};

const GROUPS: &str = "SELECT group_name FROM t_groups_info ORDER BY group_name";
const GROUP_EXISTS: &str = "SELECT 1 FROM t_groups_info WHERE group_name = ?";
const ADD_GROUP: &str = "INSERT INTO t_groups_info (group_name) VALUES (?)";
const ROUTE: &str = "SELECT group_name FROM t_router WHERE appid = ? AND userid = ?";
const ADD_ROUTE: &str = "INSERT INTO t_router (appid, userid, group_name) VALUES (?, ?, ?)";

/// The database of trackers.
pub enum Groups {}

/// `t_groups_info` and `t_router` in MySQL.
pub type MysqlGroupStore = MysqlStore<Groups>;

impl GroupStore for MysqlGroupStore {
    async fn groups(&mut self) -> Result<Vec<String>, MetaError> {
        self.link
            .read("groups", async |conn: &mut Conn| {
                let names: Vec<Option<String>> = conn.exec(GROUPS, ()).await?;
                Ok(names.into_iter().flatten().collect())
            })
            .await
    }

    async fn add_group(&mut self, group: &str) -> Result<bool, MetaError> {
        check(TextField::Group, group)?;
        self.link
            .write("add_group", async |conn: &mut Conn| {
                let added = conn.exec_drop(ADD_GROUP, (group,)).await.map_err(Failure::from);
                match added {
                    Err(failure) if failure.is_duplicate() => Ok(false),
                    added => added.map(|()| true),
                }
            })
            .await
    }

    async fn route(&mut self, app: &str, user: &str) -> Result<Option<String>, MetaError> {
        check(TextField::App, app)?;
        check(TextField::User, user)?;
        self.link.read("route", async |conn: &mut Conn| find_route(conn, app, user).await).await
    }

    async fn route_or_insert(
        &mut self,
        app: &str,
        user: &str,
        group: &str,
    ) -> Result<String, MetaError> {
        check(TextField::App, app)?;
        check(TextField::User, user)?;
        check(TextField::Group, group)?;
        self.link
            .write("route_or_insert", async |conn: &mut Conn| {
                if let Some(standing) = find_route(conn, app, user).await? {
                    return Ok(standing);
                }
                let exists: Option<u8> = conn.exec_first(GROUP_EXISTS, (group,)).await?;
                if exists.is_none() {
                    let group = group.to_owned();
                    return Err(MetaError::UnknownGroup { group }.into());
                }
                // The unique key decides between two that see no route at the same time.
                let added = conn.exec_drop(ADD_ROUTE, (app, user, group)).await;
                match added.map_err(Failure::from) {
                    Ok(()) => Ok(group.to_owned()),
                    Err(failure) if failure.is_duplicate() => {
                        find_route(conn, app, user).await?.ok_or(failure)
                    }
                    Err(failure) => Err(failure),
                }
            })
            .await
    }
}

async fn find_route(conn: &mut Conn, app: &str, user: &str) -> Result<Option<String>, Failure> {
    // A deployed row may have NULL.
    let found: Option<Option<String>> = conn.exec_first(ROUTE, (app, user)).await?;
    Ok(found.flatten())
}
