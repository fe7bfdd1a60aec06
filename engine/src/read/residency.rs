//! What the kernel knows of an open file: its size, and which of its pages are in memory.
//!
//! `sendfile(2)` of pages that are there never waits for the disk; of pages that are not it stops the whole data
//! thread. So every turn of a response asks first: with cachestat(2) (Linux 6.5), which counts the pages of the range,
//! or, where that is missing or forbidden, with preadv2(RWF_NOWAIT), which tries single bytes.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd},
    sync::OnceLock,
};

/// cachestat(2); the number is the same on every architecture that Linux gave it after 5.1's unified table.
const SYS_CACHESTAT: libc::c_long = 451;

/// Without cachestat(2) one byte stands for so many: readahead brings at least that much at a time (128 KiB is the
/// usual window), so a hole that this misses is short.
const NOWAIT_STRIDE_BYTES: u64 = 64 * 1024;

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// cachestat(2): exact.
    CacheStat,
    /// preadv2(RWF_NOWAIT) of a byte in each 64 KiB: a sample.
    NoWait,
    /// Neither call is there: every range is read as if it were not in the page cache.
    Blind,
}

impl Method {
    /// The best one of a kernel that has these calls.
    pub(crate) fn of(cachestat: bool, nowait_read: bool) -> Self {
        match (cachestat, nowait_read) {
            (true, _) => Self::CacheStat,
            (false, true) => Self::NoWait,
            (false, false) => Self::Blind,
        }
    }
}

/// `struct cachestat_range` of linux/mman.h.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// `struct cachestat` of linux/mman.h.
#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether all of `length` bytes from `offset` are in the page cache. The range must lie inside the file. An error of
/// the call counts as "not there": the reading path then finds out what is wrong.
pub(crate) fn is_resident(method: Method, file: BorrowedFd<'_>, offset: u64, length: u64) -> bool {
    if length == 0 {
        return true;
    }
    match method {
        Method::CacheStat => match cachestat(file, offset, length) {
            Ok(cached) => cached >= pages(offset, length, page_bytes()),
            // Not the owner of the file and not allowed to write it (Linux 6.14 on).
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                sampled(file, offset, length)
            }
            Err(_) => false,
        },
        Method::NoWait => sampled(file, offset, length),
        Method::Blind => false,
    }
}

/// Whether the first and the last byte of a range that [`is_resident`] are there with their content: a page that was
/// asked for, and that the disk is still filling, is in the page cache already. Only cachestat(2) has to be asked this.
pub(crate) fn is_filled(method: Method, file: BorrowedFd<'_>, offset: u64, length: u64) -> bool {
    method != Method::CacheStat
        || length == 0
        || (has_byte(file, offset + length - 1)
            && (pages(offset, length, page_bytes()) == 1 || has_byte(file, offset)))
}

/// Reads up to `length` bytes from `offset` into a vector that is empty: those that are in the page cache with their
/// content, without waiting for the disk. Fewer where they are not there or the file ends.
///
/// # Errors
/// `WouldBlock`: not even the first one is there. Else what the system says: `Unsupported` where the file system cannot.
pub(crate) fn read_now(
    file: BorrowedFd<'_>,
    offset: u64,
    length: usize,
    into: &mut Vec<u8>,
) -> io::Result<()> {
    into.clear();
    into.reserve(length);
    let start = into.spare_capacity_mut().as_mut_ptr();
    let iovec = libc::iovec { iov_base: start.cast(), iov_len: length };
    let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
    // SAFETY: the one iovec is room that the vector has just reserved, which outlives the call; the descriptor is
    // borrowed, so it is open.
    let count =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const iovec, 1, offset, libc::RWF_NOWAIT) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has written `count` bytes at the start of the room of an empty vector.
    unsafe { into.set_len(count) };
    Ok(())
}

/// The file's size as the kernel knows it. The inode is in memory, so this waits for no disk; fstat(2) would ask the servers
/// behind a mount whenever what is known of the file is older than a second, and hold up the thread for as long as they take.
///
/// # Errors
/// What the system says.
pub(crate) fn size(file: BorrowedFd<'_>) -> io::Result<u64> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mut found = MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path is empty, the struct is the kernel's, and both outlive the call; the descriptor is borrowed, so it is open.
    let result = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_SIZE, found.as_mut_ptr())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a successful statx filled the struct.
    Ok(unsafe { found.assume_init() }.stx_size)
}

/// How many pages the range touches.
fn pages(offset: u64, length: u64, page: u64) -> u64 {
    (offset + length - 1) / page - offset / page + 1
}

fn page_bytes() -> u64 {
    static PAGE: OnceLock<u64> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: sysconf takes no pointer and has no precondition.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(bytes).unwrap_or(4096).max(1)
    })
}

fn cachestat(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<u64> {
    let range = Range { offset, length };
    let mut counts = Counts::default();
    // SAFETY: both structs have the kernel's layout and outlive the call, which keeps no pointer; the descriptor is
    // borrowed, so it is open; flags must be 0.
    let result = unsafe {
        libc::syscall(
            SYS_CACHESTAT,
            file.as_raw_fd(),
            std::ptr::from_ref(&range),
            std::ptr::from_mut(&mut counts),
            0,
        )
    };
    if result == 0 { Ok(counts.cached) } else { Err(io::Error::last_os_error()) }
}

/// One byte in each stride, and the last one.
fn sampled(file: BorrowedFd<'_>, offset: u64, length: u64) -> bool {
    let last = offset + length - 1;
    (offset..last).step_by(NOWAIT_STRIDE_BYTES as usize).all(|at| has_byte(file, at))
        && has_byte(file, last)
}

fn has_byte(file: BorrowedFd<'_>, offset: u64) -> bool {
    let mut byte = 0u8;
    let iovec = libc::iovec { iov_base: std::ptr::from_mut(&mut byte).cast(), iov_len: 1 };
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    // SAFETY: the one iovec points at one byte that outlives the call; the descriptor is borrowed, so it is open.
    let count =
        unsafe { libc::preadv2(file.as_raw_fd(), &raw const iovec, 1, offset, libc::RWF_NOWAIT) };
    count == 1
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{io::Write, os::fd::AsFd};

    use super::*;

    #[test]
    fn the_pages_of_a_range_are_counted_at_their_edges() {
        assert_eq!(pages(0, 1, 4096), 1);
        assert_eq!(pages(0, 4096, 4096), 1);
        assert_eq!(pages(0, 4097, 4096), 2);
        assert_eq!(pages(4095, 2, 4096), 2);
        assert_eq!(pages(8192, 4096, 4096), 1);
    }

    #[test]
    fn what_was_just_written_is_resident_and_what_was_dropped_is_not() {
        // In the build folder: a temporary folder may be a tmpfs, which has no pages to drop.
        let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all(&vec![7; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        for method in [Method::CacheStat, Method::NoWait] {
            if method == Method::CacheStat && cachestat(file.as_fd(), 0, 1).is_err() {
                continue;
            }
            assert!(is_resident(method, file.as_fd(), 0, 1 << 20), "{method:?}");
            assert!(is_resident(method, file.as_fd(), 12_345, 1), "{method:?}");
            assert!(is_resident(method, file.as_fd(), 5, 0), "{method:?}");
        }
        // SAFETY: posix_fadvise takes no pointer; the descriptor is open.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        for method in [Method::CacheStat, Method::NoWait] {
            assert!(!is_resident(method, file.as_fd(), 0, 1 << 20), "{method:?}");
        }
    }
}
