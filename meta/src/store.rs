//! The three traits, one for each database, that a store of metadata implements.
//!
//! Methods take `&mut self`: a store is one connection with one owner. Futures are not `Send` on
//! purpose: a store stays on the thread that drives it. Dropping a future before it is ready leaves
//! the outcome of its write unknown, exactly as a failed COMMIT does.
#![allow(async_fn_in_trait)]

use std::ops::Range;

use crate::error::MetaError;
use crate::page::{ListCursor, Page, ScanCursor, Selection, TimeCursor, TotalCursor, Totals};
use crate::row::{
    Adoption, Change, ExpectedStore, FileRow, InsertOutcome, NewFile, Relocation, Removal,
    Sequence, StatusChange, TableCount,
};

/// The tracker's database: legal groups, and which group serves a user.
pub trait GroupStore {
    /// The legal group names, in byte order.
    ///
    /// # Errors
    /// The database's.
    async fn groups(&mut self) -> Result<Vec<String>, MetaError>;

    /// Makes a group legal. `false` if it already was. Durable on return.
    ///
    /// # Errors
    /// A name outside of its limits; the database's.
    async fn add_group(&mut self, group: &str) -> Result<bool, MetaError>;

    /// The group of a user, if one is recorded.
    ///
    /// # Errors
    /// Texts outside of their limits; the database's.
    async fn route(&mut self, app: &str, user: &str) -> Result<Option<String>, MetaError>;

    /// Records `group` for the user unless one is recorded, and gives the group whose row stands:
    /// under any race all callers get the same one. Durable on return.
    ///
    /// # Errors
    /// Texts outside of their limits, an unknown group (only if no row stands); the database's.
    async fn route_or_insert(
        &mut self,
        app: &str,
        user: &str,
        group: &str,
    ) -> Result<String, MetaError>;
}

/// The ID node's database: sequences that never give a number twice.
pub trait SequenceStore {
    /// Takes the next ids of `key`: `count` of them (at least one), fewer where the sequence ends.
    /// The block starts at the sequence's value or at `at_least`, whichever is higher, and is
    /// durable before this returns. A key that does not exist starts at 0.
    ///
    /// After an error with an unknown outcome the block may be lost: ids are thrown away, never
    /// given twice.
    ///
    /// # Errors
    /// [`MetaError::Exhausted`] at 512^4; a count of zero; a key outside of its limits; the
    /// database's.
    async fn take(&mut self, key: &str, count: u64, at_least: u64)
    -> Result<Range<u64>, MetaError>;

    /// The start of the next block of `key`; none if nothing was taken yet.
    ///
    /// # Errors
    /// A key outside of its limits; the database's.
    async fn peek(&mut self, key: &str) -> Result<Option<u64>, MetaError>;

    /// All sequences in byte order of their keys.
    ///
    /// # Errors
    /// The database's.
    async fn sequences(&mut self) -> Result<Vec<Sequence>, MetaError>;
}

/// The storage database: one row for each file.
///
/// Its owner may keep a journal before it: changes are durable there first, and the database need not sync its commits
/// any more ([`Self::sync_commits`]). It then says, in the transaction of the changes themselves, how far it is.
///
/// Ids are compared by bytes: `aB` is not `Ab`, `abc` is not `abc `.
/// Every method that takes several rows does them in one transaction, durable on return, and answers
/// for each row at the same index. An error answers for all: nothing was changed, or, if it says so,
/// the outcome of all is unknown. Between [`Self::begin`] and [`Self::commit`] that holds for the whole of them.
pub trait FileStore {
    /// Inserts rows. The insert decides who is first, never a look before it.
    ///
    /// # Errors
    /// The database's.
    async fn insert(&mut self, rows: &[NewFile]) -> Result<Vec<InsertOutcome>, MetaError>;

    /// The row of a file id, whoever owns it: in one table, or in all three. Where several tables
    /// hold it the older row (then the lower path) is given, whatever its state, so that an answer
    /// never changes because somebody else uploads the same id.
    ///
    /// # Errors
    /// A file id outside of its limits; the database's.
    async fn get(&mut self, table: Option<u8>, file: &str) -> Result<Option<FileRow>, MetaError>;

    /// The row of a file id that belongs to this app and user.
    ///
    /// # Errors
    /// Texts outside of their limits; the database's.
    async fn get_owned(
        &mut self,
        app: &str,
        user: &str,
        file: &str,
    ) -> Result<Option<FileRow>, MetaError>;

    /// Sets states.
    ///
    /// # Errors
    /// The database's.
    async fn set_status(&mut self, changes: &[StatusChange]) -> Result<Vec<Change>, MetaError>;

    /// Removes rows for good.
    ///
    /// # Errors
    /// The database's.
    async fn remove(&mut self, removals: &[Removal]) -> Result<Vec<Change>, MetaError>;

    /// Lets rows name other places, and remembers those that they named before: what lies there is nobody's.
    ///
    /// # Errors
    /// The database's.
    async fn relocate(&mut self, relocations: &[Relocation]) -> Result<Vec<Change>, MetaError>;

    /// Gives rows what they lack. What they have stays, and so does their time of change.
    ///
    /// # Errors
    /// The database's.
    async fn adopt(&mut self, adoptions: &[Adoption]) -> Result<Vec<Change>, MetaError>;

    /// Whether a row named this place until it was relocated.
    ///
    /// # Errors
    /// The database's.
    async fn was_left(&mut self, file_path: &str) -> Result<bool, MetaError>;

    /// Files in the order of their times, those after `after` (exclusive), at most `limit` and at most
    /// [`PAGE_ROWS_MAX`](crate::PAGE_ROWS_MAX); and where the rest begins, if there is one. The order within a second is the
    /// store's own, and stays. What is uploaded meanwhile comes at the end.
    ///
    /// # Errors
    /// Texts outside of their limits; the database's.
    async fn list(
        &mut self,
        of: &Selection,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, Option<ListCursor>), MetaError>;

    /// How many files there are and how large they are, of at most `limit` and at most
    /// [`TOTAL_ROWS_MAX`](crate::TOTAL_ROWS_MAX) of them, those after `after`; and where the rest begins, if there is one.
    /// Read from the listing's keys alone.
    ///
    /// # Errors
    /// Texts outside of their limits; the database's.
    async fn total(
        &mut self,
        of: &Selection,
        after: Option<&TotalCursor>,
        limit: usize,
    ) -> Result<(Totals, Option<TotalCursor>), MetaError>;

    /// Deleted files whose deletion time is before `time` (seconds since 1970), the oldest first,
    /// those after `after`. A row without a deletion time never comes: how long it has been deleted
    /// is not known.
    ///
    /// # Errors
    /// The database's.
    async fn deleted_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError>;

    /// Files that are normal and whose expiry is at `time` (seconds since 1970) or before, the oldest expiry first, those
    /// after `after`.
    ///
    /// # Errors
    /// The database's.
    async fn expired_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError>;

    /// Takes or keeps a lease: until `seconds` from now nobody but `holder` has it. `false`: somebody else has it now. A
    /// database that is one node's own always gives it.
    ///
    /// # Errors
    /// The database's.
    async fn lease(&mut self, name: &str, holder: &str, seconds: u64) -> Result<bool, MetaError> {
        let _ = (name, holder, seconds);
        Ok(true)
    }

    /// Every row, by table and file id, those after `after`. Rows that come and go meanwhile may or
    /// may not be seen; all others are, once.
    ///
    /// # Errors
    /// The database's.
    async fn scan(&mut self, after: Option<&ScanCursor>, limit: usize) -> Result<Page, MetaError>;

    /// Writes rows as they are, over what is there: for an index made again from the disks. The
    /// table is that of the row's user, whatever `table` says.
    ///
    /// # Errors
    /// A text outside of its limits (nothing was written then); the database's.
    async fn upsert(&mut self, rows: &[FileRow]) -> Result<(), MetaError>;

    /// Rows of each table. Reads whole indexes: for an operator, not for a request.
    ///
    /// # Errors
    /// The database's.
    async fn count(&mut self) -> Result<[TableCount; 3], MetaError>;

    /// Up to which entry of the journal the database has everything; 0 where there never was one. `None`: this
    /// database takes no journal, its own log is on other machines.
    ///
    /// # Errors
    /// The database's.
    async fn journal_position(&mut self) -> Result<Option<u64>, MetaError> {
        Ok(None)
    }

    /// Begins a transaction of several changes: inserts, states and removals until [`Self::commit`] or
    /// [`Self::roll_back`] belong to it. `position`: it also says that the database has every entry of the journal up
    /// to this one. After an error of one of its changes it can only be rolled back.
    ///
    /// # Errors
    /// The database's; no transaction was begun.
    async fn begin(&mut self, position: Option<u64>) -> Result<(), MetaError>;

    /// Commits it, durable on return.
    ///
    /// # Errors
    /// The database's, for all changes of the transaction; it has ended.
    async fn commit(&mut self) -> Result<(), MetaError>;

    /// Ends it without its changes. Nothing happens where none is open.
    async fn roll_back(&mut self);

    /// Whether changes are durable on return. Without, a power loss takes the last of them, never one from before
    /// another that stays. Switched on, everything before is durable on return, too.
    ///
    /// # Errors
    /// The database's.
    async fn sync_commits(&mut self, on: bool) -> Result<(), MetaError> {
        let _ = on;
        Ok(())
    }

    /// Makes every change so far durable. `false`: a reader stood in the way; try again later.
    ///
    /// # Errors
    /// The database's.
    async fn checkpoint(&mut self) -> Result<bool, MetaError> {
        Ok(true)
    }

    /// Which store the node `node` had at `path` when it last opened one there; none if it never did.
    ///
    /// # Errors
    /// Texts outside of their limits; the database's.
    async fn expected_store(
        &mut self,
        node: &str,
        path: &str,
    ) -> Result<Option<ExpectedStore>, MetaError>;

    /// Writes down that `node` has the store `uuid` at `path` since `now` (seconds since 1970), over
    /// whatever it had there. The same store again changes nothing. Durable on return.
    ///
    /// # Errors
    /// Texts outside of their limits; the database's.
    async fn expect_store(
        &mut self,
        node: &str,
        path: &str,
        uuid: &str,
        now: u64,
    ) -> Result<(), MetaError>;
}
