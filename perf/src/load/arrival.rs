//! When requests are due: at once (closed loop), or at fixed times whatever the server does (open loop).

/// The arrival times of one thread, in nanoseconds since the load began.
#[derive(Debug, Clone)]
pub(crate) struct Arrivals {
    /// Nanoseconds between two; `None`: a closed loop.
    interval: Option<f64>,
    /// Number of the next one.
    next: u64,
}

impl Arrivals {
    /// `rate`: requests a second of this thread; `None`: always due.
    pub(crate) fn new(rate: Option<f64>) -> Self {
        Self { interval: rate.map(|rate| 1e9 / rate.max(1e-3)), next: 0 }
    }

    /// The time that the next request was meant for, if that is now or past. Its latency counts from then, also when
    /// every connection was busy: a server that stalls does not slow the arrivals down.
    pub(crate) fn take(&mut self, now: u64) -> Option<u64> {
        let Some(interval) = self.interval else { return Some(now) };
        let due = (self.next as f64 * interval) as u64;
        (due <= now).then(|| {
            self.next += 1;
            due
        })
    }

    /// When the next one is due; `None` in a closed loop, where nothing waits for the clock.
    pub(crate) fn next_at(&self) -> Option<u64> {
        self.interval.map(|interval| (self.next as f64 * interval) as u64)
    }

    /// Whether arrivals follow the clock.
    pub(crate) fn is_open(&self) -> bool {
        self.interval.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_loop_is_always_due() {
        let mut arrivals = Arrivals::new(None);
        assert_eq!(arrivals.take(5), Some(5));
        assert_eq!(arrivals.take(5), Some(5));
        assert_eq!(arrivals.next_at(), None);
    }

    // The point of an open loop: after a stall of the server the requests of that time are still there, each with the
    // time that it was meant for.
    #[test]
    fn a_stall_is_in_the_latencies_of_all_that_were_due() {
        let mut arrivals = Arrivals::new(Some(1000.0));
        let mut latencies = Vec::new();
        // The server answers nothing for 10 ms, then everything at once.
        let now = 10_000_000;
        while let Some(due) = arrivals.take(now) {
            latencies.push((now - due) / 1_000_000);
        }
        assert_eq!(latencies, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(arrivals.next_at(), Some(11_000_000));
        assert_eq!(arrivals.take(now), None);
    }
}
