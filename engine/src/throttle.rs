//! Keeps background reading below a rate, so that it leaves the disk to readers and uploads.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

/// Longest sleep before it is looked whether to go on.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// See the module.
pub(crate) struct Throttle {
    rate: u64,
    begin: Instant,
    bytes: u64,
}

impl Throttle {
    pub(crate) fn new(rate: u64) -> Self {
        Self { rate, begin: Instant::now(), bytes: 0 }
    }

    /// These bytes were read: waits until they were to be.
    pub(crate) fn wait(&mut self, bytes: u64, stop: &AtomicBool) -> ControlFlow<()> {
        self.bytes += bytes;
        while !stop.load(Ordering::Acquire) {
            let due = self.due();
            let Some(ahead) =
                due.checked_sub(self.begin.elapsed()).filter(|ahead| !ahead.is_zero())
            else {
                return ControlFlow::Continue(());
            };
            std::thread::sleep(ahead.min(SLEEP_MAX));
        }
        ControlFlow::Break(())
    }

    /// How long all that was read takes at this rate.
    fn due(&self) -> Duration {
        match self.rate {
            0 => Duration::ZERO,
            rate => Duration::from_secs_f64(self.bytes as f64 / rate as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_keeps_to_its_rate_and_stops_when_told() {
        let stop = AtomicBool::new(false);
        let mut free = Throttle::new(0);
        assert!(free.wait(u64::MAX, &stop).is_continue());
        let mut slow = Throttle::new(1000);
        assert!(slow.wait(20, &stop).is_continue());
        assert!(slow.begin.elapsed() >= Duration::from_millis(20));
        stop.store(true, Ordering::Release);
        assert!(slow.wait(1_000_000, &stop).is_break());
    }
}
