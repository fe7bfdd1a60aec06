//! Reading past the page cache: whether a file can be read so, how it must be aligned, and what to read for a range.
//!
//! A direct read starts and ends at multiples of the file system's alignment, so a range is read with what surrounds
//! it, and exactly the range is sent. At the end of a file such a read is short by right: the file has no more.

use std::{
    cell::Cell,
    fs::OpenOptions,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    os::unix::fs::OpenOptionsExt,
    rc::Rc,
};

use super::{
    WINDOW_BYTES,
    buffer::{PAGE_BYTES, block_bytes},
    residency::{self, Method},
};

/// The alignment where the kernel does not tell: what every disk takes.
const ALIGNMENT_BYTES: u32 = 4096;

/// The largest alignment that is worth it; what wants more is read through the page cache.
const ALIGNMENT_BYTES_MAX: u32 = 64 * 1024;

/// A file, opened again with O_DIRECT.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(super) fd: OwnedFd,
    /// What offsets and lengths must be multiples of.
    pub(super) alignment: u32,
}

/// Why a file is not read directly.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Its file system does not do it.
    FileSystem(io::Error),
    /// This file cannot (it is encrypted, or wants an alignment that we do not have).
    File,
    /// Not now.
    Now,
}

/// Opens the file behind `fd` again for direct reads. By its entry in /proc, so it is that very file, whatever became
/// of its name. May wait for the disk: on a worker. Whoever does not keep `fd` open meanwhile must not use the answer.
///
/// # Errors
/// [`Refusal`].
pub(crate) fn open(fd: RawFd) -> Result<Opened, Refusal> {
    let again = |flags| {
        OpenOptions::new().read(true).custom_flags(flags).open(format!("/proc/self/fd/{fd}"))
    };
    // As in `sys::open_to_read`: no time of access, unless the file is another owner's.
    let opened =
        again(libc::O_DIRECT | libc::O_NOATIME).or_else(|error| match error.raw_os_error() {
            Some(libc::EPERM) => again(libc::O_DIRECT),
            _ => Err(error),
        });
    let file = opened.map_err(|error| match error.raw_os_error() {
        // The file system has no direct reads; or there is no /proc. Neither changes while we run.
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOENT) => Refusal::FileSystem(error),
        // No descriptor is left, the servers behind a mount are away, or the like.
        _ => Refusal::Now,
    })?;
    let fd = OwnedFd::from(file);
    let alignment = match told_alignment(&fd) {
        None => ALIGNMENT_BYTES,
        Some((memory, offset)) => fitting(memory, offset).ok_or(Refusal::File)?,
    };
    Ok(Opened { fd, alignment })
}

/// As [`open`], for a file of `size` bytes that was just opened, if its beginning is not in the page cache.
pub(crate) fn open_if_cold(
    fd: &OwnedFd,
    method: Method,
    size: u64,
) -> Option<Result<Opened, Refusal>> {
    let looked_at = size.min(WINDOW_BYTES);
    let cold = !residency::is_resident(method, fd.as_fd(), 0, looked_at);
    cold.then(|| open(fd.as_raw_fd()))
}

/// The alignment to use where the kernel wants these of memory and offset; 0 is "not for this file".
fn fitting(memory: u32, offset: u32) -> Option<u32> {
    let memory_fits = memory.is_power_of_two() && memory as usize <= PAGE_BYTES;
    let offset_fits = offset.is_power_of_two() && offset <= ALIGNMENT_BYTES_MAX;
    // A part of a read can start in the middle of a block, at a multiple of the offset's alignment.
    (memory_fits && offset_fits).then_some(offset.max(memory).max(512))
}

/// What statx(2) says of direct reads (Linux 6.1): alignment of memory and of offsets. `None`: it does not say.
fn told_alignment(fd: &OwnedFd) -> Option<(u32, u32)> {
    let mut stat = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the path is an empty NUL-terminated string, the struct is the kernel's and outlives the call, the
    // descriptor is open.
    let result = unsafe {
        libc::statx(
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            stat.as_mut_ptr(),
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: all of it was zeroed, which is a value of it, before the kernel filled in what it knows.
    let stat = unsafe { stat.assume_init() };
    (stat.stx_mask & libc::STATX_DIOALIGN != 0)
        .then_some((stat.stx_dio_mem_align, stat.stx_dio_offset_align))
}

/// Whether a read failed because it was a direct one.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// What to read for the beginning of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Where the read starts in the file.
    pub(super) start: u64,
    /// Bytes before the range that are read with it.
    pub(super) skip: usize,
    /// Bytes of the range that it brings.
    pub(super) length: usize,
    /// Bytes to read altogether; fewer come at the end of the file.
    pub(super) reach: usize,
    /// What offsets and lengths of its reads are multiples of; 1: it goes through the page cache.
    pub(super) alignment: u32,
}

impl Plan {
    /// At most a piece of a range, read at multiples of `alignment` (1: anywhere). `piece` is a multiple of it.
    pub(super) fn new(offset: u64, length: u64, alignment: u32, piece: usize) -> Self {
        debug_assert!(piece.is_multiple_of(alignment as usize));
        let step = u64::from(alignment);
        let start = offset - offset % step;
        let skip = offset - start;
        // A range that is longer than a piece ends this one at a multiple: the next one then starts at one, and no
        // block is read twice.
        let length = length.min(piece as u64 - skip);
        let reach = (skip + length).next_multiple_of(step);
        // Everything is at most a piece now.
        let (skip, length, reach) = (skip as usize, length as usize, reach as usize);
        Self { start, skip, length, reach, alignment }
    }

    /// The size of the block that it needs.
    pub(super) fn block_bytes(&self) -> usize {
        block_bytes(self.reach)
    }
}

/// How many files of a thread have a second descriptor, for direct reads: they count in `engine.open_files`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seconds(Rc<Cell<usize>>);

impl Seconds {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.get()
    }

    /// One more, until what is returned is dropped.
    pub(super) fn add(&self) -> Second {
        self.0.set(self.0.get() + 1);
        Second(self.clone())
    }
}

/// One second descriptor.
#[derive(Debug)]
pub(super) struct Second(Seconds);

impl Drop for Second {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plans_at_the_edges() {
        let plan = |offset, length| {
            let plan = Plan::new(offset, length, 4096, 16_384);
            (plan.start, plan.skip, plan.length, plan.reach)
        };
        assert_eq!(plan(0, 1), (0, 0, 1, 4096));
        assert_eq!(plan(4095, 1), (0, 4095, 1, 4096));
        assert_eq!(plan(4095, 2), (0, 4095, 2, 8192));
        assert_eq!(plan(4096, 4096), (4096, 0, 4096, 4096));
        assert_eq!(plan(1, 16_383), (0, 1, 16_383, 16_384));
        assert_eq!(plan(1, 16_384), (0, 1, 16_383, 16_384));
        assert_eq!(plan(16_384, 16_385), (16_384, 0, 16_384, 16_384));
        assert_eq!(plan(5, u64::MAX - 5).3, 16_384);
        let plan = Plan::new(5000, 20_000, 1, 16_384);
        assert_eq!((plan.start, plan.skip, plan.length, plan.reach), (5000, 0, 16_384, 16_384));
    }

    proptest! {
        /// Pieces follow each other without a gap, without reading a block twice, and none is larger than a piece.
        #[test]
        fn plans_cover_a_range(
            offset in 0u64..1 << 40, length in 1u64..3_000_000, shift in 9u32..13
        ) {
            let (alignment, piece) = (1 << shift, 262_144);
            let (mut at, end, mut read_to) = (offset, offset + length, 0);
            while at < end {
                let plan = Plan::new(at, end - at, alignment, piece);
                prop_assert_eq!(plan.start + plan.skip as u64, at);
                prop_assert!(plan.length > 0 && plan.skip + plan.length <= plan.reach);
                prop_assert!(plan.reach <= piece && plan.reach <= plan.block_bytes());
                prop_assert_eq!(plan.start % u64::from(alignment), 0);
                prop_assert_eq!(plan.reach as u64 % u64::from(alignment), 0);
                prop_assert!(plan.start >= read_to);
                read_to = plan.start + plan.reach as u64;
                at += plan.length as u64;
            }
            prop_assert_eq!(at, end);
        }
    }

    #[test]
    fn what_the_kernel_wants_is_taken_if_blocks_can_have_it() {
        assert_eq!(fitting(4, 512), Some(512));
        assert_eq!(fitting(512, 1), Some(512));
        assert_eq!(fitting(4096, 65_536), Some(65_536));
        for (memory, offset) in [(0, 0), (8192, 4096), (512, 131_072), (3, 512)] {
            assert_eq!(fitting(memory, offset), None);
        }
    }

    #[test]
    fn a_file_system_without_direct_reads_says_so() {
        let file = std::fs::File::open("/proc/self/status").unwrap();
        assert!(matches!(open(file.as_raw_fd()), Err(Refusal::FileSystem(_))));
    }

    #[test]
    fn second_descriptors_are_counted_until_they_go() {
        let seconds = Seconds::default();
        let held = [seconds.add(), seconds.add()];
        assert_eq!(seconds.count(), 2);
        drop(held);
        assert_eq!(seconds.count(), 0);
    }
}
