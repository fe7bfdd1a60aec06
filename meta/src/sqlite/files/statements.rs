//! Every statement of the storage database, and the mapping between its columns and rows.

use std::sync::LazyLock;

use reel_proto::path::PathId;
use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};

use crate::page::StatusFilter;
use crate::row::{FileRow, FileStatus, NewFile};

/// The columns of a row, in the order that [`file_row`] reads them.
macro_rules! columns {
    () => {
        "id, appid, userid, status, file_path, file_size, create_time, update_time, \
         checksum, original_name, content_type, deleted_at, expires_at"
    };
}

/// One statement for each table, made when this is compiled.
macro_rules! per_table {
    ($before:expr, $after:expr) => {
        [
            concat!($before, "t_file_01", $after),
            concat!($before, "t_file_02", $after),
            concat!($before, "t_file_03", $after),
        ]
    };
}

/// Number of columns in `columns!`.
pub(super) const COLUMN_COUNT: usize = 13;

pub(super) const FIND: [&str; 3] =
    per_table!(concat!("SELECT ", columns!(), " FROM "), " WHERE id = ?1");

/// All three tables in one statement; the table's number comes last.
pub(super) const FIND_ANYWHERE: &str = concat!(
    "SELECT ",
    columns!(),
    ", 1 FROM t_file_01 WHERE id = ?1 UNION ALL SELECT ",
    columns!(),
    ", 2 FROM t_file_02 WHERE id = ?1 UNION ALL SELECT ",
    columns!(),
    ", 3 FROM t_file_03 WHERE id = ?1"
);

const INSERT: [&str; 3] = per_table!(
    "INSERT INTO ",
    concat!(
        " (",
        columns!(),
        ", listing_order) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14) \
         ON CONFLICT (id) DO NOTHING"
    )
);

const UPSERT: [&str; 3] = per_table!(
    "INSERT OR REPLACE INTO ",
    concat!(
        " (",
        columns!(),
        ", listing_order) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
    )
);

pub(super) const SET_STATUS: [&str; 3] = per_table!(
    "UPDATE ",
    " SET status = ?4, deleted_at = ?5, update_time = coalesce(?6, update_time) \
     WHERE id = ?1 AND userid = ?2 AND file_path = ?3"
);

pub(super) const REMOVE: [&str; 3] = per_table!(
    "DELETE FROM ",
    " WHERE id = ?1 AND userid = ?2 AND file_path = ?3 AND (?4 IS NULL OR (status <> 0) = ?4)"
);

pub(super) const RELOCATE: [&str; 3] = per_table!(
    "UPDATE ",
    " SET file_path = ?4, listing_order = ?7 WHERE id = ?1 AND userid = ?2 AND file_path = ?3 \
     AND status = ?5 AND deleted_at IS ?6"
);

pub(super) const ADOPT: [&str; 3] = per_table!(
    "UPDATE ",
    " SET checksum = coalesce(checksum, ?5), deleted_at = coalesce(deleted_at, ?6) \
     WHERE id = ?1 AND userid = ?2 AND file_path = ?3 AND (status <> 0) = ?4"
);

pub(super) const LEAVE: &str = "INSERT OR IGNORE INTO reel_left (file_path) VALUES (?1)";
pub(super) const WAS_LEFT: &str = "SELECT 1 FROM reel_left WHERE file_path = ?1";

/// The statements of a listing.
pub(super) struct Listing {
    /// Of each table, a page of files that are served, of the others, and of both.
    pages: [[String; 3]; 3],
    /// Of each table, times, ids and sizes of the files that are served, and of the others.
    pub(super) sizes: [[String; 2]; 3],
}

/// Of all files of a user (`?2`), or of an app.
pub(super) static OF_USER: LazyLock<Listing> =
    LazyLock::new(|| Listing::new("user", "appid = ?1 AND userid = ?2"));
pub(super) static OF_APP: LazyLock<Listing> = LazyLock::new(|| Listing::new("app", "appid = ?1"));

/// What a page reads of each row: after its columns, its place in its second.
const PAGE: &str = concat!(columns!(), ", listing_order");

/// What a total reads: the indexes have all of it.
const SIZES: &str = "create_time, listing_order, id, file_size";

impl Listing {
    /// Rows behind a second and a place and an id in it (`?3`, `?4`, `?5`), before another second (`?6`), at most `?7`. The index is named: with
    /// the rows spread over a large table the primary key could look cheaper. Where there are two, both are merged in
    /// order.
    fn new(index: &str, of: &str) -> Self {
        const TABLES: [&str; 3] = ["t_file_01", "t_file_02", "t_file_03"];
        const STATES: [(&str, &str); 2] = [("normal", "status = 0"), ("deleted", "status <> 0")];
        let rows = |what: &str, table: &str, states: &[(&str, &str)]| {
            let ranges = states.iter().map(|(state, is)| {
                format!(
                    "SELECT {what} FROM {table} INDEXED BY reel_{table}_{state}_{index} \
                     WHERE {of} AND {is} AND (create_time, listing_order, id) > (?3, ?4, ?5) \
                     AND create_time < ?6"
                )
            });
            let ranges = ranges.collect::<Vec<_>>().join(" UNION ALL ");
            format!("{ranges} ORDER BY create_time, listing_order, id LIMIT ?7")
        };
        let page = |states| TABLES.map(|table| rows(PAGE, table, states));
        Self {
            pages: [page(&STATES[..1]), page(&STATES[1..]), page(&STATES)],
            sizes: TABLES.map(|table| STATES.map(|state| rows(SIZES, table, &[state]))),
        }
    }

    /// The pages of each table.
    pub(super) fn pages(&self, filter: StatusFilter) -> &[String; 3] {
        match filter {
            StatusFilter::Normal => &self.pages[0],
            StatusFilter::Deleted => &self.pages[1],
            StatusFilter::Any => &self.pages[2],
        }
    }
}

pub(super) const SCAN: [&str; 3] =
    per_table!(concat!("SELECT ", columns!(), " FROM "), " WHERE id > ?1 ORDER BY id LIMIT ?2");

pub(super) const DELETED_BEFORE: [&str; 3] = per_table!(
    concat!("SELECT ", columns!(), " FROM "),
    " WHERE status <> 0 AND deleted_at IS NOT NULL AND deleted_at < ?1 \
     AND (deleted_at, id) > (?2, ?3) ORDER BY deleted_at, id LIMIT ?4"
);

pub(super) const EXPIRED_BEFORE: [&str; 3] = per_table!(
    concat!("SELECT ", columns!(), " FROM "),
    " WHERE status = 0 AND expires_at IS NOT NULL AND expires_at <= ?1 \
     AND (expires_at, id) > (?2, ?3) ORDER BY expires_at, id LIMIT ?4"
);

/// Those that are served, those that are not: each by an index that has only them.
macro_rules! count {
    ($table:literal) => {
        concat!(
            "SELECT (SELECT count(*) FROM ",
            $table,
            " WHERE status = 0), (SELECT count(*) FROM ",
            $table,
            " WHERE status <> 0)"
        )
    };
}

pub(super) const COUNT: [&str; 3] = [count!("t_file_01"), count!("t_file_02"), count!("t_file_03")];

/// Inserts a row unless its id is taken; whether it did.
pub(super) fn insert(
    connection: &Connection,
    slot: usize,
    row: &NewFile,
) -> rusqlite::Result<bool> {
    let status = if row.deleted_at.is_some() { FileStatus::Deleted } else { FileStatus::Normal };
    let count = connection.prepare_cached(INSERT[slot])?.execute(params![
        row.file,
        row.app,
        row.user,
        status.number(),
        row.file_path,
        size(row.size)?,
        bounded(row.created_at),
        bounded(row.deleted_at.unwrap_or(row.created_at)),
        row.checksum.map(u64::cast_signed),
        row.name,
        row.content_type,
        time(row.deleted_at),
        time(row.expires_at),
        listing_order(&row.file_path),
    ])?;
    Ok(count == 1)
}

/// Up to which entry of the journal the database has everything.
pub(super) const JOURNAL_POSITION: &str = "SELECT position FROM reel_journal WHERE id = 1";

/// Writes a row over what is there.
pub(super) fn upsert(connection: &Connection, slot: usize, row: &FileRow) -> rusqlite::Result<()> {
    connection.prepare_cached(UPSERT[slot])?.execute(params![
        row.file,
        row.app,
        row.user,
        row.status.number(),
        row.file_path,
        size(row.size)?,
        bounded(row.created_at),
        bounded(row.updated_at),
        row.checksum.map(u64::cast_signed),
        row.name,
        row.content_type,
        time(row.deleted_at),
        time(row.expires_at),
        listing_order(&row.file_path),
    ])?;
    Ok(())
}

/// The place of a row in the listing of its second: its path id. Those go up, so the rows of a commit lie beside each other in
/// the listings' indexes, where ids would spread them over all that came in the same second: a page to write for each.
pub(super) fn listing_order(file_path: &str) -> i64 {
    PathId::parse_file_path(file_path).map_or(0, |(_, id, _)| id.get().cast_signed())
}

/// A row from its columns.
pub(super) fn file_row(table: u8, row: &Row<'_>) -> rusqlite::Result<FileRow> {
    Ok(FileRow {
        table,
        file: row.get(0)?,
        app: row.get(1)?,
        user: row.get(2)?,
        status: FileStatus::from_number(row.get(3)?),
        file_path: row.get(4)?,
        size: unsigned(row, 5)?,
        created_at: unsigned(row, 6)?,
        updated_at: unsigned(row, 7)?,
        // All 64 bits are in use: a checksum with its highest bit set is a negative number here.
        checksum: row.get::<_, Option<i64>>(8)?.map(i64::cast_unsigned),
        name: row.get(9)?,
        content_type: row.get(10)?,
        deleted_at: unsigned_optional(row, 11)?,
        expires_at: unsigned_optional(row, 12)?,
    })
}

/// A number that must not be negative; else the row is damaged.
pub(in crate::sqlite) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn unsigned_optional(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    match row.get::<_, Option<i64>>(column)? {
        None => Ok(None),
        Some(_) => unsigned(row, column).map(Some),
    }
}

/// A time as SQLite's signed number; one past it means "never" on either side.
pub(super) fn bounded(time: u64) -> i64 {
    i64::try_from(time).unwrap_or(i64::MAX)
}

/// An optional time.
pub(super) fn time(time: Option<u64>) -> Option<i64> {
    time.map(bounded)
}

/// A size: the wire carries it in 63 bits, so a larger one is a mistake of the caller.
fn size(size: u64) -> rusqlite::Result<i64> {
    i64::try_from(size).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(5, Type::Integer, Box::new(error))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sqlite::files::SqliteFileStore;

    /// How SQLite would run a statement, as one text.
    fn plan(connection: &Connection, sql: &str) -> String {
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let count = statement.parameter_count();
        let rows = statement
            .query_map(rusqlite::params_from_iter(vec![1; count]), |row| row.get::<_, String>(3))
            .unwrap();
        rows.map(Result::unwrap).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn lookups_and_pages_use_an_index_and_never_sort() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteFileStore::open(&folder.path().join("storage.db")).unwrap();
        let connection = store.database.connection();
        let expected = [
            (FIND, "SEARCH", "USING PRIMARY KEY (id=?)"),
            (SET_STATUS, "SEARCH", "USING PRIMARY KEY (id=?)"),
            (REMOVE, "SEARCH", "USING PRIMARY KEY (id=?)"),
            (RELOCATE, "SEARCH", "USING PRIMARY KEY (id=?)"),
            (ADOPT, "SEARCH", "USING PRIMARY KEY (id=?)"),
            (SCAN, "SEARCH", "USING PRIMARY KEY (id>?)"),
            (DELETED_BEFORE, "SEARCH", "_deleted ((deleted_at,id)>(?,?) AND deleted_at<?)"),
            (EXPIRED_BEFORE, "SEARCH", "_expires ((expires_at,id)>(?,?) AND expires_at<?)"),
        ];
        for (statements, how, with) in expected {
            for statement in statements {
                let plan = plan(connection, statement);
                assert!(plan.starts_with(how) && plan.contains(with), "{statement}\n{plan}");
                assert!(!plan.contains("TEMP B-TREE"), "{statement}\n{plan}");
            }
        }
        let plan = plan(connection, FIND_ANYWHERE);
        assert_eq!(plan.matches("USING PRIMARY KEY (id=?)").count(), 3, "{plan}");
    }

    #[test]
    fn listings_are_found_by_their_index_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteFileStore::open(&folder.path().join("storage.db")).unwrap();
        let connection = store.database.connection();
        let judge = |statement: &str, how: &str, with: &[String]| {
            let plan = plan(connection, statement);
            assert!(plan.starts_with(how), "{statement}\n{plan}");
            assert!(with.iter().all(|with| plan.contains(with)), "{statement}\n{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{statement}\n{plan}");
        };
        for (listing, index, of) in
            [(&OF_USER, "user", "appid=? AND userid=?"), (&OF_APP, "app", "appid=?")]
        {
            let found = |state: &str| {
                format!(
                    "_{state}_{index} ({of} AND (create_time,listing_order,id)>(?,?,?) AND create_time<?)"
                )
            };
            let (normal, deleted) = (found("normal"), found("deleted"));
            for statement in listing.pages(StatusFilter::Normal) {
                judge(statement, "SEARCH", std::slice::from_ref(&normal));
            }
            for statement in listing.pages(StatusFilter::Deleted) {
                judge(statement, "SEARCH", std::slice::from_ref(&deleted));
            }
            for statement in listing.pages(StatusFilter::Any) {
                judge(statement, "MERGE (UNION ALL)", &[normal.clone(), deleted.clone()]);
            }
            for [of_normal, of_deleted] in &listing.sizes {
                let covering = || "USING COVERING INDEX".to_owned();
                judge(of_normal, "SEARCH", &[normal.clone(), covering()]);
                judge(of_deleted, "SEARCH", &[deleted.clone(), covering()]);
            }
        }
    }

    #[test]
    fn the_columns_are_counted() {
        assert_eq!(columns!().split(',').count(), COLUMN_COUNT);
    }
}
