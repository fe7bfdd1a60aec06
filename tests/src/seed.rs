//! Randomness that can be repeated: every test that draws prints its seed, and `REEL_TORTURE_SEED` gives it back.

use std::time::{SystemTime, UNIX_EPOCH};

/// SplitMix64: tiny, good enough to spread a test, and the same sequence for ever.
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// The generator of this test: seed from `REEL_TORTURE_SEED`, else from the clock; printed either way. Tests
    /// with different names draw different sequences from one seed.
    #[must_use]
    pub fn of_test(name: &str) -> Self {
        let seed = std::env::var("REEL_TORTURE_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
            });
        println!("{name}: seed {seed} (repeat with REEL_TORTURE_SEED={seed})");
        let mut seeded = Self(seed);
        for byte in name.bytes() {
            seeded.0 = seeded.0.wrapping_add(u64::from(byte));
            seeded.draw();
        }
        seeded
    }

    /// A generator of its own for a part of the test, for instance a thread.
    #[must_use]
    pub fn branch(&mut self) -> Self {
        Self(self.draw())
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`, or 0 where `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// A count from the environment, for tests whose full size belongs to `cargo xtask torture`.
///
/// # Panics
/// When the variable is set and not a number: a typing mistake must not run the small test.
#[must_use]
pub fn count_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => match text.parse() {
            Ok(count) => count,
            Err(_) => panic!("{variable}={text}: not a number"),
        },
        Err(_) => default,
    }
}

/// File content that is known by two numbers, so that a checker needs to keep none of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// Which content.
    pub seed: u64,
    /// Bytes.
    pub size: u64,
}

impl Content {
    /// All of its bytes.
    #[must_use]
    pub fn bytes(self) -> Vec<u8> {
        let mut generator = Seeded(self.seed);
        let mut bytes = Vec::with_capacity(self.size as usize + 8);
        while (bytes.len() as u64) < self.size {
            bytes.extend_from_slice(&generator.draw().to_le_bytes());
        }
        bytes.truncate(self.size as usize);
        bytes
    }
}
