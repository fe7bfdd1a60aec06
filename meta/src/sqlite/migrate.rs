//! Schemas of the three databases, and how a file comes to the last version of its own.
//!
//! Version 1 is the deployed schema, column for column; later versions only add what is nullable, so
//! that an old row and an old writer stay valid. Every step can run twice: it looks before it adds.
//! The version (`user_version`) and the steps are written in one transaction.

use std::path::Path;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::MetaError;
use crate::sqlite::database::open_error;

/// One database's schema.
pub(crate) struct Schema {
    /// Its name in errors.
    pub(crate) name: &'static str,
    /// The number in the file's header that tells it from the other two (`application_id`).
    pub(crate) application_id: i64,
    /// Steps; step n makes version n + 1.
    pub(crate) steps: &'static [Step],
}

impl Schema {
    /// The last version.
    fn version(&self) -> i64 {
        i64::try_from(self.steps.len()).unwrap_or(i64::MAX)
    }
}

type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// The write that settles a failed commit.
pub(crate) const SETTLE_SQL: &str = "UPDATE reel_settle SET commits = commits + 1";

/// Says, in the transaction of a change itself, up to which entry of the journal the database has everything.
pub(crate) const POSITION_SQL: &str = "UPDATE reel_journal SET position = ?1 WHERE id = 1";

/// `tnv_trackerdb`.
pub(crate) const TRACKER: Schema = Schema {
    name: "tracker",
    application_id: 0x5245_4C01, // "REL" and 1
    steps: &[tracker_deployed, tracker_unique_route, settle],
};

/// `tnv_idsdb`.
pub(crate) const IDS: Schema =
    Schema { name: "ids", application_id: 0x5245_4C02, steps: &[ids_deployed, no_change, settle] };

/// `tnv_storagedb`.
pub(crate) const STORAGE: Schema = Schema {
    name: "storage",
    application_id: 0x5245_4C03,
    steps: &[
        storage_deployed,
        storage_columns,
        settle,
        storage_stores,
        storage_journal,
        storage_left,
        storage_expires,
        storage_normal_user,
        storage_listing,
    ],
};

/// Brings a file to the schema's last version.
pub(crate) fn run(
    connection: &mut Connection,
    path: &Path,
    schema: &Schema,
) -> Result<(), MetaError> {
    let fail = |error: rusqlite::Error| open_error(path, error);
    let transaction =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
    let version = version(&transaction, path, schema)?;
    if (1..schema.steps.len()).contains(&version) {
        let (from, to) = (version, schema.steps.len());
        tracing::info!(path = %path.display(), from, to, "bringing the database to this version");
    }
    for step in schema.steps.iter().skip(version) {
        step(&transaction).map_err(fail)?;
    }
    if version < schema.steps.len() {
        transaction
            .pragma_update(None, "application_id", schema.application_id)
            .and_then(|()| transaction.pragma_update(None, "user_version", schema.version()))
            .map_err(fail)?;
    }
    transaction.commit().map_err(fail)
}

/// Refuses a file that is not at the schema's last version.
pub(crate) fn check_current(
    connection: &Connection,
    path: &Path,
    schema: &Schema,
) -> Result<(), MetaError> {
    let found = version(connection, path, schema)?;
    if found < schema.steps.len() {
        return Err(open_error(path, "its schema is of an earlier version; open it for writing"));
    }
    Ok(())
}

fn version(connection: &Connection, path: &Path, schema: &Schema) -> Result<usize, MetaError> {
    let number = |pragma: &str| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i64>(0))
            .map_err(|error| open_error(path, error))
    };
    let (found, application_id) = (number("user_version")?, number("application_id")?);
    // An id of 0 is a new file, or one that was filled by hand from a deployed database.
    if application_id != 0 && application_id != schema.application_id {
        return Err(MetaError::WrongDatabase {
            path: path.to_path_buf(),
            expected: schema.name,
            found: application_id,
        });
    }
    match usize::try_from(found) {
        Ok(version) if version <= schema.steps.len() => Ok(version),
        _ => Err(MetaError::TooNew { path: path.to_path_buf(), found, known: schema.version() }),
    }
}

fn tracker_deployed(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS t_groups_info (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            group_name TEXT NOT NULL,
            create_time INTEGER NOT NULL DEFAULT (unixepoch()),
            update_time INTEGER NOT NULL DEFAULT (unixepoch())
        ) STRICT;
        CREATE TABLE IF NOT EXISTS t_router (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            appid TEXT NOT NULL,
            userid TEXT NOT NULL,
            group_name TEXT NOT NULL,
            create_time INTEGER NOT NULL DEFAULT (unixepoch()),
            update_time INTEGER NOT NULL DEFAULT (unixepoch())
        ) STRICT;",
    )
}

/// The unique keys that end a race with one row. Rows of the past that would break them are merged:
/// the first one stays, because it is the one that every reader was given.
fn tracker_unique_route(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "DELETE FROM t_groups_info WHERE id NOT IN
            (SELECT min(id) FROM t_groups_info GROUP BY group_name);
        CREATE UNIQUE INDEX IF NOT EXISTS reel_group_name ON t_groups_info (group_name);
        DELETE FROM t_router WHERE id NOT IN
            (SELECT min(id) FROM t_router GROUP BY appid, userid);
        CREATE UNIQUE INDEX IF NOT EXISTS reel_route ON t_router (appid, userid);",
    )
}

fn ids_deployed(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS t_id_gen (
            id TEXT NOT NULL PRIMARY KEY,
            id_value INTEGER NOT NULL,
            create_time INTEGER NOT NULL DEFAULT (unixepoch()),
            update_time INTEGER NOT NULL DEFAULT (unixepoch())
        ) STRICT;",
    )
}

/// Version 2 is the same for all three databases; the ids need nothing in it.
fn no_change(_transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    Ok(())
}

/// WITHOUT ROWID: a row is found by one descent of one tree, and an insert writes two trees (the
/// table and the listing's index) where a rowid table would write three.
fn storage_deployed(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in TABLES {
        transaction.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS {table} (
                id TEXT NOT NULL PRIMARY KEY,
                appid TEXT NOT NULL,
                userid TEXT NOT NULL,
                status INTEGER NOT NULL DEFAULT 0,
                file_path TEXT NOT NULL,
                file_size INTEGER NOT NULL,
                create_time INTEGER NOT NULL DEFAULT (unixepoch()),
                update_time INTEGER NOT NULL DEFAULT (unixepoch())
            ) STRICT, WITHOUT ROWID;"
        ))?;
    }
    Ok(())
}

const TABLES: [&str; 3] = ["t_file_01", "t_file_02", "t_file_03"];

/// Our columns, and the indexes. Those of deleted rows are partial: an upload never writes them.
fn storage_columns(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in TABLES {
        for (column, kind) in [
            ("checksum", "INTEGER"),
            ("original_name", "TEXT"),
            ("content_type", "TEXT"),
            ("deleted_at", "INTEGER"),
            ("expires_at", "INTEGER"),
        ] {
            if !transaction.column_exists(None, table, column)? {
                transaction
                    .execute_batch(&format!("ALTER TABLE {table} ADD COLUMN {column} {kind}"))?;
            }
        }
        transaction.execute_batch(&format!(
            "CREATE INDEX IF NOT EXISTS reel_{table}_user ON {table} (userid, appid, id);
            CREATE INDEX IF NOT EXISTS reel_{table}_deleted_user
                ON {table} (userid, appid, id) WHERE status <> 0;
            CREATE INDEX IF NOT EXISTS reel_{table}_deleted
                ON {table} (deleted_at, id) WHERE status <> 0 AND deleted_at IS NOT NULL;"
        ))?;
    }
    Ok(())
}

fn settle(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS reel_settle (
            id INTEGER PRIMARY KEY,
            commits INTEGER NOT NULL
        ) STRICT;
        INSERT OR IGNORE INTO reel_settle (id, commits) VALUES (1, 0);",
    )
}

/// How far the database is with the journal before it.
fn storage_journal(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS reel_journal (
            id INTEGER PRIMARY KEY,
            position INTEGER NOT NULL
        ) STRICT;
        INSERT OR IGNORE INTO reel_journal (id, position) VALUES (1, 0);",
    )
}

/// Places that rows named before their files were written again elsewhere.
fn storage_left(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS reel_left (
            file_path TEXT NOT NULL PRIMARY KEY
        ) STRICT, WITHOUT ROWID;",
    )
}

/// Finds what has expired, and costs a file that never does nothing.
fn storage_expires(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in TABLES {
        transaction.execute_batch(&format!(
            "CREATE INDEX IF NOT EXISTS reel_{table}_expires
                ON {table} (expires_at, id) WHERE status = 0 AND expires_at IS NOT NULL;"
        ))?;
    }
    Ok(())
}

/// Which store each node had at each of its paths.
fn storage_stores(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "CREATE TABLE IF NOT EXISTS reel_stores (
            node TEXT NOT NULL,
            path TEXT NOT NULL,
            uuid TEXT NOT NULL,
            created_at INTEGER NOT NULL,
            PRIMARY KEY (node, path)
        ) STRICT, WITHOUT ROWID;",
    )
}

/// The listing's index without the deleted: a page of served files does not walk over all that its user has deleted.
fn storage_normal_user(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in TABLES {
        transaction.execute_batch(&format!(
            "DROP INDEX IF EXISTS reel_{table}_user;
            CREATE INDEX IF NOT EXISTS reel_{table}_normal_user
                ON {table} (userid, appid, id) WHERE status = 0;"
        ))?;
    }
    Ok(())
}

/// Listings go by time, of a user or of a whole app, and their indexes have the sizes: totals read nothing else. New files
/// come at the end of each, one beside the other: two of them cost an upload less than one by id did.
fn storage_listing(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    for table in TABLES {
        if !transaction.column_exists(None, table, "listing_order")? {
            transaction.execute_batch(&format!(
                "ALTER TABLE {table} ADD COLUMN listing_order INTEGER NOT NULL DEFAULT 0"
            ))?;
        }
        // With the state where the condition leaves several: else a total would look it up in the row.
        for (state, condition, sizes) in
            [("normal", "status = 0", "file_size"), ("deleted", "status <> 0", "file_size, status")]
        {
            transaction.execute_batch(&format!(
                "DROP INDEX IF EXISTS reel_{table}_{state}_user;
                CREATE INDEX reel_{table}_{state}_user
                    ON {table} (appid, userid, create_time, listing_order, id, {sizes}) WHERE {condition};
                CREATE INDEX IF NOT EXISTS reel_{table}_{state}_app
                    ON {table} (appid, create_time, listing_order, id, {sizes}) WHERE {condition};"
            ))?;
        }
    }
    Ok(())
}
