//! What the metadata is asked: changes for the one writer, lookups and pages for readers.

use bytes::Bytes;
use flume::Sender;
use reel_meta::{
    Adoption, Change, ExpectedStore, FileRow, InsertOutcome, ListCursor, NewFile, Page, Relocation,
    Removal, ScanCursor, Selection, StatusChange, TableCount, TimeCursor, TotalCursor, Totals,
};

use super::RowError;
use crate::journal::{Entry, Journal};

/// A row on its way into the database.
pub(crate) struct Insert {
    pub(crate) row: NewFile,
    pub(crate) file: Waiting,
}

/// Who wants to know of a row. Dropped unanswered where the writer is gone: the owner of the file inside must take that
/// for an unknown outcome.
pub(crate) struct Waiting {
    /// What its file holds, where the file is not durable yet: the journal takes it. Without a journal such a row is
    /// refused.
    pub(crate) content: Option<Vec<Bytes>>,
    pub(crate) done: Box<dyn FnOnce(Result<InsertOutcome, RowError>) + Send>,
}

pub(super) type Answer<T> = Sender<Result<T, RowError>>;

/// What stands for the records that a change of rows is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Records {
    /// They are durable.
    Durable,
    /// They are written, and only the entry of this change makes them durable: without a journal it is refused.
    ByJournal,
}

/// A change of rows; journaled, where there is a journal.
pub(super) enum Mutation {
    /// `files[i]` is of `rows[i]`.
    Insert {
        rows: Vec<NewFile>,
        files: Vec<Waiting>,
    },
    Replace(Box<Replacement>),
    Status {
        changes: Vec<StatusChange>,
        records: Records,
        answer: Answer<Vec<Change>>,
    },
    /// `unlink`: their files go with them.
    Remove {
        removals: Vec<Removal>,
        unlink: bool,
        records: Records,
        answer: Answer<Vec<Change>>,
    },
}

/// A row goes, and another one of the same file takes its place, in one transaction.
pub(super) struct Replacement {
    pub(super) removal: Removal,
    pub(super) insert: Insert,
}

pub(super) enum Write {
    Mutation(Mutation),
    Upsert(Vec<FileRow>, Answer<()>),
    Relocate(Vec<Relocation>, Answer<Vec<Change>>),
    Adopt(Vec<Adoption>, Answer<Vec<Change>>),
    /// Whether a row named this place until its file was brought elsewhere.
    WasLeft(String, Answer<bool>),
    /// Lets go of a journal that is frozen.
    Uninstall(Answer<()>),
    /// A read on the writer's connection: what an unknown outcome is settled by.
    ReadBack(Owned, Answer<Option<FileRow>>),
    Expect(StorePlace, String, u64, Answer<()>),
    /// As [`Write::ReadBack`], by table and file id.
    Find(u8, String, Answer<Option<FileRow>>),
    /// Up to which entry the database has the journal; `None` where it takes none.
    Position(Answer<Option<u64>>),
    /// Carries out entries of the journal that the database does not have yet.
    Replay(Vec<(u64, Entry)>, Answer<()>),
    /// From now on changes go through this journal.
    Install(Box<Journal>, Answer<()>),
    Lease(Lease, Answer<bool>),
    /// Makes what is committed durable; see [`reel_meta::FileStore::checkpoint`].
    Checkpoint(Answer<bool>),
    /// Close; see [`super::Metadata::close`].
    Stop,
}

pub(super) enum Read {
    Get(Option<u8>, String, Answer<Option<FileRow>>),
    GetOwned(Owned, Answer<Option<FileRow>>),
    List(Selection, Option<ListCursor>, usize, Answer<(Vec<FileRow>, Option<ListCursor>)>),
    Total(Selection, Option<TotalCursor>, Answer<(Totals, Option<TotalCursor>)>),
    DeletedBefore(u64, Option<TimeCursor>, usize, Answer<Page>),
    ExpiredBefore(u64, Option<TimeCursor>, usize, Answer<Page>),
    Scan(Option<ScanCursor>, usize, Answer<Page>),
    Count(Answer<[TableCount; 3]>),
    Expected(StorePlace, Answer<Option<ExpectedStore>>),
}

/// Where a node has a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorePlace {
    /// The node's name.
    pub node: String,
    /// The store's folder on that node, absolute.
    pub path: String,
}

/// Work that one node at a time is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lease {
    /// Which work.
    pub(crate) name: String,
    /// Who does it.
    pub(crate) holder: String,
    /// For how long, unless it is kept.
    pub(crate) seconds: u64,
}

/// App, user and file id of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// Its application.
    pub app: String,
    /// Its user.
    pub user: String,
    /// Its file id.
    pub file: String,
}
