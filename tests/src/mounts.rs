//! What a host has mounted by itself: a mount namespace, as programs of two hosts would meet in the machine's `/run` and `/var`.
//!
//! It has no name, and is gone with its last process and the last handle to it, with all that is mounted in it.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::MOUNTING;

/// Mounts of a host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Mounts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    binds: Vec<(PathBuf, PathBuf)>,
    /// A folder that may lie on a loop image.
    disk: PathBuf,
    /// None: the host is without power.
    namespace: Mutex<Option<Arc<File>>>,
}

impl Mounts {
    /// The machine's, but an empty `/run`, these folders in the place of others, and of all loop images only the one that `disk`
    /// lies on: a disk of another test that is mounted here, too, would outlive its unmounting there.
    ///
    /// # Errors
    /// We are not root, or one of the folders is not there.
    pub fn new(binds: &[(&Path, &Path)], disk: &Path) -> io::Result<Self> {
        let binds = binds.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect();
        let mounts =
            Self(Arc::new(Inner { binds, disk: disk.to_owned(), namespace: Mutex::default() }));
        mounts.renew()?;
        Ok(mounts)
    }

    /// Begins anew, as a host that starts: with what the machine has mounted now.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn renew(&self) -> io::Result<()> {
        let (binds, disk) = (self.0.binds.clone(), self.0.disk.clone());
        let _mounting = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        // On a thread that ends then: ours shall stay where it is.
        let made = std::thread::spawn(move || {
            // SAFETY: a system call with a number.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                return Err(io::Error::last_os_error());
            }
            // Nothing that is mounted here is seen elsewhere.
            mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)?;
            unmount_images_but(&disk)?;
            mount(Some(Path::new("tmpfs")), Path::new("/run"), Some("tmpfs"), 0)?;
            for (from, to) in binds {
                mount(Some(&from), &to, None, libc::MS_BIND)?;
            }
            File::open("/proc/thread-self/ns/mnt")
        });
        let file = made.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        *self.lock() = Some(Arc::new(file));
        Ok(())
    }

    /// Kills all that runs among them (SIGKILL), and unmounts everything.
    ///
    /// # Errors
    /// The kernel's.
    pub fn end(&self) -> io::Result<()> {
        // Twice: one may have been about to start another.
        for _ in 0..2 {
            self.kill_all()?;
        }
        *self.lock() = None;
        Ok(())
    }

    /// Kills the processes of a program among them (SIGKILL).
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill_program(&self, name: &str) -> io::Result<()> {
        for pid in self.processes_of(name)? {
            // SAFETY: a system call with numbers. A process that has ended meanwhile is no error.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        Ok(())
    }

    /// Whether a program runs among them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn runs(&self, name: &str) -> io::Result<bool> {
        Ok(!self.processes_of(name)?.is_empty())
    }

    fn processes_of(&self, name: &str) -> io::Result<Vec<libc::pid_t>> {
        let mut processes = self.processes()?;
        processes.retain(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm.trim_end() == name)
        });
        Ok(processes)
    }

    /// Lets a command run among them.
    pub fn place(&self, command: &mut Command) {
        let namespace = self.namespace();
        let enter = move || {
            let Some(namespace) = &namespace else {
                return Err(io::Error::from_raw_os_error(libc::ENXIO));
            };
            // SAFETY: a system call with numbers, on a descriptor that `namespace` keeps open.
            if unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        };
        // SAFETY: what runs between fork and exec is one system call, and the errno of it.
        unsafe { command.pre_exec(enter) };
    }

    fn namespace(&self) -> Option<Arc<File>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.0.namespace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The processes that run among them, daemons too.
    fn processes(&self) -> io::Result<Vec<libc::pid_t>> {
        let Some(namespace) = self.namespace() else { return Ok(Vec::new()) };
        let ours = namespace.metadata()?.ino();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // One that has ended meanwhile is not there.
            let of = std::fs::metadata(entry.path().join("ns/mnt"));
            if of.is_ok_and(|of| of.ino() == ours) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    fn kill_all(&self) -> io::Result<()> {
        for pid in self.processes()? {
            // SAFETY: a system call with numbers. A process that has ended meanwhile is no error.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        Ok(())
    }
}

/// Unmounts every loop image of this thread's namespace, but that below which `disk` lies.
fn unmount_images_but(disk: &Path) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/thread-self/mounts")?;
    for line in mounts.lines().filter(|line| line.starts_with("/dev/loop")) {
        let Some(point) = line.split(' ').nth(1).map(Path::new) else { continue };
        if disk.starts_with(point) {
            continue;
        }
        let point = CString::new(point.as_os_str().as_bytes()).map_err(io::Error::other)?;
        // SAFETY: the text is NUL-terminated and outlives the call.
        if unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn mount(
    from: Option<&Path>,
    to: &Path,
    kind: Option<&str>,
    flags: libc::c_ulong,
) -> io::Result<()> {
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let from = from.map(text).transpose()?;
    let (to, kind) = (text(to)?, kind.map(CString::new).transpose().map_err(io::Error::other)?);
    let pointer = |text: &Option<CString>| text.as_ref().map_or(ptr::null(), |text| text.as_ptr());
    // SAFETY: all pointers are NUL-terminated or null, and outlive the call.
    let done =
        unsafe { libc::mount(pointer(&from), to.as_ptr(), pointer(&kind), flags, ptr::null()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
