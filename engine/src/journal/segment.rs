//! The files of the journal: segments of fixed length, filled with zeros before their first use, and the state file.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, RawFd},
        unix::fs::{FileExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use reel_proto::checksum::Crc64;

use super::{
    aligned::Aligned,
    format::{BLOCK, Damaged, SegmentHeader, read_segment_header, segment_header},
};
use crate::store::sys;

/// Bytes of zeros written at a time.
const FILL_BYTES: usize = 1 << 20;

/// The name of a segment that is being made; one at a time is.
const PART: &str = "segment.new";

const STATE_MAGIC: [u8; 8] = *b"REELJSTA";
const STATE_LEN: usize = 24;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    path: PathBuf,
    /// To be read by. What is written goes past its page cache where that can be.
    file: File,
    /// To be written by, each write durable when it ends; opened with the first use.
    synced: Option<File>,
    number: u32,
}

impl Segment {
    /// Makes a segment of `bytes`, durably. Its zeros are written and not only reserved: a write over a reserved block
    /// changes the file system's own records, and each sync would have to write those too. It has its name only once it
    /// is whole: what a crash leaves of one is no segment, and is overwritten by the next.
    pub(super) fn create(folder: &Path, number: u32, bytes: u64) -> io::Result<Self> {
        let (part, path) = (folder.join(PART), folder.join(name(number)));
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(&part)?;
        let is_free = || match path.try_exists()? {
            // Never over one that holds what nothing else does.
            true => Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            false => Ok(()),
        };
        let made = fill(&mut file, bytes)
            .and_then(|()| is_free())
            .and_then(|()| std::fs::rename(&part, &path))
            .and_then(|()| sync_folder(folder));
        if let Err(error) = made {
            // A part of a segment is of no use, and its space is wanted elsewhere now.
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
        // Writes go past the page cache, and would have to throw these pages out one by one.
        sys::drop_cached(&file);
        Ok(Self { path, file, synced: None, number })
    }

    /// Opens a segment that is there.
    pub(super) fn open(path: &Path, number: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { path: path.to_owned(), file, synced: None, number })
    }

    /// Gives its space back. What is in it must be needed no more.
    pub(super) fn remove(self) -> io::Result<()> {
        std::fs::remove_file(self.path)
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Bytes it has.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Its header; `None` where it was never used.
    pub(super) fn header(&self) -> io::Result<Result<Option<SegmentHeader>, Damaged>> {
        let mut block = vec![0; BLOCK as usize];
        match self.file.read_exact_at(&mut block, 0) {
            Ok(()) => Ok(read_segment_header(&block)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Ok(Err(Damaged("segment")))
            }
            Err(error) => Err(error),
        }
    }

    /// Reads up to `len` bytes from `offset`; fewer at the segment's end.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let mut filled = 0;
        while filled < len {
            match self.file.read_at(&mut bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Begins a use of it. On return the header is durable: what was written in an earlier use counts no more.
    pub(super) fn begin(&mut self, header: &SegmentHeader) -> io::Result<()> {
        let mut block = Aligned::default();
        block.extend(&segment_header(header));
        if self.synced.is_none() {
            // A file system may open a file so and refuse the first write.
            let direct = self
                .open_synced(libc::O_DIRECT)
                .and_then(|file| file.write_all_at(&block, 0).map(|()| file));
            match direct {
                Ok(file) => {
                    self.synced = Some(file);
                    return Ok(());
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
            self.synced = Some(self.open_synced(0)?);
        }
        self.write(0, &block)
    }

    fn open_synced(&self, flags: i32) -> io::Result<File> {
        OpenOptions::new().write(true).custom_flags(libc::O_DSYNC | flags).open(&self.path)
    }

    /// Writes whole blocks at a multiple of a block; durable on return.
    pub(super) fn write(&self, at: u64, bytes: &Aligned) -> io::Result<()> {
        self.synced()?.write_all_at(bytes, at)
    }

    /// The descriptor whose writes are durable when they end. It is the segment's own for as long as that is.
    pub(super) fn synced_fd(&self) -> io::Result<RawFd> {
        Ok(self.synced()?.as_raw_fd())
    }

    fn synced(&self) -> io::Result<&File> {
        self.synced.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

fn fill(file: &mut File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; FILL_BYTES];
    let mut left = bytes;
    while left > 0 {
        let some = usize::try_from(left).unwrap_or(usize::MAX).min(FILL_BYTES);
        file.write_all(&zeros[..some])?;
        left -= some as u64;
    }
    file.sync_all()
}

/// The file name of a segment.
fn name(number: u32) -> String {
    format!("{number:08}.segment")
}

/// The segments of a folder, by number.
pub(super) fn list(folder: &Path) -> io::Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".segment"))
            .filter(|digits| digits.len() == 8)
            .and_then(|digits| digits.parse().ok());
        if let Some(number) = number {
            found.push((number, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Reads up to which entry everything lies durably in its place; `None` where that was never written.
pub(super) fn read_state(folder: &Path) -> io::Result<Option<u64>> {
    let mut bytes = Vec::new();
    match File::open(folder.join("state")) {
        Ok(file) => file.take(STATE_LEN as u64 + 1).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "damaged state of the journal");
    let (body, crc) = bytes.split_at_checked(STATE_LEN - 8).ok_or_else(damaged)?;
    let (magic, number) = body.split_at(8);
    let number: [u8; 8] = number.try_into().map_err(|_| damaged())?;
    if magic != STATE_MAGIC || crc != Crc64::of(body).to_be_bytes() {
        return Err(damaged());
    }
    Ok(Some(u64::from_be_bytes(number)))
}

/// Writes it, durably; the old one stands until the new one is whole.
pub(super) fn write_state(folder: &Path, recycled: u64) -> io::Result<()> {
    let mut bytes = STATE_MAGIC.to_vec();
    bytes.extend_from_slice(&recycled.to_be_bytes());
    let crc = Crc64::of(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    let new = folder.join("state.new");
    let mut file = File::create(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, folder.join("state"))?;
    sync_folder(folder)
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_filled_begun_and_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(folder.path(), 7, 4 * BLOCK).unwrap();
        assert_eq!(segment.len().unwrap(), 4 * BLOCK);
        assert_eq!(segment.header().unwrap().unwrap(), None);
        let header = SegmentHeader::new(3, 9, 4);
        segment.begin(&header).unwrap();
        for (block, text) in [(1, b"one"), (2, b"two")] {
            let mut bytes = Aligned::default();
            bytes.extend(text);
            bytes.pad();
            segment.write(block * BLOCK, &bytes).unwrap();
        }
        let (number, path) = list(folder.path()).unwrap().remove(0);
        let again = Segment::open(&path, number).unwrap();
        assert_eq!((again.number(), again.header().unwrap().unwrap()), (7, Some(header)));
        assert_eq!(again.read(BLOCK, 3).unwrap(), b"one");
        assert_eq!(again.read(2 * BLOCK, 4).unwrap(), b"two\0");
        assert_eq!(again.len().unwrap(), 4 * BLOCK);
    }

    #[test]
    fn a_segment_is_never_made_over_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut segment = Segment::create(folder.path(), 7, 4 * BLOCK).unwrap();
        let header = SegmentHeader::new(3, 9, 4);
        segment.begin(&header).unwrap();
        let refused = Segment::create(folder.path(), 7, 4 * BLOCK).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(segment.header().unwrap().unwrap(), Some(header));
        assert_eq!(list(folder.path()).unwrap().len(), 1);
    }

    #[test]
    fn what_a_crash_leaves_of_a_segment_that_was_being_made_is_none() {
        let folder = tempfile::tempdir().unwrap();
        for len in [0, 100, BLOCK, 9 * BLOCK] {
            std::fs::write(folder.path().join(PART), vec![7; len as usize]).unwrap();
            assert_eq!(list(folder.path()).unwrap(), []);
            let segment = Segment::create(folder.path(), 7, 4 * BLOCK).unwrap();
            assert_eq!(segment.len().unwrap(), 4 * BLOCK);
            assert_eq!(segment.header().unwrap().unwrap(), None);
            assert_eq!(segment.read(0, 9 * BLOCK as usize).unwrap(), vec![0; 4 * BLOCK as usize]);
            segment.remove().unwrap();
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn the_state_is_the_last_one_written_or_damaged() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read_state(folder.path()).unwrap(), None);
        write_state(folder.path(), 1).unwrap();
        write_state(folder.path(), 77).unwrap();
        assert_eq!(read_state(folder.path()).unwrap(), Some(77));
        let path = folder.path().join("state");
        let sound = std::fs::read(&path).unwrap();
        for bit in 0..sound.len() * 8 {
            let mut flipped = sound.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, flipped).unwrap();
            assert!(read_state(folder.path()).is_err(), "bit {bit}");
        }
        for len in 0..sound.len() {
            std::fs::write(&path, &sound[..len]).unwrap();
            assert!(read_state(folder.path()).is_err(), "length {len}");
        }
    }
}
