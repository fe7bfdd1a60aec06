//! The ID node's database in SQLite.

use std::ops::Range;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, params};

use crate::PATH_ID_END;
use crate::error::MetaError;
use crate::row::Sequence;
use crate::sqlite::database::{Database, Refusal};
use crate::sqlite::files::unsigned;
use crate::sqlite::migrate::IDS;
use crate::store::SequenceStore;
use crate::text::{TextField, check};

const NEXT: &str = "SELECT id_value FROM t_id_gen WHERE id = ?1";
const MOVE: &str = "INSERT INTO t_id_gen (id, id_value) VALUES (?1, ?2)
    ON CONFLICT (id) DO UPDATE SET id_value = excluded.id_value, update_time = unixepoch()";
const ALL: &str = "SELECT id, id_value FROM t_id_gen ORDER BY id";

/// `t_id_gen` in one SQLite file.
#[derive(Debug)]
pub struct SqliteSequenceStore {
    database: Database,
}

impl SqliteSequenceStore {
    /// Opens the file, made with its folder and table if it is not there.
    ///
    /// # Errors
    /// The file cannot be opened, is another database, or was written by a later version.
    pub fn open(path: &Path) -> Result<Self, MetaError> {
        Ok(Self { database: Database::open(path, &IDS)? })
    }
}

impl SequenceStore for SqliteSequenceStore {
    async fn take(
        &mut self,
        key: &str,
        count: u64,
        at_least: u64,
    ) -> Result<Range<u64>, MetaError> {
        check(TextField::Key, key)?;
        if count == 0 {
            return Err(MetaError::EmptyBlock);
        }
        self.database.write("take", |connection| {
            let start = find_next(connection, key)?.unwrap_or(0).max(at_least);
            if start >= PATH_ID_END {
                return Err(Refusal::Meta(MetaError::Exhausted { key: key.to_owned() }));
            }
            let end = start.saturating_add(count).min(PATH_ID_END);
            connection.prepare_cached(MOVE)?.execute(params![key, end.cast_signed()])?;
            Ok(start..end)
        })
    }

    async fn peek(&mut self, key: &str) -> Result<Option<u64>, MetaError> {
        check(TextField::Key, key)?;
        self.database.read("peek", |connection| find_next(connection, key))
    }

    async fn sequences(&mut self) -> Result<Vec<Sequence>, MetaError> {
        self.database.read("sequences", |connection| {
            connection
                .prepare_cached(ALL)?
                .query_map([], |row| Ok(Sequence { key: row.get(0)?, next: unsigned(row, 1)? }))?
                .collect()
        })
    }
}

/// A negative value does not convert to `u64`: the error says that the database is damaged.
fn find_next(connection: &Connection, key: &str) -> rusqlite::Result<Option<u64>> {
    connection.prepare_cached(NEXT)?.query_row(params![key], |row| unsigned(row, 0)).optional()
}
