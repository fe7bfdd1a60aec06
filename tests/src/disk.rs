//! File systems of their own on loop images: power loss by the shutdown ioctl, disks that are small enough to fill.
//! Needs root and the file system's tools; a test that cannot have them says that it skips.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A kind of file system that an image can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 with 512-byte inodes, as the store's documentation asks for.
    Ext4,
    /// XFS with 512-byte inodes.
    Xfs,
}

impl FileSystem {
    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-b", "4096", "-I", "512", "-m", "0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-i", "size=512"]),
        }
    }
}

/// Longest wait for a disk that is in use, and between two looks.
const BUSY_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Held while a disk is mounted again, and while a host's own mounts are made, which are a copy of the machine's: a disk that is in
/// two places is not gone with the first of them.
pub(crate) static MOUNTING: Mutex<()> = Mutex::new(());

/// A mounted loop image. Unmounted, and its backing file removed, when dropped.
#[derive(Debug)]
pub struct LoopDisk {
    image: PathBuf,
    mount: PathBuf,
    mounted: bool,
    _folder: tempfile::TempDir,
}

impl LoopDisk {
    /// Makes and mounts one, or says why this machine cannot.
    pub fn new(kind: FileSystem, bytes: u64) -> Result<Self> {
        // SAFETY: geteuid reads one field of the process and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            bail!("mounting needs root");
        }
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image");
        let mount = folder.path().join("mount");
        fs::create_dir(&mount)?;
        File::create(&image)?.set_len(bytes)?;
        let (program, arguments) = kind.make();
        run(Command::new(program).args(arguments).arg(&image))?;
        let mut disk = Self { image, mount, mounted: false, _folder: folder };
        disk.mount()?;
        Ok(disk)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: from now on nothing reaches the disk, and what was not made durable is lost. Then mounts what
    /// survived. The processes that use it must have been killed; they may be killed after the cut.
    pub fn shut_down(&self) -> Result<()> {
        // EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN are the same ioctl, _IOR('X', 125, u32); 2 = without flushing the log.
        const SHUTDOWN: libc::c_ulong = 0x8004_587D;
        const NO_LOG_FLUSH: u32 = 2;
        let folder = File::open(&self.mount)?;
        let how = NO_LOG_FLUSH;
        // SAFETY: the ioctl reads one u32 from the pointer, which outlives the call.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const how) };
        if done != 0 {
            return Err(io::Error::last_os_error()).context("the shutdown ioctl");
        }
        Ok(())
    }

    /// Makes durable everything on it.
    pub fn sync(&self) -> Result<()> {
        run(Command::new("sync").arg("--file-system").arg(&self.mount))
    }

    /// Unmounts and mounts again, as the machine's next start would: the file system replays its log.
    pub fn remount(&mut self) -> Result<()> {
        let _mounting = MOUNTING.lock().unwrap_or_else(PoisonError::into_inner);
        self.unmount()?;
        self.mount()
    }

    fn mount(&mut self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))?;
        self.mounted = true;
        Ok(())
    }

    fn unmount(&mut self) -> Result<()> {
        let begin = Instant::now();
        while self.mounted {
            match run(Command::new("umount").arg(&self.mount)) {
                Ok(()) => self.mounted = false,
                // A program that another thread is starting has our descriptors until it runs.
                Err(_) if begin.elapsed() < BUSY_MAX => std::thread::sleep(LOOK),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills the free space up to about `leave` bytes with a file, which the caller removes to give it back.
    pub fn fill(&self, leave: u64) -> Result<PathBuf> {
        let path = self.mount.join("ballast");
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        for piece in [16u64 << 20, 1 << 20, 64 << 10, 4 << 10] {
            while self.free()? > leave + piece {
                let end = file.metadata()?.len();
                // SAFETY: fallocate takes numbers only.
                let done = unsafe {
                    libc::fallocate(file.as_raw_fd(), 0, end.cast_signed(), piece.cast_signed())
                };
                if done != 0 {
                    break;
                }
            }
        }
        Ok(path)
    }

    /// Bytes that an unprivileged writer may still take.
    pub fn free(&self) -> Result<u64> {
        let path = std::ffi::CString::new(self.mount.as_os_str().as_encoded_bytes())?;
        // SAFETY: statvfs is plain numbers, for which all zeros is a value.
        let mut status: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers outlive the call; the path ends with a NUL.
        let done = unsafe { libc::statvfs(path.as_ptr(), &raw mut status) };
        if done != 0 {
            return Err(io::Error::last_os_error().into());
        }
        Ok(status.f_bavail * status.f_frsize)
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            // Lazily at least: a leaked mount would hold the temporary folder for ever.
            eprintln!("{}: {error:#}", self.mount.display());
            let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // A checker starts with a case that must fail: what is not synced must be gone, or a cut proves nothing.
    #[test]
    fn a_power_cut_loses_what_was_not_synced_and_keeps_what_was() {
        for kind in [FileSystem::Ext4, FileSystem::Xfs] {
            let mut disk = match LoopDisk::new(kind, 512 << 20) {
                Ok(disk) => disk,
                Err(error) => return println!("skipped: {kind:?}: {error:#}"),
            };
            let kept = disk.path().join("kept");
            fs::write(&kept, b"durable").unwrap();
            File::open(&kept).unwrap().sync_all().unwrap();
            File::open(disk.path()).unwrap().sync_all().unwrap();
            let lost = disk.path().join("lost");
            fs::write(&lost, b"not durable").unwrap();
            disk.shut_down().unwrap();
            assert!(fs::write(disk.path().join("after"), b"x").is_err());
            disk.remount().unwrap();
            assert_eq!(fs::read(&kept).unwrap(), b"durable");
            assert_ne!(fs::read(&lost).unwrap_or_default(), b"not durable", "{kind:?}");
        }
    }
}
