//! What a worker does for an upload: creates the file in its place, writes content with its checksum, seals it.
//!
//! Everything here waits for a disk and runs on the workers of that store path.

use std::{
    fs::File,
    io::{self, IoSlice, Write as _},
    os::fd::AsFd as _,
    sync::Arc,
};

use bytes::Bytes;
use reel_meta::NewFile;
use reel_proto::{checksum::Crc64, path::PathId};

use super::{
    api::{FileKey, UploadRequest},
    commit::{CommitJob, Reply, Sealed, insert_of},
    keeper::owned,
    path::{DiskFault, StorePath},
    place::NewPlace,
    sys,
};
use crate::{
    metadata::Metadata,
    record::{self, Record, State},
};

/// Places that may be taken already in a row before an upload gives up. Blocks are looked through before they are
/// offered, so even one is a sign of somebody else's files in the store.
const TAKEN_MAX: usize = 64;

/// From this size on, the space is reserved before the content is written.
const PREALLOCATE_FROM: u64 = 1 << 20;

/// Slices of one writev: the kernel's limit.
const SLICES_MAX: usize = 1024;

/// Why a worker could not do its part. The store path's health has been changed already.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("no path ids in hand")]
    NoIds,
    #[error("the store path is read-only")]
    ReadOnly,
    #[error("{error}")]
    Disk { fault: DiskFault, error: Arc<io::Error> },
}

/// A file under way. Dropped, its file is removed by the keeper.
pub(crate) struct Writing {
    store: Arc<StorePath>,
    place: NewPlace,
    file: File,
    generation: u64,
    created_at: u64,
    crc: Crc64,
    size: u64,
}

impl Writing {
    /// Creates the file of the next free path id, in its place, with O_EXCL.
    pub(crate) fn create(
        store: &Arc<StorePath>,
        request: &UploadRequest,
    ) -> Result<Self, WriteError> {
        Self::create_for(store, &request.key, request.size)
    }

    /// As [`Self::create`], for whom and how large it will be.
    pub(crate) fn create_for(
        store: &Arc<StorePath>,
        key: &FileKey,
        size: Option<u64>,
    ) -> Result<Self, WriteError> {
        if store.is_read_only() {
            return Err(WriteError::ReadOnly);
        }
        // Before the file exists: a sync that fails from here on may have lost pages of it.
        let generation = store.sync_generation();
        let created_at = store.clock.now();
        for _ in 0..TAKEN_MAX {
            let id = store.take_id().ok_or(WriteError::NoIds)?;
            match create_in_place(store, id, created_at) {
                Ok(Some(file)) => {
                    let relative = id.relative(created_at);
                    let place = NewPlace::new(Arc::clone(store), id, relative, owned(key));
                    let writing = Self {
                        store: Arc::clone(store),
                        place,
                        file,
                        generation,
                        created_at,
                        crc: Crc64::new(),
                        size: 0,
                    };
                    writing.preallocate(size)?;
                    return Ok(writing);
                }
                // Taken: it is not ours to touch. The next id.
                Ok(None) => store.settle_id(id, false),
                Err(error) => {
                    store.settle_id(id, false);
                    return Err(disk(store, "creating a file", error));
                }
            }
        }
        let error = io::Error::from(io::ErrorKind::AlreadyExists);
        Err(disk(store, "creating a file", error))
    }

    fn preallocate(&self, size: Option<u64>) -> Result<(), WriteError> {
        match size {
            Some(size) if size >= PREALLOCATE_FROM => sys::preallocate(&self.file, size)
                .map_err(|error| disk(&self.store, "reserving space", error)),
            _ => Ok(()),
        }
    }

    /// Appends content. `stream`: more may follow, so write-back of this piece is started now.
    pub(crate) fn append(&mut self, pieces: &[Bytes], stream: bool) -> Result<(), WriteError> {
        for some in pieces.chunks(SLICES_MAX) {
            let mut slices: Vec<IoSlice<'_>> =
                some.iter().map(|piece| IoSlice::new(piece)).collect();
            write_all(&self.file, &mut slices)
                .map_err(|error| disk(&self.store, "writing content", error))?;
        }
        let mut written = 0;
        for piece in pieces {
            self.crc.update(piece);
            written += piece.len() as u64;
        }
        if stream {
            sys::start_writeback(&self.file, self.size, written);
        }
        self.size += written;
        Ok(())
    }

    /// Where it lies.
    pub(crate) fn id(&self) -> PathId {
        self.place.id()
    }

    /// Seals a copy of a file with the record of that. It is durable as after [`Self::seal`].
    pub(crate) fn seal_copy(self, record: &Record) -> Result<NewPlace, WriteError> {
        self.set_record(record)?;
        Ok(self.place)
    }

    fn set_record(&self, record: &Record) -> Result<(), WriteError> {
        let bytes = record
            .encode()
            .map_err(|error| disk(&self.store, "encoding a record", io::Error::other(error)))?;
        sys::set_attribute(self.file.as_fd(), record::ATTRIBUTE, &bytes)
            .map_err(|error| disk(&self.store, "writing a record", error))?;
        if self.store.syncs_each {
            self.file.sync_all().map_err(|error| {
                self.store.sync_failed("the sync of a file", &error);
                let fault = DiskFault::of_sync(&error);
                WriteError::Disk { fault, error: Arc::new(error) }
            })?;
        }
        Ok(())
    }

    /// Seals the file with its record. Nothing of it is durable yet, unless this store path syncs each file by itself.
    pub(crate) fn seal(self, request: &UploadRequest, reply: Reply) -> Result<Sealed, WriteError> {
        let checksum = self.crc.finish();
        let record = Record {
            path_id: self.place.id(),
            app: request.key.app,
            user: request.key.user,
            file: request.key.file,
            size: self.size,
            checksum,
            created_at: self.created_at,
            state: State::Normal,
            deleted_at: None,
            expires_at: request.expires_at,
            name: request.name.clone(),
            content_type: request.content_type.clone(),
        };
        self.set_record(&record)?;
        let owner = self.place.owner().clone();
        let row = NewFile {
            file: owner.file,
            app: owner.app,
            user: owner.user,
            file_path: self.store.file_path(self.place.relative()),
            size: self.size,
            created_at: self.created_at,
            checksum: Some(checksum),
            name: record.name,
            content_type: record.content_type,
            expires_at: record.expires_at,
            deleted_at: None,
        };
        let Self { place, file, generation, .. } = self;
        Ok(Sealed { place, file, generation, row, reply })
    }
}

/// Hands a sealed small file and its content to the journal, which makes both durable; else, while there is none, to
/// the committer. Waits while its queue is full.
pub(crate) fn journal_or_hand_over(
    store: &StorePath,
    metadata: &Metadata,
    sealed: Sealed,
    content: Vec<Bytes>,
) {
    if !store.is_journaled() {
        return hand_over(store, sealed);
    }
    // After the last write to the file and before its entry: see `StorePath::touch`.
    store.touch();
    let Sealed { mut place, row, reply, .. } = sealed;
    place.set_sent(true);
    metadata.insert(vec![insert_of(place, row, Some(content), reply)]);
}

/// Hands a sealed file to the committer; waits while its queue is full, which holds this worker and with it the
/// uploads to this disk alone.
pub(crate) fn hand_over(store: &StorePath, sealed: Sealed) {
    // If the committer has stopped, the file is dropped here and removed by the keeper.
    let _ = store.commits.send(CommitJob::Put(Box::new(sealed)));
}

/// `None`: the place is taken.
fn create_in_place(store: &StorePath, id: PathId, created_at: u64) -> io::Result<Option<File>> {
    let relative = id.relative(created_at);
    for made in [false, true] {
        match sys::create_at(store.root(), relative.as_str()) {
            Ok(file) => return Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !made => {
                store.folders.ensure(store.root(), relative.directory())?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn write_all(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty slices at the front would make a write of nothing look like a disk that takes nothing.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn disk(store: &StorePath, doing: &str, error: io::Error) -> WriteError {
    let fault = DiskFault::of(&error);
    store.failed(fault, doing, &error);
    WriteError::Disk { fault, error: Arc::new(error) }
}
