//! The judge of these tests, and the cases that it must not pass.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use reel_tests::{
    crash::Crash,
    history::{History, State, Verdict},
    process::{Store, Up, verify},
    seed::Seeded,
    uploaders::owner,
};

use crate::{journaled, runtime};

/// Judges a store by what clients were told.
pub(crate) fn judge(history: &mut History, store: &Store) -> Result<Verdict> {
    runtime().block_on(async { history.judge(&store.client()?, owner()).await })
}

/// A file with these bytes, anywhere below a folder.
pub(crate) fn find(folder: &Path, content: &[u8]) -> Option<PathBuf> {
    let paths = fs::read_dir(folder).ok()?.map(|entry| entry.map(|entry| entry.path()));
    paths.flatten().find_map(|path| {
        if path.is_dir() {
            return find(&path, content);
        }
        (fs::read(&path).ok()? == content).then_some(path)
    })
}

#[test]
fn the_judge_sees_what_is_lost_and_what_comes_back() {
    let mut seeded = Seeded::of_test("judge");
    let mut crash = Crash::kill().unwrap();
    let data = crash.folder("data").unwrap();
    let up = Up::new(&data);
    let mut history = journaled::fill(&mut crash, &up, &mut seeded);
    let store = up.start().unwrap();
    judge(&mut history, &store).unwrap();

    let (deleted, _) = history.known(State::Deleted).next().unwrap();
    store.reel(&["restore", deleted.as_ref()]).unwrap();
    let error = judge(&mut history, &store).unwrap_err().to_string();
    assert!(error.contains("is Normal"), "{error}");
    store.reel(&["rm", deleted.as_ref()]).unwrap();
    judge(&mut history, &store).unwrap();
    store.drain().unwrap();
    verify(&data).unwrap();

    let content = history.known(State::Normal).map(|(_, content)| content).max_by_key(|c| c.size);
    let lost = find(&data.join("store"), &content.unwrap().bytes()).unwrap();
    fs::remove_file(lost).unwrap();
    verify(&data).unwrap_err();
    let store = up.expect_log("").start().unwrap();
    judge(&mut history, &store).unwrap_err();
    store.drain().unwrap();
}
