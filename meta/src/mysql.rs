//! The store of a cluster: MySQL or MariaDB, over the network, with the tables and columns of the deployed system.
//!
//! A store is one connection, made at its first use and made anew when it is lost, to the first server of a list that
//! answers and is fit for it (`mysql/session.rs`). All of it runs on the tokio runtime of whoever owns the store.
//!
//! Every change is a transaction that ends with a COMMIT of its own, so all that can be lost without an answer is a COMMIT.
//! What failed before it has changed nothing, and is tried again by itself where that can help (`mysql/link.rs`). A COMMIT
//! without an answer is an unknown outcome; the connection that it went over is ended on the server before the store is used
//! again, so that what is read back stays true.
//!
//! Text is compared by bytes: the collation of every column is one that does (`mysql/schema.rs`). Times are read and written in
//! UTC, whatever the server's time zone is.

mod answer;
mod changes;
mod cluster;
mod failure;
mod files;
mod groups;
mod link;
mod mark;
mod migrate;
mod readers;
mod schema;
mod sequences;
mod session;

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

pub use changes::{Changed, MysqlChangeLog};
pub use files::MysqlFileStore;
pub use groups::MysqlGroupStore;
pub use migrate::{Migration, Step, migrate};
pub use readers::serve_readers;
pub use sequences::MysqlSequenceStore;

use self::link::Link;
use self::session::Access;
use crate::error::MetaError;
use crate::location::Role;

/// A store over one connection; `D` says of which database, and so which trait it has.
pub struct MysqlStore<D> {
    link: Link,
    database: PhantomData<D>,
}

impl<D> MysqlStore<D> {
    /// The store of whoever writes; connects at its first use.
    #[must_use]
    pub fn new(options: MysqlOptions) -> Self {
        Self { link: Link::new(options, Access::Writes), database: PhantomData }
    }

    /// A store for lookups beside the one that writes.
    #[must_use]
    pub fn new_reader(options: MysqlOptions) -> Self {
        Self { link: Link::new(options, Access::Reads), database: PhantomData }
    }

    /// The store of whoever writes, connected.
    ///
    /// # Errors
    /// No server can be reached, or none is fit for use.
    pub async fn open(options: MysqlOptions) -> Result<Self, MetaError> {
        let mut store = Self::new(options);
        store.connect().await?;
        Ok(store)
    }

    /// Connects, unless it is connected.
    ///
    /// # Errors
    /// No server can be reached, or none is fit for use.
    pub async fn connect(&mut self) -> Result<(), MetaError> {
        self.link.connect().await
    }
}

/// How to reach a database.
#[derive(Clone, PartialEq, Eq)]
pub struct MysqlOptions {
    /// Host and port of each server that has it, in the order in which they are tried.
    pub servers: Vec<(String, u16)>,
    /// Name of the database, at most 64 of `[A-Za-z0-9_]`.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password; none for a user without one.
    pub password: Option<String>,
    /// Whether the connection is encrypted.
    pub tls: Tls,
    /// Longest wait for a connection to one server.
    pub connect_timeout: Duration,
    /// Longest wait for the answer to a lookup or a change.
    pub statement_timeout: Duration,
    /// Use a server also where a power loss can take what it has committed.
    pub accept_volatile: bool,
}

impl MysqlOptions {
    /// A local server with the deployed name of the database.
    #[must_use]
    pub fn new(role: Role, servers: Vec<(String, u16)>, user: &str) -> Self {
        Self {
            servers,
            database: role.database().to_owned(),
            user: user.to_owned(),
            password: None,
            tls: Tls::Off,
            connect_timeout: Duration::from_secs(2),
            statement_timeout: Duration::from_secs(10),
            accept_volatile: false,
        }
    }
}

impl fmt::Debug for MysqlOptions {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlOptions")
            .field("servers", &self.servers)
            .field("database", &self.database)
            .field("user", &self.user)
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// Encryption of the connection to a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Tls {
    /// None.
    #[default]
    Off,
    /// A server that does not prove its name is refused.
    Required {
        /// PEM file with the certificates that vouch for servers; none: the well-known public ones.
        authorities: Option<PathBuf>,
        /// The name that the certificate must have, where it is not the host's.
        name: Option<String>,
    },
}
