//! The partial file of a download: hidden, beside the output, with a name that says which bytes of which file it
//! holds. Locked while in use, so that two downloads of one file do not mix their bytes.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use reel_client::{ClientError, Content};
use reel_proto::checksum::Crc64;

use crate::exit::say;

/// Bytes of the output's name that the partial file's takes over; the tag must fit beside it into 255.
const NAME_BYTES_MAX: usize = 100;

/// An open partial file.
#[derive(Debug)]
pub(crate) struct Partial {
    file: File,
    path: PathBuf,
    length: u64,
    crc: Crc64,
}

impl Partial {
    /// Opens or creates the partial file of `output` for these bytes, at most `length_max` of them, and reads the
    /// checksum of what it holds.
    pub(crate) fn open(output: &Path, tag: &str, length_max: u64) -> Result<Self> {
        let Some(name) = output.file_name() else {
            bail!("{} is no file name", output.display());
        };
        if output.is_dir() {
            bail!("{} is a folder", output.display());
        }
        let name = name.to_string_lossy();
        let shown = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        let path = output.with_file_name(format!(".{shown}.{tag}.part"));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(&path).with_context(|| path.display().to_string())?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another download writes {}", path.display()),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| path.display().to_string());
            }
        }
        let mut partial = Self { file, path, length: 0, crc: Crc64::new() };
        partial.read(length_max).with_context(|| partial.path.display().to_string())?;
        Ok(partial)
    }

    fn read(&mut self, length_max: u64) -> io::Result<()> {
        if self.file.metadata()?.len() > length_max {
            // Not ours, or broken: a partial file never grows past its range.
            self.file.set_len(0)?;
        }
        let mut buffer = vec![0; 256 * 1024];
        loop {
            let read = self.file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            self.crc.update(&buffer[..read]);
            self.length += read as u64;
        }
        self.file.seek(SeekFrom::Start(self.length))?;
        Ok(())
    }

    /// Bytes that it holds.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Checksum of the bytes that it holds.
    pub(crate) fn checksum(&self) -> Crc64 {
        self.crc.clone()
    }

    pub(crate) fn append(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.length += piece.len() as u64;
        self.crc.update(piece);
        Ok(())
    }

    /// Checks what it holds where nothing is left to download: only the last rename was missing.
    pub(crate) fn check(&self, offset: u64, content: Content) -> Result<()> {
        let whole = offset == 0 && self.length == content.size;
        match content.checksum {
            Some(expected) if whole && expected != self.crc.finish() => {
                let found = self.crc.finish();
                Err(ClientError::Checksum { expected, found }.into())
            }
            _ => Ok(()),
        }
    }

    /// Gives it the output's name. Durable first, so that a crash never leaves the name with other bytes.
    pub(crate) fn finish(self, output: &Path) -> Result<()> {
        let rename = || {
            self.file.sync_all()?;
            fs::rename(&self.path, output)
        };
        rename().with_context(|| output.display().to_string())
    }

    /// Removes it.
    pub(crate) fn discard(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            say(format_args!("cannot remove {}: {error}", self.path.display()));
        }
    }

    /// Leaves it for the next run, and says so with the error.
    pub(crate) fn keep(self, error: anyhow::Error) -> anyhow::Error {
        if self.length == 0 {
            self.discard();
            return error;
        }
        let kept = format!("{} bytes are kept in {}", self.length, self.path.display());
        error.context(format!("{kept}; the same command goes on from there"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_partial_file_is_taken_up_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("film.mp4");
        let mut partial = Partial::open(&output, "1-a-0-a", 10).unwrap();
        partial.append(b"hello").unwrap();
        assert!(Partial::open(&output, "1-a-0-a", 10).is_err(), "two writers of one partial file");
        drop(partial);
        let mut partial = Partial::open(&output, "1-a-0-a", 10).unwrap();
        assert_eq!(partial.length(), 5);
        partial.append(b"world").unwrap();
        assert_eq!(partial.checksum().finish(), Crc64::of(b"helloworld"));
        partial.finish(&output).unwrap();
        assert_eq!(fs::read(&output).unwrap(), b"helloworld");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn other_bytes_have_another_partial_file_and_too_many_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("用".repeat(80));
        let mut partial = Partial::open(&output, "1-a-0-a", 10).unwrap();
        partial.append(b"hello").unwrap();
        drop(partial);
        assert_eq!(Partial::open(&output, "2-a-0-a", 10).unwrap().length(), 0);
        assert_eq!(Partial::open(&output, "1-a-0-a", 4).unwrap().length(), 0);
    }
}
