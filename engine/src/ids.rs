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

#[cfg(test)]
mod tests;

/// Most blocks that a node holds of one store at a time: what the mark file has room for. A block stays held
/// until every id of it is settled, so one upload that takes hours keeps one block, not all after it. Where many
/// slow uploads hold more, neighbours are held as one.
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

/// What to write, and what must be durable before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextMark {
    /// What the mark file is to say.
    pub state: MarkState,
    /// The file system must be synced first: this mark lets go of a block in which a file was unlinked, and a power
    /// loss that undoes the unlink would bring the file back where no sweep looks.
    pub sync_first: bool,
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
    /// Too many blocks have unsettled ids, with ids of others between them.
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
    /// Every id between the block before it and this one was this node's as well.
    follows: bool,
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
    /// The store's own mark could be read; before, no block is asked for.
    known: bool,
    /// What an earlier run held and no sweep has looked at yet: in every mark until one has.
    earlier: Vec<Range<u64>>,
    /// By their ids.
    blocks: VecDeque<Block>,
    /// One past the last id of the block that came last.
    came_last: u64,
    /// Ask for the next block when fewer ids than this are left.
    refill_below: u64,
}

impl Ledger {
    /// Of a store whose mark was not read yet. `refill_below`: when to ask for more, before uploads have to wait.
    pub fn new(refill_below: u64) -> Self {
        Self {
            mark: 0,
            known: false,
            earlier: Vec::new(),
            blocks: VecDeque::new(),
            came_last: 0,
            refill_below,
        }
    }

    /// What is durable at the store, as an earlier run left it. Nothing was given out before.
    pub fn resume(&mut self, found: MarkState) {
        assert!(self.blocks.is_empty(), "the store's mark is read before the first block");
        (self.mark, self.earlier, self.known) = (found.mark, found.held, true);
    }

    /// Whether the store's mark is known.
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// Ids below `mark` were given, to whomever.
    pub fn raise(&mut self, mark: u64) {
        self.mark = self.mark.max(mark);
    }

    /// What an earlier run held and no sweep has looked at yet.
    pub fn earlier(&self) -> &[Range<u64>] {
        &self.earlier
    }

    /// What an earlier run held was swept, durably, but for these blocks.
    pub fn swept(&mut self, still: Vec<Range<u64>>) {
        self.earlier = still;
    }

    /// The durable mark.
    pub fn mark(&self) -> u64 {
        self.mark
    }

    /// Ids that can be taken without asking anyone.
    pub fn left(&self) -> u64 {
        self.blocks.iter().map(|block| block.range.end - block.next).sum()
    }

    /// Whether a block should be fetched; the caller fetches it with `at_least` = [`Self::mark`].
    pub fn wants(&self) -> bool {
        self.known && self.left() < self.refill_below && self.mark < END
    }

    /// What to write, durably, before `range` is offered. Gives no id out.
    ///
    /// # Errors
    /// See [`BlockError`]; the block is then not to be used at all.
    pub fn admit(&mut self, range: &Range<u64>) -> Result<NextMark, BlockError> {
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
        while self.held().len() >= HELD_MAX {
            self.join_nearest()?;
        }
        let mut next = self.next_mark();
        next.state.mark = end;
        next.state.held.push(range.clone());
        Ok(next)
    }

    /// What the mark file should say now, with no new block.
    pub fn next_mark(&self) -> NextMark {
        NextMark {
            state: MarkState { mark: self.mark, held: self.held() },
            sync_first: self.blocks.iter().any(|block| block.settled() && block.discarded),
        }
    }

    /// Holds two unsettled neighbours as one, with all between them: those that lie closest. A sweep that looks at
    /// settled ids as well finds them in order. Ids of other nodes are never between: their uploads are not ours.
    fn join_nearest(&mut self) -> Result<(), BlockError> {
        let unsettled: Vec<usize> =
            (0..self.blocks.len()).filter(|&at| !self.blocks[at].settled()).collect();
        let pairs = unsettled.windows(2).map(|pair| (pair[0], pair[1]));
        let ours = pairs.filter(|&(first, last)| {
            // One that has ids left is not closed yet.
            let closed = self.blocks[last].next == self.blocks[last].range.end;
            closed && self.blocks.range(first + 1..=last).all(|block| block.follows)
        });
        let gap = |&(first, last): &(usize, usize)| {
            self.blocks[last].range.start - self.blocks[first].range.end
        };
        let (first, last) = ours.min_by_key(gap).ok_or(BlockError::TooManyHeld)?;
        let joined: Vec<Block> = self.blocks.drain(first + 1..=last).collect();
        let block = &mut self.blocks[first];
        for other in joined {
            block.range.end = other.range.end;
            block.next = other.range.end;
            block.open += other.open;
            block.discarded |= other.discarded;
        }
        Ok(())
    }

    /// What [`Self::admit`] gave, `written`, is durable: the ids of `range` may be taken, but for those whose place is
    /// `occupied`. O_EXCL alone would not notice a file there from another second, since its name has the time in it.
    pub fn offer(&mut self, range: Range<u64>, occupied: BTreeSet<u64>, written: &MarkState) {
        assert!(range.start >= self.mark, "a block is admitted before it is offered");
        self.wrote(written);
        self.mark = range.end;
        let follows = range.start == self.came_last;
        self.came_last = range.end;
        let mut block =
            Block { next: range.start, range, open: 0, discarded: false, occupied, follows };
        block.skip_occupied();
        self.blocks.push_back(block);
    }

    /// A mark is durable. Settled blocks that it does not name are done with. One that was settled meanwhile stays
    /// until a mark without it is written: whether that needs a sync first is asked then.
    pub fn wrote(&mut self, written: &MarkState) {
        let mut follows = true;
        self.blocks.retain_mut(|block| {
            block.follows &= follows;
            let keep = !block.settled() || written.held.contains(&block.range);
            // What is dropped leaves its place to the next: that one follows if both did.
            follows = keep || block.follows;
            keep
        });
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

    /// The blocks of which some ids are not settled, and those of an earlier run that no sweep has looked at.
    pub fn held(&self) -> Vec<Range<u64>> {
        let unsettled = self.blocks.iter().filter(|block| !block.settled());
        self.earlier.iter().cloned().chain(unsettled.map(|block| block.range.clone())).collect()
    }
}
