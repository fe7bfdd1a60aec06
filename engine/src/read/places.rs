//! What was read past the page cache lately, so that what is asked for again becomes hot.
//!
//! A direct read leaves nothing behind for the next one. So a thread remembers the last few thousand places that it
//! read so: a range that begins where an earlier one began is being asked for again, one that begins where an earlier
//! one ended is the next step of a reader that goes on. Both are read through the page cache.
//!
//! Fixed tables of hashes, in sets of four, where the newest takes the place of the oldest: nothing grows, nothing is
//! allocated, and a place that is forgotten too early is only read from the disk once more.

use std::{cell::RefCell, hash::BuildHasher};

use hashbrown::DefaultHashBuilder;

/// Begins remembered by a thread: 64 KiB. So many cold ranges ago is "again"; a crawl through many files, or a working
/// set far larger than memory, does not push everything else out of the page cache.
const BEGINS: usize = 8192;

/// Ends remembered by a thread: 32 KiB. As many readers can go on at once.
const ENDS: usize = 2048;

/// Places that share a set.
const WAYS: usize = 4;

/// Ranges that begin in the same page are the same place. Coarser, and small ranges near each other would pass for one
/// that is asked for again: with 64 KiB, one in 20 random 4 KiB ranges of 8 GiB did.
const BLOCK_BYTES: u64 = 4096;

/// Store path and path id of a file.
type File = (usize, u64);

/// The places of one thread.
pub(super) struct Places {
    hasher: DefaultHashBuilder,
    begins: RefCell<Recent<()>>,
    ends: RefCell<Recent<u64>>,
}

impl Places {
    /// Empty tables.
    pub(super) fn new() -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            begins: RefCell::new(Recent::new(BEGINS)),
            ends: RefCell::new(Recent::new(ENDS)),
        }
    }

    /// Whether a range of `file` began here lately. Whoever is told so is the one that makes it hot: the next one is
    /// not told again.
    pub(super) fn began_here(&self, file: File, offset: u64) -> bool {
        let hash = self.hasher.hash_one((file, offset / BLOCK_BYTES));
        let mut begins = self.begins.borrow_mut();
        let again = begins.take(hash).is_some();
        if !again {
            begins.put(hash, ());
        }
        again
    }

    /// Whether a range of `file` ended here lately, and up to where it was read ahead then; 0: that one had not gone on
    /// from another. Told once.
    pub(super) fn ended_here(&self, file: File, offset: u64) -> Option<u64> {
        self.ends.borrow_mut().take(self.hasher.hash_one((file, offset)))
    }

    /// A range of `file` ends at `end`; the file was read ahead up to `ahead_to` for whoever goes on.
    pub(super) fn ends(&self, file: File, end: u64, ahead_to: u64) {
        self.ends.borrow_mut().put(self.hasher.hash_one((file, end)), ahead_to);
    }
}

/// A table of hashes with values; each set has its newest first.
struct Recent<V> {
    sets: Box<[[(u64, V); WAYS]]>,
}

impl<V: Copy + Default> Recent<V> {
    fn new(entries: usize) -> Self {
        Self { sets: vec![[(0, V::default()); WAYS]; entries / WAYS].into_boxed_slice() }
    }

    fn set(&mut self, hash: u64) -> &mut [(u64, V); WAYS] {
        // The last bits of the hash of a number that ends in zeros, as offsets do, are poor under some keys: a multiplication
        // brings all bits to the front. 2^64 divided by the golden ratio.
        let mixed = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let index = mixed as usize % self.sets.len();
        &mut self.sets[index]
    }

    fn take(&mut self, hash: u64) -> Option<V> {
        // 0 is an empty entry.
        let hash = hash.max(1);
        let entry = self.set(hash).iter_mut().find(|(other, _)| *other == hash)?;
        Some(std::mem::take(entry).1)
    }

    fn put(&mut self, hash: u64, value: V) {
        let hash = hash.max(1);
        let set = self.set(hash);
        // Over the same one, else an empty one, else the oldest.
        let is_free = |(other, _): &(u64, V)| *other == hash || *other == 0;
        let last = set.iter().position(is_free).unwrap_or(WAYS - 1);
        set[..=last].rotate_right(1);
        set[0] = (hash, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_remembered_once_and_by_its_file() {
        let places = Places::new();
        assert!(!places.began_here((0, 1), 100));
        assert!(!places.began_here((0, 2), 100));
        assert!(!places.began_here((1, 1), 100));
        assert!(places.began_here((0, 1), BLOCK_BYTES - 1), "the same block");
        assert!(!places.began_here((0, 1), 100), "told once, and remembered anew");
        assert!(places.began_here((0, 1), 0));
        assert_eq!(places.ended_here((0, 1), 100), None);
        places.ends((0, 1), 100, 700);
        assert_eq!(places.ended_here((0, 1), 101), None);
        places.ends((0, 1), 100, 800);
        assert_eq!(places.ended_here((0, 1), 100), Some(800));
        assert_eq!(places.ended_here((0, 1), 100), None);
    }

    #[test]
    fn a_crawl_pushes_out_what_is_old_and_nothing_grows() {
        let places = Places::new();
        assert!(!places.began_here((1, 0), 0));
        let again = (1..100_000_u64).filter(|file| places.began_here((0, *file), 0)).count();
        assert_eq!(again, 0);
        assert!(!places.began_here((1, 0), 0), "long forgotten");
    }

    /// A working set of half the table is found whole, whatever shares its sets with what.
    #[test]
    fn what_fits_well_is_found_again() {
        // Each with keys of its own.
        for _ in 0..50 {
            let places = Places::new();
            let pass =
                || (0..BEGINS as u64 / 4).filter(|at| places.began_here((0, 1), at << 20)).count();
            assert_eq!(pass(), 0);
            let found = pass();
            assert!(found > BEGINS / 4 * 9 / 10, "{found}");
        }
    }
}
