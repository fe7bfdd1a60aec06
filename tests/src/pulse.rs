//! How steadily something goes well: how often, and the longest time in which it did not.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

/// Counts what goes well. Clones count together.
#[derive(Debug, Clone)]
pub struct Pulse(Rc<RefCell<Beats>>);

#[derive(Debug)]
struct Beats {
    count: u64,
    last: Instant,
    longest: Duration,
}

impl Default for Pulse {
    fn default() -> Self {
        let beats = Beats { count: 0, last: Instant::now(), longest: Duration::ZERO };
        Self(Rc::new(RefCell::new(beats)))
    }
}

impl Pulse {
    /// It went well once more.
    pub fn beat(&self) {
        let mut beats = self.0.borrow_mut();
        beats.count += 1;
        beats.longest = beats.longest.max(beats.last.elapsed());
        beats.last = Instant::now();
    }

    /// How often it went well.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.borrow().count
    }

    /// Forgets how long it stood still before now.
    pub fn begin(&self) {
        let mut beats = self.0.borrow_mut();
        beats.last = Instant::now();
        beats.longest = Duration::ZERO;
    }

    /// The longest time between two beats, or since the last one.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let beats = self.0.borrow();
        beats.longest.max(beats.last.elapsed())
    }

    /// Waits until it went well so often.
    ///
    /// # Errors
    /// It did not within `limit`.
    pub async fn reaches(&self, count: u64, limit: Duration) -> Result<()> {
        let reached = async {
            while self.count() < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let in_time = tokio::time::timeout(limit, reached).await;
        in_time.with_context(|| format!("{} of {count} within {limit:?}", self.count()))
    }
}
