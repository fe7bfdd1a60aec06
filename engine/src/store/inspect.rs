//! Looks at a file on the disk: its record, its content, whether it is what its row says; and moves doubtful ones away.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::BorrowedFd,
};

use reel_proto::{checksum::Crc64, path::PathId};

use super::{identity, mark, path::StorePath, same::OldFile, sys};
use crate::record::{self, Record, RecordError, State};

/// Bytes of one read of a whole file.
const READ: usize = 1 << 20;

/// Bytes of the first one. The kernel brings twice what a first read asks for into memory in single pages, and what follows in
/// ever larger folios: 16 MiB lie in 28 of them after a small one, in 904 after one of 1 MiB, and each costs whoever sends them.
const FIRST_READ: usize = 4096;

/// Names tried for a file in quarantine whose name is taken there.
const NAMES_MAX: u32 = 1000;

/// What the attribute of a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seal {
    /// No attribute: the upload did not get that far, or the file is not ours.
    None,
    /// A good record of a file at this place.
    Good(Box<Record>),
    /// Anything else.
    Doubtful(String),
}

/// Reads the record of the file that lies at the place of `id`.
pub(crate) fn seal_of(file: &File, id: PathId) -> io::Result<Seal> {
    match sys::attribute(file, record::ATTRIBUTE, record::LEN_MAX) {
        Ok(None) => Ok(Seal::None),
        Ok(Some(bytes)) => Ok(match Record::decode(&bytes) {
            Ok(record) if record.path_id == id => Seal::Good(Box::new(record)),
            Ok(record) => Seal::Doubtful(format!("its record belongs to place {}", record.path_id)),
            Err(error) => Seal::Doubtful(error.to_string()),
        }),
        Err(error) if error.raw_os_error() == Some(libc::ERANGE) => {
            Ok(Seal::Doubtful(RecordError::Length { len: record::LEN_MAX + 1 }.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// Reads a file from start to end: its size and checksum. `each` hears the bytes of each step.
pub(crate) fn checksum(file: &File, mut each: impl FnMut(u64)) -> io::Result<(u64, u64)> {
    let each = |bytes| {
        each(bytes);
        true
    };
    checksum_while(file, each)
}

/// As [`checksum`], until `go_on` says no to the bytes of a step: then of what was read.
pub(crate) fn checksum_while(
    file: &File,
    mut go_on: impl FnMut(u64) -> bool,
) -> io::Result<(u64, u64)> {
    let mut reader = file;
    let mut buffer = vec![0; READ];
    let (mut size, mut crc, mut step) = (0, Crc64::new(), FIRST_READ);
    loop {
        match reader.read(&mut buffer[..step]) {
            Ok(0) => break,
            Ok(read) => {
                crc.update(&buffer[..read]);
                size += read as u64;
                step = READ;
                if !go_on(read as u64) {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((size, crc.finish()))
}

/// Reads the file of a row at the place of `id`, for an upload of the same file id.
pub(crate) fn read_whole(store: &StorePath, relative: &str, id: PathId) -> io::Result<OldFile> {
    let read = || {
        let file = sys::open_at(store.root(), relative, libc::O_RDONLY)?;
        let marked = match seal_of(&file, id)? {
            Seal::Good(record) => record.state != State::Normal,
            Seal::None | Seal::Doubtful(_) => false,
        };
        let (size, checksum) = checksum(&file, |_| {})?;
        Ok(OldFile { size, checksum, marked })
    };
    read().inspect_err(|error| {
        tracing::error!(store = store.index, file = relative, %error, "a file that has a row cannot be read");
    })
}

/// Moves a file of this store path out of the way, durably.
pub(crate) fn quarantine(store: &StorePath, relative: &str) -> io::Result<String> {
    let moved = quarantine_in(store.root(), relative);
    match &moved {
        Ok(to) => tracing::warn!(store = store.index, file = relative, %to, "moved to quarantine"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::error!(store = store.index, file = relative, %error, "could not be moved to quarantine");
        }
    }
    moved
}

/// As [`quarantine`], below `root`. The new name is the old place with `-` for `/`, so that it can be put back.
pub(crate) fn quarantine_in(root: BorrowedFd<'_>, relative: &str) -> io::Result<String> {
    let flat = relative.replace('/', "-");
    for number in 0..NAMES_MAX {
        let to = format!("{}/{flat}.{number}", identity::QUARANTINE);
        match sys::open_at(root, &to, libc::O_RDONLY) {
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        sys::rename_at(root, relative, &to)?;
        mark::settle_name(root, &to)?;
        if let Some((folder, _)) = relative.rsplit_once('/') {
            mark::sync_folder(root, folder)?;
        }
        return Ok(to);
    }
    Err(io::Error::from(io::ErrorKind::AlreadyExists))
}
