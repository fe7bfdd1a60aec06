//! Which files of a brick were checked, as they were then: one entry for each path id, in a file of the node's own.
//!
//! ```text
//!  0   8  magic "REELCHK1"
//!  8  36  uuid of the store
//! 4096 + 32 × path id:
//!     0  8  inode
//!     8  8  size
//!    16  8  time of change of the content (mtime), nanoseconds since 1970, signed
//!    24  8  CRC-64/NVME of uuid, path id and the 24 bytes before
//! ```
//!
//! All numbers are big-endian. The file is sparse; what was never checked is a hole. Nothing is synced: an entry that is lost
//! costs one reading of its file, and one that is torn, of another store or at another place does not have its checksum.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{fd::AsRawFd as _, unix::fs::FileExt as _, unix::fs::MetadataExt as _},
    path::Path,
};

use reel_proto::checksum::Crc64;

const MAGIC: &[u8; 8] = b"REELCHK1";
const HEAD_BYTES: u64 = 4096;
const ENTRY_BYTES: usize = 32;
const BOUND_BYTES: usize = 24;

/// What a check is bound to: a copy that has the same three is the copy that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bound {
    inode: u64,
    pub(super) size: u64,
    changed_ns: i64,
}

impl Bound {
    /// Of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let seen = file.metadata()?;
        let changed_ns =
            seen.mtime().saturating_mul(1_000_000_000).saturating_add(seen.mtime_nsec());
        Ok(Self { inode: seen.ino(), size: seen.size(), changed_ns })
    }

    fn encode(self) -> [u8; BOUND_BYTES] {
        let mut bytes = [0; BOUND_BYTES];
        bytes[..8].copy_from_slice(&self.inode.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_be_bytes());
        bytes[16..].copy_from_slice(&self.changed_ns.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8; BOUND_BYTES]) -> Self {
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            eight
        };
        Self {
            inode: u64::from_be_bytes(number(0)),
            size: u64::from_be_bytes(number(8)),
            changed_ns: i64::from_be_bytes(number(16)),
        }
    }
}

/// See the module.
pub(super) struct Checks {
    file: File,
    /// The checksum of the uuid, with which those of all entries begin.
    seed: Crc64,
}

impl Checks {
    /// Opens the file of a store, or makes one. One of another store is begun anew.
    pub(super) fn open(folder: &Path, uuid: &str) -> io::Result<Self> {
        let path = folder.join("checks");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut head = [0; HEAD_BYTES as usize];
        head[..8].copy_from_slice(MAGIC);
        let uuid_bytes = &uuid.as_bytes()[..uuid.len().min(36)];
        head[8..8 + uuid_bytes.len()].copy_from_slice(uuid_bytes);
        let mut found = [0; HEAD_BYTES as usize];
        if file.read_exact_at(&mut found, 0).is_err() || found != head {
            file.set_len(0)?;
            file.write_all_at(&head, 0)?;
        }
        let mut seed = Crc64::new();
        seed.update(uuid.as_bytes());
        Ok(Self { file, seed })
    }

    /// What the copy of this path id was when it was found to be good. `None`: it never was.
    pub(super) fn get(&self, id: u64) -> Option<Bound> {
        let mut entry = [0; ENTRY_BYTES];
        self.file.read_exact_at(&mut entry, place(id)).ok()?;
        self.bound(id, &entry)
    }

    /// As [`Self::get`], if the entry is in memory.
    pub(super) fn at_once(&self, id: u64) -> Option<Bound> {
        let mut entry = [0_u8; ENTRY_BYTES];
        let to = libc::iovec { iov_base: entry.as_mut_ptr().cast(), iov_len: ENTRY_BYTES };
        let offset = libc::off64_t::try_from(place(id)).ok()?;
        let fd = self.file.as_raw_fd();
        // SAFETY: `to` describes `entry`, which is writable and outlives the call; the descriptor is open.
        let read = unsafe { libc::preadv2(fd, &raw const to, 1, offset, libc::RWF_NOWAIT) };
        (read == ENTRY_BYTES as isize).then(|| self.bound(id, &entry))?
    }

    /// Notes that a copy is good.
    pub(super) fn put(&self, id: u64, bound: Bound) -> io::Result<()> {
        let bytes = bound.encode();
        let mut entry = [0; ENTRY_BYTES];
        entry[..BOUND_BYTES].copy_from_slice(&bytes);
        entry[BOUND_BYTES..].copy_from_slice(&self.sum(id, &bytes).to_be_bytes());
        self.file.write_all_at(&entry, place(id))
    }

    /// Forgets that it was.
    pub(super) fn forget(&self, id: u64) -> io::Result<()> {
        if self.get(id).is_none() {
            return Ok(());
        }
        self.file.write_all_at(&[0; ENTRY_BYTES], place(id))
    }

    fn bound(&self, id: u64, entry: &[u8; ENTRY_BYTES]) -> Option<Bound> {
        let (bytes, sum) = entry.split_first_chunk::<BOUND_BYTES>()?;
        (sum == self.sum(id, bytes).to_be_bytes()).then(|| Bound::decode(bytes))
    }

    fn sum(&self, id: u64, bytes: &[u8; BOUND_BYTES]) -> u64 {
        let mut sum = self.seed.clone();
        sum.update(&id.to_be_bytes());
        sum.update(bytes);
        sum.finish()
    }
}

const fn place(id: u64) -> u64 {
    HEAD_BYTES + id * ENTRY_BYTES as u64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bound(number: u64) -> Bound {
        Bound { inode: number, size: number * 10, changed_ns: -5 + number as i64 }
    }

    #[test]
    fn what_was_checked_is_known_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let checks = Checks::open(folder.path(), "a").unwrap();
        for id in [0, 1, 511, 512, 68_719_476_735] {
            assert_eq!(checks.get(id), None);
            checks.put(id, bound(id + 1)).unwrap();
            assert_eq!(checks.get(id), Some(bound(id + 1)));
            assert_eq!(checks.at_once(id), Some(bound(id + 1)));
        }
        checks.forget(511).unwrap();
        drop(checks);
        let checks = Checks::open(folder.path(), "a").unwrap();
        assert_eq!((checks.get(511), checks.get(512)), (None, Some(bound(513))));
        assert_eq!(checks.at_once(511), None);
        let of_another = Checks::open(folder.path(), "b").unwrap();
        assert_eq!(of_another.get(512), None);
        assert!(folder.path().join("checks").metadata().unwrap().blocks() < 100, "sparse");
    }

    #[test]
    fn an_entry_that_is_torn_or_elsewhere_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let checks = Checks::open(folder.path(), "a").unwrap();
        checks.put(7, bound(1)).unwrap();
        let mut entry = [0; ENTRY_BYTES];
        checks.file.read_exact_at(&mut entry, place(7)).unwrap();
        checks.file.write_all_at(&entry, place(8)).unwrap();
        assert_eq!(checks.get(8), None, "of another file");
        for at in 0..ENTRY_BYTES {
            let mut torn = entry;
            torn[at] ^= 1;
            checks.file.write_all_at(&torn, place(7)).unwrap();
            assert_eq!(checks.get(7), None, "{at}");
        }
    }
}
