//! The tracker's database in SQLite.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use crate::error::MetaError;
use crate::sqlite::database::{Database, Refusal};
use crate::sqlite::migrate::TRACKER;
use crate::store::GroupStore;
use crate::text::{TextField, check};

const GROUPS: &str = "SELECT group_name FROM t_groups_info ORDER BY group_name";
const GROUP_EXISTS: &str = "SELECT 1 FROM t_groups_info WHERE group_name = ?1";
const ADD_GROUP: &str =
    "INSERT INTO t_groups_info (group_name) VALUES (?1) ON CONFLICT (group_name) DO NOTHING";
const ROUTE: &str = "SELECT group_name FROM t_router WHERE appid = ?1 AND userid = ?2";
const ADD_ROUTE: &str = "INSERT INTO t_router (appid, userid, group_name) VALUES (?1, ?2, ?3)";

/// `t_groups_info` and `t_router` in one SQLite file.
#[derive(Debug)]
pub struct SqliteGroupStore {
    database: Database,
}

impl SqliteGroupStore {
    /// Opens the file, made with its folder and tables if it is not there.
    ///
    /// # Errors
    /// The file cannot be opened, is another database, or was written by a later version.
    pub fn open(path: &Path) -> Result<Self, MetaError> {
        Ok(Self { database: Database::open(path, &TRACKER)? })
    }
}

impl GroupStore for SqliteGroupStore {
    async fn groups(&mut self) -> Result<Vec<String>, MetaError> {
        self.database.read("groups", |connection| {
            connection.prepare_cached(GROUPS)?.query_map([], |row| row.get(0))?.collect()
        })
    }

    async fn add_group(&mut self, group: &str) -> Result<bool, MetaError> {
        check(TextField::Group, group)?;
        self.database.write("add_group", |connection| {
            Ok(connection.prepare_cached(ADD_GROUP)?.execute(params![group])? == 1)
        })
    }

    async fn route(&mut self, app: &str, user: &str) -> Result<Option<String>, MetaError> {
        check(TextField::App, app)?;
        check(TextField::User, user)?;
        self.database.read("route", |connection| find_route(connection, app, user))
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
        self.database.write("route_or_insert", |connection| {
            if let Some(standing) = find_route(connection, app, user)? {
                return Ok(standing);
            }
            if !connection.prepare_cached(GROUP_EXISTS)?.exists(params![group])? {
                return Err(Refusal::Meta(MetaError::UnknownGroup { group: group.to_owned() }));
            }
            // The transaction holds the write lock since before the look above, and the unique key
            // stands behind it.
            connection.prepare_cached(ADD_ROUTE)?.execute(params![app, user, group])?;
            Ok(group.to_owned())
        })
    }
}

fn find_route(connection: &Connection, app: &str, user: &str) -> rusqlite::Result<Option<String>> {
    connection.prepare_cached(ROUTE)?.query_row(params![app, user], |row| row.get(0)).optional()
}
