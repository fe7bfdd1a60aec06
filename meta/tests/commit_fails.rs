//! A COMMIT that the kernel refuses: the store says that the outcome is unknown, and answers again
//! only when a later commit has decided it.
//!
//! The fault is real: the process's file size limit stands just above the write-ahead log, so
//! writing its frames fails with EFBIG. The limit holds for a whole process, hence a file with one
//! test.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use reel_meta::sqlite::{SqliteFileStore, inline};
use reel_meta::{FileStore, InsertOutcome, NewFile};

/// Sets the soft limit on the size of files that this process writes.
fn limit_file_size(bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit of this frame.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) }, 0);
    limit.rlim_cur = bytes.min(limit.rlim_max);
    // SAFETY: the pointer is to a live rlimit of this frame.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) }, 0);
}

fn new_file(file: &str) -> NewFile {
    NewFile {
        file: file.to_owned(),
        app: "tnvideo".to_owned(),
        user: "tnv001".to_owned(),
        file_path: format!("/data/{file}"),
        size: 1,
        created_at: 5,
        checksum: None,
        name: None,
        content_type: None,
        expires_at: None,
        deleted_at: None,
    }
}

fn wal_bytes(path: &Path) -> u64 {
    std::fs::metadata(path.with_extension("db-wal")).unwrap().len()
}

#[test]
fn the_outcome_is_unknown_until_a_commit_succeeds() {
    // SAFETY: SIG_IGN is a valid disposition; a write past the limit then fails with EFBIG.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage.db");
    let mut store = SqliteFileStore::open(&path).unwrap();
    inline(store.insert(&[new_file("before")])).unwrap();

    // Room for one frame of the two that the commit needs: part of it reaches the file.
    let before = wal_bytes(&path);
    limit_file_size(before + 5000);
    let failed = inline(store.insert(&[new_file("lost")])).unwrap_err();
    assert!(failed.outcome_unknown(), "{failed}");
    // Room for none: the commit that would decide it fails too.
    limit_file_size(before);
    let no_answer = inline(store.get(None, "lost")).unwrap_err();
    assert!(no_answer.outcome_unknown(), "nothing is promised yet: {no_answer}");
    let no_write = inline(store.insert(&[new_file("more")])).unwrap_err();
    assert!(no_write.outcome_unknown(), "{no_write}");

    limit_file_size(u64::MAX);
    assert_eq!(inline(store.get(None, "lost")).unwrap(), None, "now it is known: not there");
    assert!(inline(store.get(None, "before")).unwrap().is_some());
    let outcomes = inline(store.insert(&[new_file("lost")])).unwrap();
    assert_eq!(outcomes, [InsertOutcome::Inserted], "the connection works as before");

    // A copy of the files is what a crash at this moment would leave.
    let copy = tempfile::tempdir().unwrap();
    for name in ["storage.db", "storage.db-wal"] {
        std::fs::copy(folder.path().join(name), copy.path().join(name)).unwrap();
    }
    let mut recovered = SqliteFileStore::open(&copy.path().join("storage.db")).unwrap();
    assert!(inline(recovered.get(None, "before")).unwrap().is_some());
    assert!(inline(recovered.get(None, "lost")).unwrap().is_some());
    assert!(inline(recovered.get(None, "more")).unwrap().is_none());
}
