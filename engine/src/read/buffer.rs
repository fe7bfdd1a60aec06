//! Buffers for reads from the disk: aligned to pages as O_DIRECT wants it, mapped once and used again and again.
//!
//! A thread's [`Arena`] maps chunks of 2 MiB, on huge pages where the kernel grants them, and hands out blocks of 2ⁿ
//! pages. The arena never maps more than its limit; a block that finds no place in it (blocks of many sizes can leave
//! only gaps) gets a mapping of its own, which goes when it goes.
//!
//! A [`Block`] gives its pages back wherever it is dropped: with a request, with a kernel operation that nobody waited
//! for any more, or on a worker. So a read that is dropped half way keeps its memory until the kernel is done with it,
//! and with it the [`Permit`] that [`Buffer`] carries.

use std::{
    cell::RefCell,
    io,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use monoio::buf::IoBufMut;

use crate::admission::Permit;

/// The unit of a block, and what each is aligned to at least. Kernels with larger pages map in whole ones of theirs.
pub(super) const PAGE_BYTES: usize = 4096;

/// A chunk that one huge page holds.
const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// Pages that one word of a chunk's table stands for: the least that a chunk can have.
const WORD_PAGES: usize = 64;

/// Memory of one thread for reads from the disk.
pub(crate) struct Arena {
    chunks: RefCell<Vec<Arc<Chunk>>>,
    chunks_max: usize,
    chunk_pages: usize,
}

impl Arena {
    /// An arena that maps at most `limit` bytes (at least 256 KiB), in chunks that hold a block of `block_max` bytes.
    pub(crate) fn new(limit: u64, block_max: usize) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let least = WORD_PAGES * PAGE_BYTES;
        let chunk = CHUNK_BYTES.max(block_bytes(block_max));
        // A small budget is not overdrawn for the sake of a huge page.
        let chunk = if chunk > limit { (limit / least).max(1) * least } else { chunk };
        Self {
            chunks: RefCell::default(),
            chunks_max: (limit / chunk).max(1),
            chunk_pages: chunk / PAGE_BYTES,
        }
    }

    /// A block of at least `bytes`, whose size is [`block_bytes`]. Nobody knows what is in it.
    ///
    /// # Errors
    /// The kernel gives no memory.
    pub(super) fn take(&self, bytes: usize) -> io::Result<Block> {
        let pages = block_bytes(bytes) / PAGE_BYTES;
        let mut chunks = self.chunks.borrow_mut();
        // The first ones first, so that the last ones become empty and can go.
        let found = chunks.iter().find_map(|chunk| Some((chunk, chunk.claim(pages)?)));
        if let Some((chunk, first)) = found {
            return Ok(Block { chunk: chunk.clone(), first, pages });
        }
        let inside = chunks.len() < self.chunks_max && pages <= self.chunk_pages;
        let chunk = Arc::new(Chunk::map(if inside { self.chunk_pages } else { pages })?);
        let first = chunk.claim(pages).ok_or(io::ErrorKind::OutOfMemory)?;
        if inside {
            chunks.push(chunk.clone());
        }
        Ok(Block { chunk, first, pages })
    }

    /// Gives the last chunk back if nothing is in it: called now and then, it follows the load down slowly.
    pub(crate) fn trim(&self) {
        let mut chunks = self.chunks.borrow_mut();
        if chunks.last().is_some_and(|chunk| chunk.is_free()) {
            chunks.pop();
        }
    }

    /// Bytes mapped by the arena itself.
    #[cfg(test)]
    fn mapped(&self) -> usize {
        self.chunks.borrow().len() * self.chunk_pages * PAGE_BYTES
    }
}

/// How large the block of a read of `bytes` is: what is to be charged for it.
pub(super) fn block_bytes(bytes: usize) -> usize {
    bytes.max(PAGE_BYTES).next_power_of_two()
}

/// A mapping of whole pages, and which of them are taken.
struct Chunk {
    start: NonNull<u8>,
    pages: usize,
    /// A bit for each page. Only the arena's thread sets bits; any thread clears those of the block that it drops.
    taken: Box<[AtomicU64]>,
}

// SAFETY: the mapping is plain memory that belongs to no thread; it is reached only through blocks, and no two
// blocks share a page.
unsafe impl Send for Chunk {}
// SAFETY: as above; what all threads share, the table, is atomic.
unsafe impl Sync for Chunk {}

impl Chunk {
    fn map(pages: usize) -> io::Result<Self> {
        let bytes = pages * PAGE_BYTES;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // Room to cut a piece out that starts where a huge page can: an anonymous mapping starts anywhere.
        let spare = if bytes.is_multiple_of(CHUNK_BYTES) { CHUNK_BYTES } else { 0 };
        // SAFETY: an anonymous mapping at a place of the kernel's choice touches no memory of ours.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes + spare, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let front = if spare == 0 { 0 } else { start.cast::<u8>().align_offset(CHUNK_BYTES) };
        let start = start.cast::<u8>();
        if front > 0 {
            // SAFETY: the first `front` bytes of the mapping just made; nothing points into them.
            unsafe { libc::munmap(start.cast(), front) };
        }
        let start = start.wrapping_add(front);
        if spare > front {
            // SAFETY: the bytes behind what we keep of the mapping just made; nothing points into them.
            unsafe { libc::munmap(start.wrapping_add(bytes).cast(), spare - front) };
        }
        if spare > 0 {
            // SAFETY: the mapping is ours. The answer does not matter: without huge pages it is small ones.
            unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        // A forked child must not share pages that a device is writing into.
        // SAFETY: the mapping is ours.
        unsafe { libc::madvise(start.cast(), bytes, libc::MADV_DONTFORK) };
        let start = NonNull::new(start).ok_or(io::ErrorKind::OutOfMemory)?;
        let words = pages.div_ceil(WORD_PAGES);
        Ok(Self { start, pages, taken: (0..words).map(|_| AtomicU64::new(0)).collect() })
    }

    /// Takes `pages` (a power of two) that are free and begin at a multiple of it.
    fn claim(&self, pages: usize) -> Option<usize> {
        let first = (0..self.pages)
            .step_by(pages)
            .filter(|first| first + pages <= self.pages)
            .find(|first| {
                spans(*first, pages)
                    .all(|(word, mask)| self.taken[word].load(Ordering::Acquire) & mask == 0)
            })?;
        // Nobody else sets bits, so what was free still is.
        for (word, mask) in spans(first, pages) {
            self.taken[word].fetch_or(mask, Ordering::AcqRel);
        }
        Some(first)
    }

    fn release(&self, first: usize, pages: usize) {
        for (word, mask) in spans(first, pages) {
            let before = self.taken[word].fetch_and(!mask, Ordering::AcqRel);
            debug_assert_eq!(before & mask, mask, "pages given back twice");
        }
    }

    fn is_free(&self) -> bool {
        self.taken.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }
}

/// The words of a chunk's table that a block has bits in. A block is as large as a word's pages, or smaller and inside
/// one, or several whole ones.
fn spans(first: usize, pages: usize) -> impl Iterator<Item = (usize, u64)> {
    let words = pages.div_ceil(WORD_PAGES);
    let mask =
        if pages >= WORD_PAGES { u64::MAX } else { ((1 << pages) - 1) << (first % WORD_PAGES) };
    (0..words).map(move |word| (first / WORD_PAGES + word, mask))
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: the last block and the arena are gone, so nothing points into the mapping, which was made by `map`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.pages * PAGE_BYTES) };
    }
}

/// Some pages of a chunk, ours alone until dropped.
pub(super) struct Block {
    chunk: Arc<Chunk>,
    first: usize,
    pages: usize,
}

impl Block {
    /// Its size.
    pub(super) fn size(&self) -> usize {
        self.pages * PAGE_BYTES
    }

    fn start(&self) -> *mut u8 {
        self.chunk.start.as_ptr().wrapping_add(self.first * PAGE_BYTES)
    }

    /// The bytes in it.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the block lies inside the chunk's mapping, which it keeps alive; the kernel made it of zeros, so
        // every byte has a value; whoever may write to it holds the block by value or by `&mut`.
        unsafe { std::slice::from_raw_parts(self.start(), self.size()) }
    }

    /// The bytes in it, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is the only way to these pages.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.size()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.chunk.release(self.first, self.pages);
    }
}

/// A block as an operation of the ring takes it: with what it is charged to, and the part that is to be filled.
pub(super) struct Buffer {
    block: Block,
    /// Where the next read goes to.
    part: Range<usize>,
    permit: Permit,
}

impl Buffer {
    /// A block and what it is charged to.
    pub(super) fn new(block: Block, permit: Permit) -> Self {
        Self { block, part: 0..0, permit }
    }

    /// Both again.
    pub(super) fn into_parts(self) -> (Block, Permit) {
        (self.block, self.permit)
    }

    /// The bytes in it.
    pub(super) fn bytes(&self) -> &[u8] {
        self.block.bytes()
    }

    /// Says which part the next read fills.
    pub(super) fn aim(&mut self, part: Range<usize>) {
        assert!(part.start <= part.end && part.end <= self.block.size(), "outside of the block");
        self.part = part;
    }
}

// SAFETY: pointer and length name memory that stays where it is for as long as the buffer lives, wherever the buffer
// itself is moved to; it is valid for writes, since the buffer owns its block and `aim` keeps the part inside it.
unsafe impl IoBufMut for Buffer {
    fn write_ptr(&mut self) -> *mut u8 {
        self.block.start().wrapping_add(self.part.start)
    }

    fn bytes_total(&mut self) -> usize {
        self.part.len()
    }

    // Every byte of a block has a value from the start; how many are the file's, the reader counts.
    unsafe fn set_init(&mut self, _pos: usize) {}
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(block: &Block) -> Range<usize> {
        let start = block.start() as usize;
        start..start + block.size()
    }

    #[test]
    fn blocks_are_aligned_to_their_size_and_used_again() {
        let arena = Arena::new(64 << 20, 256 << 10);
        let first = arena.take(4097).unwrap();
        assert_eq!(first.size(), 8192);
        assert_eq!(at(&first).start % CHUNK_BYTES, 0, "where a huge page can start");
        let large = arena.take(256 << 10).unwrap();
        assert_eq!(at(&large).start % (256 << 10), 0);
        let place = at(&first);
        drop(first);
        assert_eq!(at(&arena.take(8192).unwrap()), place);
        assert_eq!(arena.mapped(), CHUNK_BYTES);
        drop(large);
        arena.trim();
        assert_eq!(arena.mapped(), 0);
    }

    #[test]
    fn what_finds_no_place_has_a_mapping_of_its_own_and_small_budgets_are_kept() {
        let arena = Arena::new(1 << 20, 256 << 10);
        let blocks: Vec<_> = (0..5).map(|_| arena.take(256 << 10).unwrap()).collect();
        assert_eq!(arena.mapped(), 1 << 20);
        assert_eq!(Arc::strong_count(&blocks[4].chunk), 1, "its own");
        assert_eq!(arena.take(4 << 20).unwrap().size(), 4 << 20);
        let arena = Arena::new(1, 4096);
        drop(arena.take(4096).unwrap());
        assert_eq!(arena.mapped(), WORD_PAGES * PAGE_BYTES);
    }

    #[test]
    fn a_block_outlives_its_arena_and_comes_back_from_another_thread() {
        let arena = Arena::new(4 << 20, 256 << 10);
        let mut block = arena.take(256 << 10).unwrap();
        block.bytes_mut().fill(7);
        let place = at(&block);
        std::thread::spawn(move || assert!(block.bytes().iter().all(|byte| *byte == 7)))
            .join()
            .unwrap();
        let mut again = arena.take(256 << 10).unwrap();
        assert_eq!(at(&again), place);
        drop(arena);
        again.bytes_mut().fill(8);
        assert_eq!(again.bytes()[12_345], 8);
    }

    proptest! {
        #[test]
        fn no_two_blocks_overlap_and_all_come_back(
            steps in proptest::collection::vec((0usize..8, 1usize..700_000), 1..200)
        ) {
            let arena = Arena::new(4 << 20, 512 << 10);
            let mut held: Vec<Block> = Vec::new();
            for (kind, bytes) in steps {
                if kind < 5 {
                    let block = arena.take(bytes).unwrap();
                    prop_assert!(block.size() >= bytes && block.size() < 2 * bytes.max(PAGE_BYTES));
                    let place = at(&block);
                    prop_assert_eq!(place.start % PAGE_BYTES, 0);
                    for other in &held {
                        let other = at(other);
                        prop_assert!(place.end <= other.start || other.end <= place.start);
                    }
                    held.push(block);
                } else if !held.is_empty() {
                    held.swap_remove(bytes % held.len());
                }
                prop_assert!(arena.mapped() <= 4 << 20);
            }
            drop(held);
            prop_assert!(arena.chunks.borrow().iter().all(|chunk| chunk.is_free()));
        }
    }
}
