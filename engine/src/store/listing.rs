//! Listings: what the rows say of many files, of this node and of others that share its database.

use std::sync::atomic::{AtomicBool, Ordering};

use reel_meta::{FileRow, FileStatus, ListCursor, Selection, TotalCursor, Totals};
use reel_proto::path::PathId;

use super::{FileKey, LookupError, Status, Stores, lookup_error};
use crate::layout::key;

/// A file of a listing. It may lie on another node.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Whose it is and what it is called.
    pub key: FileKey,
    /// The id key of its store path.
    pub store: String,
    /// The number of its place.
    pub path_id: PathId,
    /// What else is known of it.
    pub row: FileRow,
}

impl Listed {
    /// `None`: a row with names, or a place, that no version writes.
    fn of(row: FileRow) -> Option<Self> {
        let (store, path_id, _) = PathId::parse_file_path(&row.file_path).ok()?;
        let (key, store) = (key(&row)?, store.to_owned());
        Some(Self { key, store, path_id, row })
    }

    /// Normal or deleted.
    pub fn status(&self) -> Status {
        match self.row.status {
            FileStatus::Normal => Status::Normal,
            FileStatus::Deleted => Status::Deleted,
        }
    }
}

/// A page of a listing.
#[derive(Debug, Clone, Default)]
pub struct Listing {
    /// Its files, the oldest first.
    pub files: Vec<Listed>,
    /// Rows that are no files of ours to name.
    pub left_out: usize,
    /// Where the next page begins; `None`: this was the last one.
    pub next: Option<ListCursor>,
}

/// Who counts; given back when it is dropped.
pub(crate) struct CountingTurn<'a>(&'a AtomicBool);

impl Drop for CountingTurn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Stores {
    /// A page of the files that are selected, behind `after`.
    ///
    /// # Errors
    /// The metadata's, or busy.
    pub async fn list(
        &self,
        of: Selection,
        after: Option<ListCursor>,
        limit: usize,
    ) -> Result<Listing, LookupError> {
        let (rows, next) = self.metadata.list(of, after, limit).await.map_err(lookup_error)?;
        let count = rows.len();
        let files: Vec<Listed> = rows.into_iter().filter_map(Listed::of).collect();
        Ok(Listing { left_out: count - files.len(), files, next })
    }

    /// The turn to count: lookups wait for one count at most. `None`: somebody else has it.
    pub(crate) fn counting_turn(&self) -> Option<CountingTurn<'_>> {
        let taken = self.counting.swap(true, Ordering::Acquire);
        (!taken).then_some(CountingTurn(&self.counting))
    }

    /// How many files are selected and how many bytes they have, as far as one lookup's time reaches; and where to go on.
    ///
    /// # Errors
    /// The metadata's, or busy.
    pub async fn total(
        &self,
        of: Selection,
        after: Option<TotalCursor>,
    ) -> Result<(Totals, Option<TotalCursor>), LookupError> {
        self.metadata.total(of, after).await.map_err(lookup_error)
    }
}
