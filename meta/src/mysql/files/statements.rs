//! Every statement of the storage database, and the mapping between its columns and rows.

use std::sync::LazyLock;

use mysql_async::prelude::FromValue;
use mysql_async::{Params, Row, Value};

use crate::error::MetaError;
use crate::mysql::failure::Failure;
use crate::page::StatusFilter;
use crate::row::{FileRow, FileStatus, NewFile};

/// The columns of a row, in the order that [`file_row`] reads them. A deployed row may have NULL in most of them: it is
/// nobody's and deleted then, and stops no page.
macro_rules! columns {
    () => {
        "id, COALESCE(appid, ''), COALESCE(userid, ''), COALESCE(status, 1), COALESCE(file_path, ''), \
         GREATEST(COALESCE(file_size, 0), 0), COALESCE(UNIX_TIMESTAMP(create_time), 0), \
         COALESCE(UNIX_TIMESTAMP(update_time), 0), checksum, original_name, content_type, deleted_at, expires_at"
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
    per_table!(concat!("SELECT ", columns!(), " FROM "), " WHERE id = ?");

/// As [`FIND`], and waits for whoever is inserting it: what is not there then does not come any more by itself.
pub(super) const FIND_AND_WAIT: [&str; 3] =
    per_table!(concat!("SELECT ", columns!(), " FROM "), " WHERE id = ? LOCK IN SHARE MODE");

/// All three tables in one statement; the table's number comes last.
pub(super) const FIND_ANYWHERE: &str = concat!(
    "SELECT ",
    columns!(),
    ", 1 FROM t_file_01 WHERE id = ? UNION ALL SELECT ",
    columns!(),
    ", 2 FROM t_file_02 WHERE id = ? UNION ALL SELECT ",
    columns!(),
    ", 3 FROM t_file_03 WHERE id = ?"
);

/// A row's place in an INSERT: the times are seconds since 1970.
const PLACE: &str = "(?, ?, ?, ?, ?, ?, FROM_UNIXTIME(?), FROM_UNIXTIME(?), ?, ?, ?, ?, ?)";

/// Rows of one INSERT are a power of two up to this one, so that few statements are prepared.
pub(super) const INSERT_ROWS_MAX: usize = 64;

/// `INSERTS[table][power]` inserts 2 ^ power rows.
pub(super) static INSERTS: LazyLock<[Vec<String>; 3]> = LazyLock::new(|| {
    ["t_file_01", "t_file_02", "t_file_03"].map(|table| {
        let rows = (0..=INSERT_ROWS_MAX.ilog2()).map(|power| vec![PLACE; 1 << power].join(", "));
        rows.map(|places| format!("INSERT INTO {table} ({NAMES}) VALUES {places}")).collect()
    })
});

/// The columns as they are written.
const NAMES: &str = "id, appid, userid, status, file_path, file_size, create_time, update_time, \
    checksum, original_name, content_type, deleted_at, expires_at";

/// Writes a row over what is there.
pub(super) static UPSERT: LazyLock<[String; 3]> = LazyLock::new(|| {
    ["t_file_01", "t_file_02", "t_file_03"]
        .map(|table| format!("REPLACE INTO {table} ({NAMES}) VALUES {PLACE}"))
});

pub(super) const SET_STATUS: [&str; 3] = per_table!(
    "UPDATE ",
    " SET status = ?, deleted_at = ?, update_time = COALESCE(FROM_UNIXTIME(?), update_time) \
     WHERE id = ? AND userid = ? AND file_path = ?"
);

pub(super) const REMOVE: [&str; 3] = per_table!(
    "DELETE FROM ",
    " WHERE id = ? AND userid = ? AND file_path = ? AND (? IS NULL OR (status <> 0) = ?)"
);

pub(super) const RELOCATE: [&str; 3] = per_table!(
    "UPDATE ",
    " SET file_path = ?, update_time = update_time \
     WHERE id = ? AND userid = ? AND file_path = ? AND (status <> 0) = ? AND deleted_at <=> ?"
);

pub(super) const ADOPT: [&str; 3] = per_table!(
    "UPDATE ",
    " SET checksum = COALESCE(checksum, ?), deleted_at = COALESCE(deleted_at, ?), update_time = update_time \
     WHERE id = ? AND userid = ? AND file_path = ? AND (status <> 0) = ?"
);

pub(super) const LEAVE: &str =
    "INSERT INTO reel_left (file_path) VALUES (?) ON DUPLICATE KEY UPDATE file_path = file_path";
pub(super) const WAS_LEFT: &str = "SELECT 1 FROM reel_left WHERE file_path = ?";

/// The statements of a listing.
pub(super) struct Listing {
    /// Of each table, a page of files that are served, of the others, and of both.
    pages: [[String; 3]; 3],
    /// Of each table and each of [`STATES`], times, ids and sizes: of the rest of one second, and of later ones.
    pub(super) sizes: [[[String; 2]; 3]; 3],
}

/// Of all files of a user, or of an app.
pub(super) static OF_USER: LazyLock<Listing> =
    LazyLock::new(|| Listing::new("reel_user", "appid = ? AND userid = ?"));
pub(super) static OF_APP: LazyLock<Listing> =
    LazyLock::new(|| Listing::new("reel_app", "appid = ?"));

/// What the keys of a listing find apart. The last are numbers that no version has written, and none: taken for deleted.
pub(super) const STATES: [FileStatus; 3] =
    [FileStatus::Normal, FileStatus::Deleted, FileStatus::Deleted];
const STATE_IS: [&str; 3] =
    ["status = 0", "status = 1", "(status > 1 OR status < 0 OR status IS NULL)"];

/// What a total reads of each row: the keys have all of it.
const SIZES: &str =
    "COALESCE(UNIX_TIMESTAMP(create_time), 0), id, GREATEST(COALESCE(file_size, 0), 0)";

impl Listing {
    /// `key`: the one that begins with what `of` compares, then state, time and id. It is named: with the rows spread over a
    /// large table another one could look cheaper.
    ///
    /// A page has two parts of each state, the rest of one second (none, where a row does not say when it was made) and later
    /// ones: with "or" between them the server would read the whole second for every page. Of each part it has as many rows as the page may
    /// hold, and they are put in order by us: the server would do it in a table of its own, whose rows are as wide as they
    /// can be, and on its disk for a large page.
    fn new(key: &str, of: &str) -> Self {
        const TABLES: [&str; 3] = ["t_file_01", "t_file_02", "t_file_03"];
        let parts = |what: &str, table: &str, state: &str| {
            let begin =
                format!("SELECT {what} FROM {table} FORCE INDEX ({key}) WHERE {of} AND {state}");
            [
                format!(
                    "{begin} AND create_time <=> FROM_UNIXTIME(?) AND id > ? ORDER BY id LIMIT ?"
                ),
                format!(
                    "{begin} AND create_time > FROM_UNIXTIME(?) AND create_time <= FROM_UNIXTIME(?) \
                     ORDER BY create_time, id LIMIT ?"
                ),
            ]
        };
        let page = |states: &[&str]| {
            TABLES.map(|table| {
                let parts = states.iter().flat_map(|state| parts(columns!(), table, state));
                parts.map(|part| format!("({part})")).collect::<Vec<_>>().join(" UNION ALL ")
            })
        };
        Self {
            pages: [page(&STATE_IS[..1]), page(&STATE_IS[1..]), page(&STATE_IS)],
            sizes: TABLES.map(|table| STATE_IS.map(|state| parts(SIZES, table, state))),
        }
    }

    /// The pages of each table, and how many of [`STATES`] they have.
    pub(super) fn pages(&self, filter: StatusFilter) -> (&[String; 3], usize) {
        match filter {
            StatusFilter::Normal => (&self.pages[0], 1),
            StatusFilter::Deleted => (&self.pages[1], 2),
            StatusFilter::Any => (&self.pages[2], 3),
        }
    }
}

pub(super) const SCAN: [&str; 3] =
    per_table!(concat!("SELECT ", columns!(), " FROM "), " WHERE id > ? ORDER BY id LIMIT ?");

/// The rest of one second, then what comes later, as one range each: with "or" between them the server would read the whole
/// second for every page, and a database that was taken over has all of its deletions in one.
macro_rules! due {
    (@ $table:literal, $time:literal, $state:literal) => {
        concat!(
            "(SELECT ",
            columns!(),
            " FROM ",
            $table,
            " FORCE INDEX (reel_", $time, ") WHERE ", $time, "_at = ? AND ", $time, "_at < ? AND id > ? AND ", $state,
            " ORDER BY id LIMIT ?) UNION ALL (SELECT ",
            columns!(),
            " FROM ",
            $table,
            " FORCE INDEX (reel_", $time, ") WHERE ", $time, "_at > ? AND ", $time, "_at < ? AND ", $state,
            " ORDER BY ", $time, "_at, id LIMIT ?)"
        )
    };
    ($time:literal, $state:literal) => {
        [
            due!(@ "t_file_01", $time, $state),
            due!(@ "t_file_02", $time, $state),
            due!(@ "t_file_03", $time, $state),
        ]
    };
}

pub(super) const DELETED_BEFORE: [&str; 3] = due!("deleted", "status <> 0");
pub(super) const EXPIRED_BEFORE: [&str; 3] = due!("expires", "status = 0");

/// Somebody else's lease that is not over stays; the assignments run from left to right.
pub(super) const TAKE_LEASE: &str = "INSERT INTO reel_leases (name, holder, held_until) \
    VALUES (?, ?, CURRENT_TIMESTAMP + INTERVAL ? SECOND) ON DUPLICATE KEY UPDATE \
    holder = IF(held_until <= CURRENT_TIMESTAMP, VALUES(holder), holder), \
    held_until = IF(holder = VALUES(holder), VALUES(held_until), held_until)";
pub(super) const LEASE: &str = "SELECT holder FROM reel_leases WHERE name = ?";

pub(super) const COUNT: [&str; 3] =
    per_table!("SELECT COUNT(*), COUNT(CASE WHEN status <> 0 THEN 1 END) FROM ", "");

pub(super) const EXPECTED: &str =
    "SELECT uuid, created_at FROM reel_stores WHERE node = ? AND path = ?";

/// The same store again keeps its time; the assignments run from left to right.
pub(super) const EXPECT: &str = "INSERT INTO reel_stores (node, path, uuid, created_at) VALUES (?, ?, ?, ?) \
    ON DUPLICATE KEY UPDATE created_at = IF(uuid = VALUES(uuid), created_at, VALUES(created_at)), \
    uuid = VALUES(uuid)";

/// Last second that a TIMESTAMP holds on every server.
pub(super) const TIME_MAX: u64 = i32::MAX as u64;

/// Values of a row that is inserted, appended to those of the rows before it.
pub(super) fn push_new(values: &mut Vec<Value>, row: &NewFile) -> Result<(), Failure> {
    let status = if row.deleted_at.is_some() { FileStatus::Deleted } else { FileStatus::Normal };
    values.extend([
        row.file.as_str().into(),
        row.app.as_str().into(),
        row.user.as_str().into(),
        status.number().into(),
        row.file_path.as_str().into(),
        size(row.size)?,
        timestamp(row.created_at)?,
        timestamp(row.deleted_at.unwrap_or(row.created_at))?,
        row.checksum.into(),
        row.name.as_deref().into(),
        row.content_type.as_deref().into(),
        row.deleted_at.into(),
        row.expires_at.into(),
    ]);
    Ok(())
}

/// Values of a row that is written over what is there.
pub(super) fn upsert(row: &FileRow) -> Result<Params, Failure> {
    Ok(Params::Positional(vec![
        row.file.as_str().into(),
        row.app.as_str().into(),
        row.user.as_str().into(),
        row.status.number().into(),
        row.file_path.as_str().into(),
        size(row.size)?,
        timestamp(row.created_at)?,
        timestamp(row.updated_at)?,
        row.checksum.into(),
        row.name.as_deref().into(),
        row.content_type.as_deref().into(),
        row.deleted_at.into(),
        row.expires_at.into(),
    ]))
}

/// A row from its columns.
pub(super) fn file_row(table: u8, mut row: Row) -> Result<FileRow, Failure> {
    Ok(FileRow {
        table,
        file: column(&mut row, 0)?,
        app: column(&mut row, 1)?,
        user: column(&mut row, 2)?,
        status: FileStatus::from_number(column(&mut row, 3)?),
        file_path: column(&mut row, 4)?,
        size: column(&mut row, 5)?,
        created_at: column(&mut row, 6)?,
        updated_at: column(&mut row, 7)?,
        checksum: column(&mut row, 8)?,
        name: column(&mut row, 9)?,
        content_type: column(&mut row, 10)?,
        deleted_at: column(&mut row, 11)?,
        expires_at: column(&mut row, 12)?,
    })
}

/// A value of a row; one of another kind, or out of its range, says that the row is damaged.
pub(super) fn column<T: FromValue>(row: &mut Row, index: usize) -> Result<T, Failure> {
    match row.take_opt::<T, usize>(index) {
        Some(Ok(value)) => Ok(value),
        _ => {
            let what = format!("column {index} of a row holds what no version has written");
            Err(MetaError::Corrupt { what }.into())
        }
    }
}

/// A time for FROM_UNIXTIME, which has no answer to what does not fit.
pub(super) fn timestamp(time: u64) -> Result<Value, Failure> {
    // 0 is no TIMESTAMP: it begins with second 1.
    let time = time.max(1);
    if time > TIME_MAX {
        return Err(MetaError::Database {
            operation: "timestamp",
            cause: "a time that the database cannot hold".into(),
        }
        .into());
    }
    Ok(time.into())
}

/// An optional time, as above.
pub(super) fn optional_timestamp(time: Option<u64>) -> Result<Value, Failure> {
    time.map_or(Ok(Value::NULL), timestamp)
}

/// A size: the wire carries it in 63 bits, so a larger one is a mistake of the caller.
fn size(size: u64) -> Result<Value, Failure> {
    i64::try_from(size)
        .map(Value::from)
        .map_err(|error| MetaError::Database { operation: "size", cause: Box::new(error) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_are_counted() {
        assert_eq!(NAMES.split(',').count(), COLUMN_COUNT);
        assert_eq!(PLACE.matches('?').count(), COLUMN_COUNT);
        assert_eq!(INSERTS[1][3].matches('?').count(), 8 * COLUMN_COUNT);
        assert_eq!(1 << (INSERTS[0].len() - 1), INSERT_ROWS_MAX);
    }
}
