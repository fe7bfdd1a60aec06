//! Whether this node knows what others change in a shared database.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// After a comparison had no answer, what is known is served without one for so long.
const UNCHECKED_FOR: Duration = Duration::from_secs(1);

/// See the module. As it is made, nobody else changes anything.
pub(crate) struct Watch {
    blind: AtomicBool,
    begin: Instant,
    /// Milliseconds from `begin` until which no comparison is tried.
    unchecked_until: AtomicU64,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            blind: AtomicBool::new(false),
            begin: Instant::now(),
            unchecked_until: AtomicU64::new(0),
        }
    }
}

impl Watch {
    /// The change log has not been read for too long.
    pub(super) fn is_unread(&self) {
        if !self.blind.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                "what others change in the metadata cannot be read: each request compares"
            );
        }
    }

    /// The change log has been read, and all caches know what it says.
    pub(super) fn is_read(&self) {
        if self.blind.swap(false, Ordering::AcqRel) {
            tracing::info!("what others change in the metadata is read again");
        }
    }

    /// Whether somebody may have changed what this node does not know of.
    pub(crate) fn is_blind(&self) -> bool {
        self.blind.load(Ordering::Acquire)
    }

    /// Whether what is remembered of a row has to be compared with it.
    pub(crate) fn must_check(&self) -> bool {
        self.is_blind() && self.now() >= self.unchecked_until.load(Ordering::Relaxed)
    }

    /// A comparison had no answer.
    pub(crate) fn check_failed(&self) {
        let until = self.now() + UNCHECKED_FOR.as_millis() as u64;
        self.unchecked_until.fetch_max(until, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_files_are_compared_while_the_log_is_not_read_and_somebody_answers() {
        let watch = Watch::default();
        assert!(!watch.is_blind() && !watch.must_check());
        watch.is_unread();
        assert!(watch.is_blind() && watch.must_check());
        watch.check_failed();
        assert!(watch.is_blind() && !watch.must_check());
        watch.unchecked_until.store(0, Ordering::Relaxed);
        assert!(watch.must_check());
        watch.is_read();
        assert!(!watch.is_blind() && !watch.must_check());
    }
}
