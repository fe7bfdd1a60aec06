//! The page cache: how much of a file is in it, and dropping it.

use std::{fs::File, io, os::fd::AsRawFd};

use super::checked;

/// cachestat(2), Linux 6.5. The libc crate has no name for it.
const SYS_CACHESTAT: libc::c_long = 451;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

#[repr(C)]
#[derive(Default)]
struct Counts {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Pages of the file that are in the page cache.
pub(crate) fn resident_pages(file: &File) -> io::Result<u64> {
    // Length 0: to the end of the file.
    let range = Range { offset: 0, length: 0 };
    let mut counts = Counts::default();
    let fd = file.as_raw_fd();
    // SAFETY: both structures have the kernel's layout and live across the call.
    let result =
        unsafe { libc::syscall(SYS_CACHESTAT, fd, &raw const range, &raw mut counts, 0_u32) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(counts.cached) }
}

/// Asks the kernel to drop the file's pages. Dirty ones stay: sync before.
pub(crate) fn drop_pages(file: &File) -> io::Result<()> {
    // SAFETY: takes numbers only; the descriptor is open here.
    let error = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Writes back everything dirty of the file system that `file` lies on.
pub(crate) fn sync_file_system(file: &File) -> io::Result<()> {
    // SAFETY: takes a descriptor, which is open here.
    checked(unsafe { libc::syncfs(file.as_raw_fd()) })?;
    Ok(())
}

/// Reserves `length` bytes for the file.
pub(crate) fn allocate(file: &File, length: u64) -> io::Result<()> {
    // SAFETY: takes numbers only; the descriptor is open here.
    checked(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length.cast_signed()) })?;
    Ok(())
}
