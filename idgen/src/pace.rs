//! How many ids the next block of a key has: small where ids are asked for now and then, larger
//! where blocks are used up one after the other, so that a commit is shared by more requests.

/// A block that lasted less than this, in milliseconds, makes the next one larger. A commit takes
/// 0.1 to 10 ms: at 50 ms a block the database is at work for a fifth of the time at most.
const SHORT_MS: u64 = 50;
/// A block that lasted longer than this brings the size back to the smallest.
const LONG_MS: u64 = 1000;

/// The size of one key's blocks.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    smallest: u64,
    largest: u64,
    size: u64,
    last_ms: Option<u64>,
}

impl Pace {
    /// A key that has not been asked for: its first block is the smallest.
    #[must_use]
    pub fn new(smallest: u64, largest: u64) -> Self {
        Self { smallest, largest, size: smallest, last_ms: None }
    }

    /// The size of the block that is taken at `now_ms` (any clock that does not go back).
    pub fn next(&mut self, now_ms: u64) -> u64 {
        if let Some(last_ms) = self.last_ms {
            let lasted = now_ms.saturating_sub(last_ms);
            if lasted < SHORT_MS {
                self.size = self.size.saturating_mul(2).min(self.largest);
            } else if lasted > LONG_MS {
                self.size = self.smallest;
            }
        }
        self.last_ms = Some(now_ms);
        self.size
    }
}

#[cfg(test)]
mod tests {
    use super::Pace;

    #[test]
    fn grows_under_load_and_falls_back_after_it() {
        let mut pace = Pace::new(100, 500);
        assert_eq!(pace.next(0), 100, "the first block");
        assert_eq!(pace.next(500), 100, "neither short nor long");
        assert_eq!(pace.next(510), 200);
        assert_eq!(pace.next(520), 400);
        assert_eq!(pace.next(530), 500, "up to the largest");
        assert_eq!(pace.next(540), 500);
        assert_eq!(pace.next(700), 500, "holds while it is busy");
        assert_eq!(pace.next(9000), 100);
    }

    #[test]
    fn one_size_when_told_so() {
        let mut pace = Pace::new(1, 1);
        assert!((0..100).all(|now| pace.next(now) == 1));
    }
}
