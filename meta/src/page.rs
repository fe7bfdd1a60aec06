//! Many rows at a time: which ones are asked for, the pages that come, and where the next one begins.

use std::cmp::Ordering;
use std::ops::{AddAssign, RangeInclusive};

use reel_proto::table::table_of_user;

use crate::row::{FileRow, FileStatus};
use crate::text::{TextError, TextField, check};

/// Which states a listing shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StatusFilter {
    /// Served files only.
    #[default]
    Normal,
    /// Deleted files only.
    Deleted,
    /// Both.
    Any,
}

impl StatusFilter {
    /// Whether files in this state are shown.
    #[must_use]
    pub fn takes(self, status: FileStatus) -> bool {
        match self {
            Self::Normal => status == FileStatus::Normal,
            Self::Deleted => status == FileStatus::Deleted,
            Self::Any => true,
        }
    }
}

/// Which files a listing is about: those of an app, or of one of its users, in some states, made in some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// App id.
    pub app: String,
    /// User id; none: every user of the app.
    pub user: Option<String>,
    /// In which states.
    pub filter: StatusFilter,
    /// Made in this second or later, seconds since 1970. A row of a deployed system may not say when: that is second 0.
    pub since: u64,
    /// Made before this second.
    pub until: u64,
}

impl Selection {
    /// All files of a user.
    pub fn of_user(app: impl Into<String>, user: impl Into<String>) -> Self {
        Self { user: Some(user.into()), ..Self::of_app(app) }
    }

    /// All files of an app.
    pub fn of_app(app: impl Into<String>) -> Self {
        let filter = StatusFilter::Any;
        Self { app: app.into(), user: None, filter, since: 0, until: u64::MAX }
    }

    /// In these states only.
    #[must_use]
    pub fn in_state(self, filter: StatusFilter) -> Self {
        Self { filter, ..self }
    }

    /// The tables that may have such files.
    pub(crate) fn tables(&self) -> &'static [u8] {
        match &self.user {
            None => &[1, 2, 3],
            Some(user) => match table_of_user(user.as_bytes()) {
                1 => &[1],
                2 => &[2],
                _ => &[3],
            },
        }
    }

    pub(crate) fn check(&self) -> Result<(), TextError> {
        check(TextField::App, &self.app)?;
        self.user.as_deref().map_or(Ok(()), |user| check(TextField::User, user))
    }

    /// The ranges of rows that a total goes through one after the other, those that `after` leaves. `states`: what a store
    /// finds apart.
    pub(crate) fn ranges<'a>(
        &self,
        states: &[FileStatus],
        after: Option<&'a TotalCursor>,
    ) -> Vec<Range<'a>> {
        let mut ranges = Vec::new();
        for &table in self.tables() {
            for (state, &status) in states.iter().enumerate() {
                let number = table * STATES_MAX + state as u8;
                let begin = match after {
                    Some(cursor) if number < cursor.range => continue,
                    Some(cursor) if number == cursor.range => {
                        (cursor.time, cursor.order, cursor.file.as_str()).max((self.since, 0, ""))
                    }
                    _ => (self.since, 0, ""),
                };
                if self.filter.takes(status) {
                    ranges.push(Range { number, table, state, status, begin });
                }
            }
        }
        ranges
    }

    /// Where a listing begins in a table.
    pub(crate) fn begin<'a>(&self, table: u8, after: Option<&'a ListCursor>) -> Bound<'a> {
        let first = (self.since, 0, "");
        after.map_or(first, |cursor| cursor.bound(table).max(first))
    }
}

/// One page of rows, and whether more follow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Page {
    /// The rows in the order of the method that gave them.
    pub rows: Vec<FileRow>,
    /// Whether at least one more row comes after the last of `rows`.
    pub more: bool,
}

/// A place in the order of a scan: by table, then by file id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanCursor {
    /// Number of the table, 1 to 3.
    pub table: u8,
    /// File id.
    pub file: String,
}

/// A place in the order of a time that rows have: by time, then by table, then by file id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeCursor {
    /// Seconds since 1970.
    pub time: u64,
    /// Number of the table, 1 to 3.
    pub table: u8,
    /// File id.
    pub file: String,
}

impl TimeCursor {
    /// The cursor as a lower bound (exclusive) of a table's own order (time, id): no id is empty.
    pub(crate) fn bound(&self, table: u8) -> (u64, &str) {
        match table.cmp(&self.table) {
            Ordering::Less => (self.time.saturating_add(1), ""),
            Ordering::Equal => (self.time, self.file.as_str()),
            Ordering::Greater => (self.time, ""),
        }
    }
}

/// A place in the order of [`list`](crate::FileStore::list): by time, then by table, then as the store has them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListCursor {
    /// Seconds since 1970.
    pub time: u64,
    /// Number of the table, one of [`Self::TABLES`].
    pub table: u8,
    /// Place in that second, where a store has one for it.
    pub order: u64,
    /// File id.
    pub file: String,
}

impl ListCursor {
    /// The tables that there are.
    pub const TABLES: RangeInclusive<u8> = 1..=3;

    fn bound(&self, table: u8) -> Bound<'_> {
        match table.cmp(&self.table) {
            Ordering::Less => (self.time.saturating_add(1), 0, ""),
            Ordering::Equal => (self.time, self.order, self.file.as_str()),
            Ordering::Greater => (self.time, 0, ""),
        }
    }
}

/// A lower bound (exclusive) of a table's own order: second, place in it, file id.
pub(crate) type Bound<'a> = (u64, u64, &'a str);

/// States that a store may find apart, of each table.
const STATES_MAX: u8 = 4;

/// A range of rows of a total.
pub(crate) struct Range<'a> {
    pub(crate) number: u8,
    pub(crate) table: u8,
    /// Which of the states that the store finds apart, and what that is to others.
    pub(crate) state: usize,
    pub(crate) status: FileStatus,
    pub(crate) begin: Bound<'a>,
}

impl Range<'_> {
    /// The place of one of its rows.
    pub(crate) fn cursor(&self, time: u64, order: u64, file: String) -> TotalCursor {
        TotalCursor { range: self.number, time, order, file }
    }
}

/// A page of rows that are in order, of which one more than it may hold was asked for; and where the next one begins.
pub(crate) fn listed(
    mut rows: Vec<(ListCursor, FileRow)>,
    limit: usize,
) -> (Vec<FileRow>, Option<ListCursor>) {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().map(|(cursor, _)| cursor.clone()).filter(|_| more);
    (rows.into_iter().map(|(_, row)| row).collect(), next)
}

/// A place in the order of [`total`](crate::FileStore::total): the store goes through its ranges of rows one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TotalCursor {
    /// Which range.
    pub range: u8,
    /// The second of the last row that was counted, since 1970.
    pub time: u64,
    /// Its place in that second, where a store has one for it.
    pub order: u64,
    /// Its file id.
    pub file: String,
}

impl TotalCursor {
    /// The ranges that there may be: none has the number of a table, so a cursor of a list is none of a total.
    pub const RANGES: RangeInclusive<u8> = STATES_MAX..=4 * STATES_MAX - 1;
}

/// How many files, and how large they are together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// Files by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Those that are served.
    pub normal: Tally,
    /// Those that are not.
    pub deleted: Tally,
}

impl Totals {
    /// Counts a file of this size.
    pub(crate) fn add(&mut self, status: FileStatus, size: u64) {
        let tally = match status {
            FileStatus::Normal => &mut self.normal,
            FileStatus::Deleted => &mut self.deleted,
        };
        *tally += Tally { files: 1, bytes: size };
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.normal += other.normal;
        self.deleted += other.deleted;
    }
}
