//! The least-recently-used table under both caches of a data thread: records of files, and their open descriptors.
//!
//! Each data thread has its own, so nothing here locks. The bound is a sum of costs (bytes for records, one for a
//! descriptor): memory follows the configuration, never the number of files or the load.
//!
//! An entry is one slot of a vector plus one `u32` in a hash table; the order of use is a doubly linked list of slot
//! numbers inside the slots. That costs 32 bytes an entry beside the value, where a map of boxed nodes costs 80.

use hashbrown::HashTable;

/// The slot number that means "none".
const NONE: u32 = u32::MAX;

/// One entry: its value and its place in the order of use.
struct Slot<V> {
    /// `None` while the slot is on the free list.
    value: Option<V>,
    hash: u64,
    cost: u32,
    newer: u32,
    /// The next older entry; on the free list, the next free slot.
    older: u32,
}

/// A bounded table in order of use. Keys live inside the values: the caller brings a hash and an equality.
pub(crate) struct Lru<V> {
    index: HashTable<u32>,
    slots: Vec<Slot<V>>,
    free: u32,
    newest: u32,
    oldest: u32,
    cost: usize,
    cost_max: usize,
    /// Where [`Lru::sweep`] goes on.
    cursor: usize,
}

impl<V> Lru<V> {
    /// What an entry costs beside its value and what the value owns on the heap, in bytes: the slot's own fields and
    /// the share of the hash table (4 bytes and 1 control byte at a load of at least 7/16).
    pub(crate) const OVERHEAD_BYTES: usize = size_of::<Slot<V>>() - size_of::<V>() + 12;

    /// A table whose entries together cost at most `cost_max`.
    pub(crate) fn new(cost_max: usize) -> Self {
        Self {
            index: HashTable::new(),
            slots: Vec::new(),
            free: NONE,
            newest: NONE,
            oldest: NONE,
            cost: 0,
            cost_max,
            cursor: 0,
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// The sum of the entries' costs.
    #[cfg(test)]
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// The entry of this key, which becomes the newest.
    pub(crate) fn get(&mut self, hash: u64, is_key: impl Fn(&V) -> bool) -> Option<&V> {
        let slot = self.find(hash, is_key)?;
        if self.newest != slot {
            self.unlink(slot);
            self.link_newest(slot);
        }
        self.slots[slot as usize].value.as_ref()
    }

    /// Puts an entry in as the newest, in place of one with the same key; evicts the oldest until the sum of costs
    /// fits. An entry that alone costs more than the bound is not kept.
    pub(crate) fn insert(&mut self, hash: u64, value: V, cost: u32, is_key: impl Fn(&V) -> bool) {
        self.remove(hash, is_key);
        if cost as usize > self.cost_max {
            return;
        }
        while self.cost + cost as usize > self.cost_max {
            let oldest = self.oldest;
            self.take(oldest);
        }
        let entry = Slot { value: Some(value), hash, cost, newer: NONE, older: NONE };
        let slot = if self.free == NONE {
            self.slots.push(entry);
            (self.slots.len() - 1) as u32
        } else {
            let slot = self.free;
            self.free = self.slots[slot as usize].older;
            self.slots[slot as usize] = entry;
            slot
        };
        self.link_newest(slot);
        self.cost += cost as usize;
        let slots = &self.slots;
        self.index.insert_unique(hash, slot, |&other| slots[other as usize].hash);
    }

    /// Takes the entry out that was not used for the longest time.
    pub(crate) fn remove_oldest(&mut self) -> Option<V> {
        self.take(self.oldest)
    }

    /// Takes the entry of this key out.
    pub(crate) fn remove(&mut self, hash: u64, is_key: impl Fn(&V) -> bool) -> Option<V> {
        let slot = self.find(hash, is_key)?;
        self.take(slot)
    }

    /// Looks at the next `count` slots, in turns around the table, and takes out those that are not to be kept.
    /// Returns how many went. It does not touch the order of use.
    pub(crate) fn sweep(&mut self, count: usize, keep: impl Fn(&V) -> bool) -> usize {
        let mut gone = 0;
        for _ in 0..count.min(self.slots.len()) {
            if self.cursor >= self.slots.len() {
                self.cursor = 0;
            }
            let slot = self.cursor;
            self.cursor += 1;
            if self.slots[slot].value.as_ref().is_some_and(|value| !keep(value)) {
                self.take(slot as u32);
                gone += 1;
            }
        }
        gone
    }

    fn find(&self, hash: u64, is_key: impl Fn(&V) -> bool) -> Option<u32> {
        self.index
            .find(hash, |&slot| {
                let slot = &self.slots[slot as usize];
                slot.hash == hash && slot.value.as_ref().is_some_and(&is_key)
            })
            .copied()
    }

    /// Takes a slot out of the index and of the order, and puts it on the free list.
    fn take(&mut self, slot: u32) -> Option<V> {
        let hash = self.slots.get(slot as usize)?.hash;
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
        self.unlink(slot);
        let entry = &mut self.slots[slot as usize];
        let value = entry.value.take();
        entry.older = self.free;
        self.cost -= entry.cost as usize;
        self.free = slot;
        value
    }

    fn unlink(&mut self, slot: u32) {
        let (newer, older) = {
            let entry = &self.slots[slot as usize];
            (entry.newer, entry.older)
        };
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let older = self.newest;
        let entry = &mut self.slots[slot as usize];
        entry.newer = NONE;
        entry.older = older;
        match older {
            NONE => self.oldest = slot,
            older => self.slots[older as usize].newer = slot,
        }
        self.newest = slot;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(lru: &mut Lru<u64>, key: u64, cost: u32) {
        lru.insert(key % 7, key, cost, |other| *other == key);
    }

    fn has(lru: &mut Lru<u64>, key: u64) -> bool {
        lru.get(key % 7, |other| *other == key).is_some()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(3);
        for key in 0..3 {
            put(&mut lru, key, 1);
        }
        assert!(has(&mut lru, 0));
        put(&mut lru, 3, 1);
        assert!(!has(&mut lru, 1));
        assert!(has(&mut lru, 0) && has(&mut lru, 2) && has(&mut lru, 3));
        assert_eq!((lru.len(), lru.cost()), (3, 3));
    }

    #[test]
    fn what_costs_more_than_the_bound_is_not_kept() {
        let mut lru = Lru::new(10);
        put(&mut lru, 1, 10);
        put(&mut lru, 2, 11);
        assert!(has(&mut lru, 1));
        assert!(!has(&mut lru, 2));
        put(&mut lru, 1, 11);
        assert!(!has(&mut lru, 1), "an entry that grew past the bound must not leave the old one");
    }

    #[test]
    fn a_sweep_goes_around_and_takes_what_is_not_kept() {
        let mut lru = Lru::new(100);
        for key in 0..10 {
            put(&mut lru, key, 1);
        }
        assert_eq!(lru.sweep(5, |key| key % 2 == 0), 2);
        assert_eq!(lru.sweep(5, |key| key % 2 == 0), 3);
        assert_eq!(lru.len(), 5);
        assert_eq!(lru.sweep(50, |_| true), 0);
    }

    proptest! {
        /// Against a plain list in order of use.
        #[test]
        fn as_a_list_in_order_of_use(
            steps in proptest::collection::vec((0u8..4, 0u64..40, 1u32..6), 1..400)
        ) {
            let mut lru = Lru::new(24);
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (kind, key, cost) in steps {
                match kind {
                    0 | 1 => {
                        put(&mut lru, key, cost);
                        model.retain(|(other, _)| *other != key);
                        while model.iter().map(|(_, cost)| cost).sum::<u32>() + cost > 24 {
                            model.remove(0);
                        }
                        model.push((key, cost));
                    }
                    2 => {
                        let there = model.iter().position(|(other, _)| *other == key);
                        prop_assert_eq!(has(&mut lru, key), there.is_some());
                        if let Some(there) = there {
                            let entry = model.remove(there);
                            model.push(entry);
                        }
                    }
                    _ => {
                        let there = model.iter().position(|(other, _)| *other == key);
                        let gone = lru.remove(key % 7, |other| *other == key);
                        prop_assert_eq!(gone.is_some(), there.is_some());
                        if let Some(there) = there {
                            model.remove(there);
                        }
                    }
                }
                let cost: u32 = model.iter().map(|(_, cost)| cost).sum();
                prop_assert_eq!(lru.cost(), cost as usize);
                prop_assert_eq!(lru.len(), model.len());
            }
        }
    }
}
