//! How it is found out whether a connection still exists on its server, and how it is ended there.
//!
//! A COMMIT without an answer may still be under way. What is read after it is true only once the connection that it went
//! over is gone: each connection that writes therefore leaves a mark, by which another one asks.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep, timeout};

use super::MysqlOptions;
use super::cluster;
use super::failure::Failure;
use super::session::connect;

/// A server's own name for itself.
const IDENTITY: &str = "CONCAT(@@hostname, ':', @@port, ':', @@server_id)";

/// A connection that was told to end and does not for so long is busy with something that cannot be interrupted.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// What tells a connection on its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// Of the server: another one may answer under the same name.
    identity: String,
    /// The connection's number there. A server that was restarted gives it again, to somebody else.
    connection: u64,
    /// A lock that nobody but this connection holds, for as long as it exists. None: the server gives no locks.
    lock: Option<String>,
    /// The server's name in its cluster, where it is part of one.
    member: Option<String>,
}

/// What a server says of a connection.
#[derive(Debug)]
pub(super) enum Asked {
    /// It does not exist any more.
    Ended,
    /// It still does, though it was told to end.
    Exists,
    /// Another server answers at its address.
    Elsewhere,
    /// It does not exist, but that server is not part of its cluster's quorum, and does not know what became of what it sent.
    Apart,
    /// That server cannot be asked.
    Unknown(Failure),
}

impl Mark {
    /// Leaves one.
    pub(super) async fn of(conn: &mut Conn) -> Result<Self, Failure> {
        let row: Option<(String, u64)> =
            conn.query_first(format!("SELECT {IDENTITY}, CONNECTION_ID()")).await?;
        let (identity, connection) = row.unwrap_or_default();
        let taken: Result<Option<(String, Option<u8>)>, _> = conn
            .query_first(
                "SELECT m.name, GET_LOCK(m.name, 0) FROM (SELECT CONCAT('reel-', UUID()) AS name) m",
            )
            .await;
        let lock = match taken {
            Ok(Some((name, Some(1)))) => Some(name),
            Ok(_) | Err(mysql_async::Error::Server(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let member = cluster::name_of(conn).await?;
        Ok(Self { identity, connection, lock, member })
    }

    /// Whether the cluster has lost the server, so that nothing is under way there any more that could still come.
    pub(super) async fn is_lost(&self, options: &MysqlOptions, server: &(String, u16)) -> bool {
        match &self.member {
            Some(name) => cluster::has_lost(options, name, server).await,
            None => false,
        }
    }

    /// Ends the connection, on the server that it was made to; whatever else that one is fit for.
    pub(super) async fn end(&self, options: &MysqlOptions, server: &(String, u16)) -> Asked {
        let limit = options.connect_timeout + 2 * ENDS_WITHIN;
        match timeout(limit, self.ask(options, server)).await {
            Ok(Ok(asked)) => asked,
            Ok(Err(failure)) => Asked::Unknown(failure),
            Err(_) => Asked::Unknown(Failure::Timeout),
        }
    }

    async fn ask(&self, options: &MysqlOptions, server: &(String, u16)) -> Result<Asked, Failure> {
        // One that was cut off does not refuse.
        let connected = timeout(options.connect_timeout, connect(options, server)).await;
        let mut conn = connected.unwrap_or(Err(Failure::Timeout))?;
        let identity: Option<String> = conn.query_first(format!("SELECT {IDENTITY}")).await?;
        if identity.as_deref() != Some(self.identity.as_str()) {
            return Ok(Asked::Elsewhere);
        }
        let begin = Instant::now();
        while let Some(holder) = self.holder(&mut conn, &options.database).await? {
            if begin.elapsed() > ENDS_WITHIN {
                return Ok(Asked::Exists);
            }
            // Who ends in this moment is not there to be ended.
            match conn.query_drop(format!("KILL CONNECTION {holder}")).await {
                Ok(()) | Err(mysql_async::Error::Server(_)) => {}
                Err(error) => return Err(error.into()),
            }
            sleep(Duration::from_millis(10)).await;
        }
        if self.member.is_some() && !cluster::is_part(&mut conn).await? {
            return Ok(Asked::Apart);
        }
        Ok(Asked::Ended)
    }

    /// The number of the connection, if it exists. Without a lock another one to this database may have its number by now.
    async fn holder(&self, conn: &mut Conn, database: &str) -> Result<Option<u64>, Failure> {
        let found: Option<Option<u64>> = match &self.lock {
            Some(lock) => conn.exec_first("SELECT IS_USED_LOCK(?)", (lock,)).await?,
            None => {
                let running =
                    "SELECT id FROM information_schema.processlist WHERE id = ? AND db = ?";
                conn.exec_first(running, (self.connection, database)).await?
            }
        };
        Ok(found.flatten())
    }
}
