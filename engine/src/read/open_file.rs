//! An open file of a data thread, in the form that its runtime reads from.

use std::{
    cell::{Cell, OnceCell},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use reel_node::worker::Pool;

use super::direct::{Opened, Second, Seconds};

/// How long a disk may take to fill pages that it was asked for, before nobody looks whether they are filled. A look
/// costs 1 µs, which files that have become hot should not pay for ever; being wrong costs one wait for the disk.
const FILLING_TIME: Duration = Duration::from_secs(5);

/// A descriptor, closed when its last user is done; and a second one past the page cache, once that was wanted.
#[derive(Debug)]
pub(crate) struct OpenFile {
    form: Form,
    place: PlaceOf,
    /// Those of its store path: what waits for the disk goes there.
    workers: Pool,
    /// `None` inside: it is not to be read directly.
    direct: OnceCell<Option<Direct>>,
    /// Until then pages that were asked into the page cache may be there without their content.
    filling_until: Cell<Option<Instant>>,
    /// Somebody was reading it range after range.
    has_readers_on: Cell<bool>,
    /// What its first bytes say it is, once somebody asked. The content never changes.
    media_type: Cell<Option<&'static str>>,
}

/// Which file it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceOf {
    /// Index of its store path.
    pub(crate) store: usize,
    /// Its path id.
    pub(crate) number: u64,
}

/// Where a read comes from.
#[derive(Debug)]
pub(super) enum Form {
    /// Known to the thread's ring.
    Ring(monoio::fs::File),
    /// For the workers of its store path, which may outlive a request that gave up.
    Shared(Arc<File>),
}

impl Form {
    fn new(fd: OwnedFd, ring: bool) -> io::Result<Self> {
        Ok(if ring {
            Self::Ring(monoio::fs::File::from_std(File::from(fd))?)
        } else {
            Self::Shared(Arc::new(File::from(fd)))
        })
    }
}

/// The second descriptor of a file, opened with O_DIRECT.
#[derive(Debug)]
pub(super) struct Direct {
    pub(super) form: Form,
    /// What offsets and lengths must be multiples of.
    pub(super) alignment: u32,
    _second: Second,
}

impl OpenFile {
    /// Takes a file of a store path over for this thread; `ring`: its runtime drives io_uring. What waits for the disk
    /// and cannot go there goes to `workers`.
    ///
    /// # Errors
    /// What the runtime says; none is known.
    pub(crate) fn new(fd: OwnedFd, ring: bool, place: PlaceOf, workers: Pool) -> io::Result<Self> {
        Ok(Self {
            form: Form::new(fd, ring)?,
            place,
            workers,
            direct: OnceCell::new(),
            filling_until: Cell::new(None),
            has_readers_on: Cell::new(false),
            media_type: Cell::new(None),
        })
    }

    /// Index of its store path.
    pub(super) fn store(&self) -> usize {
        self.place.store
    }

    /// A number that is this file's alone within its store path.
    pub(super) fn number(&self) -> (usize, u64) {
        (self.place.store, self.place.number)
    }

    /// Pages of it were just asked into the page cache: for a while some may be there without their content.
    pub(super) fn is_being_filled(&self) {
        self.filling_until.set(Some(Instant::now() + FILLING_TIME));
    }

    /// Whether such pages may be there. Asks for the time only while it matters.
    pub(super) fn may_have_empty_pages(&self) -> bool {
        let Some(until) = self.filling_until.get() else { return false };
        let filling = Instant::now() < until;
        if !filling {
            self.filling_until.set(None);
        }
        filling
    }

    /// Somebody reads it range after range.
    pub(super) fn is_read_on(&self) {
        self.has_readers_on.set(true);
    }

    /// Whether [`OpenFile::is_read_on`] was called.
    pub(super) fn may_be_read_on(&self) -> bool {
        self.has_readers_on.get()
    }

    /// The workers of its store path.
    pub(super) fn workers(&self) -> &Pool {
        &self.workers
    }

    /// The type that [`OpenFile::keep_media_type`] was given.
    pub(super) fn media_type(&self) -> Option<&'static str> {
        self.media_type.get()
    }

    /// Keeps the type of the content.
    pub(super) fn keep_media_type(&self, media_type: &'static str) {
        self.media_type.set(Some(media_type));
    }

    /// The file for the ring, or the descriptor for a worker.
    pub(super) fn form(&self) -> &Form {
        &self.form
    }

    /// The second descriptor. `None`: it was not asked for yet; `Some(None)`: there will be none.
    pub(super) fn direct(&self) -> Option<Option<&Direct>> {
        self.direct.get().map(Option::as_ref)
    }

    /// Keeps a second descriptor, unless there is one already.
    ///
    /// # Errors
    /// As [`OpenFile::new`].
    pub(super) fn keep_direct(&self, opened: Opened, seconds: &Seconds) -> io::Result<()> {
        if self.direct.get().is_none() {
            let form = Form::new(opened.fd, matches!(self.form, Form::Ring(_)))?;
            let direct = Direct { form, alignment: opened.alignment, _second: seconds.add() };
            let _ = self.direct.set(Some(direct));
        }
        Ok(())
    }

    /// Remembers that the file is not to be read directly.
    pub(super) fn keep_no_direct(&self) {
        let _ = self.direct.set(None);
    }
}

impl AsFd for OpenFile {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.form {
            // SAFETY: the file owns the descriptor, closes it only when dropped, and outlives the borrow.
            Form::Ring(file) => unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) },
            Form::Shared(file) => file.as_fd(),
        }
    }
}
