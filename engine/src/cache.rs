//! What a data thread remembers of files: their records and their open descriptors, each bounded.
//!
//! Nothing here is shared, so nothing locks. What a delete, restore or purge changes reaches every thread through the
//! epochs of the stores: an entry keeps the epoch that was read **before** its lookup and counts for nothing once the
//! epoch has moved. A table of descriptors of its own, because a descriptor costs the kernel about 1 KiB and the
//! process one of its limited numbers, while a record costs some 250 bytes.

use std::{hash::BuildHasher, rc::Rc};

use hashbrown::DefaultHashBuilder;
use reel_proto::name::FileId;

use crate::{
    read::{OpenFile, Seconds},
    store::{FileKey, Located, Lookup},
};

mod confirmed;
mod lru;
mod record;

pub(crate) use confirmed::Confirmed;
use lru::Lru;
pub(crate) use record::Record;

/// Whose view of a file id an entry answers: with a user only that user's file counts, without one the older of two.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Scope {
    Any,
    Owned,
}

struct RecordEntry {
    scope: Scope,
    record: Rc<Record>,
}

struct FileEntry {
    record: Rc<Record>,
    file: Rc<OpenFile>,
}

/// What an entry of the records costs beside the record itself.
const ENTRY_BYTES: usize = Lru::<RecordEntry>::OVERHEAD_BYTES + size_of::<RecordEntry>();

/// How a lookup in the cache ended.
pub(crate) enum Found {
    /// It is there and still true.
    Hit(Rc<Record>),
    /// It is not there.
    Miss,
    /// It was there, and something happened to the file since.
    Stale,
}

/// The caches of one data thread.
pub(crate) struct FileCache {
    hasher: DefaultHashBuilder,
    records: Lru<RecordEntry>,
    files: Lru<FileEntry>,
    files_max: usize,
    /// Files, in the cache or on their way out of it, that have a second descriptor.
    seconds: Seconds,
}

impl FileCache {
    /// Caches of at most `record_bytes` of records and `files_max` descriptors, with those that `seconds` counts.
    pub(crate) fn new(record_bytes: usize, files_max: usize, seconds: Seconds) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            records: Lru::new(record_bytes),
            files: Lru::new(files_max),
            files_max,
            seconds,
        }
    }

    /// How many records and how many descriptors are kept.
    pub(crate) fn lengths(&self) -> (usize, usize) {
        (self.records.len(), self.files.len() + self.seconds.count())
    }

    /// Closes the descriptors that were not used for the longest time until there are no more than may be. One that a
    /// response still uses goes when that has ended.
    pub(crate) fn trim_files(&mut self) {
        while self.files.len() + self.seconds.count() > self.files_max {
            if self.files.remove_oldest().is_none() {
                return;
            }
        }
    }

    /// The record that answers `lookup`; `epoch` is the file's epoch now.
    pub(crate) fn record(&mut self, lookup: &Lookup, epoch: u64) -> Found {
        let (hash, is_key) = self.record_key(lookup);
        let Some(entry) = self.records.get(hash, &is_key) else { return Found::Miss };
        if entry.record.epoch() == epoch {
            return Found::Hit(entry.record.clone());
        }
        drop(is_key);
        self.forget_record(lookup);
        Found::Stale
    }

    /// Forgets what answers `lookup`.
    pub(crate) fn forget_record(&mut self, lookup: &Lookup) {
        let (hash, is_key) = self.record_key(lookup);
        if let Some(entry) = self.records.remove(hash, is_key) {
            self.forget_file(&entry.record);
        }
    }

    /// Keeps what a lookup found; `epoch` is what it was before that lookup.
    pub(crate) fn keep_record(
        &mut self,
        lookup: &Lookup,
        located: &Located,
        epoch: u64,
    ) -> Rc<Record> {
        let record = Rc::new(Record::new(located, epoch));
        let (hash, is_key) = self.record_key(lookup);
        let scope = scope_of(lookup);
        let cost = record.bytes() + ENTRY_BYTES;
        let entry = RecordEntry { scope, record: record.clone() };
        self.records.insert(hash, entry, u32::try_from(cost).unwrap_or(u32::MAX), is_key);
        record
    }

    /// The open descriptor of a file whose record is true.
    pub(crate) fn file(&mut self, record: &Record) -> Option<Rc<OpenFile>> {
        let hash = self.file_hash(record);
        self.files
            .get(hash, |entry| entry.record.same_place(record))
            .map(|entry| entry.file.clone())
    }

    /// Keeps a descriptor. The oldest one is closed if there are too many and no response uses it.
    pub(crate) fn keep_file(&mut self, record: &Rc<Record>, file: &Rc<OpenFile>) {
        let hash = self.file_hash(record);
        let entry = FileEntry { record: record.clone(), file: file.clone() };
        self.files.insert(hash, entry, 1, |entry| entry.record.same_place(record));
        self.trim_files();
    }

    /// Closes the descriptor of a file that turned out not to be what its record says.
    pub(crate) fn forget_file(&mut self, record: &Record) {
        let hash = self.file_hash(record);
        self.files.remove(hash, |entry| entry.record.same_place(record));
    }

    /// Closes descriptors of files that were deleted and that nobody asks for any more: a purged file's space comes
    /// back only when its last descriptor is closed. Looks at `count` of them.
    pub(crate) fn sweep(&mut self, count: usize, epoch: impl Fn(&FileId) -> u64) -> usize {
        self.files.sweep(count, |entry| match entry.record.file_id() {
            Some(file) => epoch(&file) == entry.record.epoch(),
            None => false,
        })
    }

    fn record_key<'a>(
        &self,
        lookup: &'a Lookup,
    ) -> (u64, impl Fn(&RecordEntry) -> bool + 'a + use<'a>) {
        let scope = scope_of(lookup);
        let (file, owner): (&'a str, Option<&'a FileKey>) = match lookup {
            Lookup::Any(file) => (file.as_str(), None),
            Lookup::Owned(key) => (key.file.as_str(), Some(key)),
        };
        let user = owner.map(|key| (key.app.as_str(), key.user.as_str()));
        let hash = self.hasher.hash_one((scope, file, user));
        let is_key = move |entry: &RecordEntry| {
            entry.scope == scope
                && entry.record.file() == file
                && user.is_none_or(|user| user == (entry.record.app(), entry.record.user()))
        };
        (hash, is_key)
    }

    fn file_hash(&self, record: &Record) -> u64 {
        self.hasher.hash_one((record.store(), record.path_id().get()))
    }
}

fn scope_of(lookup: &Lookup) -> Scope {
    match lookup {
        Lookup::Any(_) => Scope::Any,
        Lookup::Owned(_) => Scope::Owned,
    }
}
