//! Cells: the arrays that threads count in. One writer each, so an increment is a relaxed load
//! and a relaxed store, without a lock prefix; the publisher may read a value that is one event old.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::table::{Counter, Def, Gauge, Histogram, Table};

/// The words of one thread. Aligned to two cache lines, so that neighbours never share one
/// (adjacent-line prefetch pairs them).
#[repr(align(128))]
#[derive(Debug)]
pub(super) struct Words {
    words: Box<[AtomicU64]>,
}

impl Words {
    fn new(defs: &[Def]) -> Arc<Self> {
        let count = defs.iter().map(Def::words).sum::<usize>();
        // Padding at both ends keeps the allocation's first and last line this thread's own.
        let words = (0..count + 32).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self { words })
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.words[index + 16]
    }
}

/// The metrics of one role: makes cells and sums them. Clones are handles to the same registry.
pub struct Registry<T> {
    inner: Arc<Inner>,
    table: PhantomData<fn() -> T>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) defs: &'static [Def],
    cells: Mutex<Vec<Arc<Words>>>,
    shared: Arc<Words>,
}

impl Inner {
    fn cells(&self) -> MutexGuard<'_, Vec<Arc<Words>>> {
        // The vector is only pushed to: a panic elsewhere leaves it whole.
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sum of one word over all cells; wraps, as gauges count below zero in one cell.
    pub(super) fn sum(&self, word: usize) -> u64 {
        let own = self.shared.word(word).load(Ordering::Relaxed);
        self.cells()
            .iter()
            .fold(own, |sum, cell| sum.wrapping_add(cell.word(word).load(Ordering::Relaxed)))
    }

    /// Sums of all words, in one pass.
    pub(super) fn sums(&self) -> Vec<u64> {
        let count = self.defs.iter().map(Def::words).sum::<usize>();
        let cells = self.cells();
        (0..count)
            .map(|word| {
                cells.iter().fold(self.shared.word(word).load(Ordering::Relaxed), |sum, cell| {
                    sum.wrapping_add(cell.word(word).load(Ordering::Relaxed))
                })
            })
            .collect()
    }
}

impl<T> Clone for Registry<T> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), table: PhantomData }
    }
}

impl<T> std::fmt::Debug for Registry<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Registry").field("cells", &self.inner.cells().len()).finish()
    }
}

impl<T: Table> Registry<T> {
    pub(super) fn new() -> Self {
        let shared = Words::new(T::DEFS);
        let inner = Inner { defs: T::DEFS, cells: Mutex::new(Vec::new()), shared };
        Self { inner: Arc::new(inner), table: PhantomData }
    }

    pub(super) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.inner)
    }

    /// A registry that nobody exports yet: for what counts before there is an exporter
    /// ([`Exporter::export`](super::Exporter::export)), and for tests.
    pub fn detached() -> Self {
        Self::new()
    }

    /// A new cell for the calling thread. Call it once per thread, at its start: cells are kept
    /// for the life of the registry, so that what an ended thread counted is not lost.
    pub fn cell(&self) -> Cell<T> {
        let words = Words::new(T::DEFS);
        self.inner.cells().push(Arc::clone(&words));
        Cell { words, table: PhantomData, one_thread: PhantomData }
    }

    /// The cell that any thread may count in, for what happens rarely or on threads that come
    /// and go. Each change is an atomic read-modify-write.
    pub fn shared(&self) -> SharedCell<T> {
        SharedCell { words: Arc::clone(&self.inner.shared), table: PhantomData }
    }

    /// Sum of a counter over all threads.
    pub fn count(&self, id: Counter<T>) -> u64 {
        self.inner.sum(id.word())
    }

    /// Sum of a gauge over all threads.
    pub fn level(&self, id: Gauge<T>) -> i64 {
        self.inner.sum(id.word()).cast_signed()
    }

    /// How many values a histogram has seen, over all threads.
    pub fn observations(&self, id: Histogram<T>) -> u64 {
        let buckets = id.scale().buckets();
        (0..buckets).map(|bucket| self.inner.sum(id.word() + 2 * bucket)).sum()
    }
}

/// One thread's counters. It cannot be sent to another thread, which is what makes the plain
/// load-and-store increments right; clones on the same thread are the same cell.
pub struct Cell<T> {
    words: Arc<Words>,
    table: PhantomData<fn() -> T>,
    one_thread: PhantomData<*const ()>,
}

impl<T> Clone for Cell<T> {
    fn clone(&self) -> Self {
        Self { words: Arc::clone(&self.words), table: PhantomData, one_thread: PhantomData }
    }
}

impl<T> std::fmt::Debug for Cell<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Cell")
    }
}

impl<T: Table> Cell<T> {
    fn change(&self, word: usize, change: impl FnOnce(u64) -> u64) {
        let word = self.words.word(word);
        word.store(change(word.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// Adds to a counter.
    pub fn add(&self, id: Counter<T>, count: u64) {
        self.change(id.word(), |value| value.wrapping_add(count));
    }

    /// Raises a gauge.
    pub fn raise(&self, id: Gauge<T>, by: u64) {
        self.change(id.word(), |value| value.wrapping_add(by));
    }

    /// Lowers a gauge. This thread's part may go below zero when another thread raised it.
    pub fn lower(&self, id: Gauge<T>, by: u64) {
        self.change(id.word(), |value| value.wrapping_sub(by));
    }

    /// Sets this thread's part of a gauge.
    pub fn set(&self, id: Gauge<T>, level: i64) {
        self.words.word(id.word()).store(level.cast_unsigned(), Ordering::Relaxed);
    }

    /// Counts a value into its bucket, in the unit of the row (microseconds, bytes, a number).
    pub fn observe(&self, id: Histogram<T>, value: u64) {
        let word = id.word() + 2 * id.scale().bucket(value);
        self.change(word, |count| count.wrapping_add(1));
        self.change(word + 1, |sum| sum.wrapping_add(value));
    }
}

/// A registry's cell for any thread: atomic read-modify-write, so not for the request path.
pub struct SharedCell<T> {
    words: Arc<Words>,
    table: PhantomData<fn() -> T>,
}

impl<T> Clone for SharedCell<T> {
    fn clone(&self) -> Self {
        Self { words: Arc::clone(&self.words), table: PhantomData }
    }
}

impl<T> std::fmt::Debug for SharedCell<T> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("SharedCell")
    }
}

impl<T: Table> SharedCell<T> {
    /// Adds to a counter.
    pub fn add(&self, id: Counter<T>, count: u64) {
        self.words.word(id.word()).fetch_add(count, Ordering::Relaxed);
    }

    /// Raises a gauge.
    pub fn raise(&self, id: Gauge<T>, by: u64) {
        self.words.word(id.word()).fetch_add(by, Ordering::Relaxed);
    }

    /// Lowers a gauge.
    pub fn lower(&self, id: Gauge<T>, by: u64) {
        self.words.word(id.word()).fetch_sub(by, Ordering::Relaxed);
    }

    /// Sets the shared part of a gauge.
    pub fn set(&self, id: Gauge<T>, level: i64) {
        self.words.word(id.word()).store(level.cast_unsigned(), Ordering::Relaxed);
    }

    /// Counts a value into its bucket.
    pub fn observe(&self, id: Histogram<T>, value: u64) {
        let word = id.word() + 2 * id.scale().bucket(value);
        self.words.word(word).fetch_add(1, Ordering::Relaxed);
        self.words.word(word + 1).fetch_add(value, Ordering::Relaxed);
    }
}
