//! Rows of the storage database as values: what a table holds, and the changes that are asked of it.

use crate::page::{ScanCursor, TimeCursor};
use crate::text::TextError;

/// State of a file in its row (`status`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileStatus {
    /// 0: served.
    Normal,
    /// 1 (and any other number that a row may hold): not served; can be restored until purged.
    Deleted,
}

impl FileStatus {
    /// The number in the column `status`.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::Normal => 0,
            Self::Deleted => 1,
        }
    }

    /// From the column. Only 0 is served: an unknown number is taken for deleted.
    #[must_use]
    pub fn from_number(number: i64) -> Self {
        if number == 0 { Self::Normal } else { Self::Deleted }
    }
}

/// A file that has been made durable and now gets its row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    /// File id, 1 to 127 bytes.
    pub file: String,
    /// App id, 1 to 15 bytes.
    pub app: String,
    /// User id, 0 to 128 characters in at most 255 bytes; decides the table.
    pub user: String,
    /// `<id key>/<relative path>`, at most 512 bytes.
    pub file_path: String,
    /// Size in bytes.
    pub size: u64,
    /// Seconds since 1970, the time in the path.
    pub created_at: u64,
    /// CRC-64/NVME of the content.
    pub checksum: Option<u64>,
    /// Original name, at most 255 bytes.
    pub name: Option<String>,
    /// Content type as the client gave it, at most 255 bytes.
    pub content_type: Option<String>,
    /// Seconds since 1970 from which it is no longer wanted.
    pub expires_at: Option<u64>,
    /// None: the row's status is normal. A time, seconds since 1970: it is deleted since then, and no reader ever
    /// sees it otherwise (a file that is found again, and was deleted).
    pub deleted_at: Option<u64>,
}

/// One row of `t_file_01` .. `t_file_03`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Number of the table, 1 to 3.
    pub table: u8,
    /// File id (`id`).
    pub file: String,
    /// App id (`appid`).
    pub app: String,
    /// User id (`userid`).
    pub user: String,
    /// State (`status`).
    pub status: FileStatus,
    /// `<id key>/<relative path>`; rows taken over keep their old text.
    pub file_path: String,
    /// Size in bytes (`file_size`).
    pub size: u64,
    /// Seconds since 1970 (`create_time`).
    pub created_at: u64,
    /// Seconds since 1970 of the last change of state (`update_time`).
    pub updated_at: u64,
    /// CRC-64/NVME of the content; none in rows that an old node wrote.
    pub checksum: Option<u64>,
    /// Original name (`original_name`).
    pub name: Option<String>,
    /// Content type as the client gave it.
    pub content_type: Option<String>,
    /// Seconds since 1970 of the deletion; none where an old node deleted.
    pub deleted_at: Option<u64>,
    /// Seconds since 1970 from which it is no longer wanted.
    pub expires_at: Option<u64>,
}

impl FileRow {
    /// Names this very row: the path makes sure that a later file of the same id is not meant.
    #[must_use]
    pub fn reference(&self) -> RowRef {
        RowRef { user: self.user.clone(), file: self.file.clone(), path: self.file_path.clone() }
    }

    /// Place of this row in the order of [`scan`](crate::FileStore::scan).
    #[must_use]
    pub fn scan_cursor(&self) -> ScanCursor {
        ScanCursor { table: self.table, file: self.file.clone() }
    }

    /// Place of this row in the order of [`deleted_before`](crate::FileStore::deleted_before);
    /// none for a row that has no deletion time.
    #[must_use]
    pub fn deleted_cursor(&self) -> Option<TimeCursor> {
        let deleted_at = self.deleted_at?;
        Some(TimeCursor { time: deleted_at, table: self.table, file: self.file.clone() })
    }

    /// Place of this row in the order of [`expired_before`](crate::FileStore::expired_before); none for a row that
    /// never expires.
    #[must_use]
    pub fn expiry_cursor(&self) -> Option<TimeCursor> {
        let time = self.expires_at?;
        Some(TimeCursor { time, table: self.table, file: self.file.clone() })
    }
}

/// What became of one row of an insert.
#[derive(Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The row is there, durable.
    Inserted,
    /// The user's table already holds this file id; nothing was changed. Comes too for the second
    /// of two rows in one call.
    Exists(Box<FileRow>),
    /// A text of this row is outside of its limits. The other rows of the call are unharmed.
    Refused(TextError),
}

/// One particular row: the file id in the user's table, and the path it must still have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowRef {
    /// User id, which decides the table.
    pub user: String,
    /// File id.
    pub file: String,
    /// Expected `file_path`. A purged id can be uploaded again under another path; a change meant
    /// for the old file must not reach the new one.
    pub path: String,
}

/// A file that was written again at another place: nothing of its row changes but where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relocation {
    /// The row, with the path that it has.
    pub row: RowRef,
    /// The state that the copy has: a row whose state is another by now stays as it is.
    pub status: FileStatus,
    /// As the state.
    pub deleted_at: Option<u64>,
    /// Its new `file_path`.
    pub path: String,
}

/// A change of state asked of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChange {
    /// Which row.
    pub row: RowRef,
    /// The state to set.
    pub status: FileStatus,
    /// The deletion time to set, seconds since 1970; none when restoring.
    pub deleted_at: Option<u64>,
    /// Time of the change, seconds since 1970, for `update_time`; none leaves that as it is (a background pass).
    pub changed_at: Option<u64>,
}

/// What a row of the deployed system lacks, once its file has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adoption {
    /// The row, with the path that it has.
    pub row: RowRef,
    /// The state that was found: a row whose state is another by now stays as it is.
    pub status: FileStatus,
    /// CRC-64/NVME of the content, for a row that has none.
    pub checksum: u64,
    /// For a deleted row that does not say since when.
    pub deleted_at: Option<u64>,
}

/// The removal of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Which row.
    pub row: RowRef,
    /// The state it must have. A purge says `Some(Deleted)`, so that a restore on another node in
    /// between wins; the undoing of a failed upload says `None`.
    pub only: Option<FileStatus>,
}

/// What became of one change or removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Done, durable. Also when the row already was as asked.
    Applied,
    /// No row fits the reference (and the state): nothing was changed.
    Missing,
}

/// Number of rows of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableCount {
    /// Rows with status normal.
    pub normal: u64,
    /// Rows with any other status.
    pub deleted: u64,
}

/// The store that a node had at one of its paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpectedStore {
    /// Uuid of the store.
    pub uuid: String,
    /// When the node first had this store there, seconds since 1970.
    pub created_at: u64,
}

/// One sequence of the ID database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The key (`id`).
    pub key: String,
    /// Start of the next block (`id_value`): every id given so far is below it.
    pub next: u64,
}
