//! The files of the journal: segments of fixed length, filled with zeros before their first use, and the state file.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use reel_proto::checksum::Crc64;

use super::format::{BLOCK, Damaged, SegmentHeader, read_segment_header, segment_header};

/// Bytes of zeros written at a time.
const FILL_BYTES: usize = 1 << 20;

/// Slices of one writev: the kernel's limit.
const SLICES_MAX: usize = 1024;

/// The name of a segment that is being made; one at a time is.
const PART: &str = "segment.new";

const STATE_MAGIC: [u8; 8] = *b"REELJSTA";
const STATE_LEN: usize = 24;

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    file: File,
    number: u32,
}

impl Segment {
    /// Makes a segment of `bytes`, durably. Its zeros are written and not only reserved: a write over a reserved block
    /// changes the file system's own records, and each sync would have to write those too. It has its name only once it
    /// is whole: what a crash leaves of one is no segment, and is overwritten by the next.
    pub(super) fn create(folder: &Path, number: u32, bytes: u64) -> io::Result<Self> {
        let part = folder.join(PART);
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).open(&part)?;
        let made = fill(&mut file, bytes)
            .and_then(|()| std::fs::rename(&part, folder.join(name(number))))
            .and_then(|()| sync_folder(folder));
        if let Err(error) = made {
            // A part of a segment is of no use, and its space is wanted elsewhere now.
            let _ = std::fs::remove_file(&part);
            return Err(error);
        }
        Ok(Self { file, number })
    }

    /// Opens a segment that is there.
    pub(super) fn open(path: &Path, number: u32) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { file, number })
    }

    /// Gives its space back. What is in it must be needed no more.
    pub(super) fn remove(self, folder: &Path) -> io::Result<()> {
        std::fs::remove_file(folder.join(name(self.number)))
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
        self.file.write_all_at(&segment_header(header), 0)?;
        self.file.sync_data()?;
        self.file.seek(SeekFrom::Start(BLOCK))?;
        Ok(())
    }

    /// Writes behind what was written last, and makes it durable. `length` is that of all slices.
    pub(super) fn append(&mut self, mut slices: &mut [IoSlice<'_>], length: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let some = slices.len().min(SLICES_MAX);
            match self.file.write_vectored(&slices[..some]) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero)),
                Ok(written) => IoSlice::advance_slices(&mut slices, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.file.sync_data()?;
        let padding = length.next_multiple_of(BLOCK) - length;
        self.file.seek(SeekFrom::Current(padding.cast_signed()))?;
        Ok(())
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
        let header = SegmentHeader { epoch: 3, first: 9, nonce: 4 };
        segment.begin(&header).unwrap();
        for text in [b"one".as_slice(), b"two"] {
            let (first, rest) = text.split_at(1);
            let mut slices = [IoSlice::new(first), IoSlice::new(&[]), IoSlice::new(rest)];
            segment.append(&mut slices, 3).unwrap();
        }
        let (number, path) = list(folder.path()).unwrap().remove(0);
        let again = Segment::open(&path, number).unwrap();
        assert_eq!((again.number(), again.header().unwrap().unwrap()), (7, Some(header)));
        assert_eq!(again.read(BLOCK, 3).unwrap(), b"one");
        assert_eq!(again.read(2 * BLOCK, 4).unwrap(), b"two\0");
        assert_eq!(again.len().unwrap(), 4 * BLOCK);
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
            segment.remove(folder.path()).unwrap();
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
