//! One upload, from its first byte to its acknowledgement: on a data thread, which never waits for a disk here.
//!
//! Small content is kept until its end and then goes to a worker in one job, which creates, writes and seals the
//! file and hands it to the committer. Large content goes to the store path's workers piece by piece, one piece
//! being written while the next is received.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use flume::Receiver;
use reel_meta::{FileRow, FileStatus, InsertOutcome, NewFile, Removal};
use reel_proto::path::PathId;

use super::{
    Stores,
    api::{ChangeError, FileKey, Outcome, Stored, UploadError, UploadRequest},
    change::Kind,
    commit::{CommitError, Committed, insert_of},
    inspect,
    keeper::{KeeperJob, Settled},
    path::{DiskFault, Promise, StorePath, count},
    pieces::Pieces,
    place::NewPlace,
    placement::NoPlace,
    same::{self, Judgement, Verdict},
    write::{WriteError, Writing, hand_over, journal_or_hand_over},
};
use crate::record::TEXT_LEN_MAX;

/// Content up to here is kept in memory and written by one job.
pub const SMALL_MAX: usize = 256 * 1024;

/// Bytes of one job of a large upload; an upload holds at most two of them and one more piece from its caller.
pub const PIECE: usize = 1024 * 1024;

/// Turns of "the row is there" and "the row is gone again" before an upload of a contested id gives up.
const INSERTS_MAX: usize = 4;

/// An upload under way. Dropping it aborts it: its file is removed. Once [`Self::finish`] has been polled, dropping
/// its future leaves the outcome open: the file is acknowledged to nobody, and kept only if its row was committed.
pub struct Upload {
    stores: Arc<Stores>,
    request: Arc<UploadRequest>,
    received: u64,
    pieces: Pieces,
    large: Option<Large>,
    _active: Active,
}

/// Where a large upload goes.
struct Large {
    store: Arc<StorePath>,
    flight: Receiver<Result<Writing, WriteError>>,
    _promise: Promise,
}

/// Counts an upload as under way.
pub(crate) struct Active(Arc<Stores>);

impl Active {
    pub(crate) fn new(stores: &Arc<Stores>) -> Self {
        stores.active.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(stores))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Stores {
    /// Begins an upload. Touches no disk yet; refuses at once what cannot succeed.
    ///
    /// # Errors
    /// [`UploadError`]; nothing is left behind.
    pub async fn begin(self: &Arc<Self>, request: UploadRequest) -> Result<Upload, UploadError> {
        if self.is_draining() {
            return Err(UploadError::Draining);
        }
        for (text, field) in [(&request.name, "name"), (&request.content_type, "content type")] {
            if text.as_ref().is_some_and(|text| text.len() > TEXT_LEN_MAX) {
                return Err(UploadError::TooLong { field });
            }
        }
        self.choose(request.size.unwrap_or(0), &[]).map_err(no_place)?;
        Ok(Upload {
            stores: Arc::clone(self),
            request: Arc::new(request),
            received: 0,
            pieces: Pieces::default(),
            large: None,
            _active: Active::new(self),
        })
    }
}

impl Upload {
    /// Whose file it is to be and what it is called.
    pub fn key(&self) -> FileKey {
        self.request.key
    }

    /// Takes the next piece of content.
    ///
    /// # Errors
    /// More bytes than announced; whatever a disk said. The upload is over then: drop it.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), UploadError> {
        if piece.is_empty() {
            return Ok(());
        }
        self.received += piece.len() as u64;
        if let Some(announced) = self.request.size
            && self.received > announced
        {
            return Err(UploadError::Size { announced, got: self.received });
        }
        self.pieces.push(piece);
        let limit = if self.large.is_some() { PIECE } else { SMALL_MAX };
        if self.pieces.bytes() > limit { self.flush().await } else { Ok(()) }
    }

    /// Ends the content: seals the file, waits until it is durable and has its row.
    ///
    /// # Errors
    /// See [`UploadError`]; unless it says "unknown", nothing of the upload will be found later.
    pub async fn finish(mut self) -> Result<Stored, UploadError> {
        if let Some(announced) = self.request.size
            && self.received != announced
        {
            return Err(UploadError::Size { announced, got: self.received });
        }
        let (store, committed) = if self.large.is_some() {
            self.commit_large().await?
        } else {
            self.commit_small().await?
        };
        let stored = self.settle(&store, committed).await?;
        if stored.outcome == Outcome::New {
            count(&store.counts.upload_bytes, stored.size);
        }
        Ok(stored)
    }

    // --- content to the workers

    /// Sends what is buffered to the workers and leaves it in flight; waits for what was in flight before.
    async fn flush(&mut self) -> Result<(), UploadError> {
        let pieces = self.pieces.take();
        let (answer, flight) = flume::bounded(1);
        if let Some(large) = &mut self.large {
            let mut writing = landed(&large.store, &large.flight).await?;
            post(&large.store, move || {
                let _ = answer.try_send(writing.append(&pieces, true).map(|()| writing));
            })?;
            large.flight = flight;
            return Ok(());
        }
        let size = self.request.size.unwrap_or(self.received);
        let store = self.stores.choose(size, &[]).map_err(no_place)?;
        let promise = store.promise(size);
        let (job_store, request) = (Arc::clone(&store), Arc::clone(&self.request));
        post(&store, move || {
            let written = Writing::create(&job_store, &request)
                .and_then(|mut writing| writing.append(&pieces, true).map(|()| writing));
            let _ = answer.try_send(written);
        })?;
        self.large = Some(Large { store, flight, _promise: promise });
        Ok(())
    }

    async fn commit_large(&mut self) -> Result<(Arc<StorePath>, Committed), UploadError> {
        let Some(large) = self.large.take() else { return Err(UploadError::Busy("not begun")) };
        let mut writing = landed(&large.store, &large.flight).await?;
        let pieces = self.pieces.take();
        let request = Arc::clone(&self.request);
        let (reply, wait) = flume::bounded(1);
        let store = Arc::clone(&large.store);
        post(&large.store, move || {
            let sealed =
                writing.append(&pieces, false).and_then(|()| writing.seal(&request, reply.clone()));
            match sealed {
                Ok(sealed) => hand_over(&store, sealed),
                Err(error) => drop(reply.try_send(Err(error))),
            }
        })?;
        let committed = outcome(&large.store, wait).await?;
        Ok((large.store, committed))
    }

    /// The content is still in memory, so a store path that turns out to be full or broken is followed by the next.
    async fn commit_small(&mut self) -> Result<(Arc<StorePath>, Committed), UploadError> {
        let content = self.pieces.take();
        let mut tried = Vec::new();
        let mut last = None;
        loop {
            let store = match self.stores.choose(self.received, &tried) {
                Ok(store) => store,
                Err(none) => return Err(last.unwrap_or_else(|| no_place(none))),
            };
            tried.push(store.index);
            let promise = store.promise(self.received);
            let (job_store, request) = (Arc::clone(&store), Arc::clone(&self.request));
            let pieces = content.clone();
            let metadata = self.stores.metadata.clone();
            let (reply, wait) = flume::bounded(1);
            let posted = post(&store, move || {
                let sealed = Writing::create(&job_store, &request).and_then(|mut writing| {
                    writing.append(&pieces, false)?;
                    writing.seal(&request, reply.clone())
                });
                match sealed {
                    Ok(sealed) => journal_or_hand_over(&job_store, &metadata, sealed, pieces),
                    Err(error) => drop(reply.try_send(Err(error))),
                }
            });
            let ended = match posted {
                Ok(()) => outcome(&store, wait).await,
                Err(busy) => Err(busy),
            };
            drop(promise);
            match ended {
                Ok(committed) => return Ok((store, committed)),
                Err(error) => last = Some(error),
            }
        }
    }

    // --- the row's answer

    async fn settle(
        &self,
        store: &Arc<StorePath>,
        mut committed: Committed,
    ) -> Result<Stored, UploadError> {
        let mine = committed.row.clone();
        for _ in 0..INSERTS_MAX {
            let Some(place) = committed.place.take() else {
                // Only an inserted row has settled its place already.
                return Ok(stored_of(&mine, committed.path_id, Outcome::New));
            };
            let row = match committed.result {
                Ok(InsertOutcome::Exists(row)) => row,
                Ok(InsertOutcome::Refused(error)) => {
                    let text = error.to_string().into();
                    return Err(UploadError::Metadata { text, unknown: false, retryable: false });
                }
                Ok(InsertOutcome::Inserted) => {
                    return Ok(stored_of(&mine, committed.path_id, Outcome::New));
                }
                Err(CommitError::Sync(error)) => return Err(disk_error(store, error)),
                Err(CommitError::Row(error)) => {
                    return self.row_error(store, place, &mine, error).await;
                }
            };
            match self.judge(&mine, &row).await? {
                Verdict::Same => return self.same(&mine, &row),
                Verdict::Confirm => {
                    if self.confirm(&row).await? {
                        return self.same(&mine, &row);
                    }
                    committed = self.insert(place, mine.clone()).await?;
                }
                Verdict::Conflict(conflict) => return Err(UploadError::Conflict(conflict)),
                Verdict::WriteAgain => {
                    committed = self.replace(place, mine.clone(), &row).await?;
                }
            }
        }
        Err(UploadError::Busy("the file id is contested by other uploads"))
    }

    async fn judge(&self, mine: &NewFile, row: &FileRow) -> Result<Verdict, UploadError> {
        match same::by_row(mine, row, self.stores.clock.now()) {
            Judgement::Conflict(conflict) => Ok(Verdict::Conflict(conflict)),
            Judgement::LookAtFile => {
                // Of a store that is not here nothing is known, least of all that the file is lost.
                let (index, id, relative) =
                    self.stores.layout.place(&row.file_path).ok_or_else(unplaced)?;
                let store = Arc::clone(&self.stores.paths[index]);
                if store.doubtful.has(id) {
                    return Err(UploadError::Busy(
                        "the stored file is being brought to another disk",
                    ));
                }
                let (pool, is_shared) = (store.whole_reads.clone(), store.sharing.is_shared());
                let read = pool
                    .run(move || inspect::read_whole(&store, relative.as_str(), id))
                    .await
                    .map_err(|_| UploadError::Busy("too much work waits for this disk"))?;
                match read {
                    Ok(old) => Ok(same::by_file(mine, row, old)),
                    Err(error) if same::is_lost(&error, row, is_shared) => Ok(Verdict::WriteAgain),
                    Err(_) if is_shared => Err(UploadError::Busy(
                        "the volume does not give the stored file of this id now",
                    )),
                    Err(error) => Err(UploadError::Disk { store: index, error: Arc::new(error) }),
                }
            }
        }
    }

    /// Has the keeper see to it that record and row say "normal". `false`: the row does not any more.
    async fn confirm(&self, row: &FileRow) -> Result<bool, UploadError> {
        let file = self.stores.layout.locate(row.clone()).map_err(|_| unplaced())?;
        let store = file.store;
        match self.stores.change_located(Kind::Confirm, file).await {
            Ok(_) => Ok(true),
            Err(
                ChangeError::Unknown
                | ChangeError::NotDeleted
                | ChangeError::Purging
                | ChangeError::Adopting,
            ) => Ok(false),
            Err(ChangeError::ReadOnly) => Err(UploadError::ReadOnly),
            Err(ChangeError::Busy) => Err(UploadError::Busy("too much work waits for this disk")),
            Err(ChangeError::Late) => Err(UploadError::Late),
            Err(ChangeError::Disk(error)) => Err(UploadError::Disk { store, error }),
            Err(ChangeError::Metadata { text, retryable }) => {
                Err(UploadError::Metadata { text, unknown: false, retryable })
            }
        }
    }

    fn same(&self, mine: &NewFile, row: &FileRow) -> Result<Stored, UploadError> {
        let (_, path_id, _) = self.stores.layout.place(&row.file_path).ok_or_else(unplaced)?;
        Ok(Stored {
            outcome: Outcome::Same,
            path_id,
            size: mine.size,
            checksum: mine.checksum.unwrap_or_default(),
            created_at: row.created_at,
        })
    }

    /// The row promises what its file does not hold: the row goes, and ours takes its place, in one transaction: a client that
    /// does not wait for its end leaves the one or the other.
    async fn replace(
        &self,
        mut place: NewPlace,
        mine: NewFile,
        row: &FileRow,
    ) -> Result<Committed, UploadError> {
        tracing::error!(file = ?mine.file, old = %row.file_path, new = %mine.file_path,
            "the stored file does not match its row; the same content was uploaded again and takes its place");
        let removal = Removal { row: row.reference(), only: Some(FileStatus::Normal) };
        let store = Arc::clone(place.store());
        let (reply, wait) = flume::bounded(1);
        place.set_sent(true);
        self.stores.metadata.replace_one(removal, insert_of(place, mine, None, reply)).await;
        let committed = outcome(&store, wait).await?;
        self.stores.epochs.bump(self.request.key.file.as_str());
        // Else it may have been deleted meanwhile, and can be restored.
        if matches!(committed.result, Ok(InsertOutcome::Inserted))
            && let Some((index, _, relative)) = self.stores.layout.place(&row.file_path)
        {
            let store = Arc::clone(&self.stores.paths[index]);
            // Its row is gone: it is out of the way of every repair, but nothing of ours is unlinked in doubt.
            let _ = Arc::clone(&store)
                .pool
                .post(move || drop(inspect::quarantine(&store, relative.as_str())));
        }
        Ok(committed)
    }

    /// Inserts the row of a file that is durable already.
    async fn insert(&self, mut place: NewPlace, mine: NewFile) -> Result<Committed, UploadError> {
        let store = Arc::clone(place.store());
        let (reply, wait) = flume::bounded(1);
        place.set_sent(true);
        self.stores.metadata.insert_one(insert_of(place, mine, None, reply)).await;
        outcome(&store, wait).await
    }

    async fn row_error(
        &self,
        store: &Arc<StorePath>,
        place: NewPlace,
        mine: &NewFile,
        error: crate::metadata::RowError,
    ) -> Result<Stored, UploadError> {
        let failed = |unknown| UploadError::Metadata {
            text: Arc::clone(&error.text),
            unknown,
            retryable: error.retryable,
        };
        if !error.unknown {
            return Err(failed(false));
        }
        let path_id = place.id();
        let (reply, wait) = flume::bounded(1);
        if let Err(refused) = store.keeping.try_send(KeeperJob::Settle(place, Some(reply))) {
            drop(refused);
            return Err(failed(true));
        }
        match wait.recv_async().await {
            Ok(Settled::Kept) => Ok(stored_of(mine, path_id, Outcome::New)),
            Ok(Settled::NoRow | Settled::Other) => Err(failed(false)),
            Ok(Settled::Unknown) | Err(_) => Err(failed(true)),
        }
    }
}

/// What a client is told while a mount takes nothing.
const AWAY: &str = "the servers behind the store path are away";

fn unplaced() -> UploadError {
    let text = "the row of this file id names no store path of this node".into();
    UploadError::Metadata { text, unknown: false, retryable: false }
}

fn stored_of(row: &NewFile, path_id: PathId, outcome: Outcome) -> Stored {
    Stored {
        outcome,
        path_id,
        size: row.size,
        checksum: row.checksum.unwrap_or_default(),
        created_at: row.created_at,
    }
}

/// The piece that was in flight, written.
async fn landed(
    store: &StorePath,
    flight: &Receiver<Result<Writing, WriteError>>,
) -> Result<Writing, UploadError> {
    match flight.recv_async().await {
        Ok(Ok(writing)) => Ok(writing),
        Ok(Err(error)) => Err(write_error(store, error)),
        Err(_) => Err(lost()),
    }
}

/// The answer to a sealed file.
async fn outcome(
    store: &StorePath,
    wait: Receiver<Result<Committed, WriteError>>,
) -> Result<Committed, UploadError> {
    match wait.recv_async().await {
        Ok(Ok(committed)) => Ok(committed),
        Ok(Err(error)) => Err(write_error(store, error)),
        Err(_) => Err(lost()),
    }
}

fn post(store: &StorePath, job: impl FnOnce() + Send + 'static) -> Result<(), UploadError> {
    store.pool.post(job).map_err(|_| UploadError::Busy("too much work waits for this disk"))
}

fn no_place(none: NoPlace) -> UploadError {
    match none {
        NoPlace::Ids => UploadError::Busy("no path ids in hand"),
        NoPlace::Hung => UploadError::Busy("every disk with space is hung"),
        NoPlace::Away => UploadError::Busy(AWAY),
        NoPlace::Full => UploadError::Full,
        NoPlace::ReadOnly => UploadError::ReadOnly,
    }
}

fn write_error(store: &StorePath, error: WriteError) -> UploadError {
    match error {
        WriteError::NoIds => UploadError::Busy("no path ids in hand"),
        WriteError::ReadOnly => UploadError::ReadOnly,
        WriteError::Disk { fault: DiskFault::Full, .. } => UploadError::Full,
        WriteError::Disk { .. } if store.is_away() => UploadError::Busy(AWAY),
        WriteError::Disk { error, .. } => UploadError::Disk { store: store.index, error },
    }
}

fn disk_error(store: &StorePath, error: Arc<std::io::Error>) -> UploadError {
    match DiskFault::of_sync(&error) {
        DiskFault::Full => UploadError::Full,
        _ if store.is_away() => UploadError::Busy(AWAY),
        _ => UploadError::Disk { store: store.index, error },
    }
}

fn lost() -> UploadError {
    UploadError::Busy("the work was given up: the node is stopping")
}
