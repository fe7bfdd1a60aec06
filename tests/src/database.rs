//! Databases of a test's own on a private MariaDB, and the way to them.

use anyhow::Result;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use reel_meta::mysql::{MysqlOptions, migrate};
use reel_meta::{MetaError, NewFile, Role};

use crate::mariadb::MariaDb;

/// Whether there is a server to test with; says so where there is none.
#[must_use]
pub fn is_installed() -> bool {
    let installed = MariaDb::is_installed();
    if !installed {
        eprintln!("skipped: MariaDB is not installed (cargo xtask setup)");
    }
    installed
}

/// Drives a future on this thread. A connection belongs to the runtime that made it: a store that is used again
/// belongs into one call of this.
///
/// # Panics
/// There can be no runtime.
#[allow(clippy::unwrap_used)]
pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// A database of its own on a server, with its tables.
///
/// # Errors
/// The server's.
pub async fn create(server: &MariaDb, role: Role) -> Result<MysqlOptions> {
    let options = MysqlOptions {
        database: server.database(),
        ..MysqlOptions::new(role, vec![server.address()], "root")
    };
    migrate(&options, role, false).await?;
    Ok(options)
}

/// A plain connection, as an operator's; to no database where that has no name.
///
/// # Errors
/// The server's.
pub async fn operator(server: &MariaDb, database: &str) -> Result<Conn> {
    let (host, port) = server.address();
    let builder = OptsBuilder::default().ip_or_hostname(host).tcp_port(port).user(Some("root"));
    let mut conn = Conn::new(builder.prefer_socket(false)).await?;
    if !database.is_empty() {
        conn.query_drop(format!("USE `{database}`")).await?;
    }
    Ok(conn)
}

/// An error and what is behind it.
#[must_use]
pub fn said(error: &MetaError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A user's file as an upload would enter it.
#[must_use]
pub fn new_file(user: &str, file: &str, path: &str) -> NewFile {
    NewFile {
        file: file.to_owned(),
        app: "tnvideo".to_owned(),
        user: user.to_owned(),
        file_path: path.to_owned(),
        size: 5,
        created_at: 1_700_000_000,
        checksum: Some(7),
        name: None,
        content_type: None,
        expires_at: None,
        deleted_at: None,
    }
}
