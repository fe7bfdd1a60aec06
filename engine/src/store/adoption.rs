//! `.reel/adoption.toml`: a store whose files were there before it was one, and how far they have been taken over.
//!
//! As long as it says `open`, the rows are the truth: an old node may go on beside this one, and knows no records. Repair
//! and purge leave the store alone until an operator has said that the old system is gone, and every record follows its row.

use std::{
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use serde::{Deserialize, Serialize};

use super::{mark, sys, walk};

/// Format of what this version writes.
const FORMAT: u32 = 1;

const FILE: &str = ".reel/adoption.toml";
const NEW: &str = ".reel/adoption.toml.new";

/// Findings of the last pass, a JSON object in each line.
pub(crate) const FINDINGS: &str = ".reel/adoption-findings.jsonl";

/// Longest file; one that is longer is not ours.
const LEN_MAX: u64 = 64 << 10;

/// How far a store has been taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adoption {
    format: u32,
    /// Whether the rows are still the truth.
    pub state: AdoptionState,
    /// The pass that was begun last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<Pass>,
}

/// Whether a store is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdoptionState {
    /// Not yet: repair and purge leave it alone.
    Open,
    /// It is a store like any other.
    Finished,
}

/// What a pass is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AdoptionMode {
    /// Look, and change nothing.
    Check,
    /// Give each file its record, and its row the checksum.
    Adopt,
    /// As [`Self::Adopt`]; afterwards the store is one like any other.
    Finish,
}

/// A pass over all rows and files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// What it is to do.
    pub mode: AdoptionMode,
    /// Seconds since 1970.
    pub started_at: u64,
    /// When it came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<u64>,
    /// Number of the table and file id up to which rows are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<(u8, String)>,
    /// Rows of the whole database that were read, other store paths' too.
    #[serde(default)]
    pub rows_read: u64,
    /// How many there were when it began, where the database could say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_total: Option<u64>,
    /// An operator has told it to wait.
    #[serde(default)]
    pub paused: bool,
    /// Why it ended before its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What it has seen.
    pub seen: Seen,
}

/// What a pass has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Seen {
    /// Rows that name a place of this store path.
    pub rows: u64,
    /// Bytes of content read.
    pub bytes: u64,
    /// Files that got a record, or one that says what their row says.
    pub adopted: u64,
    /// Files that had one.
    pub already: u64,
    /// Rows that changed under way, and are looked at by the next pass.
    pub changed: u64,
    /// Rows whose file is not there.
    pub no_file: u64,
    /// Files of another size than their row says.
    pub wrong_size: u64,
    /// Files with another checksum than their row says.
    pub wrong_checksum: u64,
    /// Files with something that is not their record.
    pub bad_record: u64,
    /// Files that could not be read.
    pub unreadable: u64,
    /// Rows with names that no version accepts.
    pub bad_row: u64,
    /// Files that no row names.
    pub no_row: u64,
}

impl Seen {
    /// How many things are wrong.
    pub fn findings(&self) -> u64 {
        self.no_file
            + self.wrong_size
            + self.wrong_checksum
            + self.bad_record
            + self.unreadable
            + self.bad_row
            + self.no_row
    }
}

impl Pass {
    pub(crate) fn new(mode: AdoptionMode, now: u64) -> Self {
        Self {
            mode,
            started_at: now,
            ended_at: None,
            after: None,
            rows_read: 0,
            rows_total: None,
            paused: false,
            error: None,
            seen: Seen::default(),
        }
    }

    /// Whether a start goes on with it.
    pub(crate) fn is_under_way(&self) -> bool {
        self.ended_at.is_none() && !self.paused && self.error.is_none()
    }
}

impl Adoption {
    fn open() -> Self {
        Self { format: FORMAT, state: AdoptionState::Open, pass: None }
    }

    /// Of the store at `root`; `None`: its files are all its own.
    pub(crate) fn read(root: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let mut text = String::new();
        match sys::open_at(root, FILE, libc::O_RDONLY) {
            Ok(file) => file.take(LEN_MAX).read_to_string(&mut text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let wrong = |text: String| io::Error::other(format!("{FILE}: {text}"));
        let found: Self = toml::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if found.format != FORMAT {
            return Err(wrong(format!("format {}, this version knows {FORMAT}", found.format)));
        }
        Ok(Some(found))
    }

    /// Durable on return.
    pub(crate) fn write(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        let mut file = sys::open_at(root, NEW, flags)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        sys::rename_at(root, NEW, FILE)?;
        Ok(mark::settle_name(root, FILE)?)
    }
}

/// Before a folder becomes a store: whether files lie there already, which were written by somebody else. Written down
/// durably before the store has a name, so that no start ever takes them for its own.
pub(crate) fn begin(folder: &Path) -> io::Result<()> {
    let root = sys::open_folder(folder)?;
    let root = root.as_fd();
    if walk::past_highest(root)? == 0 || Adoption::read(root)?.is_some() {
        return Ok(());
    }
    tracing::warn!(path = %folder.display(),
        "files were here before the store: they are served as their rows say, and taken over by `reel adopt`");
    Adoption::open().write(root)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_folder_with_files_is_taken_over_and_an_empty_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join(".reel")).unwrap();
        let root = sys::open_folder(place.path()).unwrap();
        begin(place.path()).unwrap();
        assert_eq!(Adoption::read(root.as_fd()).unwrap(), None);
        let leaf = place.path().join("000/000/000");
        fs::create_dir_all(&leaf).unwrap();
        fs::write(leaf.join("65F1560C_001"), b"content").unwrap();
        begin(place.path()).unwrap();
        let mut adoption = Adoption::read(root.as_fd()).unwrap().unwrap();
        assert_eq!(adoption, Adoption::open());

        let mut pass = Pass::new(AdoptionMode::Adopt, 5);
        assert!(pass.is_under_way());
        pass.after = Some((2, "a \"quoted\"\n file 🎞".to_owned()));
        pass.seen.adopted = 3;
        adoption.pass = Some(pass);
        adoption.write(root.as_fd()).unwrap();
        assert_eq!(Adoption::read(root.as_fd()).unwrap().as_ref(), Some(&adoption));
        // Begun already.
        begin(place.path()).unwrap();
        assert_eq!(Adoption::read(root.as_fd()).unwrap(), Some(adoption));
        fs::write(place.path().join(FILE), "format = 2").unwrap();
        assert!(Adoption::read(root.as_fd()).is_err());
    }
}
