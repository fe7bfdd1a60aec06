//! Walks the 512-way tree of a store: its leaf folders in the order of their path ids, and the files in each.

use std::{
    io,
    ops::{ControlFlow, Range},
    os::fd::BorrowedFd,
    time::SystemTime,
};

use reel_proto::path::PathId;

use super::sys;
use crate::ids::END;

/// Places of one folder, files or folders.
const WIDTH: u64 = 512;

/// A file in a leaf folder whose name is one of ours: `<T>_<d>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The number of its place.
    pub(crate) id: u64,
    /// The time in its name, seconds since 1970.
    pub(crate) time: u64,
    /// Its place below the store's root.
    pub(crate) relative: String,
}

/// A leaf folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Leaf {
    first: u64,
}

impl Leaf {
    /// The leaf folder that holds a path id.
    pub(crate) fn of(id: u64) -> Self {
        Self { first: id / WIDTH * WIDTH }
    }

    /// Every leaf folder that holds ids of a block.
    pub(crate) fn covering(block: &Range<u64>) -> impl Iterator<Item = Self> {
        (block.start / WIDTH..block.end.div_ceil(WIDTH)).map(|leaf| Self { first: leaf * WIDTH })
    }

    /// The first path id in it.
    pub(crate) const fn first(self) -> u64 {
        self.first
    }

    /// Its place below the store's root.
    pub(crate) fn folder(self) -> String {
        let digit = |power: u32| self.first / WIDTH.pow(power) % WIDTH;
        format!("{:03X}/{:03X}/{:03X}", digit(3), digit(2), digit(1))
    }

    /// When a name was last made or taken away in it; `None`: it is not there.
    pub(crate) fn changed(self, root: BorrowedFd<'_>) -> io::Result<Option<SystemTime>> {
        open(root, &self.folder())?.map(|folder| folder.metadata()?.modified()).transpose()
    }

    /// The files in it, by path id. Names that are not ours are not looked at: they are nobody's business here.
    /// A folder that is not there holds none.
    pub(crate) fn entries(self, root: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
        let folder = self.folder();
        let mut entries = Vec::new();
        let Some(opened) = open(root, &folder)? else { return Ok(entries) };
        sys::names(opened.into(), |name| {
            if let Ok((digit, time)) = PathId::parse_name(name) {
                let relative = format!("{folder}/{name}");
                entries.push(Entry { id: self.first + digit, time, relative });
            }
        })?;
        entries.sort_by_key(|entry| (entry.id, entry.time));
        Ok(entries)
    }
}

fn digit_of(name: &str) -> Option<u64> {
    if name.len() != 3 || !upper_hex(name) {
        return None;
    }
    u64::from_str_radix(name, 16).ok().filter(|digit| *digit < WIDTH)
}

fn upper_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte))
}

fn open(root: BorrowedFd<'_>, folder: &str) -> io::Result<Option<std::fs::File>> {
    let name = if folder.is_empty() { "." } else { folder };
    match sys::open_at(root, name, libc::O_RDONLY | libc::O_DIRECTORY) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn digits(root: BorrowedFd<'_>, folder: &str) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    if let Some(opened) = open(root, folder)? {
        sys::names(opened.into(), |name| found.extend(digit_of(name)))?;
    }
    found.sort_unstable();
    Ok(found)
}

/// Calls `each` with every leaf folder, in the order of path ids, until it breaks.
pub(crate) fn leaves(
    root: BorrowedFd<'_>,
    mut each: impl FnMut(Leaf) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    leaves_and_gaps(root, |found| each(found.map_err(|gap| gap.error)?))
}

/// A folder above leaf folders that cannot be listed: what is below it is not seen.
pub(crate) struct Gap {
    /// The first path id below it.
    pub(crate) first: u64,
    /// Its place below the store's root.
    pub(crate) folder: String,
    /// What the system said.
    pub(crate) error: io::Error,
}

/// As [`leaves`], for those who go on behind a folder that cannot be listed.
pub(crate) fn leaves_and_gaps(
    root: BorrowedFd<'_>,
    mut each: impl FnMut(Result<Leaf, Gap>) -> io::Result<ControlFlow<()>>,
) -> io::Result<()> {
    below(root, "", 0, 3, &mut each).map(drop)
}

/// The leaf folders below a folder that is so many levels above them.
fn below(
    root: BorrowedFd<'_>,
    folder: &str,
    first: u64,
    levels: u32,
    each: &mut dyn FnMut(Result<Leaf, Gap>) -> io::Result<ControlFlow<()>>,
) -> io::Result<ControlFlow<()>> {
    if levels == 0 {
        return each(Ok(Leaf { first }));
    }
    let digits = match digits(root, folder) {
        Ok(digits) => digits,
        // Nothing at all is seen of the store.
        Err(error) if folder.is_empty() => return Err(error),
        Err(error) => return each(Err(Gap { first, folder: folder.to_owned(), error })),
    };
    for digit in digits {
        let between = if folder.is_empty() { "" } else { "/" };
        let name = format!("{folder}{between}{digit:03X}");
        let first = first + digit * WIDTH.pow(levels);
        if below(root, &name, first, levels - 1, each)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The leaf folders in the newest folders above them, so many of those, the newest first.
pub(crate) fn newest(root: BorrowedFd<'_>, folders: usize) -> io::Result<Vec<Leaf>> {
    let (mut found, mut seen) = (Vec::new(), 0);
    for high in digits(root, "")?.into_iter().rev() {
        for middle in digits(root, &format!("{high:03X}"))?.into_iter().rev() {
            let first = high * WIDTH.pow(3) + middle * WIDTH.pow(2);
            let low = digits(root, &format!("{high:03X}/{middle:03X}"))?;
            found.extend(low.into_iter().rev().map(|low| Leaf { first: first + low * WIDTH }));
            seen += 1;
            if seen == folders {
                return Ok(found);
            }
        }
    }
    Ok(found)
}

/// A bound that no path id on the disk reaches: one past the highest. It costs four folder reads, whatever the
/// size of the store, and stands in for a mark file that is lost.
pub(crate) fn past_highest(root: BorrowedFd<'_>) -> io::Result<u64> {
    let mut folder = String::new();
    let mut first = 0;
    let mut any = false;
    for power in [3, 2, 1] {
        let Some(highest) = digits(root, &folder)?.pop() else { break };
        any = true;
        first += highest * WIDTH.pow(power);
        if !folder.is_empty() {
            folder.push('/');
        }
        folder.push_str(&format!("{highest:03X}"));
    }
    if !any {
        return Ok(0);
    }
    // A folder without files was made for an id that was given: the bound is past its first.
    let last = Leaf::of(first).entries(root)?.last().map_or(first, |entry| entry.id);
    Ok((last + 1).min(END))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{fs, os::fd::AsFd};

    use super::*;

    #[test]
    fn the_highest_id_and_the_order_of_leaves() {
        let place = tempfile::tempdir().unwrap();
        let root = sys::open_folder(place.path()).unwrap();
        assert_eq!(past_highest(root.as_fd()).unwrap(), 0);
        for (folder, name) in [
            ("000/000/000", "5_1FF"),
            ("000/001/000", "5_000"),
            ("000/001/000", "7_003"),
            ("000/001/000", "stranger"),
        ] {
            fs::create_dir_all(place.path().join(folder)).unwrap();
            fs::write(place.path().join(folder).join(name), b"").unwrap();
        }
        assert_eq!(past_highest(root.as_fd()).unwrap(), 262_144 + 4);
        let newest = |folders| newest(root.as_fd(), folders).unwrap();
        assert_eq!(newest(1), [Leaf::of(262_144)]);
        assert_eq!(newest(2), [Leaf::of(262_144), Leaf::of(0)]);
        assert_eq!(newest(3), newest(2));
        let mut ids = Vec::new();
        leaves(root.as_fd(), |leaf| {
            ids.extend(leaf.entries(root.as_fd())?.into_iter().map(|entry| entry.id));
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(ids, [511, 262_144, 262_147]);
        fs::create_dir_all(place.path().join("001/000/000")).unwrap();
        assert_eq!(past_highest(root.as_fd()).unwrap(), 134_217_728 + 1);
    }

    #[test]
    fn what_lies_behind_a_folder_that_cannot_be_listed_is_seen() {
        let place = tempfile::tempdir().unwrap();
        let root = sys::open_folder(place.path()).unwrap();
        for folder in ["000/000/000", "000/001", "001/002/003"] {
            fs::create_dir_all(place.path().join(folder)).unwrap();
        }
        fs::write(place.path().join("000/001/004"), b"no folder").unwrap();
        fs::write(place.path().join("000/002"), b"no folder").unwrap();
        let mut seen = Vec::new();
        leaves_and_gaps(root.as_fd(), |found| {
            seen.push(match found {
                Ok(leaf) => (leaf.folder(), leaf.first()),
                Err(gap) => (gap.folder, gap.first),
            });
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        let expected = [
            ("000/000/000", 0),
            ("000/001/004", 262_144 + 4 * 512),
            ("000/002", 2 * 262_144),
            ("001/002/003", 134_217_728 + 2 * 262_144 + 3 * 512),
        ];
        assert_eq!(seen, expected.map(|(folder, first)| (folder.to_owned(), first)));
        assert!(leaves(root.as_fd(), |_| Ok(ControlFlow::Continue(()))).is_err());
    }

    #[test]
    fn leaves_of_a_block() {
        let folders =
            |block: Range<u64>| Leaf::covering(&block).map(Leaf::folder).collect::<Vec<_>>();
        assert_eq!(folders(0..512), ["000/000/000"]);
        assert_eq!(folders(511..513), ["000/000/000", "000/000/001"]);
        assert_eq!(folders(END - 1..END), ["1FF/1FF/1FF"]);
    }
}
