//! What the rest of the engine sees of the journal: whether it is open, and its metrics.

use std::sync::atomic::{AtomicBool, Ordering};

use reel_node::metrics::Registry;

reel_node::metric_table! {
    /// What the journal measures.
    pub(crate) struct Journaling;
    /// Changes of a group.
    histogram ENTRIES = "reel_engine_journal_entries", Count,
        "Changes in a group that one sync of the journal made durable.";
    /// Time of a group.
    histogram TIME = "reel_engine_journal_seconds", Micros,
        "Time until a group was durable in the journal.";
    /// Bytes written.
    counter BYTES = "reel_engine_journal_written_bytes_total", Bytes,
        "Bytes written to the journal, padding included.";
    /// Rounds of the recycler.
    counter ROUNDS = "reel_engine_journal_rounds_total", Count,
        "Rounds in which what the journal held was made durable in its place.";
    /// Whether it is open.
    gauge OPEN = "reel_engine_journal_open", Count,
        "1 while small uploads go through the journal, 0 where there is none or it is frozen.";
    /// Whether it is frozen.
    gauge FROZEN = "reel_engine_journal_frozen", Count,
        "1 while the journal is kept for the next start because a disk failed behind it.";
}

/// Whether small contents go into the journal now: closed before it is begun and once it is frozen.
#[derive(Debug)]
pub(crate) struct Gate {
    open: AtomicBool,
    pub(crate) metrics: Registry<Journaling>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self { open: AtomicBool::new(false), metrics: Registry::detached() }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Release);
        self.metrics.shared().set(Journaling::OPEN, 1);
    }

    pub(super) fn freeze(&self) {
        self.open.store(false, Ordering::Release);
        self.metrics.shared().set(Journaling::OPEN, 0);
        self.metrics.shared().set(Journaling::FROZEN, 1);
    }
}
