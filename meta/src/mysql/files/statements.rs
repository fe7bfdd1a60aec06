//! Every statement of the storage database, and the mapping between its columns and rows.

use std::sync::LazyLock;

use mysql_async::prelude::FromValue;
use mysql_async::{Params, Row, Value};

use crate::error::MetaError;
use crate::mysql::failure::Failure;
use crate::row::{FileRow, FileStatus, NewFile};

/// The columns of a row, in the order that [`file_row`] reads them. A deployed row may have NULL in most of them: it is
/// nobody's and deleted then, and stops no page.
macro_rules! columns {
    () => {
        "id, COALESCE(appid, ''), COALESCE(userid, ''), COALESCE(status, 1), COALESCE(file_path, ''), \
         COALESCE(file_size, 0), COALESCE(UNIX_TIMESTAMP(create_time), 0), \
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

/// A user's files in one state after an id, by id. The key is named: with a user's rows spread over a large table the
/// primary key would be the slower way to the same order.
macro_rules! of_user {
    ($table:literal, $status:literal) => {
        concat!(
            "(SELECT ",
            columns!(),
            " FROM ",
            $table,
            " FORCE INDEX (reel_user) WHERE userid = ? AND appid = ? AND ",
            $status,
            " AND id > ? ORDER BY id LIMIT ?)"
        )
    };
}

/// The files of several states: of each as many as the page may hold, one after the other. They are put in order by us: the server
/// would do it in a table of its own, whose rows are as wide as they can be, and on its disk for a large page.
macro_rules! list {
    ($($status:literal),+) => {
        [list!(@ "t_file_01", $($status),+), list!(@ "t_file_02", $($status),+), list!(@ "t_file_03", $($status),+)]
    };
    (@ $table:literal, $first:literal $(, $more:literal)*) => {
        concat!(of_user!($table, $first) $(, " UNION ALL ", of_user!($table, $more))*)
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

// The other numbers are nobody's, and taken for deleted.
pub(super) const LIST_NORMAL: [&str; 3] = list!("status = 0");
pub(super) const LIST_DELETED: [&str; 3] = list!("status = 1", "status > 1", "status < 0");
pub(super) const LIST_ANY: [&str; 3] =
    list!("status = 0", "status = 1", "status > 1", "status < 0");

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
const TIME_MAX: u64 = i32::MAX as u64;

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
