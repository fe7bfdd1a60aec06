//! When to try again, as a pure function of time, failures and a random number.

use std::time::{Duration, Instant};

use crate::config::RetryPolicy;

/// The attempts of one operation. Knows no clock: `now` is an argument.
#[derive(Debug)]
pub(crate) struct Attempts {
    policy: RetryPolicy,
    /// Nothing goes on past this, whatever the progress.
    deadline: Option<Instant>,
    failing_since: Option<Instant>,
    failures: u32,
}

impl Attempts {
    pub(crate) fn new(policy: RetryPolicy, now: Instant, deadline: Option<Duration>) -> Self {
        Self {
            policy,
            deadline: deadline.and_then(|deadline| now.checked_add(deadline)),
            failing_since: None,
            failures: 0,
        }
    }

    /// Something got further than ever before: the window and the pauses start anew.
    pub(crate) fn progressed(&mut self) {
        self.failing_since = None;
        self.failures = 0;
    }

    /// An attempt failed. The pause before the next one, or none when it is time to give up.
    pub(crate) fn failed(&mut self, now: Instant, random: u64) -> Option<Duration> {
        let since = *self.failing_since.get_or_insert(now);
        let upper = self
            .policy
            .first_pause
            .saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX))
            .min(self.policy.pause_max);
        self.failures = self.failures.saturating_add(1);
        let half = upper / 2;
        // 2⁻³² steps are finer than any timer.
        let share = (random >> 32) as f64 / f64::from(u32::MAX);
        let pause = half + half.mul_f64(share);
        let resumed = now + pause;
        if resumed.duration_since(since) >= self.policy.window {
            return None;
        }
        if self.deadline.is_some_and(|deadline| resumed >= deadline) {
            return None;
        }
        Some(pause)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const POLICY: RetryPolicy = RetryPolicy {
        first_pause: Duration::from_millis(100),
        pause_max: Duration::from_millis(1000),
        window: Duration::from_secs(10),
    };

    #[test]
    fn pauses_double_up_to_the_limit() {
        let now = Instant::now();
        let mut attempts = Attempts::new(POLICY, now, None);
        let uppers: Vec<u128> =
            (0..6).map(|_| attempts.failed(now, u64::MAX).unwrap().as_millis()).collect();
        assert_eq!(uppers, [100, 200, 400, 800, 1000, 1000]);
        let mut attempts = Attempts::new(POLICY, now, None);
        assert_eq!(attempts.failed(now, 0).unwrap().as_millis(), 50, "never less than half");
    }

    #[test]
    fn the_window_counts_from_the_first_failure_after_progress() {
        let start = Instant::now();
        let mut attempts = Attempts::new(POLICY, start, None);
        assert!(attempts.failed(start + Duration::from_secs(100), 0).is_some());
        assert!(attempts.failed(start + Duration::from_secs(109), 0).is_some());
        assert!(attempts.failed(start + Duration::from_secs(110), 0).is_none());
        attempts.progressed();
        assert!(attempts.failed(start + Duration::from_secs(200), 0).is_some());
    }

    #[test]
    fn no_pause_reaches_past_the_deadline() {
        let start = Instant::now();
        let mut attempts = Attempts::new(POLICY, start, Some(Duration::from_secs(1)));
        assert!(attempts.failed(start + Duration::from_millis(899), u64::MAX).is_some());
        attempts.progressed();
        assert!(attempts.failed(start + Duration::from_millis(950), u64::MAX).is_none());
    }

    #[test]
    fn a_window_of_zero_never_repeats() {
        let policy = RetryPolicy { window: Duration::ZERO, ..POLICY };
        let now = Instant::now();
        assert!(Attempts::new(policy, now, None).failed(now, 0).is_none());
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let policy = RetryPolicy { window: Duration::MAX, ..POLICY };
        let now = Instant::now();
        let mut attempts = Attempts::new(policy, now, None);
        for _ in 0..100 {
            assert!(attempts.failed(now, u64::MAX).unwrap() <= policy.pause_max);
        }
    }
}
