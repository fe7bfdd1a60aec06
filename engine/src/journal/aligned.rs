//! A growing buffer that begins at a multiple of a block in memory, as direct I/O wants it.

use std::ops::{Deref, DerefMut};

use super::format::BLOCK;

const BLOCK_BYTES: usize = BLOCK as usize;

/// Memory past it is given back when the buffer is emptied: what one huge group needed the next ones do not.
const KEPT_BYTES: usize = 4 << 20;

/// Bytes in whole memory of its own. A new one has none.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    memory: Vec<u8>,
    /// Where the bytes begin in it.
    start: usize,
    len: usize,
}

impl Aligned {
    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        if self.memory.len() > KEPT_BYTES {
            *self = Self::default();
        }
    }

    /// Adds bytes at its end.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.reserve(end);
        self.memory[self.start + self.len..self.start + end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Adds zeros up to a whole number of blocks.
    pub(super) fn pad(&mut self) {
        let end = self.len.next_multiple_of(BLOCK_BYTES);
        self.reserve(end);
        self.memory[self.start + self.len..self.start + end].fill(0);
        self.len = end;
    }

    fn reserve(&mut self, len: usize) {
        if self.start + len <= self.memory.len() {
            return;
        }
        // Whole blocks, so that padding always finds room.
        let room = len.next_power_of_two().max(16 * BLOCK_BYTES);
        let mut memory = vec![0; room + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES).min(BLOCK_BYTES);
        memory[start..start + self.len].copy_from_slice(self);
        (self.memory, self.start) = (memory, start);
    }
}

impl Deref for Aligned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_keeps_what_is_in_it_and_where_it_begins_while_it_grows() {
        let mut buffer = Aligned::default();
        let mut expected = Vec::new();
        for (turn, len) in [1, 4095, 4096, 70_000, 1, 3 << 20].into_iter().enumerate() {
            let piece = vec![turn as u8 + 1; len];
            buffer.extend(&piece);
            expected.extend_from_slice(&piece);
            assert_eq!(*buffer, *expected);
            assert_eq!(buffer.as_ptr() as usize % BLOCK_BYTES, 0);
        }
        buffer.pad();
        assert_eq!(buffer.len() % BLOCK_BYTES, 0);
        assert_eq!(buffer[..expected.len()], *expected);
        assert!(buffer[expected.len()..].iter().all(|byte| *byte == 0));
        buffer.clear();
        assert!(buffer.is_empty());
        buffer.extend(&[9]);
        buffer.pad();
        assert_eq!((buffer[0], buffer.len()), (9, BLOCK_BYTES));
        assert!(buffer[1..].iter().all(|byte| *byte == 0), "nothing of earlier bytes");
    }
}
