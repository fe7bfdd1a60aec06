//! The embedded store: one SQLite file for each database, for one machine and one process.
//!
//! WAL with `synchronous = FULL`: a COMMIT that returns has synced its frames. The tables and columns
//! are those of the deployed MySQL schema, so that the same rows mean the same on both; text is
//! compared by bytes (BINARY), times are seconds since 1970 as integers, and the tables are STRICT,
//! so that no value changes its type on the way in.

mod database;
mod files;
mod groups;
mod migrate;
mod sequences;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

pub use database::Checkpointed;
pub use files::{SqliteCheckpointer, SqliteFileStore};
pub use groups::SqliteGroupStore;
pub use sequences::SqliteSequenceStore;

/// File name of the tracker's database in the folder `meta/` of a data folder.
pub const TRACKER_FILE: &str = "tracker.db";
/// File name of the ID node's database in the folder `meta/` of a data folder.
pub const IDGEN_FILE: &str = "idgen.db";
/// File name of the storage node's database in the folder `meta/` of a data folder.
pub const STORAGE_FILE: &str = "storage.db";

/// Runs a future of a SQLite store to its end, on this thread, without a runtime.
///
/// # Panics
/// If the future is not ready at its first poll: then it is not one of this module's.
pub fn inline<F: Future>(future: F) -> F::Output {
    let mut context = Context::from_waker(Waker::noop());
    match pin!(future).poll(&mut context) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("a SQLite store answers at the first poll"),
    }
}

#[cfg(test)]
mod tests;
