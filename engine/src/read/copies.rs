//! Short hot ranges, copied: one read and one send that takes the response's head along cost less than what sendfile(2)
//! needs, a send for the head and a pipe between file and socket. docs/decisions/0009 has the figures.

use std::cell::Cell;

use super::{
    cold::bit,
    open_file::OpenFile,
    residency::{self, Method},
};

/// The longest range that is copied, bytes.
pub(super) const COPY_BYTES_MAX: u64 = 4 * 1024;

/// What a data thread copies with.
pub(super) struct Copies {
    /// `None`: the kernel has no reads that never wait.
    method: Option<Method>,
    /// Store paths whose file systems have none, a bit for each.
    refused: Cell<u64>,
    /// One buffer: it is given back before the send of what was copied is waited for.
    buffer: Cell<Vec<u8>>,
}

/// Bytes of a file.
pub(crate) struct Copy<'a> {
    bytes: Vec<u8>,
    home: &'a Cell<Vec<u8>>,
}

impl Copy<'_> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        self.home.set(std::mem::take(&mut self.bytes));
    }
}

impl Copies {
    /// Copies nothing where the kernel has no preadv2(RWF_NOWAIT), or does not say what is in the page cache.
    pub(super) fn new(method: Method, nowait_read: bool) -> Self {
        let method = (nowait_read && method != Method::Blind).then_some(method);
        Self { method, refused: Cell::new(0), buffer: Cell::default() }
    }

    /// The range, if it is short and all of it is in the page cache with its content.
    pub(super) fn take(&self, file: &OpenFile, offset: u64, length: u64) -> Option<Copy<'_>> {
        let method = self.method?;
        if length > COPY_BYTES_MAX || self.refused.get() & bit(file.store()) != 0 {
            return None;
        }
        let fd = std::os::fd::AsFd::as_fd(file);
        // A read of what is not there would start the kernel's readahead, which the cold path does not want.
        if method == Method::CacheStat && !residency::is_resident(method, fd, offset, length) {
            return None;
        }
        let mut copy = Copy { bytes: self.buffer.take(), home: &self.buffer };
        let length = usize::try_from(length).ok()?;
        match residency::read_now(fd, offset, length, &mut copy.bytes) {
            Ok(()) => (copy.bytes.len() == length).then_some(copy),
            Err(error) => {
                if error.raw_os_error() == Some(libc::EOPNOTSUPP) {
                    self.refused.set(self.refused.get() | bit(file.store()));
                }
                None
            }
        }
    }
}
