//! The commit journal: what a power loss takes from files and rows comes back from it, whatever of it is damaged, cut
//! short, or full.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use kit::{
    DATABASE, Node, attribute, content, copy, files, journaled, key, quick_folder, set_attribute,
    status,
};
use reel_engine::{
    metadata::wait,
    record::{Record, State},
    store::{Changed, Durability, Status},
};

fn open(folder: &Path) -> Node {
    Node::open_with(&journaled(folder), &folder.join(DATABASE), 0)
}

/// What a power loss may leave while the journal stands for everything: files as in `files_of`, database as in
/// `database_of`, the journal as it is. Each of them is a folder that was copied at some moment.
fn mixture(files_of: &Path, database_of: &Path, journal_of: &Path) -> tempfile::TempDir {
    let folder = quick_folder();
    copy(&files_of.join("store"), &folder.path().join("store"));
    for name in [DATABASE, "storage.db-wal", "storage.db-shm"] {
        if database_of.join(name).exists() {
            fs::copy(database_of.join(name), folder.path().join(name)).unwrap();
        }
    }
    copy(&journal_of.join("storage.journal"), &folder.path().join("storage.journal"));
    folder
}

/// Uploads, deletes, restores and purges; gives what must be there afterwards: content, or `None` for deleted.
fn work(node: &Node) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut expected = BTreeMap::new();
    for index in 0..60_u64 {
        let name = format!("f{index}");
        let bytes = content(index, usize::try_from(index * 997 % 40_000).unwrap());
        node.put(&name, &bytes).unwrap();
        expected.insert(name, Some(bytes));
    }
    let large = content(7, 900_000);
    node.put("large", &large).unwrap();
    expected.insert("large".to_owned(), Some(large));
    let name = |index: u64| format!("f{index}");
    let one = |index: u64| key("tnv001", &name(index));
    for index in 0..20 {
        assert_eq!(wait(node.stores.delete(one(index))).unwrap(), Changed::Done);
        expected.insert(name(index), None);
    }
    for index in 0..10 {
        assert_eq!(wait(node.stores.restore(one(index))).unwrap(), Changed::Done);
        let bytes = content(index, usize::try_from(index * 997 % 40_000).unwrap());
        expected.insert(name(index), Some(bytes));
    }
    for index in 10..15 {
        assert_eq!(wait(node.stores.purge(one(index))).unwrap(), Changed::Done);
        expected.remove(&name(index));
    }
    // The same id again after its purge, with other content.
    node.put("f12", b"the second one").unwrap();
    expected.insert("f12".to_owned(), Some(b"the second one".to_vec()));
    // Refused, and nothing of it stays.
    assert!(node.put("f30", b"other content").is_err());
    expected
}

fn check(node: &Node, expected: &BTreeMap<String, Option<Vec<u8>>>, what: &str) {
    for (name, bytes) in expected {
        match bytes {
            Some(bytes) => {
                assert!(node.read(name).as_ref() == Some(bytes), "{what}: {name}");
                let place = node.find(name).unwrap();
                let folder = &node.stores.status()[place.store].path;
                let sealed = attribute(&folder.join(place.relative.as_str())).unwrap();
                assert_eq!(Record::decode(&sealed).unwrap().state, State::Normal, "{what}: {name}");
            }
            None => assert_eq!(status(node, name), Some(Status::Deleted), "{what}: {name}"),
        }
    }
    for purged in ["f10", "f11", "f13", "f14"] {
        assert_eq!(status(node, purged), None, "{what}: {purged}");
    }
    let in_rows = expected.len();
    let store = node.stores.status()[0].path.clone();
    assert_eq!(files(&store).len(), in_rows, "{what}: a file more or less than rows");
}

/// Runs `work`, and copies the folder at its begin and at its end, both as a crash would leave them.
fn before_and_after(folder: &Path) -> (BTreeMap<String, Option<Vec<u8>>>, PathBuf, PathBuf) {
    let data = folder.join("data");
    fs::create_dir(&data).unwrap();
    let node = open(&data);
    let (before, after) = (folder.join("before"), folder.join("after"));
    copy(&data, &before);
    let expected = work(&node);
    let counts = node.stores.status()[0].counts;
    assert_eq!((counts.journaled, counts.commits), (61, 1), "only the large file was committed");
    kit::until("what was refused and purged is unlinked", || {
        files(&data.join("store")).len() == expected.len()
    });
    copy(&data, &after);
    node.close();
    (expected, before, after)
}

#[test]
fn files_and_rows_come_back_from_the_journal_whatever_reached_the_disk() {
    let folder = quick_folder();
    let (expected, before, after) = before_and_after(folder.path());
    for (what, files_of, database_of) in [
        ("nothing reached the disk", &before, &before),
        ("rows only", &before, &after),
        ("files only", &after, &before),
        ("all of it", &after, &after),
    ] {
        let mixed = mixture(files_of, database_of, &after);
        // A large file was durable before its row: no power loss takes it.
        let large = files(&after.join("store"))
            .into_iter()
            .find(|path| fs::metadata(after.join("store").join(path)).unwrap().len() == 900_000);
        let large = large.unwrap();
        let place = mixed.path().join("store").join(&large);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        copy(&after.join("store").join(&large), &place);
        let node = open(mixed.path());
        check(&node, &expected, what);
        // Once more, as after a crash at the end of the replay, before the journal was begun anew.
        let again = mixture(mixed.path(), mixed.path(), &after);
        node.close();
        let node = open(again.path());
        check(&node, &expected, what);
        node.close();
        // And nothing is left to replay.
        let node = open(again.path());
        check(&node, &expected, what);
        node.close();
    }
}

#[test]
fn files_that_were_half_written_are_written_again() {
    let folder = quick_folder();
    let (expected, before, after) = before_and_after(folder.path());
    let mixed = mixture(&after, &before, &after);
    let store = mixed.path().join("store");
    for (index, path) in files(&store).into_iter().enumerate() {
        let path = store.join(path);
        let length = fs::metadata(&path).unwrap().len();
        if length == 900_000 {
            continue;
        }
        match index % 5 {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap(),
            2 => set_attribute(&path, None),
            3 => fs::File::options().write(true).open(&path).unwrap().set_len(length / 2).unwrap(),
            _ => {
                let mut record = Record::decode(&attribute(&path).unwrap()).unwrap();
                record.state = State::Deleted;
                set_attribute(&path, Some(&record.encode().unwrap()));
            }
        }
    }
    let node = open(mixed.path());
    check(&node, &expected, "half written");
    node.close();
}

#[test]
fn a_purged_file_that_a_power_loss_brings_back_is_unlinked_again() {
    let folder = quick_folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let node = open(&data);
    node.put("purged", &content(1, 5000)).unwrap();
    let file = data.join("store").join(node.find("purged").unwrap().relative.as_str());
    let kept = folder.path().join("kept");
    copy(&file, &kept);
    wait(node.stores.delete(key("tnv001", "purged"))).unwrap();
    wait(node.stores.purge(key("tnv001", "purged"))).unwrap();
    assert!(!file.exists());
    let crashed = folder.path().join("crashed");
    copy(&data, &crashed);
    node.close();
    let undone = crashed.join("store").join(file.strip_prefix(data.join("store")).unwrap());
    copy(&kept, &undone);
    let node = open(&crashed);
    assert!(!undone.exists(), "its record says normal, and only the journal knows better");
    assert_eq!(status(&node, "purged"), None);
    node.close();
}

#[test]
fn a_flipped_bit_costs_no_other_entry() {
    let folder = quick_folder();
    let (expected, before, after) = before_and_after(folder.path());
    let mixed = mixture(&before, &before, &after);
    // The content of one file, found in its segment: a place well inside the journal.
    let needle = &expected["f45"].as_ref().unwrap()[1000..1064];
    let segment = fs::read_dir(mixed.path().join("storage.journal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| fs::read(path).unwrap().windows(64).any(|window| window == needle))
        .unwrap();
    let bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(64).position(|window| window == needle).unwrap();
    let file = fs::File::options().write(true).open(&segment).unwrap();
    file.write_all_at(&[bytes[at] ^ 16], at as u64).unwrap();
    let node = open(mixed.path());
    for (name, bytes) in &expected {
        if let Some(bytes) = bytes
            && name != "f45"
            && name != "large"
        {
            assert!(node.read(name).as_ref() == Some(bytes), "{name}");
        }
    }
    assert!(node.find("f45").is_none(), "its content is not what its row would say");
    node.close();
}

#[test]
fn a_journal_goes_round_many_times() {
    let folder = quick_folder();
    let node = open(folder.path());
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let node = &node;
            scope.spawn(move || {
                for index in 0..60 {
                    let bytes = content(thread * 1000 + index, 200_000);
                    node.put(&format!("{thread}-{index}"), &bytes).unwrap();
                }
            });
        }
    });
    // 48 MB through 8 MiB.
    let bytes: u64 = fs::read_dir(folder.path().join("storage.journal"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 9 << 20, "{bytes} bytes of journal");
    assert_eq!(node.stores.status()[0].counts.journaled, 240);
    let crashed = quick_folder();
    let crashed = crashed.path().join("data");
    copy(folder.path(), &crashed);
    node.close();
    let node = open(&crashed);
    for thread in 0..4_u64 {
        for index in 0..60 {
            let expected = content(thread * 1000 + index, 200_000);
            assert!(node.read(&format!("{thread}-{index}")).unwrap() == expected);
        }
    }
    node.close();
}

#[test]
fn without_sync_there_is_no_journal() {
    let folder = quick_folder();
    let mut config = journaled(folder.path());
    config.durability = Durability::Async;
    let node = Node::open_with(&config, &folder.path().join(DATABASE), 0);
    node.put("a", b"content").unwrap();
    assert_eq!(node.stores.status()[0].counts.journaled, 0);
    assert!(!folder.path().join("storage.journal").exists());
    node.close();
}

#[test]
fn a_journal_that_is_switched_off_is_replayed_once_and_never_again() {
    let folder = quick_folder();
    let (expected, before, after) = before_and_after(folder.path());
    let mixed = mixture(&before, &before, &after);
    let large = files(&after.join("store"))
        .into_iter()
        .find(|path| fs::metadata(after.join("store").join(path)).unwrap().len() == 900_000);
    let place = mixed.path().join("store").join(large.as_ref().unwrap());
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    copy(&after.join("store").join(large.unwrap()), &place);
    let mut off = journaled(mixed.path());
    off.journal.as_mut().unwrap().enabled = false;
    let database = mixed.path().join(DATABASE);
    let node = Node::open_with(&off, &database, 0);
    check(&node, &expected, "switched off");
    // What comes without it is not undone when it is on again.
    wait(node.stores.delete(key("tnv001", "f40"))).unwrap();
    wait(node.stores.purge(key("tnv001", "f40"))).unwrap();
    node.put("f40", b"without a journal").unwrap();
    let counts = node.stores.status()[0].counts;
    assert_eq!((counts.journaled, counts.commits), (0, 1));
    node.close();
    let node = open(mixed.path());
    assert_eq!(node.read("f40").unwrap(), b"without a journal");
    node.close();
}

/// Contents can hold anything, also what looks like groups of the journal: they lie at block boundaries behind the last
/// group when a segment is used again.
#[test]
fn contents_are_never_taken_for_entries() {
    let folder = quick_folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let node = open(&data);
    node.put("victim", b"stays").unwrap();
    wait(node.stores.delete(key("tnv001", "victim"))).unwrap();
    wait(node.stores.restore(key("tnv001", "victim"))).unwrap();
    // The journal's own bytes, as somebody who can read them may upload them.
    let segments = fs::read_dir(data.join("storage.journal")).unwrap();
    let stolen = segments
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .find(|bytes| bytes.windows(4).any(|window| window == b"RGRP"))
        .unwrap();
    let forged: Vec<u8> = stolen[4096..4096 + 64 * 4096].to_vec();
    for index in 0..60 {
        node.put(&format!("forged-{index}"), &forged).unwrap();
    }
    let crashed = folder.path().join("crashed");
    copy(&data, &crashed);
    node.close();
    let node = open(&crashed);
    assert_eq!(node.read("victim").unwrap(), b"stays");
    for index in 0..60 {
        assert!(node.read(&format!("forged-{index}")).unwrap() == forged, "forged-{index}");
    }
    node.close();
}

/// A reader of the database stands in the way of checkpoints, and nothing is recycled: uploads wait, the journal is
/// frozen, and whoever was answered has what it was told.
#[test]
fn what_meets_a_journal_that_freezes_is_refused_or_durable() {
    let folder = quick_folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let mut config = journaled(&data);
    config.journal.as_mut().unwrap().full_wait = std::time::Duration::ZERO;
    let node = Node::open_with(&config, &data.join(DATABASE), 0);
    let empty = folder.path().join("empty");
    copy(&data, &empty);
    let reader = rusqlite::Connection::open(data.join(DATABASE)).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM t_file_01").unwrap();
    let (mut journaled, mut later) = (BTreeMap::new(), BTreeMap::new());
    for index in 0..80_u64 {
        let bytes = content(index, 200_000);
        let commits = node.stores.status()[0].counts.commits;
        if node.put(&format!("f{index}"), &bytes).is_ok() {
            let in_journal = node.stores.status()[0].counts.commits == commits;
            if in_journal { &mut journaled } else { &mut later }.insert(index, bytes);
        }
    }
    assert!(!journaled.is_empty() && !later.is_empty(), "{} {}", journaled.len(), later.len());
    drop(reader);
    let crashed = folder.path().join("crashed");
    copy(&data, &crashed);
    node.close();
    // What no commit has synced is gone from the disk: only the journal has it.
    let mixed = mixture(&empty, &crashed, &crashed);
    let node = open(mixed.path());
    for (index, bytes) in &journaled {
        assert!(
            node.read(&format!("f{index}")).as_ref() == Some(bytes),
            "f{index} was acknowledged"
        );
    }
    node.close();
}
