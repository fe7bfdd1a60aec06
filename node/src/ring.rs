//! Builds a data thread's monoio runtime: io_uring with the flags the kernel grants, a plain
//! ring, or epoll, in that order.

use std::cell::Cell;
use std::collections::HashSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};

use monoio::time::TimeDriver;
use monoio::{FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use serde::Serialize;

use crate::capability::{Capabilities, RingFlags, set_ring_flags};

/// Submission entries of a data thread's ring. One turn of the thread queues at most one
/// operation for each connection it worked on; a full queue is flushed, so this only sets how
/// many go down with one system call. 2048 × 64 bytes = 128 KiB a thread.
const RING_ENTRIES: u32 = 2048;

/// Completion entries: an idle connection holds one poll, and many can fire at once (a drain).
/// What does not fit waits in the kernel's overflow list, correct but slower. 16 bytes each.
const COMPLETION_ENTRIES: u32 = 8192;

/// Cap of the ring's kernel workers for file operations. The default of four per core starves a
/// node that waits for disks; 32 measured 1.3–2.5 times faster, 64 no better.
const IOWQ_WORKERS: u32 = 32;

/// Requests after which the kernel is asked for more completions. With DEFER_TASKRUN one wait takes in at most 20 of
/// those that fired while the thread was at work, but every poll that is ready at once. Where thousands of peers are busy
/// the first kind would wait behind the second for half a second.
const REQUESTS_PER_TAKE: u32 = 16;

thread_local! {
    /// This thread's ring, if it has DEFER_TASKRUN.
    static DEFERRING: Cell<Option<RawFd>> = const { Cell::new(None) };
    static REQUESTS: Cell<u32> = const { Cell::new(0) };
}

/// A request begins on this thread: now and then takes in completions that wait in the kernel, so that whoever asked
/// first is served first.
pub(crate) fn request_begins() {
    let Some(ring) = DEFERRING.get() else { return };
    let requests = REQUESTS.get() + 1;
    if requests < REQUESTS_PER_TAKE {
        return REQUESTS.set(requests);
    }
    REQUESTS.set(0);
    const IORING_ENTER_GETEVENTS: libc::c_uint = 1;
    // SAFETY: it submits nothing and waits for nothing; the descriptor is the ring that this thread made and runs on.
    // What it answers does not matter: the next wait takes in what this did not.
    unsafe { libc::syscall(libc::SYS_io_uring_enter, ring, 0, 0, IORING_ENTER_GETEVENTS, 0, 0) };
}

/// Rings are found by what appears in /proc/self/fd while one is built, so one at a time.
static BUILDING: Mutex<()> = Mutex::new(());

/// What drives a data thread, for `/status` and the start log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Driver {
    /// io_uring with these setup flags.
    IoUring {
        /// Flags the ring was made with.
        flags: RingFlags,
        /// Whether the kernel took our cap of file workers.
        workers_raised: bool,
    },
    /// epoll: sockets by readiness, files on workers.
    Epoll,
}

/// The runtime of one data thread, timers included.
pub(crate) type DataRuntime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// Builds the best runtime that works now. A ring that the probe saw can still be refused (locked
/// memory, descriptors, a seccomp filter set later), so each step may fall to the next.
///
/// Must be called on the thread that will run it: SINGLE_ISSUER binds the ring to its maker.
pub(crate) fn build(capabilities: &Capabilities) -> io::Result<(DataRuntime, Driver)> {
    if capabilities.io_uring {
        match build_ring(capabilities.ring_flags, capabilities.iowq_workers) {
            Ok(built) => return Ok(built),
            Err(error) => {
                tracing::warn!(%error, "a ring with flags was refused: trying a plain one");
            }
        }
        match build_ring(RingFlags::default(), capabilities.iowq_workers) {
            Ok(built) => return Ok(built),
            Err(error) => tracing::warn!(%error, "a plain ring was refused: falling to epoll"),
        }
    }
    let runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
    Ok((FusionRuntime::Legacy(runtime), Driver::Epoll))
}

/// A ring for a thread that is no data thread and makes its own submissions. To be called on that thread: with
/// `single_issuer` the ring stays bound to it.
///
/// # Errors
/// The kernel grants none.
pub fn own(flags: RingFlags, entries: u32) -> io::Result<io_uring::IoUring> {
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut builder = io_uring::IoUring::builder();
    set_ring_flags(&mut builder, flags);
    builder.build(entries).or_else(|_| io_uring::IoUring::new(entries))
}

fn build_ring(flags: RingFlags, raise_workers: bool) -> io::Result<(DataRuntime, Driver)> {
    let mut builder = io_uring::IoUring::builder();
    set_ring_flags(&mut builder, flags);
    builder.setup_cqsize(COMPLETION_ENTRIES);
    let _one = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    let before = ring_descriptors();
    let runtime = RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(RING_ENTRIES)
        .uring_builder(builder)
        .enable_timer()
        .build()?;
    let ring = ring_descriptors().difference(&before).next().copied();
    DEFERRING.set(ring.filter(|_| flags.defer_taskrun));
    let workers_raised = raise_workers && ring.is_some_and(raise_cap);
    Ok((FusionRuntime::Uring(runtime), Driver::IoUring { flags, workers_raised }))
}

/// monoio hides its ring, but every ring shows as a link to `anon_inode:[io_uring]`.
fn ring_descriptors() -> HashSet<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return HashSet::new();
    };
    entries
        .flatten()
        .filter(|entry| {
            std::fs::read_link(entry.path())
                .is_ok_and(|target| target.as_os_str() == "anon_inode:[io_uring]")
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// Sets the cap of workers for bounded work (files); 0 leaves the other cap as it is. Must run on
/// the ring's own thread under SINGLE_ISSUER.
fn raise_cap(ring: RawFd) -> bool {
    const IORING_REGISTER_IOWQ_MAX_WORKERS: libc::c_long = 19;
    let mut caps = [IOWQ_WORKERS, 0];
    // SAFETY: the array holds the two words that this operation reads and writes, and lives
    // across the call. A descriptor that is no ring gives an error.
    let result = unsafe {
        libc::syscall(
            libc::SYS_io_uring_register,
            ring,
            IORING_REGISTER_IOWQ_MAX_WORKERS,
            caps.as_mut_ptr(),
            caps.len(),
        )
    };
    result == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Driver, build};
    use crate::capability::{Capabilities, Capability, RingFlags};

    fn driver_without(off: &[Capability]) -> Driver {
        let capabilities = Capabilities::probe_without(off);
        // A thread of its own: a ring with SINGLE_ISSUER stays bound to it.
        std::thread::spawn(move || {
            let (mut runtime, driver) = build(&capabilities).unwrap();
            let answer = runtime.block_on(async {
                monoio::time::sleep(std::time::Duration::from_millis(1)).await;
                monoio::spawn(async { 7 }).await
            });
            assert_eq!(answer, 7);
            driver
        })
        .join()
        .unwrap()
    }

    #[test]
    fn the_ring_has_what_the_probe_found() {
        let capabilities = Capabilities::probe_without(&[]);
        match driver_without(&[]) {
            Driver::IoUring { flags, workers_raised } => {
                assert_eq!(flags, capabilities.ring_flags);
                assert_eq!(workers_raised, capabilities.iowq_workers);
            }
            Driver::Epoll => assert!(!capabilities.io_uring),
        }
    }

    #[test]
    fn flags_off_gives_a_plain_ring() {
        let off = [Capability::CoopTaskrun, Capability::SingleIssuer, Capability::IowqWorkers];
        match driver_without(&off) {
            Driver::IoUring { flags, workers_raised } => {
                assert_eq!(flags, RingFlags::default());
                assert!(!workers_raised);
            }
            Driver::Epoll => assert!(!Capabilities::probe_without(&[]).io_uring),
        }
    }

    #[test]
    fn rings_off_gives_epoll() {
        assert_eq!(driver_without(&[Capability::IoUring]), Driver::Epoll);
    }
}
