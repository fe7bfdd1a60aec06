//! The file system's own limit for durable small files: what a store could do at best on this disk, in this minute.
//!
//! Files are created and written in a tree of 512 folders, their content is appended to a journal that was filled with
//! zeros before, and one fdatasync of the journal makes a group durable (docs: performance, "commit journal"). When the
//! journal is full a syncfs empties it. Without a group it is one fdatasync of one block alone.

use std::{
    fs::{self, File, OpenOptions},
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    content::Content,
    cpu::{CoreTime, Meter},
    load::outcome::{self, Outcome},
    sys::cache,
};

/// Folders of the tree.
const FOLDERS: usize = 512;
/// Bytes of the journal: 16,384 files of 16 KiB.
const JOURNAL_BYTES: u64 = 256 << 20;
/// Longest group told apart in the histogram, nanoseconds.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// What to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// An empty folder.
    pub(crate) folder: PathBuf,
    /// Files made durable together; 0: no files, one block by itself.
    pub(crate) group: usize,
    /// Bytes of a file, or of the block.
    pub(crate) size: u64,
    /// Milliseconds.
    pub(crate) measure_ms: u64,
    /// Files after which it ends early.
    pub(crate) count_max: u64,
    /// Of its own CPU time.
    pub(crate) meters: Vec<Meter>,
}

/// `reel-perf journal`: a plan on standard input, an outcome on standard output.
pub(crate) fn main() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let plan: Plan = serde_json::from_str(&text).context("the plan on standard input")?;
    println!("{}", serde_json::to_string(&run(&plan)?)?);
    Ok(())
}

struct Journal {
    file: File,
    folder: File,
    at: u64,
}

impl Journal {
    fn new(folder: &Path) -> Result<Self> {
        let path = folder.join("journal");
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        cache::allocate(&file, JOURNAL_BYTES)?;
        // Written once, or every fdatasync would also have to turn unwritten extents into written ones.
        let zeros = vec![0; 1 << 20];
        for piece in 0..JOURNAL_BYTES / zeros.len() as u64 {
            file.write_all_at(&zeros, piece * zeros.len() as u64)?;
        }
        file.sync_all()?;
        Ok(Self { file, folder: File::open(folder)?, at: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.at + bytes.len() as u64 > JOURNAL_BYTES {
            cache::sync_file_system(&self.folder)?;
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn make_durable(&self) -> Result<()> {
        Ok(self.file.sync_data()?)
    }
}

fn run(plan: &Plan) -> Result<Outcome> {
    let mut journal = Journal::new(&plan.folder)?;
    let folders: Vec<PathBuf> =
        (0..FOLDERS).map(|number| plan.folder.join(format!("{number:03x}"))).collect();
    for folder in &folders {
        fs::create_dir(folder)?;
    }
    let mut content = vec![0; usize::try_from(plan.size)?];
    Content::new(1).fill(0, &mut content);
    let mut latency = Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3)?;
    let read = |meters: &[Meter]| meters.iter().map(Meter::seconds).collect::<Result<Vec<_>>>();
    let (cpu, cores) = (read(&plan.meters)?, CoreTime::all()?);
    let begin = Instant::now();
    let mut done = 0_u64;
    while begin.elapsed().as_millis() < u128::from(plan.measure_ms) && done < plan.count_max {
        let group_begin = Instant::now();
        for _ in 0..plan.group {
            let path = folders[done as usize % FOLDERS].join(done.to_string());
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            file.write_all_at(&content, 0)?;
            journal.append(&content)?;
            done += 1;
        }
        if plan.group == 0 {
            journal.append(&content)?;
            done += 1;
        }
        journal.make_durable()?;
        latency.saturating_record(u64::try_from(group_begin.elapsed().as_nanos())?);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpu_seconds =
        read(&plan.meters)?.iter().zip(&cpu).map(|(end, begin)| end - begin).collect();
    Ok(Outcome {
        seconds,
        done,
        bytes: done * plan.size,
        cpu_seconds,
        cores: CoreTime::all()?.iter().zip(&cores).map(|(end, begin)| end.since(begin)).collect(),
        latency_us: outcome::percentiles(&latency),
        ..Outcome::default()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_makes_the_files_that_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            folder: folder.path().to_owned(),
            group: 4,
            size: 1000,
            measure_ms: 60_000,
            count_max: 8,
            meters: Vec::new(),
        };
        let outcome = run(&plan).unwrap();
        assert_eq!((outcome.done, outcome.bytes), (8, 8000));
        assert_eq!(fs::read(folder.path().join("007/7")).unwrap().len(), 1000);
    }
}
