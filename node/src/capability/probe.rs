//! The probes themselves: each asks the kernel for the thing and takes it back.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, Probe, opcode};

use super::{RingFlags, RingProbe, RingRefused};

/// Smallest ring: a probe holds it for microseconds.
const PROBE_ENTRIES: u32 = 4;

/// `cachestat(2)` has this number on every architecture; libc has no constant for all of them.
const SYS_CACHESTAT: libc::c_long = 451;

/// Makes a plain ring and asks it for its operations.
pub(super) fn ring() -> Result<RingProbe, RingRefused> {
    let ring = IoUring::new(PROBE_ENTRIES)?;
    let mut operations = Probe::new();
    // The probe itself came with 5.6: without it there is no operation we would miss.
    let probed = ring.submitter().register_probe(&mut operations).is_ok();
    let has = |code| probed && operations.is_supported(code);
    // Zeros change nothing and return the present caps.
    let iowq_workers = ring.submitter().register_iowq_max_workers(&mut [0, 0]).is_ok();
    Ok(RingProbe {
        mkdir: has(opcode::MkDirAt::CODE),
        rename: has(opcode::RenameAt::CODE),
        unlink: has(opcode::UnlinkAt::CODE),
        iowq_workers,
    })
}

/// Whether a ring can be made with these flags.
pub(super) fn takes_flags(flags: RingFlags) -> bool {
    let mut builder = IoUring::builder();
    set_flags(&mut builder, flags);
    builder.build(PROBE_ENTRIES).is_ok()
}

/// Puts the flags into a builder; used for probes and for the data threads' rings alike.
pub(crate) fn set_flags(builder: &mut io_uring::Builder, flags: RingFlags) {
    if flags.coop_taskrun {
        builder.setup_coop_taskrun();
    }
    if flags.single_issuer {
        builder.setup_single_issuer();
    }
    if flags.defer_taskrun {
        builder.setup_defer_taskrun();
    }
}

/// Asks for the cache state of the first page of this program's own file, which is mapped.
pub(super) fn cachestat() -> bool {
    let Ok(file) = File::open("/proc/self/exe") else {
        return false;
    };
    // struct cachestat_range { off, len } and struct cachestat (five counters).
    let range = [0_u64, 4096];
    let mut state = [0_u64; 5];
    // SAFETY: both arrays have the sizes of the kernel's structures, live across the call, and
    // the descriptor is open.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), state.as_mut_ptr(), 0)
    };
    result == 0
}

/// Whether openat2(2) looks names up in memory only, if asked to.
pub(super) fn cached_open() -> bool {
    match crate::system::open_cached(None, c"/proc/self", libc::O_PATH) {
        Ok(_) => true,
        // The name is not in memory, which is an answer too.
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// Reads a byte of this program's own file without waiting: the page is in the cache, and a
/// kernel or file system that does not know the flag says so.
pub(super) fn nowait_read() -> bool {
    let Ok(file) = File::open("/proc/self/exe") else {
        return false;
    };
    let mut byte = [0_u8; 1];
    let part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // SAFETY: the one iovec points at an array that lives across the call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, 0, libc::RWF_NOWAIT) };
    // EAGAIN (the page was just evicted) is an answer too; EOPNOTSUPP and ENOSYS are not.
    read >= 0 || io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock
}
