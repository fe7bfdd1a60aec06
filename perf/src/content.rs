//! The bytes of test files: any range of any file can be made again, so that what a server sends can be judged.

/// The byte stream of a file with this seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Content {
    seed: u64,
}

impl Content {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `out` with the stream's bytes from `offset` on.
    pub(crate) fn fill(self, offset: u64, out: &mut [u8]) {
        let skip = (offset % 8) as usize;
        let mut word = offset / 8;
        let (first, rest) = out.split_at_mut(out.len().min((8 - skip) % 8));
        if !first.is_empty() {
            first.copy_from_slice(&self.word(word)[skip..skip + first.len()]);
            word += 1;
        }
        for chunk in rest.chunks_mut(8) {
            chunk.copy_from_slice(&self.word(word)[..chunk.len()]);
            word += 1;
        }
    }

    /// Whether `bytes` are the stream's bytes from `offset` on.
    pub(crate) fn matches(self, offset: u64, bytes: &[u8]) -> bool {
        let mut expected = [0_u8; 4096];
        let mut at = offset;
        bytes.chunks(expected.len()).all(|chunk| {
            let expected = &mut expected[..chunk.len()];
            self.fill(at, expected);
            at += chunk.len() as u64;
            expected == chunk
        })
    }

    // splitmix64 of the word's place: no word can be had from its neighbour, so a shifted range never fits.
    fn word(self, index: u64) -> [u8; 8] {
        mix(self.seed.wrapping_add(index.wrapping_mul(0x9E37_79B9_7F4A_7C15))).to_le_bytes()
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A sequence of numbers that looks random and is the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Sequence {
    state: u64,
}

impl Sequence {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        ((u128::from(mix(self.state)) * u128::from(limit)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_cut_gives_the_same_bytes() {
        let content = Content::new(7);
        let mut whole = vec![0; 100];
        content.fill(0, &mut whole);
        for begin in 0..40 {
            for end in begin..100 {
                let mut part = vec![0; end - begin];
                content.fill(begin as u64, &mut part);
                assert_eq!(part, whole[begin..end], "{begin}..{end}");
                assert!(content.matches(begin as u64, &part));
            }
        }
    }

    // A judge that is blind must be noticed.
    #[test]
    fn a_shift_another_file_and_a_flipped_bit_are_seen() {
        let content = Content::new(7);
        let mut bytes = vec![0; 9000];
        content.fill(64, &mut bytes);
        assert!(content.matches(64, &bytes));
        assert!(!content.matches(72, &bytes));
        assert!(!Content::new(8).matches(64, &bytes));
        bytes[8999] ^= 1;
        assert!(!content.matches(64, &bytes));
    }

    #[test]
    fn numbers_are_below_their_limit_and_spread() {
        let mut sequence = Sequence::new(1);
        let mut seen = [0_u32; 7];
        for _ in 0..7000 {
            seen[sequence.below(7) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (800..1200).contains(&count)), "{seen:?}");
    }
}
