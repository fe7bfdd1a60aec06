//! What the servers of a Galera cluster say of each other.
//!
//! They agree on who is part of the cluster (a view) in the same order as on commits. Of a server that is not part of it any
//! more, everything has therefore been decided that it will ever commit: it is ordered before the view without it, or never.

use futures_util::future::join_all;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::timeout;

use super::MysqlOptions;
use super::failure::Failure;
use super::session::connect;

/// What a server says of the part of the cluster that has the quorum.
const PRIMARY: &str = "Primary";

/// One of them, as it says itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    name: String,
    view: View,
}

/// The cluster, until somebody joins or leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct View {
    cluster: String,
    number: String,
    members: usize,
}

/// The name of a server in its cluster; none: it is not part of one.
pub(super) async fn name_of(conn: &mut Conn) -> Result<Option<String>, Failure> {
    let row: Option<(String, String)> =
        conn.query_first("SHOW GLOBAL STATUS LIKE 'wsrep_gcomm_uuid'").await?;
    Ok(row.map(|(_, name)| name).filter(|name| !name.is_empty()))
}

/// Whether the server is part of the quorum of its cluster.
pub(super) async fn is_part(conn: &mut Conn) -> Result<bool, Failure> {
    let row: Option<(String, String)> =
        conn.query_first("SHOW GLOBAL STATUS LIKE 'wsrep_cluster_status'").await?;
    Ok(row.is_some_and(|(_, status)| status == PRIMARY))
}

/// Whether the cluster goes on without the server of this name, which does not answer at `address`: all who are part of it
/// were asked, and it is not one of them.
pub(super) async fn has_lost(options: &MysqlOptions, name: &str, address: &(String, u16)) -> bool {
    let others = options.servers.iter().filter(|server| *server != address);
    let asked = others.map(async |server| {
        let asked = timeout(options.connect_timeout, ask(options, server)).await;
        asked.ok()?.ok()?
    });
    let members: Vec<Member> = join_all(asked).await.into_iter().flatten().collect();
    goes_on_without(&members, name)
}

async fn ask(options: &MysqlOptions, server: &(String, u16)) -> Result<Option<Member>, Failure> {
    let mut conn = connect(options, server).await?;
    // Waits until it knows the view that is in force now, not one of before the commit that is asked about.
    conn.query_drop("SET SESSION wsrep_sync_wait = 1").await?;
    conn.query_drop("SELECT 1").await?;
    let rows: Vec<(String, String)> = conn
        .query(
            "SHOW GLOBAL STATUS WHERE Variable_name IN ('wsrep_gcomm_uuid', 'wsrep_cluster_status', \
             'wsrep_cluster_state_uuid', 'wsrep_cluster_conf_id', 'wsrep_cluster_size')",
        )
        .await?;
    Ok(Member::from_status(&rows))
}

impl Member {
    /// None of a server that is not part of the quorum.
    fn from_status(rows: &[(String, String)]) -> Option<Self> {
        let value = |name: &str| {
            let row = rows.iter().find(|(variable, _)| variable.eq_ignore_ascii_case(name));
            row.map(|(_, value)| value.clone())
        };
        if value("wsrep_cluster_status")? != PRIMARY {
            return None;
        }
        let view = View {
            cluster: value("wsrep_cluster_state_uuid")?,
            number: value("wsrep_cluster_conf_id")?,
            members: value("wsrep_cluster_size")?.parse().ok()?,
        };
        Some(Self { name: value("wsrep_gcomm_uuid")?, view })
    }
}

/// Whether these are all the members of some view, and none of them has this name.
fn goes_on_without(members: &[Member], name: &str) -> bool {
    members.iter().any(|Member { view, .. }| {
        let of_view = members.iter().filter(|member| member.view == *view);
        let mut names: Vec<&str> = of_view.map(|member| member.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        names.len() == view.members && !names.contains(&name)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(name: &str, number: &str, members: usize, status: &str) -> Option<Member> {
        let members = members.to_string();
        let rows = [
            ("wsrep_gcomm_uuid", name),
            ("wsrep_cluster_status", status),
            ("wsrep_cluster_state_uuid", "cluster"),
            ("wsrep_cluster_conf_id", number),
            ("wsrep_cluster_size", members.as_str()),
        ];
        let rows = rows.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Member::from_status(&rows)
    }

    fn part(name: &str, number: &str, members: usize) -> Member {
        member(name, number, members, "Primary").unwrap()
    }

    #[test]
    fn only_all_others_together_can_say_that_a_server_is_lost() {
        let gone = [part("b", "4", 2), part("c", "4", 2)];
        assert!(goes_on_without(&gone, "a"));
        assert!(!goes_on_without(&gone, "b"));
        for (members, why) in [
            (vec![], "nobody answers"),
            (vec![part("b", "3", 3), part("c", "3", 3)], "it is part of it still"),
            (vec![part("b", "4", 2)], "the other one may be it"),
            (vec![part("b", "4", 2), part("b", "4", 2)], "the same one twice"),
            (vec![part("b", "4", 2), part("c", "5", 2)], "of two views"),
            (vec![part("a", "4", 2), part("b", "4", 2)], "it is one of them"),
        ] {
            assert!(!goes_on_without(&members, "a"), "{why}");
        }
        assert_eq!(member("b", "4", 1, "non-Primary"), None);
    }
}
