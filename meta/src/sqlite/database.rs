//! One SQLite connection: how it is opened, how a write becomes durable, and what happens after a
//! COMMIT that did not say yes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{Cause, MetaError};
use crate::sqlite::migrate::{self, Schema};

/// How long a statement waits for another connection's write. One process owns the file, so only
/// its own other connections and an operator's `sqlite3` can hold it; a commit takes milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the log's new beginning waits for readers, and with it the writer for its turn.
const RESTART_WAIT: Duration = Duration::from_millis(100);

/// Prepared statements kept by a connection: more than all constants of one store.
const STATEMENTS_MAX: usize = 128;

/// Page cache of one connection, in KiB (a negative number in SQLite's terms).
const CACHE_KIB: i64 = 16 * 1024;

/// Pages of the WAL from which a synced commit checkpoints: SQLite's default.
const CHECKPOINT_PAGES: i64 = 1000;

/// The WAL file is cut back to this many bytes after a checkpoint.
const WAL_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// A connection to one of the three databases.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Connection,
    reads_only: bool,
    /// A COMMIT has failed and nothing has been committed since. See [`Database::settle`].
    unsettled: bool,
    /// A transaction of several changes is open.
    open: Option<Open>,
    /// See [`Database::sync_commits`].
    commits_synced: bool,
}

impl Database {
    /// Opens the file for writing, made with its folder if it is not there, and brings it to the
    /// schema's last version.
    pub(crate) fn open(path: &Path, schema: &Schema) -> Result<Self, MetaError> {
        make_folder(path).map_err(|error| open_error(path, error))?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = connect(path, flags).map_err(|error| open_error(path, error))?;
        migrate::run(&mut connection, path, schema)?;
        sync_folder(path).map_err(|error| open_error(path, error))?;
        Ok(Self {
            connection,
            reads_only: false,
            unsettled: false,
            open: None,
            commits_synced: true,
        })
    }

    /// Opens the file, which must be there with its last schema, for reading beside its writer.
    pub(crate) fn open_reader(path: &Path, schema: &Schema) -> Result<Self, MetaError> {
        // Opened for writing because a reader of a WAL database must be able to make the `-shm`
        // file; `query_only` keeps it from writing rows.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = connect(path, flags).map_err(|error| open_error(path, error))?;
        migrate::check_current(&connection, path, schema)?;
        connection
            .pragma_update(None, "query_only", true)
            .map_err(|error| open_error(path, error))?;
        Ok(Self {
            connection,
            reads_only: true,
            unsettled: false,
            open: None,
            commits_synced: true,
        })
    }

    /// Reads, outside of any transaction: one statement sees one state.
    pub(crate) fn read<T>(
        &mut self,
        operation: &'static str,
        body: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, MetaError> {
        self.settle(operation)?;
        body(&self.connection).map_err(|error| statement_error(operation, error))
    }

    /// Runs `body` in one transaction and commits it, durable on return; in the one that is open, where one is. `body`
    /// gives its own refusals as a value of `T`; an `Err` of either kind rolls back.
    pub(crate) fn write<T>(
        &mut self,
        operation: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, Refusal>,
    ) -> Result<T, MetaError> {
        if self.reads_only {
            return Err(MetaError::ReadOnly { operation });
        }
        match self.open {
            None => {
                self.settle(operation)?;
                self.transaction(operation, body)
            }
            Some(Open::Failed) => Err(ended(operation)),
            Some(Open::Sound) => body(&self.connection).map_err(|refusal| {
                self.open = Some(Open::Failed);
                refusal.error(operation)
            }),
        }
    }

    /// Opens a transaction of several writes. `position`: it also says that the database has every entry of the journal
    /// up to this one.
    pub(crate) fn begin(&mut self, position: Option<u64>) -> Result<(), MetaError> {
        const OPERATION: &str = "begin";
        if self.reads_only {
            return Err(MetaError::ReadOnly { operation: OPERATION });
        }
        self.settle(OPERATION)?;
        self.start(OPERATION)?;
        if let Some(position) = position
            && let Err(error) = set_position(&self.connection, position)
        {
            self.roll_back();
            return Err(statement_error(OPERATION, error));
        }
        self.open = Some(Open::Sound);
        Ok(())
    }

    /// Commits what [`Self::begin`] opened, durable on return.
    pub(crate) fn commit(&mut self) -> Result<(), MetaError> {
        match self.open.take() {
            Some(Open::Sound) => self.end("commit"),
            Some(Open::Failed) | None => {
                self.roll_back();
                Err(ended("commit"))
            }
        }
    }

    /// Ends a transaction without its changes. SQLite has already done so after some errors.
    pub(crate) fn roll_back(&mut self) {
        self.open = None;
        if self.connection.is_autocommit() {
            return;
        }
        if let Err(error) = run(&self.connection, "ROLLBACK") {
            // The next BEGIN fails then, so no later change can join this transaction.
            tracing::error!(%error, "a metadata transaction could not be rolled back");
        }
    }

    /// Whether a commit waits for the disk. Without, commits come back after a power loss up to some point and none
    /// after it, and the database is never damaged: the log is synced before a checkpoint, the database after it.
    /// Nor does a commit then checkpoint by itself, which would wait for the disk: whoever keeps the journal does.
    ///
    /// Switched on again, it makes everything before durable: by a commit, of a counter that nobody reads, since one that
    /// changes nothing writes nothing.
    pub(crate) fn sync_commits(&mut self, on: bool) -> Result<(), MetaError> {
        const OPERATION: &str = "sync_commits";
        let behind = on && !self.commits_synced && !self.unsettled;
        self.set_level(on)?;
        if behind
            && let Err(error) = self.transaction(OPERATION, |connection| {
                run(connection, migrate::SETTLE_SQL)?;
                Ok(())
            })
        {
            self.set_level(false)?;
            return Err(error);
        }
        self.commits_synced = on;
        Ok(())
    }

    fn set_level(&self, on: bool) -> Result<(), MetaError> {
        let (level, pages) = if on { ("FULL", CHECKPOINT_PAGES) } else { ("NORMAL", 0) };
        self.connection
            .pragma_update(None, "synchronous", level)
            .and_then(|()| self.connection.pragma_update(None, "wal_autocheckpoint", pages))
            .map_err(|error| statement_error("sync_commits", error))
    }

    fn transaction<T>(
        &mut self,
        operation: &'static str,
        body: impl FnOnce(&Connection) -> Result<T, Refusal>,
    ) -> Result<T, MetaError> {
        self.start(operation)?;
        match body(&self.connection) {
            Ok(value) => self.end(operation).map(|()| value),
            Err(refusal) => {
                self.roll_back();
                Err(refusal.error(operation))
            }
        }
    }

    /// IMMEDIATE: the write lock is taken before the first read, so a transaction never has to be given up in its
    /// middle because another writer came first.
    fn start(&self, operation: &'static str) -> Result<(), MetaError> {
        run(&self.connection, "BEGIN IMMEDIATE").map_err(|error| statement_error(operation, error))
    }

    fn end(&mut self, operation: &'static str) -> Result<(), MetaError> {
        let Err(error) = run(&self.connection, "COMMIT") else { return Ok(()) };
        self.roll_back();
        if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) {
            // Nothing had been written to the WAL yet, the transaction was still open.
            return Err(MetaError::Busy { operation });
        }
        self.unsettled = true;
        Err(MetaError::CommitUnknown { operation, cause: Box::new(error) })
    }

    /// After a failed COMMIT: makes what this connection reads the truth again.
    ///
    /// Frames whose sync failed may still be complete in the file, and a crash would bring them
    /// back. The next commit is written over them, at the same place of the WAL, so one successful
    /// commit (of a counter that nobody reads) decides that they are gone. Until it has succeeded
    /// nothing is read or written here: every answer could be undone by a power cut.
    fn settle(&mut self, operation: &'static str) -> Result<(), MetaError> {
        if !self.unsettled {
            return Ok(());
        }
        // Synced whatever else is not: what a power loss takes of it would bring those frames back.
        self.set_level(true)?;
        let settled = self.transaction(operation, |connection| {
            run(connection, migrate::SETTLE_SQL)?;
            Ok(())
        });
        self.set_level(self.commits_synced)?;
        settled.map_err(|error| MetaError::CommitUnknown { operation, cause: Box::new(error) })?;
        self.unsettled = false;
        Ok(())
    }

    /// Copies the WAL into the database file and syncs it, and lets the next commit begin it anew. `false` if a reader
    /// kept part of it.
    pub(crate) fn checkpoint(&mut self) -> Result<bool, MetaError> {
        self.settle("checkpoint")?;
        checkpoint(&self.connection, "PRAGMA wal_checkpoint(RESTART)").map(|done| done.whole)
    }

    #[cfg(test)]
    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    #[cfg(test)]
    pub(crate) fn set_unsettled(&mut self) {
        self.unsettled = true;
    }
}

/// A connection that only checkpoints, beside the one that writes: the bulk of the work then holds up no commit.
#[derive(Debug)]
pub(crate) struct Checkpointer(Connection);

impl Checkpointer {
    pub(crate) fn open(path: &Path, schema: &Schema) -> Result<Self, MetaError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = connect(path, flags).map_err(|error| open_error(path, error))?;
        connection.busy_timeout(RESTART_WAIT).map_err(|error| open_error(path, error))?;
        migrate::check_current(&connection, path, schema)?;
        Ok(Self(connection))
    }

    /// Copies the rest of the log and lets the next commit begin it anew. Holds up the writer for a moment, and gives
    /// up where a reader does not end in it.
    pub(crate) fn restart(&mut self) -> Result<Checkpointed, MetaError> {
        checkpoint(&self.0, "PRAGMA wal_checkpoint(RESTART)")
    }

    /// Copies what was committed before the call into the database file and syncs it, while the writer goes on.
    pub(crate) fn run(&mut self) -> Result<Checkpointed, MetaError> {
        checkpoint(&self.0, "PRAGMA wal_checkpoint(PASSIVE)")
    }
}

/// What a checkpoint did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointed {
    /// Everything that was committed before it began is durable in the database file.
    pub whole: bool,
    /// Pages in the write-ahead log, those that are copied included.
    pub log_pages: u64,
}

fn checkpoint(connection: &Connection, statement: &str) -> Result<Checkpointed, MetaError> {
    let (busy, log, copied) = connection
        .query_row(statement, [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
        })
        .map_err(|error| statement_error("checkpoint", error))?;
    let log_pages = u64::try_from(log).unwrap_or(0);
    Ok(Checkpointed { whole: busy == 0 && copied >= log, log_pages })
}

/// A transaction of several writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Sound,
    /// One of its writes failed: SQLite may have rolled it back by itself already.
    Failed,
}

fn set_position(connection: &Connection, position: u64) -> rusqlite::Result<()> {
    connection.prepare_cached(migrate::POSITION_SQL)?.execute([position.cast_signed()])?;
    Ok(())
}

/// There is no transaction any more that this could belong to.
fn ended(operation: &'static str) -> MetaError {
    MetaError::Database { operation, cause: "its transaction had failed".into() }
}

/// Why the body of a transaction gave up.
pub(crate) enum Refusal {
    /// SQLite's error.
    Sqlite(rusqlite::Error),
    /// The caller's own reason.
    Meta(MetaError),
}

impl Refusal {
    fn error(self, operation: &'static str) -> MetaError {
        match self {
            Self::Sqlite(error) => statement_error(operation, error),
            Self::Meta(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<MetaError> for Refusal {
    fn from(error: MetaError) -> Self {
        Self::Meta(error)
    }
}

/// Runs a statement without values and without rows, prepared once per connection.
pub(crate) fn run(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    let mode = write_ahead(&connection)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN),
            Some(format!("the file system does not carry a write-ahead log (mode {mode})")),
        ));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Asks for a write-ahead log. SQLite does not wait for others by itself there, who may be asking for the same.
fn write_ahead(connection: &Connection) -> rusqlite::Result<String> {
    let begin = Instant::now();
    loop {
        match connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)) {
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
                    && begin.elapsed() < BUSY_TIMEOUT =>
            {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn make_folder(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    sync_folder(folder)
}

/// Makes the name of `path` in its folder durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    File::open(folder)?.sync_all()
}

pub(crate) fn open_error(path: &Path, cause: impl Into<Cause>) -> MetaError {
    MetaError::Open { path: path.to_path_buf(), cause: cause.into() }
}

fn statement_error(operation: &'static str, error: rusqlite::Error) -> MetaError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => MetaError::Busy { operation },
        Some(ErrorCode::DiskFull) => MetaError::Full { operation },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            MetaError::Corrupt { what: format!("{operation}: {error}") }
        }
        _ => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => {
                MetaError::Corrupt { what: format!("{operation}: {error}") }
            }
            error => MetaError::Database { operation, cause: Box::new(error) },
        },
    }
}
