//! The system calls that std does not have: attributes, syncfs, preallocation, free space, names relative to a folder.
//!
//! Each function is one call, retried where it was interrupted, and answers with `io::Error`. All of them can wait
//! for a disk: only workers, committers and keepers call them, never a data thread.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    path::Path,
};

/// Free space of a file system, in bytes, as an unprivileged writer may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Space {
    /// Size of the file system.
    pub(crate) total: u64,
    /// Bytes that may still be written.
    pub(crate) free: u64,
    /// Files that may still be made; `u64::MAX` where the file system has no such limit (xfs, btrfs).
    pub(crate) files_free: u64,
}

/// Opens a folder, to name files relative to it and to sync it.
pub(crate) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let folder = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
        .open(path)?;
    Ok(folder.into())
}

/// Opens `name` below `folder`. Never follows a symbolic link at its end: what lies in a store is a plain file.
pub(crate) fn open_at(folder: BorrowedFd<'_>, name: &str, flags: libc::c_int) -> io::Result<File> {
    let name = c_name(name)?;
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let fd = retry(|| {
        // SAFETY: `name` is a NUL-terminated string that outlives the call; `folder` is open for as long as its
        // borrow; the mode is read only with O_CREAT and always given.
        unsafe { libc::openat(folder.as_raw_fd(), name.as_ptr(), flags, 0o644 as libc::c_uint) }
    })?;
    // SAFETY: openat just returned this descriptor and nothing else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Opens a file for reads that do not change it. A time of access would be a write to the file system's journal, for which
/// a data thread that only reads would have to wait while the disk is busy. A file of another owner keeps its times.
pub(crate) fn open_to_read(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    match open_at(folder, name, libc::O_RDONLY | libc::O_NOATIME) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            open_at(folder, name, libc::O_RDONLY)
        }
        other => other,
    }
}

/// As [`open_to_read`], if that needs no disk.
///
/// # Errors
/// `WouldBlock`: it does. Else as [`open_to_read`].
pub(crate) fn open_cached(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    let name = c_name(name)?;
    let flags = libc::O_RDONLY | libc::O_NOATIME;
    reel_node::system::open_cached(Some(folder), &name, flags).map(File::from)
}

/// Whether a file system is one whose opens ask nobody but this kernel. Of any other kind a name that is in memory may
/// still have to be asked for at a server, or at a process.
pub(crate) fn is_local(folder: BorrowedFd<'_>) -> bool {
    const LOCAL: [i64; 6] =
        [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994, 0xF2F5_2010, 0x2FC1_2FC1];
    kind(folder).is_some_and(|kind| LOCAL.contains(&kind))
}

/// Whether a file system is one that other machines may have, too: FUSE (GlusterFS, CephFS by a process), Ceph, NFS, Lustre,
/// SMB.
pub(crate) fn may_be_remote(folder: BorrowedFd<'_>) -> bool {
    const REMOTE: [i64; 6] =
        [0x6573_5546, 0x00C3_6400, 0x6969, 0x0BD0_0BD0, 0xFF53_4D42, 0xFE53_4D42];
    kind(folder).is_some_and(|kind| REMOTE.contains(&kind))
}

/// The kernel's number of a kind of file system; `None`: it does not answer.
fn kind(folder: BorrowedFd<'_>) -> Option<i64> {
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the structure lives across the call, which fills it; the folder is open.
    if unsafe { libc::fstatfs(folder.as_raw_fd(), found.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: a successful fstatfs filled the structure.
    Some(unsafe { found.assume_init() }.f_type)
}

/// Makes a new file for writing; `AlreadyExists` where the name is taken.
pub(crate) fn create_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<File> {
    open_at(folder, name, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL)
}

/// Makes a folder; `AlreadyExists` where the name is taken.
pub(crate) fn make_folder_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = c_name(name)?;
    retry(|| {
        // SAFETY: `name` is NUL-terminated and outlives the call; `folder` is open.
        unsafe { libc::mkdirat(folder.as_raw_fd(), name.as_ptr(), 0o755) }
    })?;
    Ok(())
}

/// Removes a file's name.
pub(crate) fn unlink_at(folder: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = c_name(name)?;
    retry(|| {
        // SAFETY: `name` is NUL-terminated and outlives the call; `folder` is open.
        unsafe { libc::unlinkat(folder.as_raw_fd(), name.as_ptr(), 0) }
    })?;
    Ok(())
}

/// Gives a file another name on the same file system. The caller sees to it that `to` is free.
pub(crate) fn rename_at(folder: BorrowedFd<'_>, from: &str, to: &str) -> io::Result<()> {
    let from = c_name(from)?;
    let to = c_name(to)?;
    let fd = folder.as_raw_fd();
    retry(|| {
        // SAFETY: both names are NUL-terminated and outlive the call; `folder` is open.
        unsafe { libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()) }
    })?;
    Ok(())
}

/// Writes everything dirty on the file system of `fd`, and tells any write-back error since this descriptor was
/// opened or last asked. Two users of one descriptor would take each other's errors: each keeps its own.
pub(crate) fn syncfs(fd: BorrowedFd<'_>) -> io::Result<()> {
    retry(|| {
        // SAFETY: takes no memory; `fd` is open for as long as its borrow.
        unsafe { libc::syncfs(fd.as_raw_fd()) }
    })?;
    Ok(())
}

/// Asks, after a sync that went well, whether the file system of a file is still in service.
///
/// A sync that meets the end of its file system can say yes to what never reached the disk: sync_filesystem in the
/// kernel does nothing on one that an error has just made read-only, and an fsync on xfs finds nothing left to
/// write when a shutdown has thrown the log's tail away. Both leave a mark that is looked for here: the read-only
/// flag, and an attribute that cannot be read.
pub(crate) fn still_in_service(file: impl AsFd, attribute_name: &str) -> io::Result<()> {
    let fd = file.as_fd();
    if status(fd)?.f_flag & libc::ST_RDONLY != 0 {
        return Err(io::Error::from_raw_os_error(libc::EROFS));
    }
    attribute(fd, attribute_name, crate::record::LEN_MAX).map(|_| ())
}

/// Sets an extended attribute, whole.
pub(crate) fn set_attribute(file: impl AsFd, name: &str, value: &[u8]) -> io::Result<()> {
    let name = c_name(name)?;
    let fd = file.as_fd().as_raw_fd();
    retry(|| {
        // SAFETY: `name` is NUL-terminated; `value` is readable for its length; both outlive the call.
        unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) }
    })?;
    Ok(())
}

/// Reads an extended attribute of at most `len_max` bytes; `None` where the file has none of that name. A longer
/// one gives `len_max + 1` bytes' worth of nothing but an `ERANGE` error.
pub(crate) fn attribute(
    file: impl AsFd,
    name: &str,
    len_max: usize,
) -> io::Result<Option<Vec<u8>>> {
    let name = c_name(name)?;
    let fd = file.as_fd().as_raw_fd();
    let mut value = vec![0_u8; len_max];
    let outcome = retry_len(|| {
        // SAFETY: `value` is writable for its length, `name` is NUL-terminated; both outlive the call.
        unsafe { libc::fgetxattr(fd, name.as_ptr(), value.as_mut_ptr().cast(), value.len()) }
    });
    match outcome {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODATA) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reserves `len` bytes of disk for the file without changing its size. A file system that cannot is no error.
pub(crate) fn preallocate(file: &File, len: u64) -> io::Result<()> {
    let Ok(len) = libc::off_t::try_from(len) else {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    };
    let outcome = retry(|| {
        // SAFETY: takes no memory; the file is open for as long as its borrow.
        unsafe { libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE, 0, len) }
    });
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Starts write-back of a range that was just written, without waiting for it: the sync at the end of a large
/// upload then finds little left. Only advice, so what it answers is not looked at; the sync tells the errors.
pub(crate) fn start_writeback(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(len))
    else {
        return;
    };
    // SAFETY: takes no memory; the file is open for as long as its borrow.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE);
    }
}

/// Tells the kernel that a file is read once, from its start: the checks of whole files should not push out what
/// players read.
pub(crate) fn drop_cached(file: &File) {
    // SAFETY: takes no memory; the file is open for as long as its borrow.
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
    }
}

/// Free space of the file system of `fd`.
pub(crate) fn space(fd: BorrowedFd<'_>) -> io::Result<Space> {
    let stat = status(fd)?;
    let fragment = stat.f_frsize;
    Ok(Space {
        total: stat.f_blocks.saturating_mul(fragment),
        free: stat.f_bavail.saturating_mul(fragment),
        files_free: if stat.f_files == 0 { u64::MAX } else { stat.f_favail },
    })
}

fn status(fd: BorrowedFd<'_>) -> io::Result<libc::statvfs> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    retry(|| {
        // SAFETY: `stat` is writable and large enough; `fd` is open.
        unsafe { libc::fstatvfs(fd.as_raw_fd(), stat.as_mut_ptr()) }
    })?;
    // SAFETY: fstatvfs answered 0, so it has filled the whole struct.
    Ok(unsafe { stat.assume_init() })
}

fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

fn retry(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        let outcome = call();
        if outcome >= 0 {
            return Ok(outcome);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn retry_len(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(len) = usize::try_from(call()) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// The names in a folder, without `.` and `..`, read from the descriptor that is given (its offset moves).
pub(crate) fn names(folder: OwnedFd, mut each: impl FnMut(&str)) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    let fd = folder.into_raw_fd();
    // SAFETY: `fd` is a folder that nothing else owns; on success the stream owns it.
    let stream = unsafe { libc::fdopendir(fd) };
    if stream.is_null() {
        let error = io::Error::last_os_error();
        // SAFETY: fdopendir failed, so the descriptor is still ours to close.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
        return Err(error);
    }
    let outcome = read_names(stream, &mut each);
    // SAFETY: `stream` came from fdopendir and is not used after this.
    unsafe { libc::closedir(stream) };
    outcome
}

fn read_names(stream: *mut libc::DIR, each: &mut impl FnMut(&str)) -> io::Result<()> {
    loop {
        // SAFETY: takes nothing and answers where this thread's errno is.
        let errno = unsafe { libc::__errno_location() };
        // SAFETY: errno is this thread's own and always valid to write.
        unsafe { *errno = 0 };
        // SAFETY: `stream` is open, and only this thread reads it.
        let entry = unsafe { libc::readdir(stream) };
        if entry.is_null() {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(0) { Ok(()) } else { Err(error) };
        }
        // SAFETY: readdir answered an entry, which stays valid until the next call on this stream.
        let name_start = unsafe { &raw const (*entry).d_name }.cast::<libc::c_char>();
        // SAFETY: d_name is NUL-terminated and lives as long as the entry.
        let name = unsafe { CStr::from_ptr(name_start) };
        // A name that is not UTF-8 was not made by us; nothing here looks at such files.
        if let Ok(name) = name.to_str()
            && name != "."
            && name != ".."
        {
            each(name);
        }
    }
}
