//! Blocks of path ids and the high-water mark of a store: one path id, one file, for ever.
//!
//! Pure state, no IO. The driver asks [`Ledger::admit`] what to write, makes it durable, and only then calls
//! [`Ledger::offer`]: an id can be taken only below a mark that has reached the disk. An ID node that lost its
//! database gives blocks below the mark; they are refused here and the next request names the mark as the least.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Range,
};

use reel_proto::path::PathId;

/// Most blocks that a node holds of one store at a time: what the mark file has room for. A block stays held
/// until every id of it is settled, so one upload that takes hours keeps one block, not all after it.
pub const HELD_MAX: usize = 64;

/// One past the last path id of a store: four digits of base 512.
pub const END: u64 = 512 * 512 * 512 * 512;

/// What must be durable before the ids of a new block are used.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MarkState {
    /// Every id that was ever given to this store is below.
    pub mark: u64,
    /// Blocks of which some ids are not settled: the only places where a crash leaves unfinished files.
    pub held: Vec<Range<u64>>,
}

/// Why a block that the ID node gave is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// The ID node's sequence is behind this store's mark: its database was lost or restored.
    #[error(
        "block {start}..{end} is below the mark {mark}: the ID node's sequence must be moved up"
    )]
    BelowMark {
        /// First id of the block.
        start: u64,
        /// One past its last id.
        end: u64,
        /// The store's mark.
        mark: u64,
    },
    /// No id in it.
    #[error("an empty block of ids")]
    Empty,
    /// Past the last place of a store.
    #[error("block {start}..{end} is past the last path id of a store")]
    PastEnd {
        /// First id of the block.
        start: u64,
        /// One past its last id.
        end: u64,
    },
    /// Too many blocks have unsettled ids.
    #[error("{HELD_MAX} blocks of ids have uploads under way")]
    TooManyHeld,
}

#[derive(Debug)]
struct Block {
    range: Range<u64>,
    next: u64,
    /// Taken and neither kept nor discarded yet.
    open: u64,
    /// A file of it was unlinked, perhaps not durably yet.
    discarded: bool,
    /// Ids whose place somebody else's file has: skipped.
    occupied: BTreeSet<u64>,
}

impl Block {
    fn skip_occupied(&mut self) {
        while self.next < self.range.end && self.occupied.remove(&self.next) {
            self.next += 1;
        }
    }

    fn settled(&self) -> bool {
        self.next == self.range.end && self.open == 0
    }
}

/// The ids of one store that this node may use.
#[derive(Debug)]
pub struct Ledger {
    mark: u64,
    blocks: VecDeque<Block>,
    /// Ask for the next block when fewer ids than this are left.
    refill_below: u64,
    asked: bool,
}

impl Ledger {
    /// `mark`: what is durable at the store. `refill_below`: when to ask for more, before uploads have to wait.
    pub fn new(mark: u64, refill_below: u64) -> Self {
        Self { mark, blocks: VecDeque::new(), refill_below, asked: false }
    }

    /// The durable mark.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Ids that can be taken without asking anyone.
    pub fn left(&self) -> u64 {
        self.blocks.iter().map(|block| block.range.end - block.next).sum()
    }

    /// True once for each block that should be fetched; the caller fetches it with `at_least` = [`Self::mark`].
    pub fn want(&mut self) -> bool {
        let wanted = !self.asked && self.left() < self.refill_below && self.mark < END;
        self.asked |= wanted;
        wanted
    }

    /// The fetch failed, or its block was refused: [`Self::want`] says yes again.
    pub fn unask(&mut self) {
        self.asked = false;
    }

    /// What to write, durably, before `range` is offered. Changes nothing.
    ///
    /// # Errors
    /// See [`BlockError`]; the block is then not to be used at all.
    pub fn admit(&self, range: &Range<u64>) -> Result<MarkState, BlockError> {
        let Range { start, end } = *range;
        if range.is_empty() {
            return Err(BlockError::Empty);
        }
        if start < self.mark {
            return Err(BlockError::BelowMark { start, end, mark: self.mark });
        }
        if end > END {
            return Err(BlockError::PastEnd { start, end });
        }
        let mut held = self.held();
        if held.len() >= HELD_MAX {
            return Err(BlockError::TooManyHeld);
        }
        held.push(range.clone());
        Ok(MarkState { mark: end, held })
    }

    /// True where the next written mark lets go of a block in which a file was unlinked: that unlink must be
    /// durable first, or a power loss would bring the file back where no sweep looks.
    pub fn drops_discarded(&self) -> bool {
        self.blocks.iter().any(|block| block.settled() && block.discarded)
    }

    /// The state that [`Self::admit`] gave is durable: the ids of `range` may be taken, but for those whose place is
    /// `occupied`. O_EXCL alone would not notice a file there from another second, since its name has the time in it.
    pub fn offer(&mut self, range: Range<u64>, occupied: BTreeSet<u64>) {
        assert!(range.start >= self.mark, "a block is admitted before it is offered");
        self.mark = range.end;
        self.asked = false;
        self.blocks.retain(|block| !block.settled());
        let mut block = Block { next: range.start, range, open: 0, discarded: false, occupied };
        block.skip_occupied();
        self.blocks.push_back(block);
    }

    /// The next id, never given before.
    pub fn take(&mut self) -> Option<PathId> {
        let block = self.blocks.iter_mut().find(|block| block.next < block.range.end)?;
        // Below END by admit, so the conversion cannot fail.
        let id = PathId::new(block.next).ok()?;
        block.next += 1;
        block.skip_occupied();
        block.open += 1;
        Some(id)
    }

    /// The upload of `id` is over. `discarded`: its file was unlinked, rather than kept with its row.
    pub fn settle(&mut self, id: PathId, discarded: bool) {
        let found = self.blocks.iter_mut().find(|block| block.range.contains(&id.get()));
        // Not found: an id of before the start, settled by the sweep.
        let Some(block) = found else { return };
        assert!(block.open > 0, "an id is settled once");
        block.open -= 1;
        block.discarded |= discarded;
    }

    /// The blocks of which some ids are not settled.
    pub fn held(&self) -> Vec<Range<u64>> {
        self.blocks
            .iter()
            .filter(|block| !block.settled())
            .map(|block| block.range.clone())
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_block_below_the_mark_is_never_believed() {
        let ledger = Ledger::new(1000, 10);
        assert_eq!(
            ledger.admit(&(999..1500)),
            Err(BlockError::BelowMark { start: 999, end: 1500, mark: 1000 })
        );
        assert!(ledger.admit(&(0..100)).unwrap_err().to_string().contains("moved up"));
        assert_eq!(
            ledger.admit(&(1000..1100)),
            Ok(MarkState { mark: 1100, held: vec![1000..1100] })
        );
    }

    #[test]
    fn nothing_is_taken_before_it_is_offered() {
        let mut ledger = Ledger::new(0, 10);
        assert!(ledger.want());
        assert!(!ledger.want(), "one request at a time");
        ledger.admit(&(0..5)).unwrap();
        assert_eq!(ledger.take(), None);
        ledger.offer(0..5, BTreeSet::new());
        assert_eq!(ledger.take().unwrap().get(), 0);
        assert!(ledger.want(), "four are fewer than ten");
    }

    #[test]
    fn occupied_places_are_skipped() {
        let mut ledger = Ledger::new(0, 1);
        ledger.offer(0..5, BTreeSet::from([0, 1, 3, 4, 77]));
        assert_eq!(ledger.take().unwrap().get(), 2);
        assert_eq!(ledger.take(), None);
        ledger.offer(5..6, BTreeSet::from([5]));
        assert_eq!(ledger.take(), None);
        assert_eq!(ledger.left(), 0);
    }

    #[test]
    fn the_last_id_and_no_further() {
        let mut ledger = Ledger::new(END - 2, 10);
        assert!(matches!(ledger.admit(&(END - 2..END + 1)), Err(BlockError::PastEnd { .. })));
        ledger.admit(&(END - 2..END)).unwrap();
        ledger.offer(END - 2..END, BTreeSet::new());
        assert_eq!(ledger.take().unwrap().get(), END - 2);
        assert_eq!(ledger.take().unwrap().get(), END - 1);
        assert_eq!(ledger.take(), None);
        assert!(!ledger.want(), "there is nothing to ask for");
    }

    #[test]
    fn a_block_is_held_until_its_last_id_is_settled() {
        let mut ledger = Ledger::new(0, 1);
        ledger.offer(0..2, BTreeSet::new());
        let first = ledger.take().unwrap();
        let second = ledger.take().unwrap();
        ledger.settle(second, true);
        assert_eq!(ledger.held(), vec![0..2]);
        assert!(!ledger.drops_discarded());
        ledger.settle(first, false);
        assert!(ledger.drops_discarded());
        assert_eq!(ledger.admit(&(2..4)).unwrap().held, vec![2..4]);
    }

    #[test]
    fn too_many_held_blocks_are_refused() {
        let mut ledger = Ledger::new(0, 1);
        for index in 0..HELD_MAX as u64 {
            ledger.offer(index..index + 1, BTreeSet::new());
            ledger.take().unwrap();
        }
        let next = HELD_MAX as u64;
        assert_eq!(ledger.admit(&(next..next + 1)), Err(BlockError::TooManyHeld));
        ledger.settle(PathId::new(7).unwrap(), false);
        assert!(ledger.admit(&(next..next + 1)).is_ok());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Block { skip: i64, len: u64 },
        Take,
        Settle(usize),
        Crash,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (-20_i64..20, 1_u64..12).prop_map(|(skip, len)| Step::Block { skip, len }),
            6 => Just(Step::Take),
            4 => any::<usize>().prop_map(Step::Settle),
            1 => Just(Step::Crash),
        ]
    }

    proptest! {
        /// An ID node that gives any blocks at all, crashes at any moment: no id twice, every id below the durable
        /// mark, every open id inside a held block.
        #[test]
        fn never_an_id_twice(steps in prop::collection::vec(step(), 1..200)) {
            let mut durable = MarkState::default();
            let mut ledger = Ledger::new(0, 4);
            let mut given = BTreeSet::new();
            let mut open = Vec::new();
            for step in steps {
                match step {
                    Step::Block { skip, len } => {
                        let start = durable.mark.saturating_add_signed(skip);
                        if let Ok(state) = ledger.admit(&(start..start + len)) {
                            durable = state;
                            ledger.offer(start..start + len, BTreeSet::new());
                        }
                    }
                    Step::Take => {
                        if let Some(id) = ledger.take() {
                            prop_assert!(given.insert(id.get()), "{} twice", id.get());
                            prop_assert!(id.get() < durable.mark);
                            open.push(id);
                        }
                    }
                    Step::Settle(index) if !open.is_empty() => {
                        let id = open.swap_remove(index % open.len());
                        ledger.settle(id, index % 2 == 0);
                    }
                    Step::Settle(_) => {}
                    Step::Crash => {
                        for id in open.drain(..) {
                            prop_assert!(
                                durable.held.iter().any(|held| held.contains(&id.get())),
                                "{} is open and in no held block", id.get()
                            );
                        }
                        ledger = Ledger::new(durable.mark, 4);
                    }
                }
            }
        }
    }
}
