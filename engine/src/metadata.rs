//! The way to the storage database: one writer and one reader, each alone with its connection, behind bounded channels.
//!
//! Any thread may ask: data threads await, committers and keepers wait. The writer puts the inserts of many commits
//! into one transaction, and keeps the commit journal where there is one. Both ends are threads of their own. What is
//! different where nodes share the database is in `shared`.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
};

use flume::Sender;
use reel_meta::{
    Adoption, Change, ExpectedStore, FileRow, FileStore, ListCursor, Location, MetaError, Page,
    Relocation, Removal, ScanCursor, Selection, StatusChange, TableCount, TimeCursor, TotalCursor,
    Totals,
};

use reel_proto::table::table_of_user;

use self::{
    commands::{Answer, Mutation, Read, Replacement, Write},
    watch::Watch,
};
use crate::{
    epochs::Epochs,
    journal::{Entry, Journal},
};

pub(crate) use self::commands::{Insert, Lease, Records, Waiting};
pub use self::commands::{Owned, StorePlace};

mod commands;
mod reader;
mod shared;
mod watch;
mod writer;

/// Commands that wait for the writer; past it, workers and committers wait, and so do uploads.
const WRITE_QUEUE_MAX: usize = 4096;

/// Lookups that wait for the reader; past it, they are refused as busy.
const READ_QUEUE_MAX: usize = 4096;

/// What the metadata said instead of yes. Cloned to every upload of a commit.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text}")]
pub struct RowError {
    /// For people.
    pub text: Arc<str>,
    /// The change may have happened all the same: read back before undoing anything.
    pub unknown: bool,
    /// The queue was full, or the database says that later may do.
    pub retryable: bool,
}

impl From<MetaError> for RowError {
    fn from(error: MetaError) -> Self {
        Self {
            text: error.to_string().into(),
            unknown: error.outcome_unknown(),
            retryable: error.retryable(),
        }
    }
}

impl RowError {
    /// The other end is gone. A write that was on its way may have happened.
    fn gone() -> Self {
        Self { text: "the metadata has stopped".into(), unknown: true, retryable: false }
    }

    /// Nothing has made durable what this change stands on.
    fn frozen() -> Self {
        Self { text: "the journal was frozen; try again".into(), unknown: false, retryable: true }
    }

    fn busy() -> Self {
        Self { text: "too many lookups are waiting".into(), unknown: false, retryable: true }
    }
}

/// The handle. Clones share both ends; when the last is dropped the loops finish what is queued and the database is
/// closed, before the drop returns.
#[derive(Clone)]
pub struct Metadata {
    writes: Sender<Write>,
    /// Several may wait at its other end, where each is woken for what it then gets.
    reads: async_channel::Sender<Read>,
    epochs: Arc<Epochs>,
    watch: Arc<Watch>,
    /// After the senders: fields are dropped in this order, and the threads end when the last sender is gone.
    threads: Arc<Threads>,
}

struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Threads {
    fn new(threads: Vec<JoinHandle<()>>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(threads)))
    }

    fn join(&self) {
        let threads = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // A thread cannot wait for itself; and one that panicked has said so.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.join();
    }
}

impl Metadata {
    /// Opens a database and starts its threads.
    ///
    /// # Errors
    /// The database's, or no thread could be started.
    pub fn open(location: &Location) -> Result<Self, RowError> {
        match location {
            Location::Embedded(path) => Self::sqlite(path),
            Location::Shared(options) => shared::open(options),
        }
    }

    /// Opens the embedded database and starts its writer and its reader thread.
    ///
    /// # Errors
    /// The database's, or no thread could be started.
    pub fn sqlite(path: &Path) -> Result<Self, RowError> {
        let (write_path, read_path) = (path.to_owned(), path.to_owned());
        Self::start(
            move || reel_meta::sqlite::SqliteFileStore::open(&write_path),
            move || reel_meta::sqlite::SqliteFileStore::open_reader(&read_path),
        )
    }

    /// Starts the two threads on any store of metadata; the reader opens after the writer has made the tables.
    ///
    /// # Errors
    /// As [`Self::sqlite`].
    pub fn start<W: FileStore, R: FileStore>(
        writer: impl FnOnce() -> Result<W, MetaError> + Send + 'static,
        reader: impl FnOnce() -> Result<R, MetaError> + Send + 'static,
    ) -> Result<Self, RowError> {
        let (writes, write_queue) = flume::bounded(WRITE_QUEUE_MAX);
        let (reads, read_queue) = async_channel::bounded(READ_QUEUE_MAX);
        // The writer's connection closes last: SQLite takes the log in with the last one, and one that only reads
        // cannot.
        let (reading, reader_gone) = flume::bounded::<()>(0);
        let write_thread = spawn("reel-meta-write", writer, move |mut store| {
            wait(writer::run(&mut store, write_queue));
            let _ = reader_gone.recv();
        })?;
        let read_thread = spawn("reel-meta-read", reader, move |store| {
            wait(reader::run(store, read_queue));
            drop(reading);
        })?;
        Ok(Self {
            writes,
            reads,
            epochs: Arc::new(Epochs::new()),
            watch: Arc::default(),
            threads: Threads::new(vec![write_thread, read_thread]),
        })
    }

    /// By what readers know that what they remember of a row is not true any more.
    pub(crate) fn epochs(&self) -> &Arc<Epochs> {
        &self.epochs
    }

    /// Whether what others change is known.
    pub(crate) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Finishes what is queued and closes the database, whoever else still has a handle: what they ask afterwards is
    /// answered as by a database that is gone. Blocks until it is closed.
    pub fn close(&self) {
        let _ = self.writes.send(Write::Stop);
        self.reads.close();
        self.threads.join();
    }

    /// Queues rows to be inserted; waits while the queue is full. Each is answered through its `done`.
    pub(crate) fn insert(&self, inserts: Vec<Insert>) {
        // If the writer is gone the rows are dropped unanswered, which their owners take for "unknown".
        let _ = self.writes.send(Write::Mutation(insertion(inserts)));
    }

    /// Inserts one row, without blocking a data thread.
    pub(crate) async fn insert_one(&self, insert: Insert) {
        let _ = self.writes.send_async(Write::Mutation(insertion(vec![insert]))).await;
    }

    /// Removes a row and inserts one in its place, in one transaction, without blocking a data thread.
    pub(crate) async fn replace_one(&self, removal: Removal, insert: Insert) {
        let replace = Mutation::Replace(Box::new(Replacement { removal, insert }));
        let _ = self.writes.send_async(Write::Mutation(replace)).await;
    }

    /// Sets states in one transaction.
    ///
    /// # Errors
    /// The database's; see [`RowError::unknown`].
    pub async fn set_status(&self, changes: Vec<StatusChange>) -> Result<Vec<Change>, RowError> {
        self.change_status(changes, Records::Durable).await
    }

    /// As [`Self::set_status`], of files whose records may not be durable yet.
    ///
    /// # Errors
    /// As [`Self::set_status`]; retryable where the journal was frozen meanwhile.
    pub(crate) async fn change_status(
        &self,
        changes: Vec<StatusChange>,
        records: Records,
    ) -> Result<Vec<Change>, RowError> {
        let status = |answer| Write::Mutation(Mutation::Status { changes, records, answer });
        self.write(status).await
    }

    /// Removes rows in one transaction. Their files stay.
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub async fn remove(&self, removals: Vec<Removal>) -> Result<Vec<Change>, RowError> {
        self.remove_rows(removals, false, Records::Durable).await
    }

    /// Removes rows whose files are unlinked once this has answered: a file that a power loss brings back is unlinked
    /// again.
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub(crate) async fn purge(
        &self,
        removals: Vec<Removal>,
        records: Records,
    ) -> Result<Vec<Change>, RowError> {
        self.remove_rows(removals, true, records).await
    }

    async fn remove_rows(
        &self,
        removals: Vec<Removal>,
        unlink: bool,
        records: Records,
    ) -> Result<Vec<Change>, RowError> {
        let remove =
            |answer| Write::Mutation(Mutation::Remove { removals, unlink, records, answer });
        self.write(remove).await
    }

    /// Lets rows name other places, in one transaction that is durable on return.
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub(crate) async fn relocate(
        &self,
        relocations: Vec<Relocation>,
    ) -> Result<Vec<Change>, RowError> {
        self.write(|answer| Write::Relocate(relocations, answer)).await
    }

    /// Gives rows what they lack, in one transaction that is durable on return.
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub(crate) async fn adopt(&self, adoptions: Vec<Adoption>) -> Result<Vec<Change>, RowError> {
        self.write(|answer| Write::Adopt(adoptions, answer)).await
    }

    /// Whether a row named this place until its file was brought elsewhere.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn was_left(&self, file_path: String) -> Result<bool, RowError> {
        self.write(|answer| Write::WasLeft(file_path, answer)).await
    }

    /// Lets go of the journal if it is frozen: every entry of it is in the database then,
    /// durably, and no more will come.
    ///
    /// # Errors
    /// It is broken, or the database cannot take its place.
    pub(crate) async fn uninstall_frozen(&self) -> Result<(), RowError> {
        self.write(Write::Uninstall).await
    }

    /// As [`Self::read_back`], of a file id in the table of a user, whatever its app.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn find_back(
        &self,
        user: &str,
        file: &str,
    ) -> Result<Option<FileRow>, RowError> {
        let (table, file) = (table_of_user(user.as_bytes()), file.to_owned());
        self.write(|answer| Write::Find(table, file, answer)).await
    }

    /// Up to which entry the database has everything of a journal; `None` where it takes none.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn journal_position(&self) -> Result<Option<u64>, RowError> {
        self.write(Write::Position).await
    }

    /// Carries out entries that the database does not have yet, in order. Not durable on return.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn replay(&self, entries: Vec<(u64, Entry)>) -> Result<(), RowError> {
        self.write(|answer| Write::Replay(entries, answer)).await
    }

    /// From now on changes are durable in this journal first, and the database syncs its commits no more.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn install(&self, journal: Box<Journal>) -> Result<(), RowError> {
        self.write(|answer| Write::Install(journal, answer)).await
    }

    /// Makes everything so far durable in the database itself, holding up the writer. `false`: try again later.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn checkpoint(&self) -> Result<bool, RowError> {
        self.write(Write::Checkpoint).await
    }

    /// Writes rows over what is there, in one transaction.
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub async fn upsert(&self, rows: Vec<FileRow>) -> Result<(), RowError> {
        self.write(|answer| Write::Upsert(rows, answer)).await
    }

    /// The row as the writer's own connection sees it: behind every write that was queued before.
    ///
    /// # Errors
    /// The database's.
    pub async fn read_back(&self, owned: Owned) -> Result<Option<FileRow>, RowError> {
        self.write(|answer| Write::ReadBack(owned, answer)).await
    }

    /// The row of a file id, whoever owns it; the older where two tables have it.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn get(&self, file: &str) -> Result<Option<FileRow>, RowError> {
        let file = file.to_owned();
        self.read(|answer| Read::Get(None, file, answer)).await
    }

    /// The row that a file id has in one table, whoever owns it: the one that would stop an insert.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn get_in(&self, table: u8, file: &str) -> Result<Option<FileRow>, RowError> {
        let file = file.to_owned();
        self.read(|answer| Read::Get(Some(table), file, answer)).await
    }

    /// The row of a file that belongs to this app and user.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn get_owned(&self, owned: Owned) -> Result<Option<FileRow>, RowError> {
        self.read(|answer| Read::GetOwned(owned, answer)).await
    }

    /// A page of a listing, behind `after`; and where the next one begins.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn list(
        &self,
        of: Selection,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, Option<ListCursor>), RowError> {
        self.read(|answer| Read::List(of, after, limit, answer)).await
    }

    /// How many files there are and how large they are: of those behind `after`, as many as lookups can wait for, and where the
    /// rest begins.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn total(
        &self,
        of: Selection,
        after: Option<TotalCursor>,
    ) -> Result<(Totals, Option<TotalCursor>), RowError> {
        self.read(|answer| Read::Total(of, after, answer)).await
    }

    /// A page of files deleted before `time`.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn deleted_before(
        &self,
        time: u64,
        after: Option<TimeCursor>,
        limit: usize,
    ) -> Result<Page, RowError> {
        self.read(|answer| Read::DeletedBefore(time, after, limit, answer)).await
    }

    /// A page of files whose expiry is at `time` or before.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn expired_before(
        &self,
        time: u64,
        after: Option<TimeCursor>,
        limit: usize,
    ) -> Result<Page, RowError> {
        self.read(|answer| Read::ExpiredBefore(time, after, limit, answer)).await
    }

    /// Takes or keeps a lease; see [`FileStore::lease`].
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn lease(&self, lease: Lease) -> Result<bool, RowError> {
        self.write(|answer| Write::Lease(lease, answer)).await
    }

    /// A page of all rows.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn scan(&self, after: Option<ScanCursor>, limit: usize) -> Result<Page, RowError> {
        self.read(|answer| Read::Scan(after, limit, answer)).await
    }

    /// Rows of each table.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn count(&self) -> Result<[TableCount; 3], RowError> {
        self.read(Read::Count).await
    }

    /// Which store was at this place when it was last opened; none if none ever was.
    ///
    /// # Errors
    /// The database's, or busy.
    pub async fn expected_store(&self, at: StorePlace) -> Result<Option<ExpectedStore>, RowError> {
        self.read(|answer| Read::Expected(at, answer)).await
    }

    /// Writes down which store is at this place since `now` (seconds since 1970).
    ///
    /// # Errors
    /// As [`Self::set_status`].
    pub async fn expect_store(
        &self,
        at: StorePlace,
        uuid: String,
        now: u64,
    ) -> Result<(), RowError> {
        self.write(|answer| Write::Expect(at, uuid, now, answer)).await
    }

    async fn write<T>(&self, command: impl FnOnce(Answer<T>) -> Write) -> Result<T, RowError> {
        let (answer, wait) = flume::bounded(1);
        self.writes.send_async(command(answer)).await.map_err(|_| RowError::gone())?;
        wait.recv_async().await.unwrap_or_else(|_| Err(RowError::gone()))
    }

    async fn read<T>(&self, command: impl FnOnce(Answer<T>) -> Read) -> Result<T, RowError> {
        let (answer, wait) = flume::bounded(1);
        self.reads.try_send(command(answer)).map_err(|error| match error {
            async_channel::TrySendError::Full(_) => RowError::busy(),
            async_channel::TrySendError::Closed(_) => RowError::gone(),
        })?;
        wait.recv_async().await.unwrap_or_else(|_| Err(RowError::gone()))
    }
}

/// An error with what is behind it, for whoever starts a node.
fn whole(error: MetaError) -> RowError {
    let behind = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    let text = error.to_string();
    let behind = behind.filter(|behind| !text.contains(behind.as_str())).unwrap_or_default();
    RowError { text: format!("{text}{behind}").into(), ..RowError::from(error) }
}

fn spawn<S>(
    name: &str,
    open: impl FnOnce() -> Result<S, MetaError> + Send + 'static,
    run: impl FnOnce(S) + Send + 'static,
) -> Result<JoinHandle<()>, RowError> {
    let (opened, wait) = flume::bounded(1);
    let body = move || match open() {
        Ok(store) => {
            let _ = opened.send(Ok(()));
            run(store);
        }
        Err(error) => {
            let _ = opened.send(Err(whole(error)));
        }
    };
    let spawned = thread::Builder::new().name(name.to_owned()).spawn(body);
    let thread = spawned.map_err(|error| RowError {
        text: format!("starting thread {name}: {error}").into(),
        unknown: false,
        retryable: false,
    })?;
    wait.recv().unwrap_or_else(|_| Err(RowError::gone()))?;
    Ok(thread)
}

/// Waits for a future on a thread that has nothing else to do: keepers, committers, tools. Never on a data thread.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Parked(Thread);
    impl Wake for Parked {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Parked(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

fn insertion(inserts: Vec<Insert>) -> Mutation {
    let (rows, files) = inserts.into_iter().map(|insert| (insert.row, insert.file)).unzip();
    Mutation::Insert { rows, files }
}

fn reply<T>(answer: &Answer<T>, result: Result<T, MetaError>) {
    // Whoever asked may be gone: a client that went away.
    let _ = answer.try_send(result.map_err(RowError::from));
}
