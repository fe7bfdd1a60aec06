//! What a disk lost behind the commit journal: brought to another one, not served until then, and never given up.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{collections::BTreeMap, fs, path::Path};

use kit::{
    DATABASE, Node, config, content, copy, disk::Disk, disk::skipped, files, journal, journaled,
    key, path_config, quick_folder, status,
};
use reel_engine::{
    metadata::wait,
    store::{Health, Lookup, LookupError, Outcome, Status, StoreConfig},
};

/// One of two disks goes away: what was acknowledged for it stays in the journal, the other goes on, and once the disk
/// is back everything is there.
#[test]
fn what_a_disk_loses_behind_the_journal_is_brought_to_another() {
    if skipped("what_a_disk_loses_behind_the_journal_is_brought_to_another") {
        return;
    }
    for kind in ["ext4", "xfs"] {
        let folder = quick_folder();
        let mut broken = Disk::new(kind, 512);
        let well = Disk::new(kind, 512);
        let mut config = config(&[]);
        let paths = [broken.mount.join("store"), well.mount.join("store")];
        config.paths = paths.iter().map(|path| path_config(path)).collect();
        config.journal = Some(journal(&folder.path().join(DATABASE)));
        // More than are used: how they are fetched is not looked at here.
        config.id_block = 4096;
        let node = Node::open_with(&config, &folder.path().join(DATABASE), 0);
        let mut expected = BTreeMap::new();
        let mut put = |node: &Node, name: String, index: u64| {
            let bytes = content(index, 9000);
            let stored = node.put(&name, &bytes);
            match &stored {
                Ok(_) => drop(expected.insert(name, bytes)),
                Err(error) => println!("{kind}: {name}: {error}"),
            }
            stored.is_ok()
        };
        for index in 0..50 {
            assert!(put(&node, format!("before-{index}"), index));
        }
        let mut names = (0..50).map(|index| format!("before-{index}"));
        let gone = names.find(|name| on_store(&node, name) == Some(0)).unwrap();
        wait(node.stores.delete(key("tnv001", &gone))).unwrap();
        let on_broken = node.stores.status()[0].counts.journaled;
        assert!(on_broken > 0, "{kind}: nothing lies on the disk that is to fail");
        broken.cut_power();
        kit::until("the disk is found broken", || {
            put(&node, "while".to_owned(), 77);
            node.stores.status()[0].health != Health::Ok
        });
        let mut after = 0;
        for index in 0..50 {
            after += u32::from(put(&node, format!("after-{index}"), 100 + index));
        }
        assert!(after >= 49, "{kind}: {after} of 50 on the disk that is well");
        let mut later = 0;
        kit::until("the journal is frozen, and groups are synced where they lie", || {
            later += 1;
            assert!(put(&node, format!("later-{later}"), later), "{kind}: refused");
            node.stores.status()[1].counts.commits > 0
        });
        kit::until("what the disk may have lost is on the other", || {
            expected.keys().all(|name| *name == gone || on_store(&node, name) == Some(1))
        });
        expected.remove(&gone);
        assert_eq!(status(&node, &gone), Some(Status::Deleted), "{kind}");
        for (name, bytes) in &expected {
            assert!(node.read(name).as_ref() == Some(bytes), "{kind}: {name}, without a new start");
        }
        let (name, bytes) = expected.iter().next().unwrap();
        let same = node.put(name, bytes).unwrap();
        assert_eq!(same.outcome, Outcome::Same, "{kind}");
        node.stores.close(std::time::Duration::from_secs(10));
        drop(node);
        broken.unmount();
        broken.mount();
        // First while it is not trusted (this disk could not even take the marker that says so), then as after an
        // operator has looked at it.
        let marker = broken.mount.join("store/.reel/read-only");
        fs::write(&marker, "EIO").unwrap();
        for readmitted in [false, true] {
            if readmitted {
                fs::remove_file(&marker).unwrap();
            }
            let node = Node::open_with(&config, &folder.path().join(DATABASE), 9999);
            for (name, bytes) in &expected {
                assert!(node.read(name).as_ref() == Some(bytes), "{kind}: {name} {readmitted}");
            }
            node.put(&format!("again-{readmitted}"), b"again").unwrap();
            assert_eq!(status(&node, &gone), Some(Status::Deleted), "{kind} {readmitted}");
            node.close();
        }
    }
}

/// Where a file's row says that it lies; none while it is not to be served from there.
fn on_store(node: &Node, file: &str) -> Option<usize> {
    wait(node.stores.lookup(Lookup::Owned(key("tnv001", file)))).ok()?.map(|found| found.store)
}

/// Uploads until the only disk has failed under what the journal holds for it.
fn on_a_disk_that_failed(
    disk: &Disk,
    config: &StoreConfig,
    database: &Path,
) -> (Node, BTreeMap<String, Vec<u8>>) {
    let node = Node::open_with(config, database, 0);
    let mut expected = BTreeMap::new();
    for index in 0..40 {
        let (name, bytes) = (format!("before-{index}"), content(index, 9000));
        node.put(&name, &bytes).unwrap();
        expected.insert(name, bytes);
    }
    disk.cut_power();
    kit::until("the disk is found broken, and nothing is served of what it may have lost", || {
        let lookup = |name: &String| node.stores.lookup(Lookup::Owned(key("tnv001", name)));
        expected.keys().all(|name| matches!(wait(lookup(name)), Err(LookupError::Doubtful)))
    });
    (node, expected)
}

#[test]
fn what_finds_no_other_disk_is_not_served_until_it_does() {
    if skipped("what_finds_no_other_disk_is_not_served_until_it_does") {
        return;
    }
    for (kind, other) in [("ext4", false), ("xfs", true)] {
        let folder = quick_folder();
        let database = folder.path().join(DATABASE);
        let mut broken = Disk::new(kind, 512);
        let well = Disk::new(kind, 512);
        let mut config = config(&[]);
        config.paths = vec![path_config(&broken.mount.join("store"))];
        config.journal = Some(journal(&database));
        let (node, expected) = on_a_disk_that_failed(&broken, &config, &database);
        assert!(node.put("refused", b"x").is_err(), "{kind}: the only disk is broken");
        node.stores.close(std::time::Duration::from_secs(10));
        drop(node);
        broken.unmount();
        broken.mount();
        if other {
            // It is not to be trusted (this disk could not even take the marker that says so), and there is a new one.
            fs::write(broken.mount.join("store/.reel/read-only"), "EIO").unwrap();
            config.paths.push(path_config(&well.mount.join("store")));
        }
        let node = Node::open_with(&config, &database, 9999);
        kit::until("all of it is served", || {
            expected.keys().all(|name| on_store(&node, name) == Some(usize::from(other)))
        });
        for (name, bytes) in &expected {
            assert!(node.read(name).as_ref() == Some(bytes), "{kind}: {name}");
        }
        let (purged, mut expected) = ("before-0", expected);
        expected.remove(purged);
        wait(node.stores.delete(key("tnv001", purged))).unwrap();
        wait(node.stores.purge(key("tnv001", purged))).unwrap();
        node.stores.close(std::time::Duration::from_secs(10));
        drop(node);
        // And nothing is left to be done, nor comes anything back that lies on the old disk, which is trusted again.
        let _ = fs::remove_file(broken.mount.join("store/.reel/read-only"));
        let node = Node::open_with(&config, &database, 99_999);
        for (name, bytes) in &expected {
            assert!(node.read(name).as_ref() == Some(bytes), "{kind}: {name}, once more");
        }
        assert_eq!(status(&node, purged), None, "{kind}");
        let left = files(&broken.mount.join("store")).len();
        assert_eq!(
            left,
            if other { 0 } else { expected.len() },
            "{kind}: copies that nobody names"
        );
        node.close();
    }
}

#[test]
fn what_is_for_a_store_path_that_is_not_configured_waits_for_it() {
    let folder = quick_folder();
    let data = folder.path().join("data");
    fs::create_dir(&data).unwrap();
    let paths = |data: &Path, count| {
        let mut config = journaled(data);
        let both = ["store", "other"].map(|name| path_config(&data.join(name)));
        config.paths = both.into_iter().take(count).collect();
        config
    };
    let node = Node::open_with(&paths(&data, 2), &data.join(DATABASE), 0);
    let mut expected = BTreeMap::new();
    for index in 0..40 {
        let (name, bytes) = (format!("f{index}"), content(index, 9000));
        node.put(&name, &bytes).unwrap();
        expected.insert(name, bytes);
    }
    let crashed = folder.path().join("crashed");
    copy(&data, &crashed);
    node.close();
    // The crash took the contents from both, and one of them is left out of the configuration for a while.
    for store in [crashed.join("store"), crashed.join("other")] {
        files(&store).into_iter().for_each(|file| fs::write(store.join(file), b"").unwrap());
    }
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&crashed, &data).unwrap();
    let node = Node::open_with(&paths(&data, 1), &data.join(DATABASE), 999);
    std::thread::sleep(std::time::Duration::from_secs(1));
    node.close();
    let node = Node::open_with(&paths(&data, 2), &data.join(DATABASE), 9999);
    for (name, bytes) in &expected {
        assert!(node.read(name).as_ref() == Some(bytes), "{name}");
    }
    node.close();
}
