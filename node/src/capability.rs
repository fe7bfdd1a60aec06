//! What the kernel grants this process, found out one by one at start, each with a switch that
//! forces it off. Nothing is inferred from a kernel version: distributions backport, containers
//! filter, and `kernel.io_uring_disabled` takes io_uring away from any of them.

use std::fmt;
use std::io;

use serde::Serialize;

mod probe;

pub(crate) use probe::set_flags as set_ring_flags;

/// One thing that can be there or not. The names (see [`Capability::name`]) are what
/// `node.capabilities_off` takes and what `/status` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Capability {
    /// io_uring itself; without it data threads run on epoll and file IO goes to workers.
    IoUring,
    /// `IORING_SETUP_COOP_TASKRUN`, 5.19: no inter-processor interrupt for each completion.
    CoopTaskrun,
    /// `IORING_SETUP_SINGLE_ISSUER`, 6.0: only the data thread submits.
    SingleIssuer,
    /// `IORING_SETUP_DEFER_TASKRUN`, 6.1: completions are worked off when the thread waits.
    DeferTaskrun,
    /// `IORING_OP_MKDIRAT`, 5.15.
    OpMkdir,
    /// `IORING_OP_RENAMEAT`, 5.11.
    OpRename,
    /// `IORING_OP_UNLINKAT`, 5.11.
    OpUnlink,
    /// `IORING_REGISTER_IOWQ_MAX_WORKERS`, 5.15.
    IowqWorkers,
    /// `cachestat(2)`, 6.5: whether a range is in the page cache.
    Cachestat,
    /// `preadv2(2)` with `RWF_NOWAIT`: the same question where cachestat is missing.
    NowaitRead,
    /// `openat2(2)` with `RESOLVE_CACHED`, 5.12: opens a file whose name is in memory, or says that it is not.
    CachedOpen,
    /// Reads past the page cache with `O_DIRECT`. Every kernel has them, not every file system: that is found out
    /// file by file, so this one is only ever missing because it was switched off.
    DirectIo,
}

impl Capability {
    /// All of them, in the order of `/status`.
    pub const ALL: [Self; 12] = [
        Self::IoUring,
        Self::CoopTaskrun,
        Self::SingleIssuer,
        Self::DeferTaskrun,
        Self::OpMkdir,
        Self::OpRename,
        Self::OpUnlink,
        Self::IowqWorkers,
        Self::Cachestat,
        Self::NowaitRead,
        Self::CachedOpen,
        Self::DirectIo,
    ];

    /// The name in configuration and `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::CoopTaskrun => "coop_taskrun",
            Self::SingleIssuer => "single_issuer",
            Self::DeferTaskrun => "defer_taskrun",
            Self::OpMkdir => "op_mkdir",
            Self::OpRename => "op_rename",
            Self::OpUnlink => "op_unlink",
            Self::IowqWorkers => "iowq_workers",
            Self::Cachestat => "cachestat",
            Self::NowaitRead => "nowait_read",
            Self::CachedOpen => "cached_open",
            Self::DirectIo => "direct_io",
        }
    }

    /// The capability of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|capability| capability.name() == name)
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl Serialize for Capability {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// The switches could not be understood.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "node.capabilities_off: there is no capability {name:?}; known are {}",
    Capability::ALL.map(Capability::name).join(", ")
)]
pub struct UnknownCapability {
    /// The name that was given.
    pub name: String,
}

/// The ring setup flags that a data thread may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingFlags {
    /// `IORING_SETUP_COOP_TASKRUN`.
    pub coop_taskrun: bool,
    /// `IORING_SETUP_SINGLE_ISSUER`.
    pub single_issuer: bool,
    /// `IORING_SETUP_DEFER_TASKRUN`; only ever set together with `single_issuer`.
    pub defer_taskrun: bool,
}

/// What was found, after the switches. One value per process, shared by all threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// Rings can be made; false means epoll everywhere.
    pub io_uring: bool,
    /// Setup flags for data threads' rings; all false without io_uring.
    pub ring_flags: RingFlags,
    /// mkdir on the ring; else on a worker.
    pub op_mkdir: bool,
    /// rename on the ring; else on a worker.
    pub op_rename: bool,
    /// unlink on the ring; else on a worker.
    pub op_unlink: bool,
    /// The ring's kernel workers can be given a cap of our own.
    pub iowq_workers: bool,
    /// `cachestat(2)` answers.
    pub cachestat: bool,
    /// `preadv2(2)` takes `RWF_NOWAIT`.
    pub nowait_read: bool,
    /// `openat2(2)` takes `RESOLVE_CACHED`.
    pub cached_open: bool,
    /// `O_DIRECT` may be used where a file system has it.
    pub direct_io: bool,
    /// Why there is no io_uring: the kernel's error, or that it was switched off.
    pub io_uring_refused: Option<String>,
    /// What was switched off by configuration, whether the kernel has it or not.
    pub off: Vec<Capability>,
}

impl Capabilities {
    /// Probes the kernel, then takes away what `off` names.
    ///
    /// # Errors
    /// `off` names something that does not exist: a switch that does nothing would hide itself.
    pub fn probe(off: &[String]) -> Result<Self, UnknownCapability> {
        Ok(Self::probe_without(&Self::named(off)?))
    }

    /// The capabilities of these names, each once. Nothing is probed.
    ///
    /// # Errors
    /// A name that is none.
    pub fn named(off: &[String]) -> Result<Vec<Capability>, UnknownCapability> {
        let mut switched = Vec::with_capacity(off.len());
        for name in off {
            match Capability::from_name(name) {
                Some(capability) => switched.push(capability),
                None => return Err(UnknownCapability { name: name.clone() }),
            }
        }
        switched.sort_unstable();
        switched.dedup();
        Ok(switched)
    }

    /// Probes the kernel and leaves `off` out.
    ///
    /// On a thread of its own: the kernel takes a ring down later, and interrupts the thread that
    /// made it to do so. A caller in a blocking read would get EINTR out of nowhere.
    pub fn probe_without(off: &[Capability]) -> Self {
        std::thread::scope(|scope| {
            let probing = std::thread::Builder::new()
                .name("reel-probe".to_owned())
                .spawn_scoped(scope, || Self::probe_here(off));
            match probing.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(found)) => found,
                // No thread to be had: then here.
                Ok(Err(_)) | Err(_) => Self::probe_here(off),
            }
        })
    }

    fn probe_here(off: &[Capability]) -> Self {
        let wanted = |capability| !off.contains(&capability);
        let mut found = Self {
            cachestat: wanted(Capability::Cachestat) && probe::cachestat(),
            nowait_read: wanted(Capability::NowaitRead) && probe::nowait_read(),
            cached_open: wanted(Capability::CachedOpen) && probe::cached_open(),
            direct_io: wanted(Capability::DirectIo),
            off: off.to_vec(),
            ..Self::default()
        };
        if !wanted(Capability::IoUring) {
            found.io_uring_refused = Some("switched off by node.capabilities_off".to_owned());
            return found;
        }
        match probe::ring() {
            Ok(ring) => {
                found.io_uring = true;
                found.op_mkdir = wanted(Capability::OpMkdir) && ring.mkdir;
                found.op_rename = wanted(Capability::OpRename) && ring.rename;
                found.op_unlink = wanted(Capability::OpUnlink) && ring.unlink;
                found.iowq_workers = wanted(Capability::IowqWorkers) && ring.iowq_workers;
                found.ring_flags = Self::flags(&wanted);
            }
            Err(refusal) => found.io_uring_refused = Some(refusal.to_string()),
        }
        found
    }

    fn flags(wanted: &impl Fn(Capability) -> bool) -> RingFlags {
        let coop = RingFlags { coop_taskrun: true, ..RingFlags::default() };
        let single = RingFlags { single_issuer: true, ..RingFlags::default() };
        // The kernel refuses DEFER_TASKRUN without SINGLE_ISSUER, so it is probed with it.
        let defer = RingFlags { defer_taskrun: true, ..single };
        let single_issuer = wanted(Capability::SingleIssuer) && probe::takes_flags(single);
        RingFlags {
            coop_taskrun: wanted(Capability::CoopTaskrun) && probe::takes_flags(coop),
            single_issuer,
            defer_taskrun: single_issuer
                && wanted(Capability::DeferTaskrun)
                && probe::takes_flags(defer),
        }
    }

    /// Whether one of them is there, by its name.
    pub fn has(&self, capability: Capability) -> bool {
        match capability {
            Capability::IoUring => self.io_uring,
            Capability::CoopTaskrun => self.ring_flags.coop_taskrun,
            Capability::SingleIssuer => self.ring_flags.single_issuer,
            Capability::DeferTaskrun => self.ring_flags.defer_taskrun,
            Capability::OpMkdir => self.op_mkdir,
            Capability::OpRename => self.op_rename,
            Capability::OpUnlink => self.op_unlink,
            Capability::IowqWorkers => self.iowq_workers,
            Capability::Cachestat => self.cachestat,
            Capability::NowaitRead => self.nowait_read,
            Capability::CachedOpen => self.cached_open,
            Capability::DirectIo => self.direct_io,
        }
    }

    /// Logs once what is missing that would have been used.
    pub(crate) fn log(&self) {
        if let Some(reason) = &self.io_uring_refused {
            tracing::warn!(reason, "no io_uring: data threads run on epoll, file IO on workers");
            return;
        }
        let missing: Vec<_> =
            Capability::ALL.into_iter().filter(|capability| !self.has(*capability)).collect();
        if !missing.is_empty() {
            let missing = missing.iter().map(|one| one.name()).collect::<Vec<_>>().join(", ");
            tracing::info!(missing, "capabilities missing or switched off: doing without");
        }
    }
}

/// What a ring of this process can do.
struct RingProbe {
    mkdir: bool,
    rename: bool,
    unlink: bool,
    iowq_workers: bool,
}

/// io_uring was refused.
#[derive(Debug, thiserror::Error)]
#[error("io_uring_setup: {0}")]
struct RingRefused(#[from] io::Error);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Capabilities, Capability, RingFlags, UnknownCapability};

    #[test]
    fn each_can_be_switched_off_alone() {
        let all = Capabilities::probe(&[]).unwrap();
        for off in Capability::ALL {
            let found = Capabilities::probe(&[off.name().to_owned()]).unwrap();
            assert!(!found.has(off), "{off} is off");
            assert_eq!(found.off, [off]);
            // DEFER_TASKRUN needs SINGLE_ISSUER; nothing of a ring is there without a ring.
            let implied = |other: Capability| match off {
                Capability::IoUring => {
                    use Capability::{CachedOpen, Cachestat, DirectIo, NowaitRead};
                    !matches!(other, Cachestat | NowaitRead | CachedOpen | DirectIo)
                }
                Capability::SingleIssuer => other == Capability::DeferTaskrun,
                _ => false,
            };
            for other in Capability::ALL.into_iter().filter(|other| *other != off) {
                assert_eq!(found.has(other), all.has(other) && !implied(other), "{other}/{off}");
            }
        }
    }

    #[test]
    fn without_rings_the_reason_is_kept() {
        let found = Capabilities::probe(&["io_uring".to_owned()]).unwrap();
        assert_eq!(found.ring_flags, RingFlags::default());
        assert!(found.io_uring_refused.unwrap().contains("capabilities_off"));
    }

    #[test]
    fn an_unknown_switch_is_an_error_that_lists_the_known() {
        let error = Capabilities::probe(&["io_urine".to_owned()]).unwrap_err();
        assert_eq!(error, UnknownCapability { name: "io_urine".to_owned() });
        assert!(error.to_string().contains("defer_taskrun"), "{error}");
    }

    #[test]
    fn serialises_for_status() {
        let found = Capabilities::probe(&["cachestat".to_owned()]).unwrap();
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["cachestat"], false);
        assert_eq!(json["off"][0], "cachestat");
    }
}
