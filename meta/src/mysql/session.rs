//! One connection, fit for use: what it is set to, and what the server must be for it.
//!
//! A server is refused that is not part of a quorum, that is read only (what it reads may be late), whose tables are not
//! those of this version, or that a power loss makes forget what it has committed (unless the operator accepts that).

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, SslOpts};

use super::failure::Failure;
use super::mark::Mark;
use super::{MysqlOptions, Tls};
use crate::error::MetaError;
use crate::mysql::schema;

/// Prepared statements kept by a connection: more than all of one store.
const STATEMENTS_MAX: usize = 192;

/// After so many seconds without a word in a transaction the server ends it. Well below the fence of [`super::link`].
const IDLE_SECONDS: u64 = 10;

/// After so long without traffic the system asks the other end whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Changes, and reads of what they did.
    Writes,
    /// Reads.
    Reads,
}

/// An open connection.
pub(super) struct Session {
    pub(super) conn: Conn,
    /// None for one that only reads.
    pub(super) mark: Option<Mark>,
}

/// A plain connection to one server, without a database.
pub(super) async fn connect(
    options: &MysqlOptions,
    (host, port): &(String, u16),
) -> Result<Conn, Failure> {
    let builder = OptsBuilder::default()
        .ip_or_hostname(host)
        .tcp_port(*port)
        .user(Some(&options.user))
        .pass(options.password.as_deref())
        .ssl_opts(tls(&options.tls))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .prefer_socket(false)
        // An UPDATE counts the rows that it means, also those that are so already.
        .client_found_rows(true)
        .stmt_cache_size(STATEMENTS_MAX);
    Ok(Conn::new(builder).await?)
}

fn tls(tls: &Tls) -> Option<SslOpts> {
    let Tls::Required { authorities, name } = tls else { return None };
    let mut options = SslOpts::default();
    if let Some(path) = authorities {
        options =
            options.with_root_certs(vec![path.clone().into()]).with_disable_built_in_roots(true);
    }
    if let Some(name) = name {
        options = options.with_danger_tls_hostname_override(Some(name.clone()));
    }
    Some(options)
}

impl Session {
    /// Connects, looks at the server and sets the connection up.
    pub(super) async fn open(
        options: &MysqlOptions,
        server: &(String, u16),
        access: Access,
    ) -> Result<Self, Failure> {
        let mut conn = connect(options, server).await?;
        let facts = Facts::of(&mut conn).await?;
        facts.check(options)?;
        if facts.galera {
            is_ready(&mut conn).await?;
        }
        conn.query_drop(set_up(&facts, options, access)).await?;
        conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
        // The name is configuration, and was looked at when it was read.
        conn.query_drop(format!("USE `{}`", options.database)).await?;
        schema::check_version(&mut conn, &options.database).await?;
        let mark = match access {
            Access::Writes => Some(Mark::of(&mut conn).await?),
            Access::Reads => None,
        };
        if facts.galera {
            // Each read waits until this server has applied what the cluster agreed on before it: what one connection
            // has changed, or another node, is seen by every other. Not before here: while the cluster finds out that it
            // has lost a server nothing is answered for seconds, which a statement may wait and a connection may not.
            conn.query_drop("SET SESSION wsrep_sync_wait = 1").await?;
        }
        Ok(Self { conn, mark })
    }
}

/// What a server is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Facts {
    mariadb: bool,
    galera: bool,
    /// Why it is not to be used, whatever an operator accepts.
    closed: Option<&'static str>,
    /// Why a power loss can take what it has committed.
    volatile: Option<String>,
}

impl Facts {
    async fn of(conn: &mut Conn) -> Result<Self, Failure> {
        let rows: Vec<(String, String)> = conn
            .query(
                "SHOW VARIABLES WHERE Variable_name IN ('version', 'wsrep_on', 'read_only', \
                 'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', 'binlog_format')",
            )
            .await?;
        Ok(Self::from_variables(&rows))
    }

    fn from_variables(rows: &[(String, String)]) -> Self {
        let value = |name: &str| {
            let row = rows.iter().find(|(variable, _)| variable.eq_ignore_ascii_case(name));
            row.map_or("", |(_, value)| value.as_str())
        };
        let is_on = |name: &str| matches!(value(name), "ON" | "1");
        let flush = value("innodb_flush_log_at_trx_commit");
        let volatile = if flush != "1" {
            Some(format!("innodb_flush_log_at_trx_commit is {flush} and must be 1"))
        } else if is_on("log_bin") && value("sync_binlog") != "1" {
            Some(format!("sync_binlog is {} and must be 1", value("sync_binlog")))
        } else {
            None
        };
        Self {
            mariadb: value("version").to_ascii_lowercase().contains("mariadb"),
            galera: is_on("wsrep_on"),
            closed: if is_on("read_only") {
                Some("the server is read only")
            } else if is_on("log_bin") && value("binlog_format") == "STATEMENT" {
                Some("binlog_format is STATEMENT and must be ROW or MIXED")
            } else {
                None
            },
            volatile,
        }
    }

    fn check(&self, options: &MysqlOptions) -> Result<(), Failure> {
        let refusal = match (self.closed, &self.volatile) {
            (Some(why), _) => why.to_owned(),
            (None, Some(why)) if !options.accept_volatile => {
                format!("a power loss would take what the server has committed: {why}")
            }
            _ => return Ok(()),
        };
        Err(Failure::Meta(MetaError::Unavailable { operation: "connect", cause: refusal.into() }))
    }
}

/// The session's own settings. Numbers and constants only.
fn set_up(facts: &Facts, options: &MysqlOptions, access: Access) -> String {
    let seconds = options.statement_timeout.as_secs().max(1);
    // Below the wait for the answer, so that it is the server who says no.
    let lock_wait = (seconds / 2).max(1);
    // A transaction whose COMMIT does not come is ended by the server. MySQL can only end whole connections that say nothing.
    let limit = if facts.mariadb {
        format!(", max_statement_time = {seconds}, idle_transaction_timeout = {IDLE_SECONDS}")
    } else if access == Access::Writes {
        format!(", wait_timeout = {IDLE_SECONDS}")
    } else {
        String::new()
    };
    format!(
        "SET SESSION autocommit = 1, time_zone = '+00:00', \
         sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
         innodb_lock_wait_timeout = {lock_wait}{limit}"
    )
}

/// In a cluster: whether this server is part of the quorum and has caught up.
async fn is_ready(conn: &mut Conn) -> Result<(), Failure> {
    let ready: Option<(String, String)> =
        conn.query_first("SHOW GLOBAL STATUS LIKE 'wsrep_ready'").await?;
    match ready {
        Some((_, state)) if state == "ON" => Ok(()),
        _ => Err(Failure::Meta(MetaError::Unavailable {
            operation: "connect",
            cause: "the server is not part of its cluster's quorum".into(),
        })),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::location::Role;

    fn facts(variables: &[(&str, &str)]) -> Facts {
        let rows: Vec<(String, String)> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Facts::from_variables(&rows)
    }

    #[test]
    fn a_server_that_forgets_is_refused_unless_that_is_accepted() {
        let options =
            MysqlOptions::new(Role::Storage, vec![("localhost".to_owned(), 3306)], "reel");
        let accepting = MysqlOptions { accept_volatile: true, ..options.clone() };
        let safe = ("innodb_flush_log_at_trx_commit", "1");
        for (variables, fit) in [
            (vec![safe, ("log_bin", "OFF"), ("sync_binlog", "0")], true),
            (vec![safe, ("log_bin", "ON"), ("sync_binlog", "1")], true),
            (vec![safe, ("log_bin", "ON"), ("sync_binlog", "0")], false),
            (vec![("innodb_flush_log_at_trx_commit", "2"), ("log_bin", "OFF")], false),
            (vec![], false),
        ] {
            let facts = facts(&variables);
            assert_eq!(facts.check(&options).is_ok(), fit, "{variables:?}");
            assert!(facts.check(&accepting).is_ok(), "{variables:?}");
        }
        let replica = facts(&[safe, ("read_only", "ON")]);
        assert!(replica.check(&accepting).is_err());
        let by_statement =
            [safe, ("log_bin", "ON"), ("sync_binlog", "1"), ("binlog_format", "STATEMENT")];
        assert!(facts(&by_statement).check(&accepting).is_err());
    }
}
