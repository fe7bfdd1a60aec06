//! `reel verify` and `reel rebuild-index`: the disks are the truth, and the rows can be made again from them.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, os::unix::fs::FileExt, path::Path, process::Output};

use reel_tests::{
    database::lose_metadata,
    process::{self, Store, Up},
    seed::Content,
};
use serde_json::Value;

fn on_disks(data: &Path, arguments: &[&str]) -> Output {
    process::on_data(data, arguments).unwrap().output().unwrap()
}

fn last_json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_else(|| {
        panic!("no output; {}", String::from_utf8_lossy(&output.stderr));
    });
    serde_json::from_str(line).unwrap()
}

/// Everything that `ls` tells, by user and id.
fn picture(store: &Store) -> BTreeMap<(String, String), Value> {
    let mut all = BTreeMap::new();
    for user in ["tnv001", "用户"] {
        let listed = store.reel(&["ls", "--status", "all", "--json", "--user", user]).unwrap();
        for line in listed.lines() {
            let mut file: Value = serde_json::from_str(line).unwrap();
            // Rebuilt rows of deleted files may count their retention from another second.
            file.as_object_mut().unwrap().remove("deleted_at");
            all.insert((user.to_owned(), file["id"].as_str().unwrap().to_owned()), file);
        }
    }
    all
}

#[test]
fn rebuild_index_gives_back_every_file_from_the_disks_alone() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::new(&data);
    let store = up.start().unwrap();
    let path = folder.path().join("film.mp4");
    for index in 0..40u64 {
        fs::write(&path, Content { seed: index, size: index * 3001 }.bytes()).unwrap();
        let user = if index % 4 == 0 { "用户" } else { "tnv001" };
        let (path, id) = (path.display().to_string(), format!("file-{index:02}"));
        store.reel(&["put", &path, "--id", &id, "--user", user]).unwrap();
    }
    store.reel(&["rm", "file-01", "file-02", "file-03"]).unwrap();
    store.reel(&["restore", "file-02"]).unwrap();
    store.reel(&["purge", "file-03"]).unwrap();
    let before = picture(&store);
    assert_eq!(before.len(), 39);
    let highest = before.values().map(|file| file["path_id"].as_u64().unwrap()).max().unwrap();

    // Beside a running engine nothing may be rebuilt.
    let locked = on_disks(&data, &["rebuild-index", "--json"]);
    assert_eq!(locked.status.code(), Some(1));
    store.drain().unwrap();

    // The ID node's database is lost as well: the marks of the stores keep path ids going up.
    lose_metadata(&data).unwrap();
    let rebuilt = on_disks(&data, &["rebuild-index", "--json"]);
    assert!(rebuilt.status.success(), "{}", String::from_utf8_lossy(&rebuilt.stderr));
    let done = last_json(&rebuilt);
    assert_eq!((done["rows"].as_u64(), done["deleted"].as_u64()), (Some(39), Some(1)));
    let again = last_json(&on_disks(&data, &["rebuild-index", "--json"]));
    assert_eq!((again["rows"].as_u64(), again["already"].as_u64()), (Some(0), Some(39)));

    let store = up.start().unwrap();
    assert_eq!(picture(&store), before);
    for index in [0u64, 2, 39] {
        let user = if index % 4 == 0 { "用户" } else { "tnv001" };
        let id = format!("file-{index:02}");
        let mut read = store.client_command(&["get", &id, "-o", "-", "--user", user]).unwrap();
        let read = read.output().unwrap();
        assert_eq!(read.stdout, Content { seed: index, size: index * 3001 }.bytes());
    }
    store.reel(&["restore", "file-01"]).unwrap();
    fs::write(&path, b"new").unwrap();
    let new = store.reel(&["put", &path.display().to_string(), "--json"]).unwrap();
    let new: Value = serde_json::from_str(&new).unwrap();
    assert!(new["path_id"].as_u64().unwrap() > highest, "{new} after {highest}");
    store.drain().unwrap();
}

#[test]
fn verify_finds_a_flipped_bit_a_short_file_and_a_missing_one() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let store = Up::new(&data).start().unwrap();
    let path = folder.path().join("a");
    let mut places = Vec::new();
    for index in 0..4 {
        fs::write(&path, Content { seed: index, size: 50_000 }.bytes()).unwrap();
        let id = format!("v{index}");
        store.reel(&["put", &path.display().to_string(), "--id", &id]).unwrap();
        places.push(find_newest(&data.join("store"), &places));
    }
    let sound = on_disks(&data, &["verify", "--json"]);
    assert!(sound.status.success(), "{}", String::from_utf8_lossy(&sound.stdout));
    assert_eq!(last_json(&sound)["files"], 4);
    store.drain().unwrap();

    let flip = fs::OpenOptions::new().read(true).write(true).open(&places[0]).unwrap();
    let mut byte = [0];
    flip.read_exact_at(&mut byte, 40_000).unwrap();
    flip.write_all_at(&[byte[0] ^ 4], 40_000).unwrap();
    fs::OpenOptions::new().write(true).open(&places[1]).unwrap().set_len(49_999).unwrap();
    fs::remove_file(&places[2]).unwrap();
    let broken = on_disks(&data, &["verify", "--json"]);
    assert_eq!(broken.status.code(), Some(1));
    let text = String::from_utf8_lossy(&broken.stdout);
    for kind in ["\"checksum\"", "\"size\"", "\"no-file\""] {
        assert!(text.contains(kind), "{kind}: {text}");
    }
    // Sizes alone do not show the flipped bit.
    let quick = on_disks(&data, &["verify", "--quick", "--json"]);
    assert!(!String::from_utf8_lossy(&quick.stdout).contains("\"checksum\""));
    let shown = on_disks(&data, &["verify"]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains("faults"));
}

/// The file below a store path that is not among the known ones.
fn find_newest(root: &Path, known: &[std::path::PathBuf]) -> std::path::PathBuf {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().unwrap() != ".reel" {
                folders.push(path);
            } else if path.is_file() && !known.contains(&path) {
                return path;
            }
        }
    }
    panic!("no new file below {}", root.display());
}
