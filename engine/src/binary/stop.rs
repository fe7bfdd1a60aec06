//! Why a request was not answered with success: one error frame, and what is counted and logged for it.

use std::fmt::Display;

use reel_proto::{refusal::Refusal, storage::FileRef};

use crate::{
    metrics::Outcome,
    read::ReadError,
    store::{ChangeError, Fault, LookupError, OpenFileError, UploadError},
};

/// The end of a request that was not answered yet.
#[derive(Debug)]
pub(super) enum Stop {
    /// One error frame.
    Refused {
        /// Its number, if the command is ours.
        refusal: Refusal,
        /// Its text, for people.
        text: String,
        /// What is counted.
        outcome: Outcome,
        /// The bytes are out of order: the connection ends with the frame. (It also ends where content is still
        /// coming; the connection knows.)
        close: bool,
    },
    /// The connection is over: nobody to answer, or a success header has gone out already.
    Ended,
}

impl Stop {
    /// The request is refused, and rightly so.
    pub(super) fn refused(refusal: Refusal, text: impl Into<String>) -> Self {
        let (text, outcome) = (text.into(), Outcome::Refused);
        Self::Refused { refusal, text, outcome, close: false }
    }

    /// The request failed, and the fault is ours.
    pub(super) fn failed(refusal: Refusal, text: impl Into<String>) -> Self {
        let (text, outcome) = (text.into(), Outcome::Error);
        Self::Refused { refusal, text, outcome, close: false }
    }

    /// Bytes that are no request: nothing behind them can be understood.
    pub(super) fn out_of_order(refusal: Refusal, text: impl Into<String>) -> Self {
        let (text, outcome) = (text.into(), Outcome::Refused);
        Self::Refused { refusal, text, outcome, close: true }
    }

    /// A body that cannot be read, though its length may be right: a peer that fills one field wrongly is not to be
    /// believed about where its next request begins.
    pub(super) fn malformed(error: impl Display) -> Self {
        Self::out_of_order(Refusal::Malformed, error.to_string())
    }

    /// Unknown, of somebody else, deleted or past its time: a client cannot tell which.
    pub(super) fn no_such_file() -> Self {
        Self::refused(Refusal::NoSuchFile, "no such file")
    }

    /// All buffer memory is handed out.
    pub(super) fn overloaded() -> Self {
        Self::refused(Refusal::Busy, "busy: too much is under way")
    }

    pub(super) fn of_lookup(file: &FileRef, error: &LookupError) -> Self {
        if error.retryable() {
            return Self::refused(Refusal::Busy, error.to_string());
        }
        tracing::error!(file = %file.file, user = %file.user, %error, "a lookup failed");
        Self::failed(Refusal::Failed, error.to_string())
    }

    pub(super) fn of_change(file: &FileRef, error: &ChangeError) -> Self {
        let refusal = match error {
            ChangeError::Unknown => return Self::no_such_file(),
            ChangeError::Purging | ChangeError::NotDeleted | ChangeError::Adopting => {
                Refusal::WrongState
            }
            ChangeError::ReadOnly => Refusal::ReadOnly,
            ChangeError::Busy
            | ChangeError::Late
            | ChangeError::Metadata { retryable: true, .. } => Refusal::Busy,
            ChangeError::Disk(_) | ChangeError::Metadata { .. } => {
                tracing::error!(file = %file.file, user = %file.user, %error, "a change failed");
                return Self::failed(Refusal::Failed, error.to_string());
            }
        };
        Self::refused(refusal, error.to_string())
    }

    pub(super) fn of_upload(file: &FileRef, error: &UploadError) -> Self {
        let refusal = match error {
            UploadError::Conflict(_) => Refusal::Conflict,
            UploadError::Size { .. } | UploadError::TooLong { .. } => Refusal::Malformed,
            UploadError::Full => Refusal::Full,
            UploadError::ReadOnly => Refusal::ReadOnly,
            UploadError::Busy(_)
            | UploadError::Late
            | UploadError::Draining
            | UploadError::Metadata { unknown: false, retryable: true, .. } => Refusal::Busy,
            UploadError::Disk { .. } | UploadError::Metadata { .. } => Refusal::Failed,
        };
        match error.fault() {
            Fault::Client | Fault::Busy => Self::refused(refusal, error.to_string()),
            Fault::Node => {
                tracing::error!(file = %file.file, user = %file.user, %error, "an upload failed");
                Self::failed(refusal, error.to_string())
            }
        }
    }

    /// A file that cannot be opened. The thread has logged it.
    pub(super) fn of_open(error: &OpenFileError) -> Self {
        if error.passes() {
            return Self::refused(Refusal::Busy, error.to_string());
        }
        Self::failed(Refusal::Failed, error.to_string())
    }

    /// A range that could not be begun. The reader has counted it and the thread logged it.
    /// `passes`: the same may well succeed.
    pub(super) fn of_read(error: &ReadError, passes: bool) -> Self {
        if passes {
            return Self::refused(Refusal::Busy, error.to_string());
        }
        match error {
            ReadError::Busy | ReadError::Late => Self::refused(Refusal::Busy, error.to_string()),
            ReadError::CutShort { .. } | ReadError::Disk(_) => {
                Self::failed(Refusal::Failed, error.to_string())
            }
            ReadError::Peer(_) => Self::Ended,
        }
    }
}
