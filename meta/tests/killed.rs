//! A process that is killed keeps every row that it was told is committed.
//!
//! This binary starts itself as a child that inserts rows and prints each id once it is
//! acknowledged; the parent kills it in the middle of its work and looks.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use reel_meta::sqlite::{SqliteFileStore, inline};
use reel_meta::{FileStore, InsertOutcome, NewFile};

const PATH: &str = "REEL_META_KILLED_PATH";
const ROUNDS: usize = 12;

fn rows(round: &str, batch: usize) -> Vec<NewFile> {
    // Batches of 1 to 5: a commit of several rows must be there as a whole.
    (0..=batch % 5)
        .map(|index| NewFile {
            file: format!("{round}-{batch}-{index}"),
            app: "tnvideo".to_owned(),
            user: ["tnv001", "tnv002", "tnv003"][index % 3].to_owned(),
            file_path: format!("/data/{round}/{batch}/{index}"),
            size: batch as u64,
            created_at: 1,
            checksum: None,
            name: None,
            content_type: None,
            expires_at: None,
            deleted_at: None,
        })
        .collect()
}

#[test]
#[ignore = "the child of the test below"]
fn child() {
    let Ok(path) = std::env::var(PATH) else { return };
    let (path, round) = path.rsplit_once('#').unwrap();
    let mut store = SqliteFileStore::open(Path::new(path)).unwrap();
    let mut out = std::io::stdout().lock();
    for batch in 0.. {
        let outcomes = inline(store.insert(&rows(round, batch))).unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == InsertOutcome::Inserted));
        writeln!(out, "done {batch}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("meta").join("storage.db");
    let mut last = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
            .env(PATH, format!("{}#{round}", path.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = None;
        // Each round is killed after another number of acknowledged batches, the child not waiting.
        let stop_at = 1 + round * 7;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, number)) = line.split_once("done ") {
                acknowledged = Some(number.parse::<usize>().unwrap());
                if acknowledged == Some(stop_at) {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        last.push(acknowledged.unwrap());

        let mut store = SqliteFileStore::open(&path).unwrap();
        for (round, &last) in last.iter().enumerate() {
            for batch in 0..=last + 1 {
                let wanted = rows(&round.to_string(), batch);
                let found = wanted
                    .iter()
                    .filter(|row| inline(store.get(None, &row.file)).unwrap().is_some())
                    .count();
                if batch <= last {
                    assert_eq!(found, wanted.len(), "round {round}, batch {batch} is lost");
                } else {
                    assert!(found == 0 || found == wanted.len(), "half a commit is there");
                }
            }
        }
    }
}
