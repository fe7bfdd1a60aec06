//! Everything that a request asks of the metadata, at places all over the tables.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use reel_meta::mysql::{
    Changed, MysqlChangeLog, MysqlFileStore, MysqlGroupStore, MysqlSequenceStore,
};
use reel_meta::{
    Adoption, Change, FileRow, FileStatus, FileStore, GroupStore, InsertOutcome, ListCursor,
    Relocation, Removal, ScanCursor, Selection, SequenceStore, StatusChange, StatusFilter,
    TimeCursor, TotalCursor,
};
use reel_tests::database::new_file;
use reel_tests::seed::Seeded;

use crate::fill::{APP, FIRST_UPLOAD, Filled, GIANT, TAKEN_OVER, UPLOAD_TIME};

/// Where in a list a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    Start,
    Middle,
    End,
}

/// A kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// By id in one table.
    Get,
    /// By id in all three.
    GetAnywhere,
    /// By an id that no table has.
    GetNothing,
    /// By id, by who writes.
    GetAndWait,
    GetOwned,
    /// A page of the user with a tenth of all files.
    ListGiant(StatusFilter, Begin, usize),
    /// A page of an app with most of all files.
    ListApp(StatusFilter, Begin, usize),
    /// A page of one day of it.
    ListDay,
    /// Within the many that were brought in in one second.
    ListTogether(usize),
    /// A page of any user.
    List(StatusFilter),
    /// Sizes of the user with a tenth of all files, and of the app.
    TotalGiant(StatusFilter, Begin),
    TotalApp(StatusFilter, Begin),
    /// Of any user.
    Total,
    DeletedBefore(Begin),
    /// Within the many that were deleted in one second.
    DeletedTogether(usize),
    /// Files that are not wanted any more.
    ExpiredBefore(Begin),
    /// Within the many that expire in one second.
    ExpiredTogether,
    Scan(Begin),
    WasLeft,
    ExpectedStore,
    /// What others have changed.
    Changes,
    Lease,
    Route,
    Peek,
    SetStatus,
    Remove,
    Relocate,
    Adopt,
    Insert,
}

/// Rows of a page, where nothing else is said.
pub(crate) const PAGE: usize = 100;

/// Rows whose sizes are read at once.
const COUNTED: usize = 1000;

/// Calls that change nothing, or the same again.
pub(crate) fn all() -> Vec<Call> {
    let mut calls =
        vec![Call::Get, Call::GetAnywhere, Call::GetNothing, Call::GetAndWait, Call::GetOwned];
    for filter in [StatusFilter::Normal, StatusFilter::Deleted, StatusFilter::Any] {
        for begin in [Begin::Start, Begin::Middle, Begin::End] {
            calls.push(Call::ListGiant(filter, begin, PAGE));
        }
        calls.push(Call::ListGiant(filter, Begin::Middle, 10));
        calls.push(Call::ListGiant(filter, Begin::Middle, 1000));
        calls.push(Call::List(filter));
        for begin in [Begin::Start, Begin::Middle, Begin::End] {
            calls.push(Call::ListApp(filter, begin, PAGE));
        }
        calls.push(Call::TotalGiant(filter, Begin::Middle));
        calls.push(Call::TotalApp(filter, Begin::Middle));
    }
    calls.extend([Call::TotalGiant(StatusFilter::Any, Begin::Start), Call::Total, Call::ListDay]);
    calls.extend([10, PAGE].map(Call::ListTogether));
    calls.extend([Begin::Start, Begin::Middle, Begin::End].map(Call::DeletedBefore));
    calls.extend([10, PAGE].map(Call::DeletedTogether));
    calls.extend([Begin::Start, Begin::Middle, Begin::End].map(Call::ExpiredBefore));
    calls.push(Call::ExpiredTogether);
    calls.extend([Begin::Start, Begin::Middle, Begin::End].map(Call::Scan));
    calls.extend([Call::WasLeft, Call::ExpectedStore, Call::Changes, Call::Lease]);
    calls.extend([Call::Route, Call::Peek]);
    calls.extend([Call::SetStatus, Call::Remove, Call::Relocate, Call::Adopt, Call::Insert]);
    calls
}

/// A place in the tables.
pub(crate) struct Place {
    number: u64,
    /// Some row.
    row: FileRow,
    /// Where a row could be.
    id: String,
}

impl Place {
    /// A second in which files were uploaded.
    fn created(&self) -> u64 {
        FIRST_UPLOAD + self.number.wrapping_mul(2_654_435_761) % UPLOAD_TIME
    }

    /// So many places, drawn from all of the tables; the first one of somebody who has deleted a file, as few have.
    pub(crate) async fn draw(
        store: &mut MysqlFileStore,
        count: u64,
        seeded: &mut Seeded,
    ) -> Vec<Self> {
        let mut places = Vec::new();
        for number in 0..count {
            let id = format!("{:016x}", seeded.below(i64::MAX as u64));
            let after = ScanCursor { table: 1 + (number % 3) as u8, file: id.clone() };
            let page = store.scan(Some(&after), reel_meta::PAGE_ROWS_MAX).await.unwrap();
            let wanted = |row: &FileRow| number > 0 || row.status == FileStatus::Deleted;
            let row = page.rows.into_iter().find(wanted);
            places.extend(row.map(|row| Self { number, row, id: id.clone() }));
        }
        places
    }
}

/// One store of each kind, as roles have them.
pub(crate) struct Stores {
    pub(crate) writer: MysqlFileStore,
    reader: MysqlFileStore,
    changes: MysqlChangeLog,
    groups: MysqlGroupStore,
    sequences: MysqlSequenceStore,
}

impl Stores {
    /// Connected, so that no call has to.
    pub(crate) async fn open(filled: &Filled) -> Self {
        let mut reader = MysqlFileStore::new_reader(filled.storage.clone());
        reader.connect().await.unwrap();
        Self {
            writer: MysqlFileStore::open(filled.storage.clone()).await.unwrap(),
            reader,
            changes: MysqlChangeLog::open(filled.storage.clone()).await.unwrap(),
            groups: MysqlGroupStore::open(filled.tracker.clone()).await.unwrap(),
            sequences: MysqlSequenceStore::open(filled.ids.clone()).await.unwrap(),
        }
    }
}

impl Call {
    /// The database that it is about.
    pub(crate) fn database(self, filled: &Filled) -> &str {
        match self {
            Self::Route => &filled.tracker.database,
            Self::Peek => &filled.ids.database,
            _ => &filled.storage.database,
        }
    }

    /// Rows that it may ask for.
    pub(crate) fn page(self) -> usize {
        match self {
            Self::ListGiant(.., limit) | Self::DeletedTogether(limit) => limit + 1,
            Self::ListApp(.., limit) | Self::ListTogether(limit) => limit + 1,
            Self::List(_) | Self::ListDay | Self::DeletedBefore(_) | Self::Scan(_) => PAGE + 1,
            Self::TotalGiant(..) | Self::TotalApp(..) | Self::Total => COUNTED,
            Self::ExpiredBefore(_) | Self::ExpiredTogether => PAGE + 1,
            _ => 1,
        }
    }

    /// Whether it is only judged: it can be done once.
    pub(crate) fn is_once(self) -> bool {
        matches!(self, Self::Remove | Self::Relocate | Self::Adopt | Self::Insert)
    }

    /// Carries it out; rows that it gave, or changed.
    pub(crate) async fn run(self, stores: &mut Stores, place: &Place) -> usize {
        let row = &place.row;
        let Stores { writer, reader, changes, groups, sequences } = stores;
        match self {
            Self::Get => one(reader.get(Some(row.table), &row.file).await.unwrap()),
            Self::GetAnywhere => one(reader.get(None, &row.file).await.unwrap()),
            Self::GetNothing => 1 - one(reader.get(None, &place.id).await.unwrap()),
            Self::GetAndWait => one(writer.get(Some(row.table), &row.file).await.unwrap()),
            Self::GetOwned => one(reader.get_owned(&row.app, &row.user, &row.file).await.unwrap()),
            Self::ListGiant(filter, begin, limit) => {
                let of = Selection::of_user(APP, GIANT).in_state(filter);
                listed(reader, &of, begin.created(place), limit).await
            }
            Self::ListApp(filter, begin, limit) => {
                let of = Selection::of_app(APP).in_state(filter);
                listed(reader, &of, begin.created(place), limit).await
            }
            Self::ListDay => {
                let since = place.created();
                let of = Selection { since, until: since + 86_400, ..Selection::of_app(APP) };
                listed(reader, &of, None, PAGE).await
            }
            Self::ListTogether(limit) => {
                let after =
                    ListCursor { time: TAKEN_OVER, table: 2, order: 0, file: place.id.clone() };
                let of = Selection::of_user(APP, GIANT).in_state(StatusFilter::Normal);
                listed(reader, &of, Some(after), limit).await
            }
            Self::List(filter) => {
                let of = Selection::of_user(&row.app, &row.user).in_state(filter);
                listed(reader, &of, None, PAGE).await
            }
            Self::TotalGiant(filter, begin) => {
                counted(reader, &Selection::of_user(APP, GIANT).in_state(filter), begin, place)
                    .await
            }
            Self::TotalApp(filter, begin) => {
                counted(reader, &Selection::of_app(APP).in_state(filter), begin, place).await
            }
            Self::Total => {
                let of = Selection::of_user(&row.app, &row.user);
                counted(reader, &of, Begin::Start, place).await
            }
            Self::DeletedBefore(begin) => deleted(reader, begin.time(), place, PAGE).await,
            Self::DeletedTogether(limit) => deleted(reader, Some(TAKEN_OVER), place, limit).await,
            Self::ExpiredBefore(begin) => expired(reader, begin.time(), place).await,
            Self::ExpiredTogether => expired(reader, Some(TAKEN_OVER), place).await,
            Self::Scan(begin) => {
                let file = begin.id(place).map(ToOwned::to_owned);
                let after = file.map(|file| ScanCursor { table: row.table, file });
                reader.scan(after.as_ref(), PAGE).await.unwrap().rows.len()
            }
            Self::WasLeft => {
                let path = format!("/srv/left/{:09X}", 1 + place.number);
                usize::from(reader.was_left(&path).await.unwrap())
            }
            Self::ExpectedStore => {
                let (node, path) = (format!("node{}", place.number % 100), "/srv/7");
                one(reader.expected_store(&node, path).await.unwrap())
            }
            Self::Changes => usize::from(changes.read().await.unwrap() != Changed::Anything),
            Self::Lease => {
                let name = format!("purge {}", place.number);
                usize::from(writer.lease(&name, "node", 60).await.unwrap())
            }
            Self::Route => one(groups.route(APP, &row.user).await.unwrap()),
            Self::Peek => {
                let key = format!("/srv/reel/{}", 1 + place.number);
                one(sequences.peek(&key).await.unwrap())
            }
            Self::SetStatus => {
                let change = StatusChange {
                    row: row.reference(),
                    status: row.status,
                    deleted_at: row.deleted_at,
                    changed_at: Some(1_800_000_000 + place.number),
                };
                changed(&writer.set_status(&[change]).await.unwrap())
            }
            Self::Remove => {
                let removal = Removal { row: row.reference(), only: Some(row.status) };
                changed(&writer.remove(&[removal]).await.unwrap())
            }
            Self::Relocate => {
                let relocation = Relocation {
                    row: row.reference(),
                    status: row.status,
                    deleted_at: row.deleted_at,
                    path: format!("{}-again", row.file_path),
                };
                changed(&writer.relocate(&[relocation]).await.unwrap())
            }
            Self::Adopt => {
                let adoption = Adoption {
                    row: row.reference(),
                    status: row.status,
                    checksum: 7,
                    deleted_at: row.deleted_at,
                };
                changed(&writer.adopt(&[adoption]).await.unwrap())
            }
            Self::Insert => {
                let rows: Vec<_> = (0..10)
                    .map(|number| new_file(&row.user, &format!("{}{number}", place.id), "/srv/new"))
                    .collect();
                let outcomes = writer.insert(&rows).await.unwrap();
                outcomes.iter().filter(|outcome| **outcome == InsertOutcome::Inserted).count()
            }
        }
    }
}

impl Begin {
    fn id(self, place: &Place) -> Option<&str> {
        match self {
            Self::Start => None,
            Self::Middle => Some(&place.id),
            Self::End => Some("7e"),
        }
    }

    /// Where in the order of uploads.
    fn created(self, place: &Place) -> Option<ListCursor> {
        let time = match self {
            Self::Start => return None,
            Self::Middle => place.created(),
            Self::End => FIRST_UPLOAD + UPLOAD_TIME - 1_000_000,
        };
        Some(ListCursor { time, table: place.row.table, order: 0, file: place.id.clone() })
    }

    /// A second in which some were deleted.
    fn time(self) -> Option<u64> {
        match self {
            Self::Start => None,
            Self::Middle => Some(1_720_000_000),
            Self::End => Some(TAKEN_OVER - 40_000),
        }
    }
}

async fn listed(
    reader: &mut MysqlFileStore,
    of: &Selection,
    after: Option<ListCursor>,
    limit: usize,
) -> usize {
    reader.list(of, after.as_ref(), limit).await.unwrap().0.len()
}

async fn counted(
    reader: &mut MysqlFileStore,
    of: &Selection,
    begin: Begin,
    place: &Place,
) -> usize {
    // The ranges of the giant's table, and of the app's last one.
    let range = if of.user.is_some() { 2 * 4 } else { 3 * 4 }
        + u8::from(of.filter == StatusFilter::Deleted);
    let after = begin.created(place).map(|at| TotalCursor {
        range,
        time: at.time,
        order: 0,
        file: at.file,
    });
    let (totals, _) = reader.total(of, after.as_ref(), COUNTED).await.unwrap();
    usize::try_from(totals.normal.files + totals.deleted.files).unwrap()
}

async fn deleted(
    reader: &mut MysqlFileStore,
    at: Option<u64>,
    place: &Place,
    limit: usize,
) -> usize {
    let after = at.map(|time| TimeCursor { time, table: place.row.table, file: place.id.clone() });
    reader.deleted_before(u64::MAX / 2, after.as_ref(), limit).await.unwrap().rows.len()
}

async fn expired(reader: &mut MysqlFileStore, at: Option<u64>, place: &Place) -> usize {
    let after = at.map(|time| TimeCursor { time, table: place.row.table, file: place.id.clone() });
    reader.expired_before(u64::MAX / 2, after.as_ref(), PAGE).await.unwrap().rows.len()
}

fn one<T>(found: Option<T>) -> usize {
    usize::from(found.is_some())
}

fn changed(changes: &[Change]) -> usize {
    changes.iter().filter(|change| **change == Change::Applied).count()
}

/// Rows of the app that have a state that no version writes, in whichever table has most of them.
pub(crate) async fn strange_rows(conn: &mut Conn) -> u64 {
    let mut most = 0;
    for table in 1..=3 {
        let count = format!(
            "SELECT COUNT(*) FROM t_file_0{table} WHERE appid = ? AND status NOT IN (0, 1)"
        );
        let found: Option<u64> = conn.exec_first(count, (APP,)).await.unwrap();
        most = most.max(found.unwrap_or(0));
    }
    most
}
