//! The storage database in SQLite: the trait over one connection. The statements and the mapping of
//! rows are in [`statements`].

#[cfg(test)]
mod rows;
mod statements;
mod stores;

pub(super) use statements::unsigned;

use std::path::Path;

use reel_proto::table::table_of_user;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use self::statements as sql;
use crate::error::MetaError;
use crate::page::{
    Bound, ListCursor, Page, ScanCursor, Selection, TimeCursor, TotalCursor, Totals, listed,
};
use crate::row::{
    Adoption, Change, ExpectedStore, FileRow, FileStatus, InsertOutcome, NewFile, Relocation,
    Removal, StatusChange, TableCount,
};
use crate::sqlite::database::{Checkpointed, Checkpointer, Database, Refusal};
use crate::sqlite::migrate::STORAGE;
use crate::store::FileStore;
use crate::text::{TextField, check, check_new, check_row};
use crate::{PAGE_ROWS_MAX, TOTAL_ROWS_MAX};

/// `t_file_01` to `t_file_03` and `reel_stores` in one SQLite file.
#[derive(Debug)]
pub struct SqliteFileStore {
    database: Database,
}

impl SqliteFileStore {
    /// Opens the file, made with its folder and tables if it is not there.
    ///
    /// # Errors
    /// The file cannot be opened, is another database, or was written by a later version.
    pub fn open(path: &Path) -> Result<Self, MetaError> {
        Ok(Self { database: Database::open(path, &STORAGE)? })
    }

    /// Opens a second connection that only reads, for a thread beside the writer's. It sees what is
    /// committed. After a write with an unknown outcome ask the writer, not this one: only the
    /// writer knows that the answer would survive a crash.
    ///
    /// # Errors
    /// The file is not there, or has not been opened for writing by this version before.
    pub fn open_reader(path: &Path) -> Result<Self, MetaError> {
        Ok(Self { database: Database::open_reader(path, &STORAGE)? })
    }

    #[cfg(test)]
    pub(super) fn database(&self) -> &Database {
        &self.database
    }
}

/// Checkpoints of the storage database, on a connection of their own.
#[derive(Debug)]
pub struct SqliteCheckpointer(Checkpointer);

impl SqliteCheckpointer {
    /// Opens it beside the writer's connection.
    ///
    /// # Errors
    /// The file is not there, or has not been opened for writing by this version before.
    pub fn open(path: &Path) -> Result<Self, MetaError> {
        Ok(Self(Checkpointer::open(path, &STORAGE)?))
    }

    /// Makes everything that was committed before the call durable in the database file.
    ///
    /// # Errors
    /// The database's; nothing is known to be durable then.
    pub fn run(&mut self) -> Result<Checkpointed, MetaError> {
        self.0.run()
    }

    /// Lets the next commit begin the write-ahead log anew, where no reader stands in the way.
    ///
    /// # Errors
    /// The database's.
    pub fn restart_log(&mut self) -> Result<Checkpointed, MetaError> {
        self.0.restart()
    }
}

impl SqliteFileStore {
    /// A page of rows in the order of a time that they have.
    fn due(
        &mut self,
        operation: &'static str,
        statements: &[&str; 3],
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
        cursor: fn(&FileRow) -> Option<TimeCursor>,
    ) -> Result<Page, MetaError> {
        let limit = limit.min(PAGE_ROWS_MAX);
        let mut rows = self.database.read(operation, |connection| {
            let mut rows = Vec::new();
            for table in TABLES {
                let of = (table, statements[slot(table)]);
                due_in(connection, of, time, after, limit, &mut rows)?;
            }
            Ok(rows)
        })?;
        rows.sort_by_cached_key(cursor);
        Ok(page(rows, limit))
    }
}

impl FileStore for SqliteFileStore {
    async fn journal_position(&mut self) -> Result<Option<u64>, MetaError> {
        self.database.read("journal_position", |connection| {
            connection
                .prepare_cached(sql::JOURNAL_POSITION)?
                .query_row([], |row| sql::unsigned(row, 0))
                .optional()
        })
    }

    async fn begin(&mut self, position: Option<u64>) -> Result<(), MetaError> {
        self.database.begin(position)
    }

    async fn commit(&mut self) -> Result<(), MetaError> {
        self.database.commit()
    }

    async fn roll_back(&mut self) {
        self.database.roll_back();
    }

    async fn sync_commits(&mut self, on: bool) -> Result<(), MetaError> {
        self.database.sync_commits(on)
    }

    async fn checkpoint(&mut self) -> Result<bool, MetaError> {
        self.database.checkpoint()
    }

    async fn insert(&mut self, rows: &[NewFile]) -> Result<Vec<InsertOutcome>, MetaError> {
        self.database.write("insert", |connection| {
            let mut outcomes = Vec::with_capacity(rows.len());
            for row in rows {
                outcomes.push(insert_one(connection, row)?);
            }
            Ok(outcomes)
        })
    }

    async fn get(&mut self, table: Option<u8>, file: &str) -> Result<Option<FileRow>, MetaError> {
        check(TextField::File, file)?;
        self.database.read("get", |connection| match table {
            Some(table) => find(connection, table, file),
            None => find_oldest(connection, file),
        })
    }

    async fn get_owned(
        &mut self,
        app: &str,
        user: &str,
        file: &str,
    ) -> Result<Option<FileRow>, MetaError> {
        check(TextField::App, app)?;
        check(TextField::User, user)?;
        check(TextField::File, file)?;
        let row = self.database.read("get_owned", |connection| {
            find(connection, table_of_user(user.as_bytes()), file)
        })?;
        Ok(row.filter(|row| row.app == app && row.user == user))
    }

    async fn set_status(&mut self, changes: &[StatusChange]) -> Result<Vec<Change>, MetaError> {
        self.database.write("set_status", |connection| {
            let mut done = Vec::with_capacity(changes.len());
            for change in changes {
                let table = table_of_user(change.row.user.as_bytes());
                let count =
                    connection.prepare_cached(sql::SET_STATUS[slot(table)])?.execute(params![
                        change.row.file,
                        change.row.user,
                        change.row.path,
                        change.status.number(),
                        sql::time(change.deleted_at),
                        sql::time(change.changed_at),
                    ])?;
                done.push(applied(count));
            }
            Ok(done)
        })
    }

    async fn remove(&mut self, removals: &[Removal]) -> Result<Vec<Change>, MetaError> {
        self.database.write("remove", |connection| {
            let mut done = Vec::with_capacity(removals.len());
            for removal in removals {
                let table = table_of_user(removal.row.user.as_bytes());
                let deleted = removal.only.map(|status| status.number() != 0);
                let count =
                    connection.prepare_cached(sql::REMOVE[slot(table)])?.execute(params![
                        removal.row.file,
                        removal.row.user,
                        removal.row.path,
                        deleted
                    ])?;
                done.push(applied(count));
            }
            Ok(done)
        })
    }

    async fn relocate(&mut self, relocations: &[Relocation]) -> Result<Vec<Change>, MetaError> {
        self.database.write("relocate", |connection| {
            let mut done = Vec::with_capacity(relocations.len());
            for Relocation { row, status, deleted_at, path } in relocations {
                let table = table_of_user(row.user.as_bytes());
                let count =
                    connection.prepare_cached(sql::RELOCATE[slot(table)])?.execute(params![
                        row.file,
                        row.user,
                        row.path,
                        path,
                        status.number(),
                        sql::time(*deleted_at),
                        sql::listing_order(path),
                    ])?;
                if count > 0 {
                    connection.prepare_cached(sql::LEAVE)?.execute(params![row.path])?;
                }
                done.push(applied(count));
            }
            Ok(done)
        })
    }

    async fn adopt(&mut self, adoptions: &[Adoption]) -> Result<Vec<Change>, MetaError> {
        self.database.write("adopt", |connection| {
            let adopt = |adoption: &Adoption| {
                let Adoption { row, status, checksum, deleted_at } = adoption;
                let table = table_of_user(row.user.as_bytes());
                let count =
                    connection.prepare_cached(sql::ADOPT[slot(table)])?.execute(params![
                        row.file,
                        row.user,
                        row.path,
                        status.number() != 0,
                        checksum.cast_signed(),
                        sql::time(*deleted_at),
                    ])?;
                Ok(applied(count))
            };
            adoptions.iter().map(adopt).collect()
        })
    }

    async fn was_left(&mut self, file_path: &str) -> Result<bool, MetaError> {
        self.database.read("was_left", |connection| {
            connection.prepare_cached(sql::WAS_LEFT)?.exists(params![file_path])
        })
    }

    async fn list(
        &mut self,
        of: &Selection,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, Option<ListCursor>), MetaError> {
        of.check()?;
        let limit = limit.min(PAGE_ROWS_MAX);
        let pages = listing(of).pages(of.filter);
        let mut rows = self.database.read("list", |connection| {
            let mut rows: Vec<(ListCursor, FileRow)> = Vec::new();
            for &table in of.tables() {
                let mut statement = connection.prepare_cached(&pages[slot(table)])?;
                let mut found = statement.query(params_from_iter(in_range(
                    of,
                    of.begin(table, after),
                    one_more(limit),
                )))?;
                while let Some(found) = found.next()? {
                    let row = sql::file_row(table, found)?;
                    let order = sql::unsigned(found, sql::COLUMN_COUNT)?;
                    let (time, file) = (row.created_at, row.file.clone());
                    rows.push((ListCursor { time, table, order, file }, row));
                }
            }
            Ok(rows)
        })?;
        if of.tables().len() > 1 {
            rows.sort_by(|(a, _), (b, _)| a.cmp(b));
        }
        Ok(listed(rows, limit))
    }

    async fn total(
        &mut self,
        of: &Selection,
        after: Option<&TotalCursor>,
        limit: usize,
    ) -> Result<(Totals, Option<TotalCursor>), MetaError> {
        of.check()?;
        let sizes = &listing(of).sizes;
        self.database.read("total", |connection| {
            let mut totals = Totals::default();
            let mut left = limit.clamp(1, TOTAL_ROWS_MAX) as i64;
            for range in of.ranges(&STATES, after) {
                let statement = &sizes[slot(range.table)][range.state];
                let mut statement = connection.prepare_cached(statement)?;
                let values = in_range(of, range.begin, left);
                let mut rows = statement.query(params_from_iter(values))?;
                while let Some(row) = rows.next()? {
                    totals.add(range.status, sql::unsigned(row, 3)?);
                    left -= 1;
                    if left == 0 {
                        let (time, order) = (sql::unsigned(row, 0)?, sql::unsigned(row, 1)?);
                        return Ok((totals, Some(range.cursor(time, order, row.get(2)?))));
                    }
                }
            }
            Ok((totals, None))
        })
    }

    async fn deleted_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        self.due(
            "deleted_before",
            &sql::DELETED_BEFORE,
            time,
            after,
            limit,
            FileRow::deleted_cursor,
        )
    }

    async fn expired_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        self.due("expired_before", &sql::EXPIRED_BEFORE, time, after, limit, FileRow::expiry_cursor)
    }

    async fn scan(&mut self, after: Option<&ScanCursor>, limit: usize) -> Result<Page, MetaError> {
        let limit = limit.min(PAGE_ROWS_MAX);
        let rows = self.database.read("scan", |connection| {
            let mut rows = Vec::new();
            for table in TABLES {
                let from = match after {
                    Some(cursor) if table < cursor.table => continue,
                    Some(cursor) if table == cursor.table => cursor.file.as_str(),
                    _ => "",
                };
                let wanted = one_more(limit - rows.len().min(limit));
                let mut statement = connection.prepare_cached(sql::SCAN[slot(table)])?;
                let found =
                    statement.query_map(params![from, wanted], |row| sql::file_row(table, row))?;
                for row in found {
                    rows.push(row?);
                }
                if rows.len() > limit {
                    break;
                }
            }
            Ok(rows)
        })?;
        Ok(page(rows, limit))
    }

    async fn upsert(&mut self, rows: &[FileRow]) -> Result<(), MetaError> {
        for row in rows {
            check_row(row)?;
        }
        self.database.write("upsert", |connection| {
            for row in rows {
                sql::upsert(connection, slot(table_of_user(row.user.as_bytes())), row)?;
            }
            Ok(())
        })
    }

    async fn count(&mut self) -> Result<[TableCount; 3], MetaError> {
        self.database.read("count", |connection| {
            let mut counts = [TableCount::default(); 3];
            for (count, statement) in counts.iter_mut().zip(sql::COUNT) {
                *count = connection.prepare_cached(statement)?.query_row([], |row| {
                    Ok(TableCount {
                        normal: sql::unsigned(row, 0)?,
                        deleted: sql::unsigned(row, 1)?,
                    })
                })?;
            }
            Ok(counts)
        })
    }

    async fn expected_store(
        &mut self,
        node: &str,
        path: &str,
    ) -> Result<Option<ExpectedStore>, MetaError> {
        check(TextField::Node, node)?;
        check(TextField::StorePath, path)?;
        self.database.read("expected_store", |connection| stores::expected(connection, node, path))
    }

    async fn expect_store(
        &mut self,
        node: &str,
        path: &str,
        uuid: &str,
        now: u64,
    ) -> Result<(), MetaError> {
        check(TextField::Node, node)?;
        check(TextField::StorePath, path)?;
        check(TextField::StoreUuid, uuid)?;
        self.database.write("expect_store", |connection| {
            Ok(stores::expect(connection, node, path, uuid, now)?)
        })
    }
}

const TABLES: [u8; 3] = [1, 2, 3];

/// Each has indexes of its own.
const STATES: [FileStatus; 2] = [FileStatus::Normal, FileStatus::Deleted];

fn listing(of: &Selection) -> &'static sql::Listing {
    if of.user.is_some() { &sql::OF_USER } else { &sql::OF_APP }
}

/// The values of a range of a listing, behind `begin`.
fn in_range<'a>(
    of: &'a Selection,
    (time, order, file): Bound<'a>,
    limit: i64,
) -> [ToSqlOutput<'a>; 7] {
    [
        of.app.as_str().into(),
        of.user.as_deref().map_or(ToSqlOutput::Owned(rusqlite::types::Value::Null), Into::into),
        sql::bounded(time).into(),
        sql::bounded(order).into(),
        file.into(),
        sql::bounded(of.until).into(),
        limit.into(),
    ]
}

/// Index of a table's statement.
fn slot(table: u8) -> usize {
    usize::from(table.clamp(1, 3) - 1)
}

/// One row past a page tells whether another page follows.
fn one_more(limit: usize) -> i64 {
    i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX)
}

fn page(mut rows: Vec<FileRow>, limit: usize) -> Page {
    let more = rows.len() > limit;
    rows.truncate(limit);
    Page { rows, more }
}

fn applied(count: usize) -> Change {
    if count == 0 { Change::Missing } else { Change::Applied }
}

fn insert_one(connection: &Connection, row: &NewFile) -> Result<InsertOutcome, Refusal> {
    if let Err(error) = check_new(row) {
        return Ok(InsertOutcome::Refused(error));
    }
    let table = table_of_user(row.user.as_bytes());
    if sql::insert(connection, slot(table), row)? {
        return Ok(InsertOutcome::Inserted);
    }
    match find(connection, table, &row.file)? {
        Some(standing) => Ok(InsertOutcome::Exists(Box::new(standing))),
        None => Err(Refusal::Meta(MetaError::Corrupt {
            what: format!("t_file_{table:02}: a row that stops an insert is not there"),
        })),
    }
}

fn find(connection: &Connection, table: u8, file: &str) -> rusqlite::Result<Option<FileRow>> {
    if !TABLES.contains(&table) {
        return Ok(None);
    }
    connection
        .prepare_cached(sql::FIND[slot(table)])?
        .query_row(params![file], |row| sql::file_row(table, row))
        .optional()
}

fn find_oldest(connection: &Connection, file: &str) -> rusqlite::Result<Option<FileRow>> {
    let mut statement = connection.prepare_cached(sql::FIND_ANYWHERE)?;
    let rows = statement
        .query_map(params![file], |row| sql::file_row(row.get(sql::COLUMN_COUNT)?, row))?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.into_iter().min_by(|a, b| {
        (a.created_at, &a.file_path, a.table).cmp(&(b.created_at, &b.file_path, b.table))
    }))
}

fn due_in(
    connection: &Connection,
    (table, statement): (u8, &str),
    time: u64,
    after: Option<&TimeCursor>,
    limit: usize,
    rows: &mut Vec<FileRow>,
) -> rusqlite::Result<()> {
    let (from_time, from_file) = after.map_or((0, ""), |cursor| cursor.bound(table));
    let mut statement = connection.prepare_cached(statement)?;
    let found = statement.query_map(
        params![sql::bounded(time), sql::bounded(from_time), from_file, one_more(limit)],
        |row| sql::file_row(table, row),
    )?;
    for row in found {
        rows.push(row?);
    }
    Ok(())
}
