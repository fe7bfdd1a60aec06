//! The thread that owns the database: it makes blocks durable and only then puts them in hand.
//!
//! One thread, because a commit waits for a disk, here or on another machine. Data threads ask over a bounded channel
//! and go on drawing; only one that finds no id in hand waits for the answer.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use hashbrown::HashMap;
use reel_meta::mysql::MysqlSequenceStore;
use reel_meta::sqlite::SqliteSequenceStore;
use reel_meta::{Location, MetaError, Sequence as SequenceRow, SequenceStore};
use reel_node::metrics::{Registry, SharedCell};
use reel_proto::name::IdKey;

use crate::metrics::IdGenMetrics;
use crate::pace::Pace;
use crate::sequence::Sequence;
use crate::start::Error;

/// Requests that wait for the thread; whoever comes next waits for a place.
const QUEUE_MAX: usize = 1024;

/// Sizes of the blocks that ID_GET draws from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steps {
    pub(crate) smallest: u64,
    pub(crate) largest: u64,
}

/// Why ids are not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TakeError {
    /// There are none left.
    #[error("the ids of this key are used up")]
    Exhausted,
    /// The request cannot be met.
    #[error("{0}")]
    Refused(String),
    /// The database did not answer yes. The block it may have written is thrown away.
    #[error("the database of ids failed: {0}")]
    Failed(String),
    /// The node is stopping.
    #[error("the ID node is stopping")]
    Stopping,
}

impl From<MetaError> for TakeError {
    fn from(error: MetaError) -> Self {
        match error {
            MetaError::Exhausted { .. } => Self::Exhausted,
            error if error.is_callers_fault() => Self::Refused(error.to_string()),
            error => Self::Failed(error.to_string()),
        }
    }
}

type Answer<T> = flume::Sender<Result<T, TakeError>>;

enum Request {
    /// Put a block in hand, unless one is there.
    Refill(Arc<Sequence>, Option<Answer<()>>),
    /// A block for a storage node.
    Block { sequence: Arc<Sequence>, count: u64, at_least: u64, answer: Answer<Range<u64>> },
    /// End.
    Stop,
}

/// A request and when it was queued.
type Queued = (Instant, Request);

/// The way to the thread. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    requests: flume::Sender<Queued>,
    failing: Arc<AtomicBool>,
}

impl Database {
    /// Starts the thread, which opens the database and gives the sequences that it holds.
    pub(crate) fn start(
        location: &Location,
        steps: Steps,
        registry: &Registry<IdGenMetrics>,
    ) -> Result<(Self, JoinHandle<()>, Vec<SequenceRow>), Error> {
        let (requests, queue) = flume::bounded(QUEUE_MAX);
        let failing = Arc::new(AtomicBool::new(false));
        let owner = Owner {
            steps,
            metrics: registry.shared(),
            paces: HashMap::new(),
            started: Instant::now(),
            failing: Arc::clone(&failing),
            failure: None,
        };
        let (opened, wait) = flume::bounded(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let location = location.clone();
        let thread = std::thread::Builder::new()
            .name("idgen-database".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    match location {
                        Location::Embedded(path) => {
                            owner.own(SqliteSequenceStore::open(&path), &opened, &queue).await;
                        }
                        Location::Shared(options) => {
                            let store = MysqlSequenceStore::open(options).await;
                            owner.own(store, &opened, &queue).await;
                        }
                    }
                });
            })
            .map_err(Error::Thread)?;
        let gone = || Error::Thread(io::Error::other("it ended"));
        let stored = wait.recv().map_err(|_| gone())??;
        Ok((Self { requests, failing }, thread, stored))
    }

    /// Asks for the next block without waiting.
    pub(crate) fn ask(&self, sequence: &Arc<Sequence>) {
        let request = Request::Refill(Arc::clone(sequence), None);
        if self.requests.try_send((Instant::now(), request)).is_err() {
            // The queue is full: a later draw asks again, at the latest the one that finds none.
            sequence.not_coming();
        }
    }

    /// Waits until a block is in hand. Another thread may empty it before the caller draws.
    pub(crate) async fn refill(&self, sequence: &Arc<Sequence>) -> Result<(), TakeError> {
        let (answer, wait) = flume::bounded(1);
        self.request(Request::Refill(Arc::clone(sequence), Some(answer)), wait).await
    }

    /// A durable block for a storage node.
    pub(crate) async fn block(
        &self,
        sequence: &Arc<Sequence>,
        count: u64,
        at_least: u64,
    ) -> Result<Range<u64>, TakeError> {
        let (answer, wait) = flume::bounded(1);
        let sequence = Arc::clone(sequence);
        self.request(Request::Block { sequence, count, at_least, answer }, wait).await
    }

    async fn request<T>(
        &self,
        request: Request,
        wait: flume::Receiver<Result<T, TakeError>>,
    ) -> Result<T, TakeError> {
        self.requests
            .send_async((Instant::now(), request))
            .await
            .map_err(|_| TakeError::Stopping)?;
        wait.recv_async().await.map_err(|_| TakeError::Stopping)?
    }

    /// Whether the last block was not given because the database failed.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Ends the thread once it has answered what is queued. Waits for a place in the queue.
    pub(crate) async fn stop(&self) {
        let _ = self.requests.send_async((Instant::now(), Request::Stop)).await;
    }
}

/// What the thread owns beside the store.
struct Owner {
    steps: Steps,
    metrics: SharedCell<IdGenMetrics>,
    paces: HashMap<IdKey, Pace>,
    started: Instant,
    failing: Arc<AtomicBool>,
    /// The last failure, until a block is taken again. A failure may take as long as the database's
    /// busy timeout: who was waiting then is given the same answer, not one more wait in a row.
    failure: Option<(Instant, TakeError)>,
}

impl Owner {
    /// Tells what the store holds, and answers until the end.
    async fn own<S: SequenceStore>(
        self,
        store: Result<S, MetaError>,
        opened: &flume::Sender<Result<Vec<SequenceRow>, MetaError>>,
        queue: &flume::Receiver<Queued>,
    ) {
        let stored = match store {
            Ok(mut store) => store.sequences().await.map(|stored| (store, stored)),
            Err(error) => Err(error),
        };
        match stored {
            Ok((store, stored)) => {
                let _ = opened.send(Ok(stored));
                self.run(store, queue).await;
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    }

    async fn run(mut self, mut store: impl SequenceStore, queue: &flume::Receiver<Queued>) {
        while let Ok((queued_at, request)) = queue.recv_async().await {
            self.forget_failure_before(queued_at);
            match request {
                Request::Refill(sequence, answer) => {
                    let outcome = self.refill(&mut store, &sequence).await;
                    if let Some(answer) = answer {
                        let _ = answer.send(outcome);
                    }
                }
                Request::Block { sequence, count, at_least, answer } => {
                    let _ = answer.send(self.block(&mut store, &sequence, count, at_least).await);
                }
                Request::Stop => return,
            }
        }
    }

    fn forget_failure_before(&mut self, queued_at: Instant) {
        self.failure = self.failure.take().filter(|(failed_at, _)| *failed_at >= queued_at);
    }

    async fn refill(
        &mut self,
        store: &mut impl SequenceStore,
        sequence: &Sequence,
    ) -> Result<(), TakeError> {
        // Several threads may have found none in hand at the same time: one block serves them all.
        if sequence.has_ahead() {
            sequence.not_coming();
            return Ok(());
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let steps = self.steps;
        let pace = self
            .paces
            .entry(*sequence.key())
            .or_insert_with(|| Pace::new(steps.smallest, steps.largest));
        let count = pace.next(now_ms);
        match self.take(store, sequence.key(), (count, 0), By::IdGet).await {
            Ok(block) => {
                sequence.offer(&block);
                Ok(())
            }
            Err(error) => {
                sequence.not_coming();
                Err(error)
            }
        }
    }

    async fn block(
        &mut self,
        store: &mut impl SequenceStore,
        sequence: &Sequence,
        count: u64,
        at_least: u64,
    ) -> Result<Range<u64>, TakeError> {
        let block = self.take(store, sequence.key(), (count, at_least), By::IdBlock).await?;
        if block.start == at_least && at_least > 0 {
            // The sequence stood at or behind the store's mark. If behind (a lost or restored
            // database), the ids in hand may be in use already: they are not given any more.
            sequence.raise(at_least);
        }
        Ok(block)
    }

    /// `(count, at_least)` as the store takes them.
    async fn take(
        &mut self,
        store: &mut impl SequenceStore,
        key: &IdKey,
        (count, at_least): (u64, u64),
        by: By,
    ) -> Result<Range<u64>, TakeError> {
        if let Some((_, error)) = &self.failure {
            return Err(error.clone());
        }
        let before = Instant::now();
        let taken = store.take(key.as_str(), count, at_least).await;
        let micros = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.metrics.observe(IdGenMetrics::TAKE_SECONDS, micros);
        let taken = taken.map_err(TakeError::from);
        self.failing.store(matches!(taken, Err(TakeError::Failed(_))), Ordering::Relaxed);
        match taken {
            Ok(block) => {
                self.metrics.add(IdGenMetrics::BLOCKS.at([by as usize]), 1);
                self.metrics.add(IdGenMetrics::IDS.at([by as usize]), block.end - block.start);
                Ok(block)
            }
            Err(error) => {
                if let TakeError::Failed(reason) = &error {
                    self.metrics.add(IdGenMetrics::DATABASE_ERRORS, 1);
                    tracing::error!(%key, reason, "no block of ids could be taken");
                    self.failure = Some((Instant::now(), error.clone()));
                }
                Err(error)
            }
        }
    }
}

/// Index of the label `by`.
#[derive(Debug, Clone, Copy)]
enum By {
    IdGet,
    IdBlock,
}
