//! Gives segments back: what they hold is made durable in its place first.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Gate, JournalConfig,
    gate::Journaling,
    segment::{self, Segment},
};

/// Without new entries for so long, what the journal holds is put in its place: the next start finds it empty.
const IDLE: Duration = Duration::from_secs(2);

/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(1);

/// The longest pause between two rounds of a salvage.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What makes everything up to now durable in its place.
pub(crate) trait Settle: Send + 'static {
    /// On `true` every file and every row that was written before the call is durable where it belongs; on `false`
    /// something stood in the way that goes away by itself.
    ///
    /// # Errors
    /// [`SettleError`]
    fn settle(&mut self) -> Result<bool, SettleError>;

    /// Whatever may wait, once the space has been given back.
    fn tidy(&mut self) {}

    /// After a sync failed, or nothing came back in time, and the journal takes nothing more: brings to another place what a
    /// failed disk may have lost. Gives up in between where `stopped` says so.
    fn salvage(&mut self, stopped: &dyn Fn() -> bool) -> Salvaged;
}

/// Why something is not durable in its place. The sync is not to be asked again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettleError {
    /// What lies on a store path.
    #[error("{0}")]
    Store(io::Error),
    /// The database: which of its commits are on the disk only a start can tell.
    #[error("the database: {0}")]
    Database(io::Error),
}

/// What a salvage has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Salvaged {
    /// Nothing of the journal is needed any more.
    Done,
    /// Something is left that may find its place later.
    Again,
    /// What is left needs the next start.
    ForTheNextStart,
}

/// What the writer and the recycler share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    applied: AtomicU64,
    frozen: AtomicBool,
    broken: AtomicBool,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct State {
    free: Vec<Segment>,
    /// Segments that are full, each with its last entry, the oldest first.
    full: VecDeque<(Segment, u64)>,
    /// All there are, with the one that is being written.
    segments: usize,
    stop: bool,
}

impl Shared {
    pub(super) fn new(free: Vec<Segment>, applied: u64, gate: Arc<Gate>) -> Self {
        let segments = free.len() + 1;
        let state = State { free, full: VecDeque::new(), segments, stop: false };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            applied: AtomicU64::new(applied),
            frozen: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            gate,
        }
    }

    pub(super) fn open(&self) {
        self.gate.open();
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Acquire)
    }

    /// Frozen, and no change is taken at all.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Nothing is written to it and nothing of it is overwritten any more.
    pub(super) fn freeze(&self, why: &str) {
        self.gate.freeze();
        let was_frozen = self.frozen.swap(true, Ordering::AcqRel);
        // Under the lock: whoever has looked and is about to wait is told.
        drop(self.lock());
        self.changed.notify_all();
        if !was_frozen {
            tracing::error!(
                why,
                "the journal is frozen and kept for the next start; this node goes on without one"
            );
        }
    }

    pub(super) fn applied(&self, entry: u64) {
        self.applied.store(entry, Ordering::Release);
    }

    /// A free segment, waiting for one as long as `wait`, unless none will come. Frozen or not: a write that failed needs
    /// one to be made void.
    pub(super) fn take_free(&self, wait: Duration) -> Option<Segment> {
        let until = Instant::now() + wait;
        let mut state = self.lock();
        loop {
            let free = state.free.pop();
            self.changed.notify_all();
            if free.is_some() {
                return free;
            }
            if self.is_frozen() {
                return None;
            }
            let left = until.checked_duration_since(Instant::now())?;
            state = self.wait(state, left);
        }
    }

    pub(super) fn give_back(&self, segment: Segment) {
        self.lock().free.push(segment);
        self.changed.notify_all();
    }

    pub(super) fn full(&self, segment: Segment, last: u64) {
        self.lock().full.push_back((segment, last));
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each holder makes one change that is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, most: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// The recycler before it runs.
#[derive(Debug)]
pub(crate) struct Recycler {
    config: JournalConfig,
    shared: Arc<Shared>,
    recycled: u64,
    next_number: u32,
}

/// A running recycler; dropped without [`Running::stop`] it goes on for as long as the process.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Running {
    /// Puts everything in its place and ends. Call it when the writer has written its last.
    pub(crate) fn stop(self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_all();
        if self.thread.join().is_err() {
            tracing::error!("the thread of the journal had panicked");
        }
    }
}

impl Recycler {
    pub(super) fn new(config: JournalConfig, shared: Arc<Shared>, current: u32) -> Self {
        let highest = shared.lock().free.iter().map(Segment::number).max();
        let next_number = highest.unwrap_or(0).max(current) + 1;
        let recycled = shared.applied.load(Ordering::Acquire);
        Self { config, shared, recycled, next_number }
    }

    /// For a journal that could not be replayed whole: nothing is written to it, and what it holds is brought elsewhere.
    pub(crate) fn kept(config: JournalConfig, gate: &Arc<Gate>) -> Self {
        let shared = Arc::new(Shared::new(Vec::new(), 0, Arc::clone(gate)));
        shared.freeze("it was not replayed whole");
        Self { config, shared, recycled: 0, next_number: 0 }
    }

    /// Starts its thread.
    ///
    /// # Errors
    /// The thread's.
    pub(crate) fn start(mut self, mut settle: impl Settle) -> io::Result<Running> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("reel-journal".to_owned())
            .spawn(move || self.run(&mut settle))?;
        Ok(Running { shared, thread })
    }

    fn run(&mut self, settle: &mut dyn Settle) {
        let mut quiet_since = Instant::now();
        let mut seen = self.recycled;
        loop {
            let applied = self.shared.applied.load(Ordering::Acquire);
            if applied != seen {
                (seen, quiet_since) = (applied, Instant::now());
            }
            if self.shared.is_frozen() {
                return self.salvage(settle);
            }
            let (stop, work, grow) = self.look(applied, quiet_since.elapsed() >= IDLE);
            if self.shared.is_frozen() {
                continue;
            }
            if grow {
                self.grow();
            }
            // Again: the wait may have been long, and what comes before a stop belongs to it.
            let applied = self.shared.applied.load(Ordering::Acquire);
            if (work || stop) && applied > self.recycled {
                match self.round(settle, applied) {
                    Ok(true) => {}
                    Ok(false) if stop => {
                        tracing::warn!("the next start replays what is left in the journal")
                    }
                    Ok(false) => std::thread::sleep(AGAIN),
                    Err(error) => {
                        let broken = matches!(error, SettleError::Database(_));
                        self.shared.broken.store(broken, Ordering::Release);
                        self.shared.freeze(&error.to_string());
                    }
                }
            }
            if stop {
                return;
            }
        }
    }

    /// The journal is kept until what it holds is safe elsewhere; else until the next start.
    fn salvage(&self, settle: &mut dyn Settle) {
        let stopped = || self.shared.lock().stop;
        let mut pause = AGAIN;
        loop {
            match settle.salvage(&stopped) {
                Salvaged::Done => return,
                Salvaged::Again => {}
                Salvaged::ForTheNextStart => {
                    return tracing::error!("the next start replays what is in the journal");
                }
            }
            let until = Instant::now() + pause;
            pause = (2 * pause).min(PAUSE_MAX);
            let mut state = self.shared.lock();
            while let Some(left) = until.checked_duration_since(Instant::now()) {
                if state.stop {
                    return;
                }
                state = self.shared.wait(state, left);
            }
        }
    }

    /// Waits a moment for something to do: whether to end, whether to recycle, whether a segment is to be made.
    fn look(&self, applied: u64, idle: bool) -> (bool, bool, bool) {
        let mut state = self.shared.lock();
        let due = |state: &State| !state.full.is_empty() || (idle && applied > self.recycled);
        let grows = |state: &State| state.free.is_empty() && self.may_grow(state);
        if !state.stop && !due(&state) && !grows(&state) {
            state = self.shared.wait(state, IDLE / 4);
        }
        (state.stop, due(&state), grows(&state))
    }

    fn may_grow(&self, state: &State) -> bool {
        !state.stop && state.segments < self.config.segments_max.max(super::SEGMENTS_MIN) as usize
    }

    fn grow(&mut self) {
        let (number, bytes) = (self.next_number, self.config.segment_bytes);
        match Segment::create(&self.config.folder, number, bytes) {
            Ok(segment) => {
                self.next_number += 1;
                self.shared.lock().segments += 1;
                self.shared.give_back(segment);
            }
            Err(error) => {
                tracing::warn!(%error, bytes, "the journal cannot grow; it goes on with the segments that it has");
                std::thread::sleep(AGAIN);
            }
        }
    }

    fn round(&mut self, settle: &mut dyn Settle, applied: u64) -> Result<bool, SettleError> {
        tracing::debug!(applied, "a round of the journal begins");
        if !settle.settle()? {
            return Ok(false);
        }
        segment::write_state(&self.config.folder, applied).map_err(SettleError::Store)?;
        self.shared.gate.metrics.shared().add(Journaling::ROUNDS, 1);
        self.recycled = applied;
        let mut state = self.shared.lock();
        while state.full.front().is_some_and(|(_, last)| *last <= applied) {
            if let Some((segment, _)) = state.full.pop_front() {
                state.free.push(segment);
            }
        }
        drop(state);
        self.shared.changed.notify_all();
        tracing::debug!(applied, "a round of the journal has ended");
        settle.tidy();
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn whoever_waits_for_space_hears_of_a_freeze() {
        let shared = Arc::new(Shared::new(Vec::new(), 0, Arc::new(Gate::closed())));
        let waiting = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.take_free(Duration::from_secs(3600)).is_none()
        });
        std::thread::sleep(Duration::from_millis(20));
        shared.freeze("a disk failed");
        assert!(waiting.join().unwrap());
    }
}
