//! Gives files of a store that is taken over their records, and their rows what they lack. Here, where deletes and
//! restores of this node meet: a row that one of them changes is never read for a record in between.
//!
//! The row is the truth, other than in a store that is ours: an old node changes rows and knows no records.

use std::{fs::File, io, sync::Arc};

use flume::Sender;
use futures_util::future::join_all;
use reel_meta::{Adoption, Change as RowChange, FileRow, FileStatus};

use super::{
    changes::{Changer, Target, hold, record_in, refused},
    owned,
};
use crate::{
    metadata::{RowError, wait},
    record::{self, Record, State},
    store::{api::ChangeError, change::Found, sys},
};

/// A file whose row was looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adopt {
    pub(crate) file: Target,
    /// CRC-64/NVME of the content, where it was read: a file without a record.
    pub(crate) checksum: Option<u64>,
}

/// Files to adopt, and who wants to know what became of each.
pub(crate) struct Adoptions {
    pub(crate) files: Vec<Adopt>,
    pub(crate) reply: Sender<Vec<Result<Adopted, ChangeError>>>,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// Record and row say the same, durably.
    Done,
    /// The row or the file changed meanwhile.
    Changed,
}

/// A file whose record is written, and not durable yet.
struct Begun {
    /// To be synced; else its record said so already.
    is_written: bool,
    row: Adoption,
}

impl Changer<'_> {
    /// Adopts files that share one sync and one transaction.
    pub(crate) fn adopt(&self, files: Vec<Adopt>) -> Vec<Result<Adopted, ChangeError>> {
        let held: Vec<_> = files.iter().map(|adopt| hold(self.store, &adopt.file)).collect();
        let rows =
            wait(join_all(files.iter().map(|f| self.metadata.read_back(owned(&f.file.key)))));
        let mut outcomes = Vec::with_capacity(files.len());
        let mut begun = Vec::new();
        let mut open = Vec::with_capacity(files.len());
        for ((adopt, file), row) in files.iter().zip(held).zip(rows) {
            let file = match file {
                Ok(Some(file)) => file,
                Ok(None) => {
                    outcomes.push(Ok(Adopted::Changed));
                    continue;
                }
                Err(error) => {
                    outcomes.push(Err(error));
                    continue;
                }
            };
            match self.begin_adoption(adopt, row, &file) {
                Ok(Some(adoption)) => {
                    begun.push((outcomes.len(), adoption));
                    open.push(file);
                    outcomes.push(Ok(Adopted::Done));
                }
                Ok(None) => outcomes.push(Ok(Adopted::Changed)),
                Err(error) => outcomes.push(Err(error)),
            }
        }
        if let Err(error) = self.make_durable(&begun, &open) {
            for (index, _) in begun {
                outcomes[index] = Err(error.clone());
            }
            return outcomes;
        }
        let (indexes, rows): (Vec<_>, Vec<_>) =
            begun.into_iter().map(|(index, begun)| (index, begun.row)).unzip();
        if rows.is_empty() {
            return outcomes;
        }
        let adopted = wait(self.metadata.adopt(rows));
        // What readers remember lacks the checksum.
        files.iter().for_each(|adopt| self.store.epochs.bump(adopt.file.key.file.as_str()));
        match adopted {
            Ok(changes) => {
                for (index, change) in indexes.into_iter().zip(changes) {
                    if change == RowChange::Missing {
                        outcomes[index] = Ok(Adopted::Changed);
                    }
                }
            }
            Err(error) => {
                for index in indexes {
                    outcomes[index] = Err(ChangeError::from(error.clone()));
                }
            }
        }
        outcomes
    }

    /// Writes the record that the row asks for. `None`: they do not belong together any more.
    fn begin_adoption(
        &self,
        adopt: &Adopt,
        row: Result<Option<FileRow>, RowError>,
        file: &File,
    ) -> Result<Option<Begun>, ChangeError> {
        let disk = |error: io::Error| refused(self.store, "adopting a file", error);
        let relative = adopt.file.relative.as_str();
        let row = row?.filter(|row| self.store.is_named_by(row, relative));
        let Some(row) = row else { return Ok(None) };
        let had = match record_in(file, &adopt.file).map_err(disk)? {
            Found::Record(record) => Some(record),
            Found::None => None,
            Found::Doubtful => return Ok(None),
        };
        let Some(checksum) = had.as_ref().map(|record| record.checksum).or(adopt.checksum) else {
            return Ok(None);
        };
        let size = file.metadata().map_err(disk)?.len();
        if size != row.size {
            return Ok(None);
        }
        let record = record_of(adopt, &row, had.as_deref(), checksum, self.store.clock.now());
        let adoption = Adoption {
            row: row.reference(),
            status: row.status,
            checksum,
            deleted_at: record.deleted_at,
        };
        if had.as_deref() == Some(&record) {
            return Ok(Some(Begun { is_written: false, row: adoption }));
        }
        if self.read_only {
            return Err(ChangeError::ReadOnly);
        }
        let bytes = record.encode().map_err(|error| disk(io::Error::other(error)))?;
        sys::set_attribute(file, record::ATTRIBUTE, &bytes).map_err(disk)?;
        Ok(Some(Begun { is_written: true, row: adoption }))
    }

    fn make_durable(&self, begun: &[(usize, Begun)], files: &[File]) -> Result<(), ChangeError> {
        let written = begun.iter().zip(files).filter(|((_, begun), _)| begun.is_written);
        let files: Vec<&File> = written.map(|(_, file)| file).collect();
        self.sync_files(&files).map_err(|error| {
            self.store.sync_failed("the sync of an adopted file's record", &error);
            ChangeError::Disk(Arc::new(error))
        })
    }
}

/// What the record of a row's file is to say.
fn record_of(
    adopt: &Adopt,
    row: &FileRow,
    had: Option<&Record>,
    checksum: u64,
    now: u64,
) -> Record {
    let deleted = row.status == FileStatus::Deleted;
    let purging = had.is_some_and(|record| record.state == State::Purging);
    let key = adopt.file.key;
    Record {
        path_id: adopt.file.path_id,
        app: key.app,
        user: key.user,
        file: key.file,
        size: row.size,
        checksum,
        created_at: had.map_or(row.created_at, |record| record.created_at),
        state: match (deleted, purging) {
            (true, true) => State::Purging,
            (true, false) => State::Deleted,
            (false, _) => State::Normal,
        },
        // Who was deleted by an old node is kept for a full retention from now on.
        deleted_at: deleted
            .then(|| row.deleted_at.or(had.and_then(|record| record.deleted_at)).unwrap_or(now)),
        expires_at: had.map_or(row.expires_at, |record| record.expires_at),
        name: had.map_or_else(|| row.name.clone(), |record| record.name.clone()),
        content_type: had
            .map_or_else(|| row.content_type.clone(), |record| record.content_type.clone()),
    }
}
