//! The mark file: how far path ids of a store have been given, and which blocks of them this node holds.
//!
//! `.reel/marks/<node>.mark`, one for each node that mounts the store, so that no two write one file; the store's
//! mark is the highest of them. A store of one node has one, `local.mark`.
//!
//! ```text
//!  0  8  magic "REELMARK"
//!  8  2  version, 1
//! 10  2  number of held blocks n, at most 64
//! 12  4  zero
//! 16  8  mark: every id ever given is below it
//! 24 16n blocks: first id, one past the last id
//!  +  8  CRC-64/NVME of everything before it
//! ```

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use reel_proto::checksum::Crc64;

use super::{durable::NotDurable, sys};
use crate::ids::{END, HELD_MAX, MarkState};

/// Folder of the mark files, below the store's root.
pub(crate) const FOLDER: &str = ".reel/marks";

/// Name of this node's mark on a local store.
pub(crate) const LOCAL: &str = "local.mark";

const MAGIC: [u8; 8] = *b"REELMARK";
const VERSION: u16 = 1;
const FIXED_LEN: usize = 24;
const LEN_MAX: usize = FIXED_LEN + 16 * HELD_MAX + 8;

/// How often a file is looked for that its folder names, and the pause between: two seconds in all, of which a node that takes its
/// first blocks of ids needs a few milliseconds.
const READS_MAX: u32 = 100;
const READ_PAUSE: Duration = Duration::from_millis(20);

/// A mark file that cannot be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("damaged mark file")]
pub(crate) struct Damaged;

/// The bytes of a mark file.
pub(crate) fn encode(state: &MarkState) -> Vec<u8> {
    assert!(state.held.len() <= HELD_MAX, "the ledger admits no more");
    let mut out = Vec::with_capacity(LEN_MAX);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&(state.held.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&state.mark.to_be_bytes());
    for block in &state.held {
        out.extend_from_slice(&block.start.to_be_bytes());
        out.extend_from_slice(&block.end.to_be_bytes());
    }
    let crc = crc_of(&out);
    out.extend_from_slice(&crc.to_be_bytes());
    out
}

/// Reads a mark file back.
pub(crate) fn decode(bytes: &[u8]) -> Result<MarkState, Damaged> {
    if !(FIXED_LEN + 8..=LEN_MAX).contains(&bytes.len()) {
        return Err(Damaged);
    }
    let (body, crc) = bytes.split_at(bytes.len() - 8);
    if crc != crc_of(body).to_be_bytes()
        || body[..8] != MAGIC
        || body[8..10] != VERSION.to_be_bytes()
        || body[12..16] != [0; 4]
    {
        return Err(Damaged);
    }
    let count = usize::from(u16::from_be_bytes([body[10], body[11]]));
    if body.len() != FIXED_LEN + 16 * count {
        return Err(Damaged);
    }
    let mark = number(body, 16);
    let held: Vec<_> = (0..count)
        .map(|index| number(body, FIXED_LEN + 16 * index)..number(body, FIXED_LEN + 16 * index + 8))
        .collect();
    if mark > END || held.iter().any(|block| block.is_empty() || block.end > mark) {
        return Err(Damaged);
    }
    Ok(MarkState { mark, held })
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

fn crc_of(bytes: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(bytes);
    crc.finish()
}

/// What the mark files of a store say.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// By the name of the file.
    states: BTreeMap<String, MarkState>,
    /// Files that could not be believed.
    pub(crate) damaged: Vec<String>,
}

impl Marks {
    /// The store's mark: every id that was ever given is below.
    pub(crate) fn mark(&self) -> u64 {
        self.states.values().map(|state| state.mark).max().unwrap_or(0)
    }

    /// The blocks that the node with this mark file held.
    pub(crate) fn held_by(&self, name: &str) -> Vec<Range<u64>> {
        self.states.get(name).map(|state| state.held.clone()).unwrap_or_default()
    }

    /// The blocks that any node held.
    pub(crate) fn held(&self) -> Vec<Range<u64>> {
        self.states.values().flat_map(|state| state.held.iter().cloned()).collect()
    }

    /// Whether a node other than the one with this mark file holds an id of a block.
    pub(crate) fn is_anothers(&self, name: &str, block: &Range<u64>) -> bool {
        let others = self.states.iter().filter(|(other, _)| *other != name);
        let mut held = others.flat_map(|(_, state)| &state.held);
        held.any(|held| held.start < block.end && block.start < held.end)
    }
}

/// Reads all mark files below `root`.
pub(crate) fn read_all(root: BorrowedFd<'_>) -> io::Result<Marks> {
    let folder = sys::open_at(root, FOLDER, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let mut names = Vec::new();
    sys::names(folder.into(), |name| {
        if name.ends_with(".mark") {
            names.push(name.to_owned());
        }
    })?;
    let mut marks = Marks::default();
    for name in names {
        let bytes = read(root, &name)?;
        match decode(&bytes) {
            Ok(state) => drop(marks.states.insert(name, state)),
            Err(Damaged) => marks.damaged.push(name),
        }
    }
    Ok(marks)
}

/// The bytes of a mark file. On a volume another node may replace its own meanwhile: a mount finds neither the old nor the new
/// file for a moment then, where a local file system would find one of them.
fn read(root: BorrowedFd<'_>, name: &str) -> io::Result<Vec<u8>> {
    let read = || {
        let mut file = sys::open_at(root, &format!("{FOLDER}/{name}"), libc::O_RDONLY)?;
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(&mut file, LEN_MAX as u64 + 1), &mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    for _ in 1..READS_MAX {
        match read() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESTALE)) => {
                std::thread::sleep(READ_PAUSE);
            }
            done => return done,
        }
    }
    read()
}

/// Writes this node's mark file, durably: on return its ids may be used. The old file stands until the new one is
/// whole, so a crash in between leaves one of the two.
///
/// # Errors
/// See [`NotDurable`]; either of the two may be there then, and the ids may not be used.
pub(crate) fn write(root: BorrowedFd<'_>, name: &str, state: &MarkState) -> Result<(), NotDurable> {
    let (new, name) = (format!("{FOLDER}/{name}.new"), format!("{FOLDER}/{name}"));
    let mut file = sys::open_at(root, &new, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
        .map_err(NotDurable::Unasked)?;
    file.write_all(&encode(state)).map_err(NotDurable::Unasked)?;
    file.sync_all().map_err(NotDurable::Refused)?;
    sys::rename_at(root, &new, &name).map_err(NotDurable::Unasked)?;
    settle_name(root, &name)
}

/// Makes a name durable that a file has got: on a local file system the folder says so, on a mount the file.
///
/// # Errors
/// See [`NotDurable`].
pub(crate) fn settle_name(root: BorrowedFd<'_>, name: &str) -> Result<(), NotDurable> {
    let file = sys::open_at(root, name, libc::O_RDONLY).map_err(NotDurable::Unasked)?;
    file.sync_all().map_err(NotDurable::Refused)?;
    sync_folder(root, name.rsplit_once('/').map_or("", |(folder, _)| folder))
}

/// Makes the names in a folder durable. "" is the root itself.
///
/// # Errors
/// See [`NotDurable`]: the folder could not be opened, or its sync said no.
pub(crate) fn sync_folder(root: BorrowedFd<'_>, folder: &str) -> Result<(), NotDurable> {
    let name = if folder.is_empty() { "." } else { folder };
    let folder = sys::open_at(root.as_fd(), name, libc::O_RDONLY | libc::O_DIRECTORY)
        .map_err(NotDurable::Unasked)?;
    folder.sync_all().map_err(NotDurable::Refused)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    fn sample() -> MarkState {
        MarkState { mark: 3072, held: vec![1024..2048, 2048..3072] }
    }

    #[test]
    fn golden_bytes_and_every_flip() {
        let bytes = encode(&sample());
        assert_eq!(bytes.len(), 24 + 32 + 8);
        assert_eq!(
            &bytes[..24],
            b"REELMARK\x00\x01\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0c\x00"
        );
        assert_eq!(decode(&bytes), Ok(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped), Err(Damaged), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert_eq!(decode(&bytes[..len]), Err(Damaged), "length {len}");
        }
    }

    #[test]
    fn written_and_read_back() {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(place.path().join(FOLDER)).unwrap();
        let root = sys::open_folder(place.path()).unwrap();
        write(root.as_fd(), LOCAL, &sample()).unwrap();
        let marks = read_all(root.as_fd()).unwrap();
        assert_eq!((marks.mark(), marks.held_by(LOCAL)), (3072, sample().held));
        // Another node's mark counts, its blocks are not ours.
        let other = MarkState { mark: 9000, held: vec![8000..9000] };
        std::fs::write(place.path().join(FOLDER).join("other.mark"), encode(&other)).unwrap();
        std::fs::write(place.path().join(FOLDER).join("bad.mark"), b"nothing").unwrap();
        let marks = read_all(root.as_fd()).unwrap();
        assert_eq!((marks.mark(), marks.held_by(LOCAL)), (9000, sample().held));
        assert_eq!(marks.held(), [1024..2048, 2048..3072, 8000..9000]);
        for (block, anothers) in
            [(8999..9500, true), (7000..8001, true), (9000..9500, false), (1024..2048, false)]
        {
            assert_eq!(marks.is_anothers(LOCAL, &block), anothers, "{block:?}");
        }
        assert_eq!(marks.damaged, ["bad.mark"]);
    }
}
