//! A pass over all rows and files of a store path that is taken over: what it looks at, and what it tells.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write as _},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reel_meta::{FileRow, FileStatus, ScanCursor, TableCount, mysql::MysqlOptions};
use reel_proto::{name::GroupName, path::PathId};

use crate::{
    groups::Groups,
    layout::{self, Layout},
    metadata::{Metadata, Owned, RowError, wait},
    record::{Record, State},
    store::{
        ChangeError,
        adoption::{Adoption, AdoptionMode, AdoptionState, FINDINGS, Pass},
        inspect::{self, Seal},
        keeper::{Adopt, Adopted, Adoptions, KeeperJob, Target, is_of},
        path::StorePath,
        sys, walk,
    },
    sweep::owner,
    throttle::Throttle,
    verify::{Fault, Finding},
};

/// Rows of one page.
const PAGE: usize = 500;

/// Files that share a sync and a transaction, at most.
const BATCH: usize = 64;

/// How long a file that was read waits for others: what a crash makes read again.
const BATCH_WAIT: Duration = Duration::from_millis(500);

/// How often it is written down how far a pass is.
const WRITE_EVERY: Duration = Duration::from_secs(10);

/// Pause before something that was busy is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Findings that are listed; more are only counted.
const FINDINGS_MAX: u64 = 100_000;
/// What a pass works with.
pub(super) struct Worker {
    pub(super) store: Arc<StorePath>,
    pub(super) layout: Arc<Layout>,
    pub(super) metadata: Metadata,
    /// Bytes of content a second; 0: as fast as it goes.
    pub(super) rate: u64,
    /// Files that no row names and that are younger are uploads under way.
    pub(super) age_min: Duration,
    /// The database that says which group a user's files are in, and the group of these.
    pub(super) groups: Option<(MysqlOptions, GroupName)>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) paused: Arc<AtomicBool>,
}

/// Why a pass has not come to its end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("stopped")]
    Stopped,
    #[error("metadata: {0}")]
    Metadata(RowError),
    #[error("{0}")]
    Disk(#[from] io::Error),
    #[error("{0}")]
    Change(ChangeError),
}

impl Worker {
    /// The pass's thread.
    pub(super) fn run(self, adoption: Adoption) {
        let store = self.store.index;
        let mode = adoption.pass.as_ref().map(|pass| pass.mode);
        tracing::info!(store, ?mode, "taking over the store");
        let mut walker = Walker::new(&self, adoption);
        walker.whole_pages = walker.adoption.pass.clone();
        let ended = walker.whole();
        let Walker { mut adoption, whole_pages, .. } = walker;
        if ended.is_err() {
            adoption.pass = whole_pages;
        }
        if let Some(pass) = &mut adoption.pass {
            match ended {
                Ok(()) => {
                    pass.ended_at = Some(self.store.clock.now());
                    tracing::info!(store, seen = ?pass.seen, "has looked at the whole store");
                    match pass.mode {
                        AdoptionMode::Check | AdoptionMode::Adopt => {}
                        AdoptionMode::Finish if pass.seen.changed == 0 => {
                            adoption.state = AdoptionState::Finished;
                        }
                        // Whoever changed them may do so again.
                        AdoptionMode::Finish => {
                            let text = format!("{} rows were changed under way", pass.seen.changed);
                            tracing::error!(store, error = text, "the store is not finished");
                            pass.error = Some(text);
                        }
                    }
                }
                Err(Ended::Stopped) => pass.paused = self.paused.load(Ordering::Acquire),
                Err(error) => {
                    tracing::error!(store, %error, "taking over the store ended before its end");
                    pass.error = Some(error.to_string());
                }
            }
        }
        if let Err(error) = adoption.write(self.store.root()) {
            tracing::error!(store, %error, "how far the store is taken over was not written down");
            // A start must not find it finished where it does not say so.
            adoption.state = AdoptionState::Open;
        }
        self.store.show_adoption(adoption);
    }

    fn is_stopped(&self) -> Result<(), Ended> {
        if self.stop.load(Ordering::Acquire) { Err(Ended::Stopped) } else { Ok(()) }
    }

    /// Asks the metadata until it answers.
    fn ask<T>(&self, mut ask: impl FnMut() -> Result<T, RowError>) -> Result<T, Ended> {
        loop {
            self.is_stopped()?;
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) if error.retryable => std::thread::sleep(AGAIN_AFTER),
                Err(error) => return Err(Ended::Metadata(error)),
            }
        }
    }
}

/// A pass at work.
struct Walker<'a> {
    worker: &'a Worker,
    adoption: Adoption,
    /// Where rows were read up to by an earlier run of the same pass.
    resumed: Option<(u8, String)>,
    /// Path ids that rows name, 512 to an entry.
    named: BTreeMap<u64, [u64; 8]>,
    /// Files to be adopted.
    batch: Vec<Adopt>,
    adopted_at: Instant,
    /// As it was at the end of the last page: what is written down where the pass is cut short.
    whole_pages: Option<Pass>,
    /// Opened for the first row without a file.
    groups: Option<Groups>,
    has_groups: bool,
    findings: Option<File>,
    listed: u64,
    throttle: Throttle,
    written: Instant,
}

impl<'a> Walker<'a> {
    fn new(worker: &'a Worker, adoption: Adoption) -> Self {
        let resumed = adoption.pass.as_ref().and_then(|pass| pass.after.clone());
        Self {
            worker,
            adoption,
            resumed,
            named: BTreeMap::new(),
            batch: Vec::new(),
            adopted_at: Instant::now(),
            whole_pages: None,
            groups: None,
            has_groups: true,
            findings: None,
            listed: 0,
            throttle: Throttle::new(worker.rate),
            written: Instant::now(),
        }
    }

    fn whole(&mut self) -> Result<(), Ended> {
        let flags = if self.resumed.is_some() { libc::O_APPEND } else { libc::O_TRUNC };
        let root = self.worker.store.root();
        let findings = sys::open_at(root, FINDINGS, libc::O_WRONLY | libc::O_CREAT | flags)?;
        self.findings = Some(findings);
        // Only for whoever waits: a large table may take too long to count.
        let total = wait(self.worker.metadata.count()).ok();
        self.pass(|pass| {
            let rows = |tables: [TableCount; 3]| tables.iter().map(|t| t.normal + t.deleted).sum();
            pass.rows_total = total.map(rows).or(pass.rows_total);
            pass.rows_read = 0;
        });
        self.write()?;
        self.rows()?;
        self.folders()
    }

    /// Every row of the database, in the order of its tables.
    fn rows(&mut self) -> Result<(), Ended> {
        let mut after: Option<ScanCursor> = None;
        loop {
            let page = self.worker.ask(|| wait(self.worker.metadata.scan(after.clone(), PAGE)))?;
            let done = page.rows.last().map(FileRow::scan_cursor);
            let read = page.rows.len() as u64;
            for row in page.rows {
                self.worker.is_stopped()?;
                self.row(row)?;
            }
            self.adopt_batch()?;
            self.pass(|pass| pass.rows_read += read);
            if let Some(done) = done.clone().filter(|done| !self.is_done(done)) {
                self.pass(|pass| pass.after = Some((done.table, done.file)));
            }
            self.whole_pages = self.adoption.pass.clone();
            self.write_now_and_then()?;
            after = done;
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Whether an earlier run of this pass has been there.
    fn is_done(&self, at: &ScanCursor) -> bool {
        let at = (at.table, at.file.as_bytes());
        self.resumed.as_ref().is_some_and(|(table, file)| at <= (*table, file.as_bytes()))
    }

    fn row(&mut self, row: FileRow) -> Result<(), Ended> {
        let worker = self.worker;
        let Some((store, id, relative)) = worker.layout.place(&row.file_path) else {
            return Ok(());
        };
        if store != worker.store.index {
            return Ok(());
        }
        self.name(id);
        if self.is_done(&row.scan_cursor()) {
            return Ok(());
        }
        self.pass(|pass| pass.seen.rows += 1);
        let Some(key) = layout::key(&row) else { return self.found(&row, Fault::Unplaced) };
        let target = Target { key, path_id: id, relative };
        match self.look(&row, &target) {
            Ok(None) => {
                self.pass(|pass| pass.seen.already += 1);
                Ok(())
            }
            Ok(Some(checksum)) if self.mode() != AdoptionMode::Check => {
                self.batch.push(Adopt { file: target, checksum });
                let full = self.batch.len() >= BATCH || self.adopted_at.elapsed() > BATCH_WAIT;
                if full { self.adopt_batch() } else { Ok(()) }
            }
            Ok(Some(_)) => Ok(()),
            Err(Look::Stopped) => Err(Ended::Stopped),
            // Purged since its page was read?
            Err(Look::Fault(_)) if !self.is_there(&row)? => Ok(()),
            // With the same prefix and a database in common.
            Err(Look::Fault(Fault::NoFile)) if self.is_anothers(&row)? => {
                self.pass(|pass| pass.seen.rows -= 1);
                Ok(())
            }
            Err(Look::Fault(fault)) => self.found(&row, fault),
        }
    }

    /// Whether a row is of a file of another group.
    fn is_anothers(&mut self, row: &FileRow) -> Result<bool, Ended> {
        let worker = self.worker;
        let Some((options, own)) = worker.groups.as_ref().filter(|_| self.has_groups) else {
            return Ok(false);
        };
        let asked = worker.ask(|| {
            let groups = match self.groups.take() {
                Some(groups) => groups,
                None => Groups::open(options, *own)?,
            };
            self.groups.insert(groups).is_anothers(row)
        });
        asked.or_else(|ended| match ended {
            // As of an account that may not read there.
            Ended::Metadata(error) => {
                tracing::warn!(store = worker.store.index, %error,
                    "the trackers' database does not tell of groups: what other groups have counts as missing");
                self.has_groups = false;
                Ok(false)
            }
            ended => Err(ended),
        })
    }

    /// Looks at the file of a row. `None`: record and row say the same; else what the keeper needs to bring them
    /// together: the checksum of a file without a record.
    fn look(&mut self, row: &FileRow, target: &Target) -> Result<Option<Option<u64>>, Look> {
        let root = self.worker.store.root();
        let file = sys::open_at(root, target.relative.as_str(), libc::O_RDONLY);
        let file = file.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Look::Fault(Fault::NoFile),
            _ => unreadable(error),
        })?;
        let found = file.metadata().map_err(unreadable)?.len();
        if found != row.size {
            return Err(Look::Fault(Fault::Size { found, expected: row.size }));
        }
        match inspect::seal_of(&file, target.path_id).map_err(unreadable)? {
            Seal::Doubtful(text) => Err(Look::Fault(Fault::BadRecord { text })),
            Seal::Good(record) if !is_of(&record, &target.key) => {
                let text = "it is the record of another file".to_owned();
                Err(Look::Fault(Fault::BadRecord { text }))
            }
            Seal::Good(record) => self.compare(row, &record),
            Seal::None if self.mode() == AdoptionMode::Check => Ok(Some(None)),
            Seal::None => self.read(row, &file).map(|checksum| Some(Some(checksum))),
        }
    }

    fn compare(&self, row: &FileRow, record: &Record) -> Result<Option<Option<u64>>, Look> {
        let deleted = row.status == FileStatus::Deleted;
        if let Some(expected) = row.checksum.filter(|checksum| *checksum != record.checksum) {
            return Err(Look::Fault(Fault::Checksum { found: record.checksum, expected }));
        }
        let same = match record.state {
            State::Normal => !deleted,
            State::Deleted => {
                deleted && row.deleted_at.is_some() && row.deleted_at == record.deleted_at
            }
            State::Purging => deleted,
        };
        Ok((!same || row.checksum.is_none()).then_some(None))
    }

    /// Reads a file to its end, no faster than is allowed.
    fn read(&mut self, row: &FileRow, file: &File) -> Result<u64, Look> {
        let Self { worker, throttle, .. } = self;
        let mut stopped = false;
        let read = inspect::checksum_while(file, |bytes| {
            stopped = throttle.wait(bytes, &worker.stop).is_break();
            !stopped
        });
        let (size, checksum) = read.map_err(unreadable)?;
        sys::drop_cached(file);
        if stopped {
            return Err(Look::Stopped);
        }
        self.pass(|pass| pass.seen.bytes += size);
        if size != row.size {
            return Err(Look::Fault(Fault::Size { found: size, expected: row.size }));
        }
        match row.checksum {
            Some(expected) if expected != checksum => {
                Err(Look::Fault(Fault::Checksum { found: checksum, expected }))
            }
            _ => Ok(checksum),
        }
    }

    /// Has the keeper bring records and rows together.
    fn adopt_batch(&mut self) -> Result<(), Ended> {
        let mut batch = std::mem::take(&mut self.batch);
        self.adopted_at = Instant::now();
        while !batch.is_empty() {
            self.worker.is_stopped()?;
            let files = batch.clone();
            let (reply, answer) = flume::bounded(1);
            let job = KeeperJob::Adopt(Adoptions { files, reply });
            // The keeper is gone where the node ends.
            self.worker.store.keeping.send(job).map_err(|_| Ended::Stopped)?;
            let outcomes = answer.recv().map_err(|_| Ended::Stopped)?;
            let mut again = Vec::new();
            for (file, outcome) in batch.into_iter().zip(outcomes) {
                match outcome {
                    Ok(Adopted::Done) => self.pass(|pass| pass.seen.adopted += 1),
                    Ok(Adopted::Changed) => self.pass(|pass| pass.seen.changed += 1),
                    Err(ChangeError::Busy | ChangeError::Metadata { retryable: true, .. }) => {
                        again.push(file);
                    }
                    Err(error) => return Err(Ended::Change(error)),
                }
            }
            batch = again;
            if !batch.is_empty() {
                std::thread::sleep(AGAIN_AFTER);
            }
        }
        self.worker.store.show_adoption(self.adoption.clone());
        Ok(())
    }

    /// Every file: which of them no row names.
    fn folders(&mut self) -> Result<(), Ended> {
        let worker = self.worker;
        let started_at = self.adoption.pass.as_ref().map_or(0, |pass| pass.started_at);
        let before = started_at.saturating_sub(worker.age_min.as_secs());
        self.pass(|pass| pass.seen.no_row = 0);
        let mut failed = None;
        walk::leaves(worker.store.root(), |leaf| {
            for entry in leaf.entries(worker.store.root())? {
                if entry.time > before || self.is_named(entry.id) {
                    continue;
                }
                if let Err(error) = self.nameless(&entry) {
                    failed = Some(error);
                }
            }
            let go_on = failed.is_none() && worker.is_stopped().is_ok();
            Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        worker.is_stopped()?;
        failed.map_or(Ok(()), Err)
    }

    /// A file that no row named when rows were read.
    fn nameless(&mut self, entry: &walk::Entry) -> Result<(), Ended> {
        let store = &self.worker.store;
        let Ok(id) = PathId::new(entry.id) else { return Ok(()) };
        let file = match sys::open_at(store.root(), &entry.relative, libc::O_RDONLY) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let mut name = None;
        if let Seal::Good(record) = inspect::seal_of(&file, id)? {
            let row = self.worker.ask(|| wait(self.worker.metadata.get_owned(owner(&record))))?;
            if row.is_some_and(|row| store.is_named_by(&row, &entry.relative)) {
                return Ok(());
            }
            name = Some(record.file.as_str().to_owned());
        }
        self.tell(entry.relative.clone(), name, Fault::NoRow)
    }

    // --- what was seen

    fn mode(&self) -> AdoptionMode {
        self.adoption.pass.as_ref().map_or(AdoptionMode::Check, |pass| pass.mode)
    }

    fn pass(&mut self, change: impl FnOnce(&mut Pass)) {
        if let Some(pass) = &mut self.adoption.pass {
            change(pass);
        }
    }

    fn name(&mut self, id: PathId) {
        let (entry, bit) = (id.get() / 512, id.get() % 512);
        self.named.entry(entry).or_default()[(bit / 64) as usize] |= 1 << (bit % 64);
    }

    fn is_named(&self, id: u64) -> bool {
        let (entry, bit) = (id / 512, id % 512);
        self.named
            .get(&entry)
            .is_some_and(|bits| bits[(bit / 64) as usize] & (1 << (bit % 64)) != 0)
    }

    fn is_there(&self, row: &FileRow) -> Result<bool, Ended> {
        let of = || Owned { app: row.app.clone(), user: row.user.clone(), file: row.file.clone() };
        let now = self.worker.ask(|| wait(self.worker.metadata.get_owned(of())))?;
        Ok(now.is_some_and(|now| now.file_path == row.file_path))
    }

    fn found(&mut self, row: &FileRow, fault: Fault) -> Result<(), Ended> {
        self.tell(row.file_path.clone(), Some(row.file.clone()), fault)
    }

    fn tell(&mut self, place: String, file: Option<String>, fault: Fault) -> Result<(), Ended> {
        self.pass(|pass| {
            let seen = &mut pass.seen;
            *(match fault {
                Fault::NoFile => &mut seen.no_file,
                Fault::Size { .. } => &mut seen.wrong_size,
                Fault::Checksum { .. } => &mut seen.wrong_checksum,
                Fault::BadRecord { .. } | Fault::NoRecord => &mut seen.bad_record,
                Fault::Unreadable { .. } => &mut seen.unreadable,
                Fault::NoRow => &mut seen.no_row,
                Fault::Unplaced | Fault::Differs { .. } => &mut seen.bad_row,
            }) += 1;
        });
        self.listed += 1;
        let Some(list) = self.findings.as_mut().filter(|_| self.listed <= FINDINGS_MAX) else {
            return Ok(());
        };
        let mut line =
            serde_json::to_vec(&Finding { place, file, fault }).map_err(io::Error::other)?;
        line.push(b'\n');
        Ok(list.write_all(&line)?)
    }

    fn write_now_and_then(&mut self) -> Result<(), Ended> {
        if self.written.elapsed() < WRITE_EVERY {
            self.worker.store.show_adoption(self.adoption.clone());
            return Ok(());
        }
        self.write()
    }

    fn write(&mut self) -> Result<(), Ended> {
        self.adoption.write(self.worker.store.root())?;
        self.worker.store.show_adoption(self.adoption.clone());
        self.written = Instant::now();
        Ok(())
    }
}

/// Why nothing can be done about a file.
enum Look {
    Fault(Fault),
    Stopped,
}

fn unreadable(error: io::Error) -> Look {
    Look::Fault(Fault::Unreadable { text: error.to_string() })
}
