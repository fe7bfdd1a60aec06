//! The ids of one key that are in hand: the block being drawn from and the one after it, as two
//! words that all data threads change by compare-and-swap.
//!
//! A block is packed into 64 bits: the next id in the upper 36 (a path id is below 512^4 = 2^36), how
//! many are left in the lower 28. So a draw is one atomic step, and an id belongs to exactly one of
//! the threads that race for it. A word with none left is empty, whatever its upper bits hold.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use reel_proto::name::IdKey;
use reel_proto::path::PathId;

/// Bits of the count of ids left.
const LEFT_BITS: u32 = 28;
/// The count's bits.
const LEFT_MASK: u64 = (1 << LEFT_BITS) - 1;

/// Most ids of one block.
pub const BLOCK_IDS_MAX: u64 = LEFT_MASK;

const _: () = assert!(PathId::COUNT <= 1 << (u64::BITS - LEFT_BITS));

/// An id that was drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drawn {
    /// The id.
    pub id: u64,
    /// The blocks in hand run low and nobody has asked for the next one yet: the caller must, and
    /// then call [`Sequence::offer`] or [`Sequence::not_coming`].
    pub ask: bool,
}

/// One key's ids in hand.
#[derive(Debug)]
pub struct Sequence {
    key: IdKey,
    current: AtomicU64,
    ahead: AtomicU64,
    /// Ids below are not given any more.
    floor: AtomicU64,
    /// At so many ids left in `current` the next block is asked for.
    low: AtomicU64,
    /// Somebody has asked.
    asked: AtomicBool,
}

impl Sequence {
    /// No ids in hand.
    #[must_use]
    pub fn new(key: IdKey) -> Self {
        Self {
            key,
            current: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            low: AtomicU64::new(0),
            asked: AtomicBool::new(false),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &IdKey {
        &self.key
    }

    /// Draws an id; `None` when none is in hand. Waits for nobody.
    pub fn draw(&self) -> Option<Drawn> {
        loop {
            let state = self.current.load(Ordering::SeqCst);
            let Block { next, left } = unpack(state);
            if left == 0 {
                if !self.advance(state) {
                    return None;
                }
                continue;
            }
            let floor = self.floor.load(Ordering::SeqCst);
            if next < floor {
                let skipped = (floor - next).min(left);
                let rest = pack(Block { next: next + skipped, left: left - skipped });
                // Failed: another thread drew or skipped; the loop looks again.
                let _ = self.swap(&self.current, state, rest);
                continue;
            }
            if self.swap(&self.current, state, pack(Block { next: next + 1, left: left - 1 })) {
                return Some(Drawn { id: next, ask: self.must_ask(left - 1) });
            }
        }
    }

    /// Puts the block ahead in the place of the empty one. `false`: there is none.
    fn advance(&self, empty: u64) -> bool {
        let ahead = self.ahead.swap(0, Ordering::SeqCst);
        if unpack(ahead).left == 0 {
            // Another thread may be between its swap and its store; its caller finds the block
            // then, ours asks the database, which looks again before it takes another one.
            return unpack(self.current.load(Ordering::SeqCst)).left > 0;
        }
        // From the swap on the block is this thread's alone.
        if !self.swap(&self.current, empty, ahead) {
            // Another thread's block came first; ours waits behind it, or is thrown away when a
            // third one is there: lost ids are harmless.
            let _ = self.swap(&self.ahead, 0, ahead);
        }
        true
    }

    fn swap(&self, word: &AtomicU64, from: u64, to: u64) -> bool {
        word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    fn must_ask(&self, left: u64) -> bool {
        left <= self.low.load(Ordering::Relaxed)
            && unpack(self.ahead.load(Ordering::Relaxed)).left == 0
            && !self.asked.swap(true, Ordering::AcqRel)
    }

    /// Puts a block in hand. It must be durable, and of at most [`BLOCK_IDS_MAX`] path ids; what
    /// does not fit is thrown away. For one caller at a time, the database's thread.
    pub fn offer(&self, block: &Range<u64>) {
        let end = block.end.min(PathId::COUNT);
        let left = end.saturating_sub(block.start).min(BLOCK_IDS_MAX);
        if left > 0 {
            // The last quarter is the time that the next commit may take.
            self.low.store(left / 4, Ordering::Relaxed);
            self.ahead.store(pack(Block { next: block.start, left }), Ordering::SeqCst);
        }
        self.asked.store(false, Ordering::Release);
    }

    /// The block that was asked for does not come; the next draw asks again.
    pub fn not_coming(&self) {
        self.asked.store(false, Ordering::Release);
    }

    /// From now on no id below `floor` is given: somebody is known to have used them.
    pub fn raise(&self, floor: u64) {
        self.floor.fetch_max(floor, Ordering::SeqCst);
    }

    /// Whether another block would only pile up: one is ahead.
    #[must_use]
    pub fn has_ahead(&self) -> bool {
        self.usable(&self.ahead) > 0
    }

    /// Ids in hand.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.usable(&self.current) + self.usable(&self.ahead)
    }

    fn usable(&self, word: &AtomicU64) -> u64 {
        let Block { next, left } = unpack(word.load(Ordering::SeqCst));
        let below = self.floor.load(Ordering::SeqCst).saturating_sub(next);
        left.saturating_sub(below)
    }
}

#[derive(Debug, Clone, Copy)]
struct Block {
    next: u64,
    left: u64,
}

fn pack(block: Block) -> u64 {
    // The id after the last of all is 2^36: its upper bits are cut, and nobody reads them, because
    // none is left then.
    (block.next << LEFT_BITS) | block.left
}

fn unpack(word: u64) -> Block {
    Block { next: word >> LEFT_BITS, left: word & LEFT_MASK }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;
    use std::sync::atomic::AtomicUsize;

    use proptest::prelude::*;

    use super::*;

    fn sequence() -> Sequence {
        Sequence::new(IdKey::parse("../data").unwrap())
    }

    fn drain(sequence: &Sequence) -> Vec<u64> {
        std::iter::from_fn(|| sequence.draw()).map(|drawn| drawn.id).collect()
    }

    #[test]
    fn draws_in_order_and_asks_once_before_the_end() {
        let sequence = sequence();
        assert_eq!(sequence.draw(), None);
        sequence.offer(&(0..100));
        let drawn: Vec<Drawn> = std::iter::from_fn(|| sequence.draw()).collect();
        assert_eq!(
            drawn.iter().map(|one| one.id).collect::<Vec<_>>(),
            (0..100).collect::<Vec<_>>()
        );
        let asked: Vec<u64> = drawn.iter().filter(|one| one.ask).map(|one| one.id).collect();
        assert_eq!(asked, [74], "with 25 left, once");
        sequence.offer(&(100..200));
        assert!(sequence.has_ahead());
        assert_eq!(sequence.left(), 100);
        assert_eq!(sequence.draw(), Some(Drawn { id: 100, ask: false }));
    }

    #[test]
    fn asks_again_when_the_block_does_not_come() {
        let sequence = sequence();
        sequence.offer(&(0..4));
        let asked: Vec<bool> = (0..3).map(|_| sequence.draw().unwrap().ask).collect();
        assert_eq!(asked, [false, false, true]);
        sequence.not_coming();
        assert!(sequence.draw().unwrap().ask);
        assert_eq!(sequence.draw(), None);
    }

    #[test]
    fn the_last_ids_of_all() {
        let sequence = sequence();
        let end = PathId::COUNT;
        sequence.offer(&(end - 2..end));
        assert_eq!(drain(&sequence), [end - 2, end - 1]);
        assert_eq!(sequence.left(), 0);
        sequence.offer(&(end - 1..end + 100));
        assert_eq!(drain(&sequence), [end - 1], "nothing past the end, nothing wrapped");
        sequence.offer(&(end..end));
        assert_eq!(drain(&sequence), [0_u64; 0]);
    }

    #[test]
    fn a_raised_floor_skips_what_is_below_in_both_blocks() {
        let sequence = sequence();
        sequence.offer(&(0..10));
        assert_eq!(sequence.draw().unwrap().id, 0);
        sequence.offer(&(10..20));
        assert_eq!(sequence.left(), 19);
        sequence.raise(15);
        assert_eq!(sequence.left(), 5);
        assert_eq!(drain(&sequence), (15..20).collect::<Vec<_>>());
        sequence.offer(&(20..30));
        sequence.raise(3);
        assert_eq!(sequence.draw().unwrap().id, 20, "never down");
        sequence.raise(1000);
        assert_eq!(sequence.draw(), None);
    }

    #[test]
    fn many_threads_draw_every_id_once() {
        const THREADS: usize = 8;
        const BLOCKS: u64 = 400;
        const SIZE: u64 = 50;
        let sequence = sequence();
        let drawing = AtomicUsize::new(THREADS);
        let ids = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut ids = Vec::new();
                        while ids.last().is_none_or(|&id| id < (BLOCKS - 1) * SIZE) {
                            match sequence.draw() {
                                Some(drawn) => ids.push(drawn.id),
                                None => std::thread::yield_now(),
                            }
                        }
                        drawing.fetch_sub(1, Ordering::SeqCst);
                        ids
                    })
                })
                .collect();
            let mut block = 0;
            while drawing.load(Ordering::SeqCst) > 0 {
                if !sequence.has_ahead() {
                    sequence.offer(&(block * SIZE..(block + 1) * SIZE));
                    block += 1;
                }
                std::thread::yield_now();
            }
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<u64>>()
        });
        let unique: HashSet<u64> = ids.iter().copied().collect();
        assert_eq!(unique.len(), ids.len(), "no id twice");
    }

    proptest! {
        #[test]
        fn whatever_happens_ids_only_go_up(steps in prop::collection::vec((0..4_u8, 1..200_u64), 1..200)) {
            let sequence = sequence();
            let (mut end, mut floor, mut last) = (0, 0, None);
            for (step, size) in steps {
                match step {
                    0 if !sequence.has_ahead() => {
                        sequence.offer(&(end..end + size));
                        end += size;
                    }
                    1 => {
                        floor = floor.max(size * 10);
                        sequence.raise(floor);
                    }
                    _ => {
                        let left = sequence.left();
                        if let Some(Drawn { id, .. }) = sequence.draw() {
                            prop_assert!(id >= floor && id < end && Some(id) > last);
                            prop_assert_eq!(sequence.left(), left - 1);
                            last = Some(id);
                        } else {
                            prop_assert_eq!(left, 0);
                        }
                    }
                }
            }
        }
    }
}
