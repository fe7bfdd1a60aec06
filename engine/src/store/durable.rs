//! Why what was written is not known to be durable. A sync that says no speaks of the disk; a folder that could not
//! be opened for want of descriptors says nothing of it, and must not take it out of service.

use std::io;

/// The outcome of making something durable, where it is not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDurable {
    /// The disk was not asked, or not all of it: a call before the sync failed. What was written is where it was, so
    /// the next sync still speaks for it; what this one was for fails alone.
    #[error("{0}")]
    Unasked(io::Error),
    /// The sync said no. It must not be tried again: the kernel may have dropped the pages and would say yes.
    #[error("{0}")]
    Refused(io::Error),
}

impl NotDurable {
    /// Of a question about the file system after its sync went well: an answer that puts the sync in doubt, unless
    /// the question itself could not be put.
    pub(crate) fn in_doubt(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Self::Unasked(error),
            _ => Self::Refused(error),
        }
    }
}

impl From<NotDurable> for io::Error {
    fn from(not: NotDurable) -> Self {
        let (NotDurable::Unasked(error) | NotDurable::Refused(error)) = not;
        error
    }
}
