//! Databases of a test's own on a private MariaDB, and the way to them.

use std::path::Path;

use anyhow::Result;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use reel_meta::mysql::{MysqlOptions, migrate};
use reel_meta::{Location, MetaError, NewFile, Role};

use crate::mariadb::{self, MariaDb};
use crate::process::Up;

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

/// Where a role has its metadata whose test has no say in that: in this folder or, with `REEL_TEST_METADATA=mariadb`, in a database of
/// its own on the server of this process.
///
/// # Errors
/// The server's.
pub fn location(folder: &Path, role: Role) -> Result<Location> {
    if !mariadb::is_in_use() {
        return Ok(Location::embedded(folder, role));
    }
    let options = MysqlOptions {
        database: mariadb::database_of(folder, role),
        ..MysqlOptions::new(role, vec![mariadb::shared()?], "root")
    };
    block_on(migrate(&options, role, false))?;
    Ok(Location::Shared(options))
}

/// Loses all metadata of a stopped store that `reel up` keeps in this data folder, or on the server of this process.
///
/// # Errors
/// The server's, or the file system's.
pub fn lose_metadata(data: &Path) -> Result<()> {
    if !mariadb::is_in_use() {
        for entry in std::fs::read_dir(data.join("meta"))? {
            let entry = entry?;
            // The journal stays, as where somebody removes the database by its name.
            if entry.file_type()?.is_file() {
                std::fs::remove_file(entry.path())?;
            }
        }
        return Ok(());
    }
    let (host, port) = mariadb::shared()?;
    let builder = OptsBuilder::default().ip_or_hostname(host).tcp_port(port).user(Some("root"));
    block_on(async {
        let mut conn = Conn::new(builder.prefer_socket(false)).await?;
        for role in Role::ALL {
            conn.query_drop(format!("DROP DATABASE {}", mariadb::database_of(data, role))).await?;
        }
        Ok(conn.disconnect().await?)
    })
}

/// A store whose metadata is on a server that is reached at this address, as this user; its databases have their tables.
///
/// # Errors
/// The server's.
pub fn store_on(
    server: &MariaDb,
    (host, port): (String, u16),
    user: &str,
    data: &Path,
) -> Result<Up> {
    for role in Role::ALL {
        let options = MysqlOptions::new(role, vec![server.address()], "root");
        block_on(migrate(&options, role, false))?;
    }
    Ok(Up::new(data)
        .set("meta.mysql.servers", &format!("[\"{host}:{port}\"]"))
        .set("meta.mysql.user", user)
        // Each has its own memory of files, and the kernel says which of them a connection gets.
        .set("node.data_threads", "1")
        .expect_log("metadata"))
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
