//! An open file of a data thread, in the form that its runtime reads from.

use std::{
    cell::{Cell, OnceCell},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use reel_node::worker::Pool;

use super::direct::{Opened, Second, Seconds};

/// A descriptor, closed when its last user is done; and a second one past the page cache, once that was wanted.
#[derive(Debug)]
pub(crate) struct OpenFile {
    form: Form,
    store: usize,
    /// Those of its store path: what waits for the disk goes there.
    workers: Pool,
    /// `None` inside: it is not to be read directly.
    direct: OnceCell<Option<Direct>>,
    /// What its first bytes say it is, once somebody asked. The content never changes.
    media_type: Cell<Option<&'static str>>,
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
    pub(crate) fn new(fd: OwnedFd, ring: bool, store: usize, workers: Pool) -> io::Result<Self> {
        let form = Form::new(fd, ring)?;
        Ok(Self { form, store, workers, direct: OnceCell::new(), media_type: Cell::new(None) })
    }

    /// Index of its store path.
    pub(super) fn store(&self) -> usize {
        self.store
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
