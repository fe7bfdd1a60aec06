//! The suite that any metadata store must pass, whatever database is behind it: what the roles build
//! on, as checks that panic with the rule that does not hold.
//!
//! A store's tests give a [`Source`] for each check, which opens connections to one database of its
//! own that starts empty.
#![allow(clippy::unwrap_used)]

mod files;
mod groups;
mod pages;
mod sequences;
mod stores;
mod texts;

use std::future::Future;

pub use files::file_store;
pub use groups::group_store;
pub use sequences::sequence_store;

/// One database for one check.
pub trait Source: Sync {
    /// The store under test.
    type Store;

    /// Another connection to this source's database.
    fn open(&self) -> impl Future<Output = Self::Store>;

    /// Runs a future to its end on this thread; called by several threads at once, each of which
    /// opens its own connections inside.
    fn block_on<F: Future>(&self, future: F) -> F::Output;
}

/// Texts that a careless store turns into SQL, a pattern, another text or an error. All fit in every
/// column that holds free text.
pub(crate) const WEIRD: [&str; 22] = [
    "plain",
    "Plain",
    "plain ",
    "plain  ",
    " plain",
    "plain\t",
    "it's",
    "\"double\"",
    "`back`",
    "100%",
    "a_b",
    "axb",
    "back\\slash",
    "back\\",
    "';DROP TABLE t_file_01;--",
    "?1 :name $x @y",
    "new\nline",
    "\u{1F600}",
    "\u{1F601}",
    "e\u{301}",
    "\u{e9}",
    "\u{7528}\u{6237}\u{10FFFF}",
];
