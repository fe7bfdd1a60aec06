//! Process-wide settings that a node makes for itself: descriptors, cores.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Raises the soft limit of open descriptors to the hard one and returns it. Each connection
/// takes one, each cached file takes one: the common soft limit of 1024 is too low for both.
///
/// # Errors
/// The limit could not be read. When it cannot be raised, the old one is returned.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives across the call, which fills it.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: the structure lives across the call, which only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } != 0 {
        let error = io::Error::last_os_error();
        tracing::warn!(%error, limit = limit.rlim_cur, "cannot raise the descriptor limit");
        return Ok(limit.rlim_cur);
    }
    Ok(raised.rlim_cur)
}

/// The cores this process may run on, in ascending order: its affinity mask, which a container
/// or `taskset` narrows. Never empty.
pub fn cores() -> Vec<usize> {
    // SAFETY: a cpu_set_t is an array of integers, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives across the call and has the size given.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if result != 0 {
        return vec![0];
    }
    let is_set = |core: &usize| {
        // SAFETY: the core number is below the size of the set.
        unsafe { libc::CPU_ISSET(*core, &set) }
    };
    let cores: Vec<_> = (0..libc::CPU_SETSIZE.unsigned_abs() as usize).filter(is_set).collect();
    if cores.is_empty() { vec![0] } else { cores }
}

/// Pins the calling thread to one core.
///
/// # Errors
/// The core is not in the process's mask, or a filter forbids it; the thread runs on unpinned.
pub fn pin_to_core(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE.unsigned_abs() as usize {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: a cpu_set_t is an array of integers, for which all zeros is a value.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core number was checked against the size of the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set lives across the call and has the size given; 0 is the calling thread.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `struct open_how` of linux/openat2.h.
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// Opens a file that is there (below `folder`, or by a whole path) if everything that its name needs is in memory:
/// never waits for a disk to look it up. openat2(2) with RESOLVE_CACHED.
///
/// # Errors
/// `WouldBlock`: something of the name is not in memory. Else what the system says.
pub fn open_cached(
    folder: Option<BorrowedFd<'_>>,
    name: &CStr,
    flags: libc::c_int,
) -> io::Result<OwnedFd> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let how =
        OpenHow { flags: u64::from(flags.cast_unsigned()), mode: 0, resolve: libc::RESOLVE_CACHED };
    let folder = folder.map_or(libc::AT_FDCWD, |folder| folder.as_raw_fd());
    // SAFETY: the name is NUL-terminated; name and structure live across the call, which only reads them and is told
    // the structure's size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_openat2,
            folder,
            name.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    };
    let fd = libc::c_int::try_from(result).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: openat2 just returned this descriptor and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    #[test]
    fn the_limit_is_the_hard_one() {
        let raised = super::raise_descriptor_limit().unwrap();
        assert_eq!(super::raise_descriptor_limit().unwrap(), raised);
    }

    #[test]
    fn a_thread_pins_to_a_core_it_has() {
        let cores = super::cores();
        let last = *cores.last().unwrap();
        let after = std::thread::spawn(move || {
            super::pin_to_core(last).unwrap();
            super::cores()
        });
        assert_eq!(after.join().unwrap(), [last]);
        assert!(super::pin_to_core(usize::MAX).is_err());
    }
}
