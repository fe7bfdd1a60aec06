//! Metadata of the store: one trait for each database (tracker, ids, storage), and the stores that
//! keep them, so that a role never knows which database it talks to.
//!
//! [`sqlite`] is the embedded store of one machine, [`mysql`] that of a cluster (MySQL, MariaDB). Both pass the same
//! `contract`; the tables and columns are the same ones, because a deployed database is taken over as it is.
//!
//! Invariant: this crate starts no thread and owns no runtime. The futures of the SQLite store are
//! ready at their first poll ([`sqlite::inline`]), those of the MySQL store want tokio; whoever owns the thread drives them.
//! Invariant: text never becomes SQL. Every statement is made of constants of this crate, every value is
//! bound.
//! Invariant: what a method acknowledges is on disk, unless its error says the outcome is unknown.

#[cfg(any(test, feature = "contract"))]
pub mod contract;
mod error;
mod location;
pub mod mysql;
mod page;
mod row;
pub mod sqlite;
mod store;
mod text;

pub use error::{Cause, MetaError};
pub use location::{Location, Role};
pub use page::{
    ListCursor, Page, ScanCursor, Selection, StatusFilter, Tally, TimeCursor, TotalCursor, Totals,
};
pub use row::{
    Adoption, Change, ExpectedStore, FileRow, FileStatus, InsertOutcome, NewFile, Relocation,
    Removal, RowRef, Sequence, StatusChange, TableCount,
};
pub use store::{FileStore, GroupStore, SequenceStore};
pub use text::{
    PATH_BYTES_MAX, STORE_PATH_BYTES_MAX, STORE_UUID_BYTES_MAX, TextError, TextFault, TextField,
};

/// One past the largest path id: a sequence that reaches it is exhausted.
pub const PATH_ID_END: u64 = reel_proto::path::PathId::COUNT;

/// Most rows of which one [`FileStore::total`] reads the sizes; a larger limit is brought down to it.
pub const TOTAL_ROWS_MAX: usize = 10_000;

/// Most rows that one page of [`FileStore::list`], [`FileStore::scan`] or
/// [`FileStore::deleted_before`] holds; a larger limit is brought down to it.
pub const PAGE_ROWS_MAX: usize = 1000;
