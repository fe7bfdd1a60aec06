//! The storage database in MySQL: the trait over one connection. The statements and the mapping of rows are in
//! [`statements`].

mod statements;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row, Value};
use reel_proto::table::table_of_user;

use self::statements as sql;
use super::MysqlStore;
use super::failure::Failure;
use super::session::Access;
use crate::error::MetaError;
use crate::page::{
    Bound, ListCursor, Page, ScanCursor, Selection, TimeCursor, TotalCursor, Totals, listed,
};
use crate::row::{
    Adoption, Change, ExpectedStore, FileRow, InsertOutcome, NewFile, Relocation, Removal,
    StatusChange, TableCount,
};
use crate::store::FileStore;
use crate::text::{TextField, check, check_new, check_row};
use crate::{PAGE_ROWS_MAX, TOTAL_ROWS_MAX};

/// The database of storage nodes.
pub enum Files {}

/// `t_file_01` to `t_file_03` and what belongs to them, in MySQL.
pub type MysqlFileStore = MysqlStore<Files>;

impl MysqlFileStore {
    /// Who writes reads what became of a change.
    fn find_statements(&self) -> &'static [&'static str; 3] {
        if self.link.access() == Access::Writes { &sql::FIND_AND_WAIT } else { &sql::FIND }
    }
}

impl MysqlFileStore {
    /// A page of rows in the order of a time that they have.
    async fn due(
        &mut self,
        operation: &'static str,
        statements: &[&'static str; 3],
        before: u64,
        after: Option<&TimeCursor>,
        limit: usize,
        cursor: fn(&FileRow) -> Option<TimeCursor>,
    ) -> Result<Page, MetaError> {
        let limit = limit.min(PAGE_ROWS_MAX);
        let mut found = self
            .link
            .read(operation, async |conn: &mut Conn| {
                let mut found = Vec::new();
                for table in TABLES {
                    let (from, file) = after.map_or((0, ""), |cursor| cursor.bound(table));
                    let wanted = one_more(limit);
                    let values: Vec<Value> = vec![
                        from.into(),
                        before.into(),
                        file.into(),
                        wanted.into(),
                        from.into(),
                        before.into(),
                        wanted.into(),
                    ];
                    found.extend(rows(conn, table, statements[slot(table)], values).await?);
                }
                Ok(found)
            })
            .await?;
        found.sort_by_cached_key(cursor);
        Ok(page(found, limit))
    }
}

impl FileStore for MysqlFileStore {
    async fn begin(&mut self, _position: Option<u64>) -> Result<(), MetaError> {
        self.link.begin().await
    }

    async fn commit(&mut self) -> Result<(), MetaError> {
        self.link.commit().await
    }

    async fn roll_back(&mut self) {
        self.link.roll_back().await;
    }

    async fn insert(&mut self, rows: &[NewFile]) -> Result<Vec<InsertOutcome>, MetaError> {
        self.link.write("insert", async |conn: &mut Conn| insert(conn, rows).await).await
    }

    async fn get(&mut self, table: Option<u8>, file: &str) -> Result<Option<FileRow>, MetaError> {
        check(TextField::File, file)?;
        let statements = self.find_statements();
        self.link
            .read("get", async |conn: &mut Conn| match table {
                Some(table) => find(conn, statements, table, file).await,
                None => find_oldest(conn, file).await,
            })
            .await
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
        let table = table_of_user(user.as_bytes());
        let statements = self.find_statements();
        let row = self
            .link
            .read("get_owned", async |conn: &mut Conn| find(conn, statements, table, file).await);
        Ok(row.await?.filter(|row| row.app == app && row.user == user))
    }

    async fn set_status(&mut self, changes: &[StatusChange]) -> Result<Vec<Change>, MetaError> {
        self.link
            .write("set_status", async |conn: &mut Conn| {
                let mut done = Vec::with_capacity(changes.len());
                for change in changes {
                    let statement = sql::SET_STATUS[slot_of(&change.row.user)];
                    let values: Vec<Value> = vec![
                        change.status.number().into(),
                        change.deleted_at.into(),
                        sql::optional_timestamp(change.changed_at)?,
                        change.row.file.as_str().into(),
                        change.row.user.as_str().into(),
                        change.row.path.as_str().into(),
                    ];
                    done.push(apply(conn, statement, values).await?);
                }
                Ok(done)
            })
            .await
    }

    async fn remove(&mut self, removals: &[Removal]) -> Result<Vec<Change>, MetaError> {
        self.link
            .write("remove", async |conn: &mut Conn| {
                let mut done = Vec::with_capacity(removals.len());
                for removal in removals {
                    let statement = sql::REMOVE[slot_of(&removal.row.user)];
                    let deleted = removal.only.map(|status| status.number() != 0);
                    let values: Vec<Value> = vec![
                        removal.row.file.as_str().into(),
                        removal.row.user.as_str().into(),
                        removal.row.path.as_str().into(),
                        deleted.into(),
                        deleted.into(),
                    ];
                    done.push(apply(conn, statement, values).await?);
                }
                Ok(done)
            })
            .await
    }

    async fn relocate(&mut self, relocations: &[Relocation]) -> Result<Vec<Change>, MetaError> {
        self.link
            .write("relocate", async |conn: &mut Conn| {
                let mut done = Vec::with_capacity(relocations.len());
                for Relocation { row, status, deleted_at, path } in relocations {
                    let values: Vec<Value> = vec![
                        path.as_str().into(),
                        row.file.as_str().into(),
                        row.user.as_str().into(),
                        row.path.as_str().into(),
                        (status.number() != 0).into(),
                        (*deleted_at).into(),
                    ];
                    let change = apply(conn, sql::RELOCATE[slot_of(&row.user)], values).await?;
                    if change == Change::Applied {
                        conn.exec_drop(sql::LEAVE, (row.path.as_str(),)).await?;
                    }
                    done.push(change);
                }
                Ok(done)
            })
            .await
    }

    async fn adopt(&mut self, adoptions: &[Adoption]) -> Result<Vec<Change>, MetaError> {
        self.link
            .write("adopt", async |conn: &mut Conn| {
                let mut done = Vec::with_capacity(adoptions.len());
                for Adoption { row, status, checksum, deleted_at } in adoptions {
                    let values: Vec<Value> = vec![
                        (*checksum).into(),
                        (*deleted_at).into(),
                        row.file.as_str().into(),
                        row.user.as_str().into(),
                        row.path.as_str().into(),
                        (status.number() != 0).into(),
                    ];
                    done.push(apply(conn, sql::ADOPT[slot_of(&row.user)], values).await?);
                }
                Ok(done)
            })
            .await
    }

    async fn was_left(&mut self, file_path: &str) -> Result<bool, MetaError> {
        self.link
            .read("was_left", async |conn: &mut Conn| {
                let found: Option<u8> = conn.exec_first(sql::WAS_LEFT, (file_path,)).await?;
                Ok(found.is_some())
            })
            .await
    }

    async fn list(
        &mut self,
        of: &Selection,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, Option<ListCursor>), MetaError> {
        of.check()?;
        let limit = limit.min(PAGE_ROWS_MAX);
        let (pages, states) = listing(of).pages(of.filter);
        let found = self
            .link
            .read("list", async |conn: &mut Conn| {
                let mut found = Vec::new();
                for &table in of.tables() {
                    let Some(span) = Span::new(of, of.begin(table, after)) else { continue };
                    let values = [span.in_second(one_more(limit)), span.later(one_more(limit))];
                    let values = vec![values.concat(); states].concat();
                    found.extend(rows(conn, table, &pages[slot(table)], values).await?);
                }
                Ok(found)
            })
            .await?;
        let cursor = |row: &FileRow| {
            let (time, table, file) = (row.created_at, row.table, row.file.clone());
            ListCursor { time, table, order: 0, file }
        };
        let mut found: Vec<(ListCursor, FileRow)> =
            found.into_iter().map(|row| (cursor(&row), row)).collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(listed(found, limit))
    }

    async fn total(
        &mut self,
        of: &Selection,
        after: Option<&TotalCursor>,
        limit: usize,
    ) -> Result<(Totals, Option<TotalCursor>), MetaError> {
        of.check()?;
        let limit = limit.clamp(1, TOTAL_ROWS_MAX) as u64;
        let sizes = &listing(of).sizes;
        self.link
            .read("total", async |conn: &mut Conn| {
                let mut totals = Totals::default();
                let mut left = limit;
                for range in of.ranges(&sql::STATES, after) {
                    let Some(span) = Span::new(of, range.begin) else { continue };
                    let [in_second, later] = &sizes[slot(range.table)][range.state];
                    for (statement, is_later) in [(in_second, false), (later, true)] {
                        let values = if is_later { span.later(left) } else { span.in_second(left) };
                        let found: Vec<Row> =
                            conn.exec(statement.as_str(), Params::Positional(values)).await?;
                        for mut row in found {
                            totals.add(range.status, sql::column(&mut row, 2)?);
                            left -= 1;
                            if left == 0 {
                                let time = sql::column(&mut row, 0)?;
                                let file = sql::column(&mut row, 1)?;
                                return Ok((totals, Some(range.cursor(time, 0, file))));
                            }
                        }
                    }
                }
                Ok((totals, None))
            })
            .await
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
        .await
    }

    async fn expired_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        let before = time.saturating_add(1);
        let cursor = FileRow::expiry_cursor;
        self.due("expired_before", &sql::EXPIRED_BEFORE, before, after, limit, cursor).await
    }

    async fn lease(&mut self, name: &str, holder: &str, seconds: u64) -> Result<bool, MetaError> {
        self.link
            .write("lease", async |conn: &mut Conn| {
                conn.exec_drop(sql::TAKE_LEASE, (name, holder, seconds)).await?;
                let has: Option<String> = conn.exec_first(sql::LEASE, (name,)).await?;
                Ok(has.as_deref() == Some(holder))
            })
            .await
    }

    async fn scan(&mut self, after: Option<&ScanCursor>, limit: usize) -> Result<Page, MetaError> {
        let limit = limit.min(PAGE_ROWS_MAX);
        let found = self
            .link
            .read("scan", async |conn: &mut Conn| {
                let mut found: Vec<FileRow> = Vec::new();
                for table in TABLES {
                    let from = match after {
                        Some(cursor) if table < cursor.table => continue,
                        Some(cursor) if table == cursor.table => cursor.file.as_str(),
                        _ => "",
                    };
                    let wanted = one_more(limit - found.len().min(limit));
                    let values: Vec<Value> = vec![from.into(), wanted.into()];
                    found.extend(rows(conn, table, sql::SCAN[slot(table)], values).await?);
                    if found.len() > limit {
                        break;
                    }
                }
                Ok(found)
            })
            .await?;
        Ok(page(found, limit))
    }

    async fn upsert(&mut self, rows: &[FileRow]) -> Result<(), MetaError> {
        for row in rows {
            check_row(row)?;
        }
        self.link
            .write("upsert", async |conn: &mut Conn| {
                for row in rows {
                    let statement = sql::UPSERT[slot_of(&row.user)].as_str();
                    conn.exec_drop(statement, sql::upsert(row)?).await?;
                }
                Ok(())
            })
            .await
    }

    async fn count(&mut self) -> Result<[TableCount; 3], MetaError> {
        self.link
            .read("count", async |conn: &mut Conn| {
                let mut counts = [TableCount::default(); 3];
                for (count, statement) in counts.iter_mut().zip(sql::COUNT) {
                    let found: Option<(u64, u64)> = conn.exec_first(statement, ()).await?;
                    let (all, deleted) = found.unwrap_or_default();
                    *count = TableCount { normal: all.saturating_sub(deleted), deleted };
                }
                Ok(counts)
            })
            .await
    }

    async fn expected_store(
        &mut self,
        node: &str,
        path: &str,
    ) -> Result<Option<ExpectedStore>, MetaError> {
        check(TextField::Node, node)?;
        check(TextField::StorePath, path)?;
        self.link
            .read("expected_store", async |conn: &mut Conn| {
                let found: Option<(String, u64)> =
                    conn.exec_first(sql::EXPECTED, (node, path)).await?;
                Ok(found.map(|(uuid, created_at)| ExpectedStore { uuid, created_at }))
            })
            .await
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
        self.link
            .write("expect_store", async |conn: &mut Conn| {
                Ok(conn.exec_drop(sql::EXPECT, (node, path, uuid, now)).await?)
            })
            .await
    }
}

const TABLES: [u8; 3] = [1, 2, 3];

fn listing(of: &Selection) -> &'static sql::Listing {
    if of.user.is_some() { &sql::OF_USER } else { &sql::OF_APP }
}

/// The rows of a selection behind a second and an id in it: values of the two parts of a statement.
struct Span<'a> {
    of: &'a Selection,
    time: u64,
    file: &'a str,
    /// The last second.
    last: u64,
}

impl<'a> Span<'a> {
    /// None where nothing can be in it.
    fn new(of: &'a Selection, (time, _, file): Bound<'a>) -> Option<Self> {
        let last = of.until.checked_sub(1)?.min(sql::TIME_MAX);
        (time <= last).then_some(Self { of, time, file, last })
    }

    fn in_second(&self, limit: u64) -> Vec<Value> {
        let mut values = self.whose();
        let time = if self.time == 0 { Value::NULL } else { self.time.into() };
        values.extend([time, self.file.into(), limit.into()]);
        values
    }

    fn later(&self, limit: u64) -> Vec<Value> {
        let mut values = self.whose();
        values.extend([self.time.into(), self.last.into(), limit.into()]);
        values
    }

    fn whose(&self) -> Vec<Value> {
        let user = self.of.user.as_deref().map(Value::from);
        [Some(self.of.app.as_str().into()), user].into_iter().flatten().collect()
    }
}

/// Index of a table's statement.
fn slot(table: u8) -> usize {
    usize::from(table.clamp(1, 3) - 1)
}

fn slot_of(user: &str) -> usize {
    slot(table_of_user(user.as_bytes()))
}

/// One row past a page tells whether another page follows.
fn one_more(limit: usize) -> u64 {
    limit as u64 + 1
}

fn page(mut rows: Vec<FileRow>, limit: usize) -> Page {
    let more = rows.len() > limit;
    rows.truncate(limit);
    Page { rows, more }
}

async fn rows(
    conn: &mut Conn,
    table: u8,
    statement: &str,
    values: Vec<Value>,
) -> Result<Vec<FileRow>, Failure> {
    let rows: Vec<Row> = conn.exec(statement, Params::Positional(values)).await?;
    rows.into_iter().map(|row| sql::file_row(table, row)).collect()
}

/// Changes at most one row.
async fn apply(conn: &mut Conn, statement: &str, values: Vec<Value>) -> Result<Change, Failure> {
    conn.exec_drop(statement, Params::Positional(values)).await?;
    Ok(if conn.affected_rows() == 0 { Change::Missing } else { Change::Applied })
}

async fn find(
    conn: &mut Conn,
    statements: &[&str; 3],
    table: u8,
    file: &str,
) -> Result<Option<FileRow>, Failure> {
    if !TABLES.contains(&table) {
        return Ok(None);
    }
    let row: Option<Row> = conn.exec_first(statements[slot(table)], (file,)).await?;
    row.map(|row| sql::file_row(table, row)).transpose()
}

async fn find_oldest(conn: &mut Conn, file: &str) -> Result<Option<FileRow>, Failure> {
    let found: Vec<Row> = conn.exec(sql::FIND_ANYWHERE, (file, file, file)).await?;
    let mut rows = Vec::with_capacity(found.len());
    for mut row in found {
        rows.push(sql::file_row(sql::column(&mut row, sql::COLUMN_COUNT)?, row)?);
    }
    Ok(rows.into_iter().min_by(|a, b| {
        (a.created_at, &a.file_path, a.table).cmp(&(b.created_at, &b.file_path, b.table))
    }))
}

/// Inserts rows, many with one statement. Where one of them meets a row that is there, the statement has done nothing, and
/// each of its rows is tried alone: the insert decides for each.
async fn insert(conn: &mut Conn, rows: &[NewFile]) -> Result<Vec<InsertOutcome>, Failure> {
    let mut outcomes: Vec<Option<InsertOutcome>> = rows.iter().map(|_| None).collect();
    let mut of_table: [Vec<usize>; 3] = Default::default();
    for (index, row) in rows.iter().enumerate() {
        match check_new(row) {
            Ok(()) => of_table[slot_of(&row.user)].push(index),
            Err(error) => outcomes[index] = Some(InsertOutcome::Refused(error)),
        }
    }
    for (table, indexes) in TABLES.into_iter().zip(of_table) {
        let mut rest = indexes.as_slice();
        while !rest.is_empty() {
            let power = rest.len().min(sql::INSERT_ROWS_MAX).ilog2();
            let (now, later) = rest.split_at(1 << power);
            rest = later;
            if insert_together(conn, table, power, now, rows).await? {
                now.iter().for_each(|&index| outcomes[index] = Some(InsertOutcome::Inserted));
                continue;
            }
            for &index in now {
                outcomes[index] = Some(insert_one(conn, table, index, rows).await?);
            }
        }
    }
    Ok(outcomes.into_iter().flatten().collect())
}

/// Inserts `2 ^ power` rows. `false`: none of them, since one is there already.
async fn insert_together(
    conn: &mut Conn,
    table: u8,
    power: u32,
    indexes: &[usize],
    rows: &[NewFile],
) -> Result<bool, Failure> {
    let mut values = Vec::with_capacity(indexes.len() * sql::COLUMN_COUNT);
    for &index in indexes {
        sql::push_new(&mut values, &rows[index])?;
    }
    let statement = sql::INSERTS[slot(table)][power as usize].as_str();
    match conn.exec_drop(statement, Params::Positional(values)).await.map_err(Failure::from) {
        Ok(()) => Ok(true),
        Err(failure) if failure.is_duplicate() => Ok(false),
        Err(failure) => Err(failure),
    }
}

async fn insert_one(
    conn: &mut Conn,
    table: u8,
    index: usize,
    rows: &[NewFile],
) -> Result<InsertOutcome, Failure> {
    if insert_together(conn, table, 0, &[index], rows).await? {
        return Ok(InsertOutcome::Inserted);
    }
    // The failed insert holds a lock on the row that it met.
    match find(conn, &sql::FIND, table, &rows[index].file).await? {
        Some(standing) => Ok(InsertOutcome::Exists(Box::new(standing))),
        None => Err(MetaError::Corrupt {
            what: format!("t_file_{table:02}: a row that stops an insert is not there"),
        }
        .into()),
    }
}
