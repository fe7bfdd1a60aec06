//! The table by which a delete, restore or purge reaches every cache of the node at once: one of this node, and one of
//! another node that the change log tells of.
//!
//! A cache reads the epoch of a file **before** it looks the file up, keeps it with the entry, and drops the entry
//! when the epoch has moved. Whoever changes a file bumps its epoch after the row's commit and before the reply: a
//! new row too, since an older upload that ends later takes over an id that two tables hold.
//! So a lookup that began before the commit is dropped at its next use, and one that began after it saw the change.

use std::sync::atomic::{AtomicU64, Ordering};

use reel_proto::name::FileId;

/// 512 KiB in all. Two files that share a bucket cost each other one lookup when one of them is deleted.
const BUCKETS: usize = 1 << 16;

/// One counter for each bucket of file ids.
pub(crate) struct Epochs {
    buckets: Box<[AtomicU64]>,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }

    pub(crate) fn get(&self, file: &FileId) -> u64 {
        self.bucket(file.as_str()).load(Ordering::Acquire)
    }

    pub(crate) fn bump(&self, file: &str) {
        self.bucket(file).fetch_add(1, Ordering::AcqRel);
    }

    /// Anything may have changed.
    pub(crate) fn bump_all(&self) {
        for bucket in &self.buckets {
            bucket.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn bucket(&self, file: &str) -> &AtomicU64 {
        // FNV-1a: a few nanoseconds, no key, and nobody gains by choosing file ids that share a bucket. Mixed once more at
        // the end: its last byte moves few bits, and ids that are counted up would share theirs.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in file.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.buckets[(hash >> 32) as usize % BUCKETS]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_counted_up_share_no_bucket() {
        let epochs = Epochs::new();
        for index in 0..1000 {
            epochs.bump(&format!("65f1560c0a1b2c0123456789abcdef{index:04}"));
        }
        let used = epochs.buckets.iter().filter(|bucket| bucket.load(Ordering::Relaxed) > 0);
        let used = used.count();
        assert!(used > 980, "{used} of 1000");
    }

    #[test]
    fn a_bump_is_seen_and_others_stay() {
        let epochs = Epochs::new();
        let (one, other) = (FileId::parse("one").unwrap(), FileId::parse("other").unwrap());
        let before = (epochs.get(&one), epochs.get(&other));
        epochs.bump(one.as_str());
        assert_eq!((epochs.get(&one), epochs.get(&other)), (before.0 + 1, before.1));
        epochs.bump_all();
        assert_eq!((epochs.get(&one), epochs.get(&other)), (before.0 + 2, before.1 + 1));
    }
}
