//! Reading a piece of a file that the page cache does not have, without holding the data thread.
//!
//! This is the place of O_DIRECT: whatever reads a piece takes `(file, offset, length)` and a spare buffer and gives
//! the bytes; nothing above it knows how. Today: buffered reads, on the ring where there is one (a READ of a regular
//! file is not punted to a kernel worker until it has to wait), else on the
//! workers of the file's store path, so that a hung disk holds only its own.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    os::unix::fs::FileExt,
};

use monoio::buf::IoBufMut;
use reel_node::worker::WorkerError;

use super::open_file::{OpenFile, Source};

/// Reads pieces.
pub(crate) struct PieceReader {
    piece_bytes: u64,
}

impl PieceReader {
    /// A reader of pieces of at most `piece_bytes`.
    pub(crate) fn new(piece_bytes: u64) -> Self {
        Self { piece_bytes }
    }

    /// The longest piece.
    pub(crate) fn piece_bytes(&self) -> u64 {
        self.piece_bytes
    }

    /// Reads `length` bytes (at most a piece) from `offset`; fewer if the file ends before. `buffer` is used if it is
    /// large enough. If this is dropped, the buffer stays with the kernel or the worker until the read is over.
    ///
    /// # Errors
    /// `WouldBlock`: too much waits for the workers. Else what the disk said.
    pub(crate) async fn read(
        &self,
        file: &OpenFile,
        offset: u64,
        length: u64,
        mut buffer: Vec<u8>,
    ) -> io::Result<Vec<u8>> {
        let length = usize::try_from(length.min(self.piece_bytes)).unwrap_or(usize::MAX);
        buffer.clear();
        buffer.reserve_exact(length);
        match file.source() {
            Source::Ring(file) => read_on_ring(file, offset, length, buffer).await,
            Source::Shared(fd, workers) => {
                let fd = fd.clone();
                match workers.run(move || read_here(&fd, offset, length, buffer)).await {
                    Ok(result) => result,
                    Err(WorkerError::Full { .. }) => Err(io::ErrorKind::WouldBlock.into()),
                    Err(error) => Err(io::Error::other(error)),
                }
            }
        }
    }
}

async fn read_on_ring(
    file: &monoio::fs::File,
    offset: u64,
    length: usize,
    mut buffer: Vec<u8>,
) -> io::Result<Vec<u8>> {
    let mut filled = 0;
    while filled < length {
        let (result, slice) =
            file.read_at(buffer.slice_mut(filled..length), offset + filled as u64).await;
        buffer = slice.into_inner();
        match result {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}

fn read_here(fd: &OwnedFd, offset: u64, length: usize, mut buffer: Vec<u8>) -> io::Result<Vec<u8>> {
    let file = std::fs::File::from(fd.as_fd().try_clone_to_owned()?);
    buffer.resize(length, 0);
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer)
}
