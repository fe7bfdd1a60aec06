//! Small disks that tests may break: file system images on loop devices, with power cuts and with full backing stores.

use std::{
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// A mounted image. Unmounted and removed when dropped.
pub struct Disk {
    _folder: tempfile::TempDir,
    image: PathBuf,
    pub mount: PathBuf,
    mounted: bool,
}

/// Why there is no loop disk here, for the printed reason of a skipped test.
pub fn missing() -> Option<&'static str> {
    // SAFETY: takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if user != 0 {
        return Some("loop disks need root");
    }
    let there = |program: &str| {
        ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).exists())
    };
    ["mkfs.ext4", "mkfs.xfs", "xfs_io", "mount", "umount"]
        .iter()
        .any(|program| !there(program))
        .then_some("mkfs.ext4, mkfs.xfs, xfs_io, mount and umount are needed")
}

/// Prints why a test is skipped; `true` if it is.
pub fn skipped(test: &str) -> bool {
    if let Some(reason) = missing() {
        println!("skipped {test}: {reason}");
        return true;
    }
    false
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Disk {
    /// An ext4 (`"ext4"`) or xfs (`"xfs"`) disk of so many MiB, with inodes that hold the record.
    pub fn new(kind: &str, mebibytes: u64) -> Self {
        Self::with(kind, mebibytes, &tempfile::tempdir().unwrap().keep(), "512")
    }

    /// A disk whose image lies in `backing`; `inode` is the size of its inodes.
    pub fn with(kind: &str, mebibytes: u64, backing: &Path, inode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = backing.join(format!("{kind}.image"));
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        let name = image.to_str().unwrap();
        match kind {
            // Small disks get blocks of 1 KiB by themselves, which hold no long record.
            "ext4" => run("mkfs.ext4", &["-q", "-F", "-b", "4096", "-I", inode, name]),
            "ext4-1k" => run("mkfs.ext4", &["-q", "-F", "-b", "1024", "-I", inode, name]),
            "xfs" => run("mkfs.xfs", &["-q", "-f", "-i", &format!("size={inode}"), name]),
            other => panic!("no such kind of disk: {other}"),
        }
        let mount = folder.path().join("mount");
        fs::create_dir(&mount).unwrap();
        let mut disk = Self { _folder: folder, image, mount, mounted: false };
        disk.mount();
        disk
    }

    pub fn mount(&mut self) {
        run("mount", &["-o", "loop", self.image.to_str().unwrap(), self.mount.to_str().unwrap()]);
        self.mounted = true;
    }

    /// What the disk's cache and the kernel's hold is lost, as when the power goes.
    pub fn cut_power(&self) {
        run("xfs_io", &["-F", "-x", "-c", "shutdown", self.mount.to_str().unwrap()]);
    }

    /// Bytes that are free on it.
    pub fn free(&self) -> u64 {
        let mount = self.mount.to_str().unwrap();
        let output = Command::new("stat").args(["-f", "-c", "%a %S", mount]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().map(|number| number.parse::<u64>().unwrap()).product()
    }

    /// Changes one bit of the one block of the disk that has this content. What is in memory of a file stays as it is.
    pub fn flip(&self, block: &[u8]) {
        let image = fs::read(&self.image).unwrap();
        let found = image.chunks(block.len()).enumerate().filter(|(_, chunk)| *chunk == block);
        let places: Vec<usize> = found.map(|(number, _)| number * block.len()).collect();
        assert_eq!(places.len(), 1, "{places:?}");
        let image = fs::File::options().write(true).open(&self.image).unwrap();
        image.write_all_at(&[block[0] ^ 4], places[0] as u64).unwrap();
    }

    pub fn unmount(&mut self) {
        run("umount", &[self.mount.to_str().unwrap()]);
        self.mounted = false;
    }

    /// A command of debugfs on the unmounted image.
    pub fn debug(&self, command: &str) {
        run("debugfs", &["-w", "-R", command, self.image.to_str().unwrap()]);
    }

    /// fsck, with its leave to mend everything; the disk is not mounted.
    pub fn check(&self) {
        let checked = Command::new("e2fsck").arg("-fy").arg(&self.image).output().unwrap();
        // 1: errors were corrected.
        assert!(matches!(checked.status.code(), Some(0 | 1)), "{checked:?}");
    }

    /// Power cut, then on again.
    pub fn cycle(&mut self) {
        self.cut_power();
        self.unmount();
        self.mount();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
        }
        let _ = fs::remove_file(&self.image);
        if let Some(folder) = self.image.parent() {
            let _ = fs::remove_dir(folder);
        }
    }
}

/// A file system that answers no write. Thawed when dropped, also by a failing test: a frozen one that nobody can
/// thaw any more holds its threads until the machine stops.
pub struct Frozen(PathBuf);

impl Frozen {
    pub fn new(mount: &Path) -> Self {
        let frozen = Self(mount.to_owned());
        frozen.call("-f");
        frozen
    }

    fn call(&self, how: &str) {
        assert!(Command::new("fsfreeze").arg(how).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.call("-u");
    }
}
