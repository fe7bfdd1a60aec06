//! Crashes: kill -9 of the process, or a power cut of the disk under it. What either leaves is for the next start.

use std::{fs, path::PathBuf};

use anyhow::Result;

use crate::{
    disk::{FileSystem, LoopDisk},
    process::{Store, Up},
};

/// Bytes of an image: more than all rounds of a test write, beside the reserve. Sparse, so that only what is written
/// takes space.
const DISK_BYTES: u64 = 16 << 30;

/// A way to crash, and the place that it strikes.
#[derive(Debug)]
pub enum Crash {
    /// SIGKILL: the kernel keeps everything that was written.
    Kill(tempfile::TempDir),
    /// The disks take nothing any more, and what was not durable is lost. The first one has the data folders with the
    /// databases and the journal, the last one the files.
    Power(Vec<LoopDisk>),
}

impl Crash {
    /// kill -9, in a folder of its own.
    pub fn kill() -> Result<Self> {
        Ok(Self::Kill(tempfile::tempdir()?))
    }

    /// Power cuts, on an image of its own; or why this machine cannot.
    pub fn power(kind: FileSystem) -> Result<Self> {
        Ok(Self::Power(vec![LoopDisk::new(kind, DISK_BYTES)?]))
    }

    /// As [`Self::power`], with the files on a disk of their own: no sync of the one helps what is on the other.
    pub fn power_of_two_disks(kind: FileSystem) -> Result<Self> {
        let disks = [LoopDisk::new(kind, DISK_BYTES)?, LoopDisk::new(kind, DISK_BYTES)?];
        Ok(Self::Power(disks.into()))
    }

    /// Makes a data folder that it strikes.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let disks = match self {
            Self::Kill(folder) => {
                let folder = folder.path().join(name);
                fs::create_dir(&folder)?;
                return Ok(folder);
            }
            Self::Power(disks) => disks,
        };
        let folder = disks[0].path().join(name);
        fs::create_dir(&folder)?;
        if let [data, files] = &disks[..] {
            let store = files.path().join(name);
            fs::write(folder.join("reel.toml"), format!("[[store_path]]\npath = {store:?}\n"))?;
            // An operator's file, that no crash of a store may take.
            data.sync()?;
        }
        Ok(folder)
    }

    /// How a store is started that will be struck.
    #[must_use]
    pub fn doomed(&self, up: &Up) -> Up {
        match self {
            Self::Kill(_) => up.clone(),
            // After the cut every write fails, and the store says so: any line is expected.
            Self::Power(_) => up.clone().expect_log(""),
        }
    }

    /// How a store is started after it.
    #[must_use]
    pub fn survivor(&self, up: &Up) -> Up {
        match self {
            Self::Kill(_) => up.clone(),
            // An upload that was not acknowledged may leave its record on the disk and not its content. The sweep at
            // start unlinks nothing that it cannot know to be worthless: it moves such a file away, and says so.
            Self::Power(_) => up.clone().expect_log("moved to quarantine"),
        }
    }

    /// Makes durable what has been written to one of the disks until now, so that a later cut finds some of it.
    pub fn sync_one(&self, which: u64) -> Result<()> {
        match self {
            Self::Kill(_) => Ok(()),
            Self::Power(disks) => disks[which as usize % disks.len()].sync(),
        }
    }

    /// Strikes a store at its work.
    pub fn strike(&self, store: &Store) -> Result<()> {
        match self {
            Self::Kill(_) => store.kill_now(),
            // The journal's disk first: nothing is acknowledged from then on, as if all had gone at once.
            Self::Power(disks) => disks.iter().try_for_each(LoopDisk::shut_down),
        }
    }

    /// Ends the store that was struck, and brings back what is left on its disks.
    pub fn settle(&mut self, store: Store) -> Result<()> {
        match self {
            Self::Kill(_) => store.reap_killed(),
            Self::Power(disks) => {
                store.kill()?;
                disks.iter_mut().try_for_each(LoopDisk::remount)
            }
        }
    }
}
