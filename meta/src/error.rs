//! What goes wrong between a role and its database, told apart by what the caller may do next.

use std::path::PathBuf;

use crate::text::TextError;

/// The reason under a [`MetaError`], of whichever database is behind the trait.
pub type Cause = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A metadata operation that did not succeed.
///
/// Unless [`outcome_unknown`](Self::outcome_unknown) says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The database could not be opened or brought to the schema of this version.
    #[error("cannot open the metadata database {}: {cause}", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the database or the file system said.
        #[source]
        cause: Cause,
    },
    /// The file is a database, but not the one that was asked for.
    #[error("{} is not the {expected} database (application id {found:#x})", path.display())]
    WrongDatabase {
        /// The database file.
        path: PathBuf,
        /// Which database was expected: tracker, ids or storage.
        expected: &'static str,
        /// The application id in its header.
        found: i64,
    },
    /// A later version of Reel has written this database.
    #[error("{} has schema version {found}, this program knows up to {known}", path.display())]
    TooNew {
        /// The database file.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The last version that this program knows.
        known: i64,
    },
    /// A text is outside of its limits: the fault of whoever sent it.
    #[error(transparent)]
    Text(#[from] TextError),
    /// No such group in `t_groups_info`.
    #[error("unknown group {group:?}")]
    UnknownGroup {
        /// The name that was asked for.
        group: String,
    },
    /// The sequence has given its last id. Nothing helps but another store path.
    #[error("the ids of {key:?} are used up")]
    Exhausted {
        /// The sequence's key.
        key: String,
    },
    /// A block of ids was asked for with a count of zero.
    #[error("a block of ids needs a count of at least one")]
    EmptyBlock,
    /// Another writer held the database for the whole busy timeout. Nothing was changed.
    #[error("the database is busy ({operation})")]
    Busy {
        /// Which method.
        operation: &'static str,
    },
    /// The disk under the database is full. Nothing was changed.
    #[error("no space left for the metadata ({operation})")]
    Full {
        /// Which method.
        operation: &'static str,
    },
    /// No server of the database can be reached, or none takes this now. Nothing was changed.
    #[error("the database does not answer ({operation})")]
    Unavailable {
        /// Which method.
        operation: &'static str,
        /// What the servers, or the network, said.
        #[source]
        cause: Cause,
    },
    /// A write was asked of a connection that was opened for reading.
    #[error("this connection only reads ({operation})")]
    ReadOnly {
        /// Which method.
        operation: &'static str,
    },
    /// A row holds what no version has written.
    #[error("the metadata is damaged: {what}")]
    Corrupt {
        /// What was found, and where.
        what: String,
    },
    /// The database refused for another reason. Nothing was changed.
    #[error("{operation} failed: {cause}")]
    Database {
        /// Which method.
        operation: &'static str,
        /// What the database said.
        #[source]
        cause: Cause,
    },
    /// COMMIT was sent and did not say yes: the change may or may not be there, and may even come
    /// back after a crash. Read the rows back through the same store before acting on either.
    #[error("whether {operation} was committed is not known: {cause}")]
    CommitUnknown {
        /// Which method.
        operation: &'static str,
        /// What the database said.
        #[source]
        cause: Cause,
    },
}

impl MetaError {
    /// Whether the change may have happened all the same. While this holds, a file must not be
    /// unlinked: its row may exist.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::CommitUnknown { .. })
    }

    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Full { .. } | Self::Unavailable { .. })
    }

    /// Whether the one who asked is at fault, rather than the database.
    #[must_use]
    pub fn is_callers_fault(&self) -> bool {
        matches!(self, Self::Text(_) | Self::UnknownGroup { .. } | Self::EmptyBlock)
    }
}
