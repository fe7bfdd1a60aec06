//! Content of an upload that waits for its disk, in the pieces in which it came.
//!
//! A peer decides how large its pieces are. Small ones are put together here, so that what is held costs about as much
//! as it counts, whatever the peer does.

use bytes::{Bytes, BytesMut};

/// Pieces from here on are kept as they are; a copy of less costs nothing beside the write.
const SMALL_BYTES: usize = 16 * 1024;

/// Small pieces are put together up to here.
const JOINED_BYTES: usize = 64 * 1024;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: Vec<Bytes>,
    small: BytesMut,
    bytes: usize,
}

impl Pieces {
    /// Bytes of all pieces.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a piece at the end.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if piece.len() < SMALL_BYTES {
            self.small.extend_from_slice(&piece);
        } else {
            self.join();
            self.whole.push(piece);
        }
        if self.small.len() >= JOINED_BYTES {
            self.join();
        }
    }

    /// All pieces in their order; none are left.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        self.join();
        self.bytes = 0;
        std::mem::take(&mut self.whole)
    }

    fn join(&mut self) {
        if !self.small.is_empty() {
            self.whole.push(std::mem::take(&mut self.small).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_in_order_and_small_pieces_are_few() {
        let mut pieces = Pieces::default();
        let mut expected = Vec::new();
        for round in 0..3_u8 {
            for at in 0..100_000_u32 {
                pieces.push(Bytes::copy_from_slice(&[at as u8 ^ round]));
                expected.push(at as u8 ^ round);
            }
            pieces.push(Bytes::from(vec![round; SMALL_BYTES]));
            expected.extend_from_slice(&[round; SMALL_BYTES]);
        }
        assert_eq!(pieces.bytes(), expected.len());
        let taken = pieces.take();
        assert!(taken.len() <= 9, "{} pieces", taken.len());
        assert_eq!(taken.concat(), expected);
        assert_eq!((pieces.bytes(), pieces.take().len()), (0, 0));
    }
}
