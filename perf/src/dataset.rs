//! The files that are read: known bytes, the same for every server, and whether they are in the page cache.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    content::Content,
    load::plan::Target,
    sys::cache::{self, PAGE},
    upload::Uploader,
};

/// How often files are brought into a state before that is given up.
const SET_CACHE_TRIES: u32 = 5;

/// Bytes written at a time.
const PIECE: usize = 1 << 20;

/// A set of files of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dataset {
    /// How many.
    pub(crate) files: u64,
    /// Bytes of each.
    pub(crate) size: u64,
}

/// The state of the page cache that a round begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CacheState {
    /// Every page of the files is in it.
    Hot,
    /// None is.
    Cold,
}

impl CacheState {
    /// Whether this share of pages is the state, but for what a round itself may change.
    pub(crate) fn is_kept(self, share: f64) -> bool {
        match self {
            Self::Hot => share > 0.999,
            Self::Cold => share < 0.001,
        }
    }
}

impl Dataset {
    /// The file ids, which are also the names of the peers' copies.
    fn name(index: u64) -> String {
        format!("set-{index}")
    }

    fn content(self, index: u64) -> Content {
        Content::new(self.seed(index))
    }

    fn seed(self, index: u64) -> u64 {
        0x5EED_0000 + index
    }

    /// The first `count` files as a load asks for them, behind `prefix`.
    pub(crate) fn targets(self, count: u64, prefix: &str) -> Vec<Target> {
        let target = |index| Target {
            name: format!("{prefix}{}", Self::name(index)),
            size: self.size,
            content: self.seed(index),
        };
        (0..count.min(self.files)).map(target).collect()
    }

    /// Uploads all of it to a storage node.
    pub(crate) fn upload(self, uploader: &mut Uploader) -> Result<()> {
        for index in 0..self.files {
            uploader.upload(&Self::name(index), self.content(index), self.size)?;
        }
        Ok(())
    }

    /// Writes all of it into a folder, for peers.
    pub(crate) fn write(self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let mut piece = vec![0; PIECE];
        for index in 0..self.files {
            let mut file = File::create(folder.join(Self::name(index)))?;
            let mut at = 0;
            while at < self.size {
                let length = usize::try_from(self.size - at).unwrap_or(PIECE).min(PIECE);
                self.content(index).fill(at, &mut piece[..length]);
                file.write_all(&piece[..length])?;
                at += length as u64;
            }
        }
        Ok(())
    }

    /// Finds the first `count` files below a folder by their size and first bytes, in whatever tree they lie.
    pub(crate) fn locate(self, folder: &Path, count: u64) -> Result<Vec<PathBuf>> {
        let count = count.min(self.files);
        let mut known = HashMap::new();
        for index in 0..count {
            let mut first = [0; 16];
            self.content(index).fill(0, &mut first);
            known.insert(first, index);
        }
        let mut found = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let entry = entry?;
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else if metadata.is_file() && metadata.len() == self.size {
                    let mut first = [0; 16];
                    File::open(entry.path())?.read_exact(&mut first)?;
                    if known.remove(&first).is_some() {
                        found.push(entry.path());
                    }
                }
            }
        }
        if !known.is_empty() {
            bail!("{} of {count} files are not below {}", known.len(), folder.display());
        }
        Ok(found)
    }
}

/// Brings files into a state of the page cache and gives the share of their pages that are in it afterwards.
///
/// Only the pages of these files are touched: the machine's other caches belong to others. So inodes and extents stay in
/// memory, for every server alike.
pub(crate) fn set_cache(files: &[PathBuf], state: CacheState) -> Result<f64> {
    let mut share = 0.0;
    // More than once: somebody else may drop all of the machine's caches meanwhile.
    for _ in 0..SET_CACHE_TRIES {
        for path in files {
            let mut file = File::open(path)?;
            match state {
                CacheState::Hot => {
                    io::copy(&mut file, &mut io::sink())?;
                }
                CacheState::Cold => cache::drop_pages(&file)?,
            }
        }
        share = cached_share(files)?;
        if state.is_kept(share) {
            return Ok(share);
        }
    }
    bail!("the page cache holds {:.1} % of files that are to be {state:?}", share * 100.0)
}

/// The share of the files' pages that are in the page cache, by cachestat(2).
pub(crate) fn cached_share(files: &[PathBuf]) -> Result<f64> {
    let (mut pages, mut cached) = (0, 0);
    for path in files {
        let file = File::open(path)?;
        pages += file.metadata()?.len().div_ceil(PAGE);
        cached += cache::resident_pages(&file).context("cachestat needs Linux 6.5")?;
    }
    Ok(cached as f64 / pages.max(1) as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_found_and_their_cache_is_set() {
        let folder = tempfile::tempdir().unwrap();
        let set = Dataset { files: 3, size: 100_000 };
        set.write(&folder.path().join("a/b")).unwrap();
        let files = set.locate(folder.path(), 2).unwrap();
        assert_eq!(files.len(), 2);
        assert!(set.locate(&folder.path().join("a"), 3).is_ok());
        assert!(Dataset { files: 4, ..set }.locate(folder.path(), 4).is_err());
        // Without cachestat(2), or on tmpfs, there is nothing to see.
        if set_cache(&files, CacheState::Hot).is_ok() {
            assert!(cached_share(&files).unwrap() > 0.99);
        }
    }
}
