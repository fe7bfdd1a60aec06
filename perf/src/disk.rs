//! The file system that is measured on: an ext4 image of our own, made as the operator's guide asks for, or a folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::sys::{cache, process};

/// What the image is made with: inodes that hold the store's record, everything written at once instead of in the
/// background while we measure, and no discards, so that its space stays allocated.
const MKFS: &[&str] =
    &["-q", "-F", "-I", "512", "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"];

/// Where servers and peers keep their data. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: PathBuf,
    image: Option<Image>,
}

#[derive(Debug)]
struct Image {
    file: PathBuf,
    device: String,
    is_mounted: bool,
}

impl Disk {
    /// An image of `bytes` in `parent`, mounted; needs root.
    pub(crate) fn image(parent: &Path, bytes: u64) -> Result<Self> {
        if !process::is_root() {
            bail!("mounting an image needs root");
        }
        let (file, folder) = (parent.join("disk.image"), parent.join("disk"));
        fs::create_dir_all(&folder)?;
        let made = File::create(&file)?;
        let mut disk = Self {
            folder,
            image: Some(Image { file: file.clone(), device: String::new(), is_mounted: false }),
        };
        cache::allocate(&made, bytes).context("no room for the image")?;
        // Direct: or a read that is cold for the image would come from the cache of the file below it.
        let show = ["--direct-io=on", "--find", "--show"];
        let device = run(Command::new("losetup").args(show).arg(&file))?;
        if let Some(image) = &mut disk.image {
            image.device = device.trim().to_owned();
        }
        disk.renew()?;
        Ok(disk)
    }

    /// A folder of whatever file system `parent` is on.
    pub(crate) fn folder(parent: &Path) -> Result<Self> {
        let folder = parent.join("disk");
        fs::create_dir_all(&folder)?;
        Ok(Self { folder, image: None })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Empties it: a new file system on the image, or an empty folder. Nothing may have it open.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.renew_with(&[])
    }

    /// As [`Self::renew`], with more arguments for mkfs.
    pub(crate) fn renew_with(&mut self, more: &[String]) -> Result<()> {
        let Some(image) = &mut self.image else {
            fs::remove_dir_all(&self.folder)?;
            fs::create_dir_all(&self.folder)?;
            return Ok(());
        };
        image.unmount(&self.folder)?;
        run(Command::new("mkfs.ext4").args(MKFS).args(more).arg(&image.device))?;
        run(Command::new("mount").arg(&image.device).arg(&self.folder))?;
        image.is_mounted = true;
        Ok(())
    }

    /// Writes back all that is dirty on it.
    pub(crate) fn sync(&self) -> Result<()> {
        Ok(cache::sync_file_system(&File::open(&self.folder)?)?)
    }

    /// What it is, for the report.
    pub(crate) fn description(&self) -> String {
        let (source, kind) = mount_of(&self.folder).unwrap_or_default();
        match &self.image {
            Some(image) => {
                let below = image.file.parent().and_then(mount_of).unwrap_or_default();
                format!(
                    "ext4 image (mkfs.ext4 {}; mounted with defaults, no discard) on a loop device \
                     with direct I/O, in a file of {} ({})",
                    MKFS.join(" "),
                    below.0,
                    below.1
                )
            }
            None => format!("a folder of {source} ({kind}), not the documented file system"),
        }
    }
}

impl Image {
    fn unmount(&mut self, folder: &Path) -> Result<()> {
        if self.is_mounted {
            run(Command::new("umount").arg(folder))?;
            self.is_mounted = false;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Some(image) = &mut self.image else {
            let _ = fs::remove_dir_all(&self.folder);
            return;
        };
        if let Err(error) = image.unmount(&self.folder) {
            // Lazily at least: a mount that is leaked holds its space for ever.
            eprintln!("{error:#}");
            let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        }
        if !image.device.is_empty() {
            let _ = Command::new("losetup").arg("--detach").arg(&image.device).status();
        }
        let _ = fs::remove_file(&image.file);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Source and type of the mount that a path is on.
fn mount_of(path: &Path) -> Option<(String, String)> {
    let path = path.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mut best: Option<(usize, String, String)> = None;
    for line in mounts.lines() {
        let mut fields = line.split(' ');
        let (source, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let is_longer = best.as_ref().is_none_or(|(length, ..)| at.len() >= *length);
        if path.starts_with(at) && is_longer {
            best = Some((at.len(), source.to_owned(), kind.to_owned()));
        }
    }
    best.map(|(_, source, kind)| (source, kind))
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
