//! Reads a whole file for its checksum: through the page cache, or past it, where rot is.

use std::{
    fs::File,
    io,
    os::{
        fd::BorrowedFd,
        unix::fs::{FileExt as _, MetadataExt as _},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reel_proto::checksum::Crc64;

use crate::store::{inspect, sys};

/// Bytes of one read past the page cache; a multiple of every disk's blocks.
const READ: usize = 1 << 20;

/// Where such reads begin in memory.
const ALIGNMENT: usize = 4096;

/// Size and checksum of what is on the disk, which is in memory afterwards, for a reader who comes next. What was in memory
/// before may be what the disk has lost since, and is not asked.
pub(super) fn into_cache(file: &File) -> io::Result<(u64, u64)> {
    // Only what is clean is dropped.
    file.sync_all()?;
    sys::drop_cached(file);
    inspect::checksum(file, |_| {})
}

/// What a reading says that was stopped: the size of no file, so that nothing is known of it.
const STOPPED: (u64, u64) = (u64::MAX, 0);

/// Size and checksum of what is on the disk. `each` hears the bytes of each step and says whether to go on; if not, the size is
/// one that no file has, and the copy is as good as one that changes.
pub(super) fn from_disk(
    root: BorrowedFd<'_>,
    relative: &str,
    mut each: impl FnMut(u64) -> bool,
) -> io::Result<(u64, u64)> {
    let flags = libc::O_RDONLY | libc::O_NOATIME | libc::O_DIRECT;
    let file = match sys::open_at(root, relative, flags) {
        // A file system without such reads: what was dropped from memory comes from the disk, too.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let file = sys::open_to_read(root, relative)?;
            sys::drop_cached(&file);
            file
        }
        opened => opened?,
    };
    let mut memory = vec![0; READ + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    let buffer = &mut memory[start..start + READ];
    let (mut size, mut crc) = (0, Crc64::new());
    loop {
        let read = match file.read_at(buffer, size) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        crc.update(&buffer[..read]);
        size += read as u64;
        if !each(read as u64) {
            return Ok(STOPPED);
        }
        // Less than was asked for is the end: the next offset would be no multiple of a block.
        if read < READ {
            return Ok((size, crc.finish()));
        }
    }
}

/// Whether nothing of a file, its attributes included, has been changed for so long.
pub(super) fn is_at_rest(file: &File, rest: Duration) -> io::Result<bool> {
    let changed = u64::try_from(file.metadata()?.ctime()).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(now.as_secs().saturating_sub(changed) >= rest.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn both_ways_give_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let root = sys::open_folder(folder.path()).unwrap();
        for size in [0, 1, 4096, 4097, READ - 1, READ, READ + 1, 3 * READ + 5] {
            let bytes: Vec<u8> = (0..size).map(|at| (at * 7 + at / 255) as u8).collect();
            std::fs::write(folder.path().join("f"), &bytes).unwrap();
            let cached = into_cache(&File::open(folder.path().join("f")).unwrap()).unwrap();
            let mut heard = 0;
            let direct = from_disk(root.as_fd(), "f", |bytes| {
                heard += bytes;
                true
            });
            assert_eq!(direct.unwrap(), cached, "{size}");
            assert_eq!((cached.0, heard), (size as u64, size as u64));
        }
        assert_eq!(from_disk(root.as_fd(), "f", |_| false).unwrap(), STOPPED);
        assert!(from_disk(root.as_fd(), "none", |_| true).is_err());
    }
}
