//! An open file of a data thread, in the form that its runtime reads from.

use std::{
    cell::Cell,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use reel_node::worker::Pool;

/// A descriptor, closed when its last user is done.
#[derive(Debug)]
pub(crate) struct OpenFile {
    form: Form,
    /// What its first bytes say it is, once somebody asked. The content never changes.
    media_type: Cell<Option<&'static str>>,
}

#[derive(Debug)]
enum Form {
    /// Known to the thread's ring.
    Ring(monoio::fs::File),
    /// For the workers of its store path, which may outlive a request that gave up.
    Shared(Arc<OwnedFd>, Pool),
}

impl OpenFile {
    /// Takes a file over for this thread, whose runtime drives io_uring.
    ///
    /// # Errors
    /// What the runtime says; none is known.
    pub(crate) fn on_ring(fd: OwnedFd) -> io::Result<Self> {
        let form = Form::Ring(monoio::fs::File::from_std(File::from(fd))?);
        Ok(Self { form, media_type: Cell::new(None) })
    }

    /// Takes a file over for a thread without a ring: what blocks goes to `workers`.
    pub(crate) fn on_workers(fd: OwnedFd, workers: Pool) -> Self {
        Self { form: Form::Shared(Arc::new(fd), workers), media_type: Cell::new(None) }
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
    pub(super) fn source(&self) -> Source<'_> {
        match &self.form {
            Form::Ring(file) => Source::Ring(file),
            Form::Shared(fd, workers) => Source::Shared(fd, workers),
        }
    }
}

/// Where a piece is read from.
pub(super) enum Source<'a> {
    Ring(&'a monoio::fs::File),
    Shared(&'a Arc<OwnedFd>, &'a Pool),
}

impl AsFd for OpenFile {
    #[allow(unsafe_code)]
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.form {
            // SAFETY: the file owns the descriptor, closes it only when dropped, and outlives the borrow.
            Form::Ring(file) => unsafe { BorrowedFd::borrow_raw(file.as_raw_fd()) },
            Form::Shared(fd, _) => fd.as_fd(),
        }
    }
}
