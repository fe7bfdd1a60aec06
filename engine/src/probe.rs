//! What a store path needs of its file system, tried: for whoever chooses one, before a store is made there.
//!
//! A second mount of the same volume shows what one alone cannot: that several nodes may have it. What no probe shows is
//! that a file survives the loss of power of all servers at once, and what happens without a quorum: docs/operators-guide.md
//! says how to find that out.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::{fd::AsFd as _, unix::fs::FileExt as _},
    path::Path,
    sync::Barrier,
};

use crate::{
    record,
    store::{brick_of, sys},
};

/// The folder that it makes, and removes.
const FOLDER: &str = "reel-probe";

/// Names that two mounts make at the same time, and files that one reads when the other has them.
const NAMES: usize = 200;

/// Whether a store can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No store path without it.
    Must,
    /// A store path that several nodes have cannot do without.
    MustShared,
    /// It makes things faster.
    Helps,
}

/// One thing that was tried.
#[derive(Debug)]
pub struct Finding {
    /// What a store does with its file system.
    pub what: &'static str,
    /// Whether a store can do without.
    pub need: Need,
    /// What is wrong.
    pub outcome: Result<(), String>,
}

impl Finding {
    /// Whether a store could not be here.
    #[must_use]
    pub fn is_fatal(&self, shared: bool) -> bool {
        self.outcome.is_err()
            && match self.need {
                Need::Must => true,
                Need::MustShared => shared,
                Need::Helps => false,
            }
    }
}

/// Tries a folder, and with `other` the same folder of another mount.
///
/// # Errors
/// The folder for the probe cannot be made or removed.
pub fn probe(folder: &Path, other: Option<&Path>) -> io::Result<Vec<Finding>> {
    let ours = folder.join(format!("{FOLDER}-{}", std::process::id()));
    fs::create_dir(&ours)?;
    let theirs = other.map(|other| other.join(ours.file_name().unwrap_or_default()));
    let findings = tried(folder, &ours, theirs.as_deref());
    fs::remove_dir_all(&ours)?;
    Ok(findings)
}

fn tried(folder: &Path, ours: &Path, theirs: Option<&Path>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut note = |what, need, outcome: Result<(), String>| {
        findings.push(Finding { what, need, outcome });
    };
    let one = |outcome: io::Result<()>| outcome.map_err(|error| error.to_string());
    note("is no brick of a volume", Need::Must, no_brick(folder));
    note("a name is made once (O_EXCL)", Need::Must, makes_once(ours));
    note("extended attributes of 2 KiB", Need::Must, one(has_attributes(ours)));
    note("sync of a file", Need::Must, one(syncs(ours)));
    note("sync of a folder", Need::Must, one(File::open(ours).and_then(|ours| ours.sync_all())));
    note("links and renames", Need::Must, one(links(ours)));
    note("locks", Need::MustShared, locks(ours, ours));
    note("reads past the page cache (O_DIRECT)", Need::Helps, one(reads_directly(ours)));
    note("space reserved ahead (fallocate)", Need::Helps, one(reserves(ours)));
    if let Some(theirs) = theirs {
        let both = (ours, theirs);
        let shared = Need::MustShared;
        note("both mounts are of one volume", shared, is_one(both));
        note("two mounts make a name once", shared, one_winner(both));
        note("what one mount has synced the other reads at once", shared, reads_at_once(both));
        note("what one mount removes the other has no more", shared, removes_at_once(both));
        note("a lock of one mount keeps the other out", shared, locks(ours, theirs));
    }
    findings
}

fn no_brick(folder: &Path) -> Result<(), String> {
    match brick_of(folder) {
        Ok(None) => Ok(()),
        Ok(Some(volume)) => Err(format!("it lies in the brick {}", volume.display())),
        Err(error) => Err(error.to_string()),
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create_new(true).open(path)
}

fn makes_once(ours: &Path) -> Result<(), String> {
    let path = ours.join("once");
    new_file(&path).map_err(|error| error.to_string())?;
    match new_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("a name that was there was made again".to_owned()),
    }
}

fn has_attributes(ours: &Path) -> io::Result<()> {
    let file = new_file(&ours.join("attributes"))?;
    for byte in [1_u8, 2] {
        let value = vec![byte; record::WRITTEN_LEN_MAX];
        sys::set_attribute(&file, record::ATTRIBUTE, &value)?;
        if sys::attribute(&file, record::ATTRIBUTE, record::LEN_MAX)? != Some(value) {
            return Err(io::Error::other("an attribute is read otherwise than it was written"));
        }
    }
    Ok(())
}

fn syncs(ours: &Path) -> io::Result<()> {
    let mut file = new_file(&ours.join("synced"))?;
    file.write_all(&[7; 10_000])?;
    file.sync_all()?;
    file.sync_data()
}

fn links(ours: &Path) -> io::Result<()> {
    new_file(&ours.join("first"))?;
    fs::hard_link(ours.join("first"), ours.join("second"))?;
    if fs::hard_link(ours.join("first"), ours.join("second")).is_ok() {
        return Err(io::Error::other("a link took the place of another"));
    }
    fs::rename(ours.join("second"), ours.join("third"))?;
    fs::remove_file(ours.join("third"))
}

/// Whether a lock that is held through one mount keeps out who comes through the other.
fn locks(ours: &Path, theirs: &Path) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let open = |folder: &Path| {
        let path = folder.join("locked");
        File::options().create(true).truncate(false).write(true).open(path).map_err(text)
    };
    let held = open(ours)?;
    held.lock().map_err(text)?;
    match open(theirs)?.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(()),
        Err(TryLockError::Error(error)) => Err(error.to_string()),
        Ok(()) => Err("a lock was given twice".to_owned()),
    }
}

fn reads_directly(ours: &Path) -> io::Result<()> {
    fs::write(ours.join("direct"), [5; 8192])?;
    let root = sys::open_folder(ours)?;
    sys::open_at(root.as_fd(), "direct", libc::O_RDONLY | libc::O_DIRECT).map(drop)
}

fn reserves(ours: &Path) -> io::Result<()> {
    let file = new_file(&ours.join("reserved"))?;
    sys::preallocate(&file, 1 << 20)
}

fn is_one((ours, theirs): (&Path, &Path)) -> Result<(), String> {
    fs::write(ours.join("here"), "reel").map_err(|error| error.to_string())?;
    match fs::read(theirs.join("here")) {
        Ok(bytes) if bytes == b"reel" => Ok(()),
        Ok(_) => Err("it has another file there".to_owned()),
        Err(error) => Err(format!("{}: {error}", theirs.display())),
    }
}

/// Both make the same names at the same time.
fn one_winner((ours, theirs): (&Path, &Path)) -> Result<(), String> {
    let begin = Barrier::new(2);
    let make = |folder: &Path| -> Vec<io::Result<()>> {
        begin.wait();
        (0..NAMES)
            .map(|number| new_file(&folder.join(format!("race-{number}"))).map(drop))
            .collect()
    };
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| make(theirs));
        (make(ours), other.join().unwrap_or_default())
    });
    let twice = one.iter().zip(&two).filter(|(one, two)| one.is_ok() && two.is_ok()).count();
    let never = one.iter().zip(&two).filter(|(one, two)| one.is_err() && two.is_err()).count();
    match (twice, never) {
        (0, 0) => Ok(()),
        _ => Err(format!("of {NAMES} names {twice} were made twice, and {never} by nobody")),
    }
}

fn reads_at_once((ours, theirs): (&Path, &Path)) -> Result<(), String> {
    let is_there = |number: usize| -> io::Result<bool> {
        let (name, bytes) = (format!("seen-{number}"), vec![number as u8; 1 + number * 97]);
        let file = new_file(&ours.join(&name))?;
        file.write_all_at(&bytes, 0)?;
        sys::set_attribute(&file, record::ATTRIBUTE, &[number as u8; 100])?;
        file.sync_all()?;
        let mut seen = File::open(theirs.join(&name))?;
        let mut content = Vec::new();
        seen.read_to_end(&mut content)?;
        let attribute = sys::attribute(&seen, record::ATTRIBUTE, record::LEN_MAX)?;
        Ok(content == bytes && attribute == Some(vec![number as u8; 100]))
    };
    let bad = (0..NAMES).find_map(|number| match is_there(number) {
        Ok(true) => None,
        Ok(false) => Some(format!("file {number} of {NAMES} was read otherwise")),
        Err(error) => Some(format!("file {number} of {NAMES}: {error}")),
    });
    bad.map_or(Ok(()), Err)
}

fn removes_at_once((ours, theirs): (&Path, &Path)) -> Result<(), String> {
    for number in 0..NAMES {
        let name = format!("seen-{number}");
        fs::remove_file(ours.join(&name)).map_err(|error| error.to_string())?;
        // The name, not what may be remembered of its file.
        match File::open(theirs.join(&name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
            Ok(_) => return Err(format!("file {number} of {NAMES} was still there")),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_this_machine_has_all_that_is_needed_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let findings = probe(folder.path(), Some(folder.path())).unwrap();
        let fatal: Vec<_> = findings.iter().filter(|finding| finding.is_fatal(true)).collect();
        assert!(fatal.is_empty(), "{fatal:?}");
        assert_eq!(findings.len(), 14);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_missing_is_said() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let findings = probe(one.path(), Some(two.path())).unwrap();
        let of = |what: &str| findings.iter().find(|finding| finding.what.contains(what)).unwrap();
        assert!(of("one volume").is_fatal(true) && !of("one volume").is_fatal(false));
        fs::create_dir(one.path().join(".glusterfs")).unwrap();
        let findings = probe(one.path(), None).unwrap();
        assert!(findings[0].is_fatal(false), "{findings:?}");
        let without = probe(Path::new("/proc/self"), None).unwrap_err();
        assert!(!without.to_string().is_empty());
    }
}
