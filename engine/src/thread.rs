//! What one data thread holds: its caches, its reader, its budget, and the way from a name to an open file.

use std::{
    cell::RefCell,
    os::fd::OwnedFd,
    pin::pin,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{Either, select};
use reel_node::{
    Drain, Driver, ThreadContext, frame_server::FrameConfig, http::HttpLimits, metrics::Cell,
};

use crate::{
    admission::{Budget, Permit},
    cache::{Confirmed, FileCache, Found, Record},
    metrics::{Cache, Lookup as Looked, Serve},
    read::{
        Method, OpenFile, PieceReader, PieceSettings, PlaceOf, ReadError, Reader, Seconds,
        open_if_cold,
    },
    service::Shared,
    store::{Lookup, LookupError, OpenFileError, PIECE, Place, Stores},
};

/// Bytes of an upload that are taken from the socket at a time.
pub(crate) const UPLOAD_PIECE_BYTES: usize = 256 * 1024;

/// Most bytes that an upload holds: a job's worth being written, one waiting for it, and a piece from the socket.
const UPLOAD_BYTES_HELD: u64 = (2 * PIECE + UPLOAD_PIECE_BYTES) as u64;

/// Between two looks at the cached descriptors. With [`SWEEP_FILES`] a full cache of 8,192 is seen within 8 s, which
/// is how long a purged file's space may stay taken by an idle descriptor.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for the row of a file that is known, where it has to be compared at each request, and then for the store.
const CHECK_MAX: Duration = Duration::from_millis(500);

/// Descriptors looked at each time.
const SWEEP_FILES: usize = 1024;

/// One data thread's part of the engine.
pub(crate) struct Thread {
    pub(crate) shared: Arc<Shared>,
    pub(crate) cell: Cell<Serve>,
    pub(crate) reader: Reader,
    pub(crate) frames: Rc<FrameConfig>,
    pub(crate) http: Arc<HttpLimits>,
    budget: Budget,
    cache: Rc<RefCell<FileCache>>,
    confirmed: RefCell<Confirmed>,
    method: Method,
    ring: bool,
    /// Whether a name that is in memory can be opened without waiting.
    opens_cached: bool,
}

impl Thread {
    /// Makes it; on the thread, with its runtime running.
    pub(crate) fn new(shared: &Arc<Shared>, cx: &ThreadContext) -> Self {
        let threads = cx.threads.max(1);
        let settings = &shared.config;
        let cell = shared.registry.cell();
        let budget = Budget::new(settings.buffers.0 / threads as u64);
        let records = usize::try_from(settings.record_cache.0).unwrap_or(usize::MAX) / threads;
        let seconds = Seconds::default();
        let files = settings.open_files / threads;
        let cache = Rc::new(RefCell::new(FileCache::new(records, files, seconds.clone())));
        let cache_there = cache.clone();
        let make_room = Box::new(move || cache_there.borrow_mut().trim_files());
        let method = Method::of(cx.capabilities.cachestat, cx.capabilities.nowait_read);
        let pieces = PieceSettings {
            piece_bytes: settings.read_piece.0,
            buffer_bytes: settings.buffers.0 / threads as u64,
            // Who cannot see what is in the page cache must not go past it: hot files would come from the disk.
            direct: cx.capabilities.direct_io && method != Method::Blind,
        };
        let pieces = PieceReader::new(&pieces, seconds, make_room, cell.clone());
        let ahead = settings.read_ahead_pieces;
        Self {
            shared: shared.clone(),
            reader: Reader::new(
                (method, cx.capabilities.nowait_read),
                pieces,
                (budget.clone(), shared.stores.paths().len()),
                (ahead, settings.store_timeout.0),
                cell.clone(),
            ),
            frames: Rc::new(shared.frames.clone()),
            http: shared.http.clone(),
            cell,
            budget,
            cache,
            confirmed: RefCell::default(),
            method,
            opens_cached: cx.capabilities.cached_open,
            ring: matches!(cx.driver, Driver::IoUring { .. }),
        }
    }

    /// Looks after the caches and gauges until the drain. A task that outlived it would be dropped with nobody to
    /// close the stores, and the database would end as after a crash.
    pub(crate) async fn keep_house(self: Rc<Self>, drain: Drain) {
        let mut drained = pin!(drain.wait());
        loop {
            let pause = pin!(monoio::time::sleep(SWEEP_INTERVAL));
            if let Either::Left(_) = select(drained.as_mut(), pause).await {
                return;
            }
            self.reader.pieces().trim();
            self.cache.borrow_mut().sweep(SWEEP_FILES, |file| self.stores().epoch(file));
            let (records, files) = self.cache.borrow().lengths();
            let level = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
            self.cell.set(Serve::CACHED.at([Cache::Record as usize]), level(records));
            self.cell.set(Serve::CACHED.at([Cache::Descriptor as usize]), level(files));
            let used = i64::try_from(self.budget.used()).unwrap_or(i64::MAX);
            self.cell.set(Serve::BUFFERED, used);
        }
    }

    /// The stores of the node.
    pub(crate) fn stores(&self) -> &Arc<Stores> {
        &self.shared.stores
    }

    /// The record of a readable file, if this thread remembers it and that is known to be true still.
    pub(crate) fn cached(&self, lookup: &Lookup) -> Option<Rc<Record>> {
        let (looked, record) = self.remembered(lookup);
        self.cell.add(Serve::CACHE.at([Cache::Record as usize, looked as usize]), 1);
        record.filter(|record| self.is_true_still(record))
    }

    /// Whether what is remembered of a file can be served as it is: this node hears what others change, or a look at the file
    /// holds, or nobody can say.
    fn is_true_still(&self, record: &Record) -> bool {
        let (stores, store) = (self.stores(), record.store());
        if !stores.is_blind() {
            return true;
        }
        let holds = || self.confirmed.borrow().has(store, record.path_id(), Instant::now());
        !stores.must_check() && (!stores.is_shared(store.into()) || holds())
    }

    /// The record of a readable file that is not [`Self::cached`]. What is remembered of it is compared with its row; where that
    /// gives no answer, with what the store says of it that all nodes have. A store of this node alone says what the node knows.
    ///
    /// # Errors
    /// As [`Self::find`]; nobody can say whether the file is deleted.
    pub(crate) async fn look_up(&self, lookup: &Lookup) -> Result<Option<Rc<Record>>, LookupError> {
        match self.remembered(lookup).1 {
            // Somebody else has had no answer since it was asked for.
            Some(known) if self.is_true_still(&known) => Ok(Some(known)),
            Some(known) if self.stores().must_check() => Box::pin(self.check(lookup, known)).await,
            Some(known) => Box::pin(self.check_in_store(lookup, known)).await,
            None => self.find(lookup).await,
        }
    }

    /// Compares what is remembered of a file with its row.
    async fn check(
        &self,
        lookup: &Lookup,
        known: Rc<Record>,
    ) -> Result<Option<Rc<Record>>, LookupError> {
        match monoio::time::timeout(CHECK_MAX, self.find(lookup)).await {
            Ok(Ok(None)) => {
                self.cache.borrow_mut().forget_record(lookup);
                Ok(None)
            }
            Ok(Err(error)) if !error.retryable() => Err(error),
            Ok(Ok(found)) => Ok(found),
            Ok(Err(_)) | Err(_) => {
                self.stores().check_failed();
                self.check_in_store(lookup, known).await
            }
        }
    }

    /// Looks whether a file of a store that several nodes have was deleted by another one, which writes that down there before
    /// it changes the row.
    async fn check_in_store(
        &self,
        lookup: &Lookup,
        known: Rc<Record>,
    ) -> Result<Option<Rc<Record>>, LookupError> {
        if !self.stores().is_shared(known.store().into()) {
            return Ok(Some(known));
        }
        let (place, began) = (known.place(), Instant::now());
        let look = monoio::time::timeout(CHECK_MAX, self.stores().is_readable(&place));
        if look.await.unwrap_or_else(|_| Err(LookupError::unsure()))? {
            self.confirmed.borrow_mut().note(known.store(), known.path_id(), began);
            return Ok(Some(known));
        }
        self.cache.borrow_mut().forget_record(lookup);
        Ok(None)
    }

    fn remembered(&self, lookup: &Lookup) -> (Looked, Option<Rc<Record>>) {
        let epoch = self.stores().epoch(lookup.file());
        match self.cache.borrow_mut().record(lookup, epoch) {
            Found::Hit(record) => (Looked::Hit, (!has_expired(&record)).then_some(record)),
            Found::Miss => (Looked::Miss, None),
            Found::Stale => (Looked::Stale, None),
        }
    }

    /// Asks the metadata for the record of a readable file. `None`: unknown, of somebody else, deleted, or past its
    /// time.
    ///
    /// # Errors
    /// The metadata did not answer; nothing is known of the file.
    pub(crate) async fn find(&self, lookup: &Lookup) -> Result<Option<Rc<Record>>, LookupError> {
        // Before the lookup: a delete that comes in between makes what is found stale.
        let epoch = self.stores().epoch(lookup.file());
        let Some(located) = self.stores().lookup(*lookup).await? else { return Ok(None) };
        let record = self.cache.borrow_mut().keep_record(lookup, &located, epoch);
        Ok((!has_expired(&record)).then_some(record))
    }

    /// The file of a record, open.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(crate) async fn open(&self, record: &Rc<Record>) -> Result<Rc<OpenFile>, OpenFileError> {
        let cached = self.cache.borrow_mut().file(record);
        let looked = if cached.is_some() { Looked::Hit } else { Looked::Miss };
        self.cell.add(Serve::CACHE.at([Cache::Descriptor as usize, looked as usize]), 1);
        if let Some(file) = cached {
            return Ok(file);
        }
        let file = self.open_place(&record.place(), record.path_id().get()).await?;
        self.cache.borrow_mut().keep_file(record, &file);
        Ok(file)
    }

    async fn open_place(&self, place: &Place, number: u64) -> Result<Rc<OpenFile>, OpenFileError> {
        let pieces = self.reader.pieces();
        // A file that is not in memory gets its second descriptor in the same turn on the worker.
        let look = pieces.may_be_direct(place.store).then_some((self.method, place.size));
        let then =
            move |fd: &OwnedFd| look.and_then(|(method, size)| open_if_cold(fd, method, size));
        let at_once = self.opens_cached.then(|| self.stores().open_cached(place)).flatten();
        let opened = match at_once {
            Some(fd) => Ok((fd, None)),
            None => {
                let opened = self.stores().open_file_and(place, then);
                self.in_time(opened, OpenFileError::Late).await
            }
        };
        if let Err(OpenFileError::Size { on_disk, expected }) = &opened
            && on_disk < expected
        {
            self.cell.add(Serve::CUT_SHORT, 1);
        }
        let (fd, direct) = opened?;
        let workers = self.stores().workers(place.store)?;
        let which = PlaceOf { store: place.store, number };
        let file = OpenFile::new(fd, self.ring, which, workers);
        let file = file.map_err(OpenFileError::Disk)?;
        if let Some(direct) = direct {
            pieces.take_direct(&file, direct);
        }
        Ok(Rc::new(file))
    }

    /// Logs a file that has a row and cannot be opened.
    pub(crate) fn open_failed(&self, record: &Record, error: &OpenFileError) {
        if error.passes() {
            return;
        }
        tracing::error!(
            file = %record.file().escape_debug(),
            path_id = record.path_id().get(),
            store = record.store(),
            %error,
            "a file with a row cannot be opened"
        );
    }

    /// Logs a range that could not be sent, where the fault is ours, and closes the cached descriptor, so that a
    /// repaired file is opened anew.
    pub(crate) fn read_failed(&self, record: &Record, error: &ReadError) {
        if matches!(error, ReadError::Busy | ReadError::Peer(_)) {
            return;
        }
        self.cache.borrow_mut().forget_file(record);
        let store = record.store();
        if matches!(error, ReadError::Late) {
            return tracing::warn!(store, %error, "a file could not be read in time");
        }
        if self.passes(record, error) {
            return tracing::warn!(store, %error, "a file of a volume that is away could not be read");
        }
        tracing::error!(
            file = %record.file().escape_debug(),
            path_id = record.path_id().get(),
            store = record.store(),
            size = record.size(),
            %error,
            "a file could not be read"
        );
    }

    /// Whether the servers behind a mount did not give a range, or its descriptor is of a time when they were away: then the
    /// same may well succeed.
    pub(crate) fn passes(&self, record: &Record, error: &ReadError) -> bool {
        matches!(error, ReadError::Disk(error) if self.stores().may_pass(record.store().into(), error))
    }

    /// Waits for a store path as long as a request may, and gives `late` then. What was asked of it may be done yet.
    pub(crate) async fn in_time<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>>,
        late: E,
    ) -> Result<T, E> {
        let limit = self.shared.config.store_timeout.0;
        monoio::time::timeout(limit, work).await.unwrap_or(Err(late))
    }

    /// Buffer memory for an upload of `size` bytes, or `None`: the node has too much under way. Held until the upload is
    /// over: a small one stays in memory until it is written in one go.
    pub(crate) fn admit_upload(&self, size: Option<u64>) -> Option<Permit> {
        let permit = self.budget.try_take(size.unwrap_or(u64::MAX).min(UPLOAD_BYTES_HELD));
        if permit.is_none() {
            self.cell.add(Serve::OVERLOADED, 1);
        }
        permit
    }
}

fn has_expired(record: &Record) -> bool {
    record.expires_at().is_some_and(|at| at <= now())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
