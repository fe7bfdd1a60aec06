//! `reel verify`: reads every file of a store against its record and its row, and every row against the disk.
//!
//! Changes nothing and takes no lock, so it may run beside an engine; a file without a row is only a finding when it
//! is older than any upload takes.

use std::{
    io,
    ops::ControlFlow,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use reel_meta::{FileRow, FileStatus};
use reel_proto::path::PathId;

use crate::{
    groups::Groups,
    layout::{Layout, PrefixTaken},
    metadata::{Metadata, RowError, wait},
    record::{Record, State},
    store::{
        Clock as _, SystemClock,
        identity::{self, IdentityError},
        inspect::{self, Seal},
        sys,
        walk::{self, Entry},
    },
    sweep::owner,
};

/// What to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// The store paths, each with its other prefixes in `file_path`.
    pub stores: Vec<(PathBuf, Vec<String>)>,
    /// Read every byte of content (else only sizes).
    pub content: bool,
    /// Files without a row that are younger are uploads under way.
    pub age_min: Duration,
}

/// What is wrong with one file or row.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Fault {
    /// No record: a file taken over that is not adopted yet, or an upload that never ended.
    NoRecord,
    /// Something that is not its record.
    BadRecord {
        /// What is wrong with it.
        text: String,
    },
    /// The file has another size than its record or row.
    Size {
        /// Bytes found.
        found: u64,
        /// Bytes promised.
        expected: u64,
    },
    /// The content is not what was uploaded.
    Checksum {
        /// CRC-64/NVME found.
        found: u64,
        /// CRC-64/NVME promised.
        expected: u64,
    },
    /// Sealed, old enough, and no row names it.
    NoRow,
    /// Row and record say different things.
    Differs {
        /// Which thing.
        field: &'static str,
    },
    /// A row whose file is not there.
    NoFile,
    /// A row that names a place in none of these stores.
    Unplaced,
    /// It could not be read.
    Unreadable {
        /// What the system said.
        text: String,
    },
}

/// A fault and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file's place, or the row's `file_path`.
    pub place: String,
    /// The file id, if it is known.
    pub file: Option<String>,
    /// What is wrong.
    pub fault: Fault,
}

/// What a pass has seen so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Files looked at.
    pub files: u64,
    /// Bytes of content read.
    pub bytes: u64,
    /// Rows looked at.
    pub rows: u64,
    /// Of those, the ones without a file here that are of files of other groups.
    pub of_others: u64,
    /// Faults found.
    pub faults: u64,
}

/// What a pass tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// Some more has been looked at.
    Progress(Progress),
    /// Something is wrong.
    Finding(&'a Finding),
}

/// Why a pass cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// Not a store, or not readable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A folder cannot be read.
    #[error("{}: {error}", path.display())]
    Disk {
        /// The store path.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The metadata does not answer.
    #[error("metadata: {0}")]
    Row(#[from] RowError),
    /// Two of the stores have one prefix: a row could not be told which of them it means.
    #[error(transparent)]
    Prefix(#[from] PrefixTaken),
    /// An engine has the store open.
    #[error(transparent)]
    Locked(#[from] reel_node::lock::LockError),
}

/// A store at rest or beside a running engine: only read.
pub(crate) struct Opened {
    pub(crate) folder: PathBuf,
    pub(crate) id_key: String,
    pub(crate) root: OwnedFd,
}

/// Opens a store that must exist.
pub(crate) fn open(folder: &Path) -> Result<Opened, PassError> {
    let identity = identity::read(folder)?;
    let root = sys::open_folder(folder).map_err(at(folder))?;
    Ok(Opened { folder: folder.to_owned(), id_key: identity.id_key, root })
}

pub(crate) fn at(folder: &Path) -> impl Fn(io::Error) -> PassError {
    let path = folder.to_owned();
    move |error| PassError::Disk { path: path.clone(), error }
}

/// Verifies; `tell` hears of progress and of each fault. Blocks: for a thread of its own. Without `metadata` the
/// disks are held against their own records alone. `groups` tells which rows are of files of other groups; without it, none is.
///
/// # Errors
/// [`PassError`]; a single file that cannot be read is a finding instead.
pub fn verify(
    options: &VerifyOptions,
    metadata: Option<&Metadata>,
    groups: Option<&mut Groups>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Progress, PassError> {
    let mut stores = Vec::new();
    let mut layout = Layout::default();
    for (folder, aliases) in &options.stores {
        let store = open(folder)?;
        for prefix in aliases.iter().chain([&store.id_key]) {
            layout.add(prefix, stores.len())?;
        }
        stores.push(store);
    }
    let progress = Progress::default();
    let mut pass = Pass { options, metadata, groups, layout: &layout, tell, progress };
    for (index, store) in stores.iter().enumerate() {
        pass.files(index, store)?;
    }
    if let Some(metadata) = metadata {
        pass.rows(metadata, &stores)?;
    }
    Ok(pass.progress)
}

struct Pass<'a> {
    options: &'a VerifyOptions,
    metadata: Option<&'a Metadata>,
    groups: Option<&'a mut Groups>,
    layout: &'a Layout,
    tell: &'a mut dyn FnMut(Event<'_>),
    progress: Progress,
}

impl Pass<'_> {
    fn files(&mut self, index: usize, store: &Opened) -> Result<(), PassError> {
        let mut failed = None;
        let walked = walk::leaves(store.root.as_fd(), |leaf| {
            for entry in leaf.entries(store.root.as_fd())? {
                if let Err(error) = self.file(index, store, &entry) {
                    failed = Some(error);
                    return Ok(ControlFlow::Break(()));
                }
            }
            (self.tell)(Event::Progress(self.progress));
            Ok(ControlFlow::Continue(()))
        });
        walked.map_err(at(&store.folder))?;
        failed.map_or(Ok(()), Err)
    }

    fn file(&mut self, index: usize, store: &Opened, entry: &Entry) -> Result<(), PassError> {
        self.progress.files += 1;
        let place = format!("{}/{}", store.folder.display(), entry.relative);
        match self.content(store, entry) {
            Ok(Ok(record)) => self.against_row(index, entry, &place, &record),
            Ok(Err(Fault::NoRecord)) if self.is_young(entry) => Ok(()),
            Ok(Err(fault)) => {
                self.found(place, None, fault);
                Ok(())
            }
            // Purged or given up since the folder was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => {
                self.found(place, None, Fault::Unreadable { text: error.to_string() });
                Ok(())
            }
        }
    }

    /// The record of a file that holds what its record promises.
    fn content(&mut self, store: &Opened, entry: &Entry) -> io::Result<Result<Record, Fault>> {
        let file = sys::open_to_read(store.root.as_fd(), &entry.relative)?;
        let id = PathId::new(entry.id).map_err(io::Error::other)?;
        let record = match inspect::seal_of(&file, id)? {
            Seal::None => return Ok(Err(Fault::NoRecord)),
            Seal::Doubtful(text) => return Ok(Err(Fault::BadRecord { text })),
            Seal::Good(record) => *record,
        };
        let found = file.metadata()?.len();
        if found != record.size {
            return Ok(Err(Fault::Size { found, expected: record.size }));
        }
        if self.options.content {
            let Self { progress, tell, .. } = self;
            let (_, found) = inspect::checksum(&file, |bytes| {
                progress.bytes += bytes;
                tell(Event::Progress(*progress));
            })?;
            sys::drop_cached(&file);
            if found != record.checksum {
                return Ok(Err(Fault::Checksum { found, expected: record.checksum }));
            }
        }
        Ok(Ok(record))
    }

    fn against_row(
        &mut self,
        store: usize,
        entry: &Entry,
        place: &str,
        record: &Record,
    ) -> Result<(), PassError> {
        let Some(metadata) = self.metadata else { return Ok(()) };
        let row = wait(metadata.get_owned(owner(record)))?;
        let named = |row: &FileRow| self.layout.names(&row.file_path, store, &entry.relative);
        let fault = match row.filter(named) {
            Some(row) => difference(record, &row).map(|field| Fault::Differs { field }),
            // A purge under way has removed its row already.
            None if self.is_young(entry) || record.state == State::Purging => None,
            None => Some(Fault::NoRow),
        };
        if let Some(fault) = fault {
            self.found(place.to_owned(), Some(record.file.as_str().to_owned()), fault);
        }
        Ok(())
    }

    /// Every row against the disk: is there a file, and of that size. Its content was read from the disk's side.
    fn rows(&mut self, metadata: &Metadata, stores: &[Opened]) -> Result<(), PassError> {
        let mut after = None;
        loop {
            let page = wait(metadata.scan(after.take(), reel_meta::PAGE_ROWS_MAX))?;
            after = page.rows.last().map(FileRow::scan_cursor);
            for row in page.rows {
                self.progress.rows += 1;
                let Some(fault) = row_fault(&row, stores, self.layout) else { continue };
                if self.is_anothers(&row, &fault)? {
                    self.progress.of_others += 1;
                // Purged since the page was read?
                } else if self.still_there(metadata, &row)? {
                    self.found(row.file_path, Some(row.file), fault);
                }
            }
            (self.tell)(Event::Progress(self.progress));
            if !page.more {
                return Ok(());
            }
        }
    }

    /// Whether there is no file for the reason that it is of another group.
    fn is_anothers(&mut self, row: &FileRow, fault: &Fault) -> Result<bool, PassError> {
        match &mut self.groups {
            Some(groups) if matches!(fault, Fault::NoFile | Fault::Unplaced) => {
                Ok(groups.is_anothers(row)?)
            }
            _ => Ok(false),
        }
    }

    fn still_there(&self, metadata: &Metadata, row: &FileRow) -> Result<bool, PassError> {
        let now = wait(metadata.get_owned(crate::metadata::Owned {
            app: row.app.clone(),
            user: row.user.clone(),
            file: row.file.clone(),
        }))?;
        Ok(now.is_some_and(|now| now.file_path == row.file_path))
    }

    fn is_young(&self, entry: &Entry) -> bool {
        entry.time.saturating_add(self.options.age_min.as_secs()) > SystemClock.now()
    }

    fn found(&mut self, place: String, file: Option<String>, fault: Fault) {
        self.progress.faults += 1;
        (self.tell)(Event::Finding(&Finding { place, file, fault }));
    }
}

fn difference(record: &Record, row: &FileRow) -> Option<&'static str> {
    let deleted = row.status == FileStatus::Deleted;
    [
        (row.size == record.size, "size"),
        (row.checksum.is_none_or(|checksum| checksum == record.checksum), "checksum"),
        (deleted == (record.state != State::Normal), "state"),
    ]
    .into_iter()
    .find_map(|(agrees, field)| (!agrees).then_some(field))
}

fn row_fault(row: &FileRow, stores: &[Opened], layout: &Layout) -> Option<Fault> {
    let Some((store, _, relative)) = layout.place(&row.file_path) else {
        return Some(Fault::Unplaced);
    };
    let root = stores[store].root.as_fd();
    let size =
        sys::open_at(root, relative.as_str(), libc::O_RDONLY).and_then(|file| file.metadata());
    match size {
        Ok(file) if file.len() == row.size => None,
        Ok(file) => Some(Fault::Size { found: file.len(), expected: row.size }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Fault::NoFile),
        Err(error) => Some(Fault::Unreadable { text: error.to_string() }),
    }
}
