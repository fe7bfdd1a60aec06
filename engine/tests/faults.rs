//! Real faults on real file systems: power cuts, full disks, failing disks, hung disks. Root only; skipped with a
//! printed reason elsewhere.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use kit::{
    DATABASE, Node, config, content,
    disk::{Disk, Frozen, skipped},
    files, journaled, key, put_as, quick_folder, request, until,
};
use reel_engine::{
    metadata::{Metadata, Owned, wait},
    store::{Health, Lookup, OpenError, Status, StoreConfig, Stores, UploadError},
    verify::{Event, Fault, Finding, VerifyOptions, verify},
};
use reel_meta::{FileRow, Removal};

/// A number from the environment, so that `cargo xtask torture` can ask for more rounds.
fn rounds(default: u64) -> u64 {
    std::env::var("REEL_STORE_POWER_CUTS").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[derive(Clone, Copy)]
struct Said {
    seed: u64,
    len: usize,
    deleted: bool,
}

/// Uploads from four threads until the disk refuses; what was acknowledged before that.
fn upload_until_cut(node: &Node, disk: &Disk, round: u64) -> BTreeMap<String, Said> {
    let said = Mutex::new(BTreeMap::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let (stores, said, stop) = (&node.stores, &said, &stop);
            scope.spawn(move || {
                for index in 0..u64::MAX {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let seed = round * 1_000_000 + thread * 100_000 + index;
                    let name = format!("f{seed}");
                    let len = if index % 9 == 8 { 700_000 } else { 3000 };
                    if put_as(stores, key("tnv001", &name), &content(seed, len)).is_err() {
                        return;
                    }
                    said.lock().unwrap().insert(name.clone(), Said { seed, len, deleted: false });
                    if index % 6 == 5 && wait(stores.delete(key("tnv001", &name))).is_ok() {
                        said.lock().unwrap().insert(name, Said { seed, len, deleted: true });
                    }
                }
            });
        }
        until("uploads are under way", || {
            said.lock().unwrap().len() > 20 + (round * 13 % 40) as usize
        });
        disk.cut_power();
        stop.store(true, Ordering::SeqCst);
    });
    said.into_inner().unwrap()
}

fn power_cuts(kind: &str, mebibytes: u64) {
    if skipped("power cuts") {
        return;
    }
    let mut disk = Disk::new(kind, mebibytes);
    // The database is on another disk, which keeps everything: a row that came too early would be seen.
    let database = tempfile::tempdir().unwrap();
    let database = database.path().join("storage.db");
    let mut said = BTreeMap::new();
    for round in 0..rounds(3) {
        let store = disk.mount.join("store");
        let node = Node::open_with(&config(&[&store]), &database, 0);
        check(&node, &said);
        let new = upload_until_cut(&node, &disk, round);
        assert!(new.len() > 10);
        said.extend(new);
        // Fails where it can: the disk is gone.
        let mut node = node;
        node.ids.stop();
        node.stores.close(Duration::from_secs(5));
        drop(node);
        disk.unmount();
        disk.mount();
        if std::env::var_os("REEL_TEST_JOURNAL").is_some() {
            // The journal stands for what the disk has lost until the next start has replayed it.
            Node::open_with(&config(&[&store]), &database, 0).close();
        }
        let torn = torn_rows(&store, &database);
        assert!(torn.is_empty(), "rows without their whole file: {torn:?}");
        for (file, fault) in by_file(&store, &database) {
            let deleted = said.get(&file).is_some_and(|said| said.deleted);
            assert!(!deleted, "{file}: the delete was acknowledged, and then {fault:?}");
        }
    }
    let node = Node::open_with(&config(&[&disk.mount.join("store")]), &database, 0);
    check(&node, &said);
    node.close();
    disk.unmount();
}

/// Rows whose file is not there, whole and sealed, before any sweep. Files without a row may be in any state.
fn torn_rows(store: &Path, database: &Path) -> Vec<(String, Fault)> {
    let metadata = Metadata::sqlite(database).unwrap();
    let mut rows = BTreeSet::new();
    let mut after = None;
    loop {
        let page = wait(metadata.scan(after.take(), 1000)).unwrap();
        after = page.rows.last().map(FileRow::scan_cursor);
        rows.extend(page.rows.into_iter().map(|row| row.file_path));
        if !page.more {
            break;
        }
    }
    let mut torn = faults(store, database);
    // The id key is the path's text, so both sides name a place alike. A delete that the cut met between its record
    // and its row is no torn row.
    torn.retain(|(place, fault)| {
        rows.contains(place) && *fault != Fault::Differs { field: "state" }
    });
    torn
}

fn check(node: &Node, said: &BTreeMap<String, Said>) {
    for (name, Said { seed, len, deleted }) in said {
        let found = wait(node.stores.stat(Lookup::Owned(key("tnv001", name)))).unwrap();
        let found = found.unwrap_or_else(|| panic!("{name} was acknowledged and has no row"));
        if *deleted {
            assert_eq!(found.status, Status::Deleted, "{name} was deleted");
        }
        if found.status == Status::Normal {
            assert!(node.read(name).unwrap() == content(*seed, *len), "{name}: other bytes");
        }
    }
}

fn faults(store: &Path, database: &Path) -> Vec<(String, Fault)> {
    findings(store, database).into_iter().map(|found| (found.place, found.fault)).collect()
}

/// Faults of files whose id is known.
fn by_file(store: &Path, database: &Path) -> Vec<(String, Fault)> {
    let found = findings(store, database).into_iter();
    found.filter_map(|found| Some((found.file?, found.fault))).collect()
}

fn findings(store: &Path, database: &Path) -> Vec<Finding> {
    let metadata = Metadata::sqlite(database).unwrap();
    let options = VerifyOptions {
        stores: vec![(store.to_owned(), Vec::new())],
        content: true,
        age_min: Duration::ZERO,
    };
    let mut found = Vec::new();
    verify(&options, Some(&metadata), None, &mut |event| {
        if let Event::Finding(finding) = event {
            found.push(finding.clone());
        }
    })
    .unwrap();
    found
}

#[test]
fn acknowledged_uploads_survive_power_cuts_on_ext4() {
    power_cuts("ext4", 256);
}

#[test]
fn acknowledged_uploads_survive_power_cuts_on_xfs() {
    power_cuts("xfs", 384);
}

/// The judge is not blind: the same with `durability = "async"` loses files.
#[test]
fn without_the_sync_a_power_cut_is_seen_to_lose_uploads() {
    if skipped("a power cut without sync") {
        return;
    }
    let mut disk = Disk::new("ext4", 256);
    let database = tempfile::tempdir().unwrap();
    let database = database.path().join("storage.db");
    let store = disk.mount.join("store");
    let mut config = config(&[&store]);
    config.durability = reel_engine::store::Durability::Async;
    let mut node = Node::open_with(&config, &database, 0);
    for index in 0..40 {
        node.put(&format!("f{index}"), &content(index, 3000)).unwrap();
    }
    node.ids.stop();
    disk.cut_power();
    node.stores.close(Duration::from_secs(5));
    drop(node);
    disk.unmount();
    disk.mount();
    assert!(!torn_rows(&store, &database).is_empty(), "nothing was synced and nothing is missing");
    disk.unmount();
}

/// A killed process leaves files that only the page cache has. The sweep adopts them, and then a power cut comes.
#[test]
fn what_the_sweep_adopts_is_durable_before_its_row() {
    if skipped("adoption and a power cut") {
        return;
    }
    let mut disk = Disk::new("ext4", 128);
    let database = tempfile::tempdir().unwrap();
    let database = database.path().join("storage.db");
    let store = disk.mount.join("store");
    let mut config = config(&[&store]);
    config.durability = reel_engine::store::Durability::Async;
    let node = Node::open_with(&config, &database, 0);
    for index in 0..10 {
        node.put(&format!("f{index}"), &content(index, 3000)).unwrap();
        let owned =
            Owned { app: "tnvideo".into(), user: "tnv001".into(), file: format!("f{index}") };
        let row = wait(node.metadata.read_back(owned)).unwrap().unwrap();
        wait(node.metadata.remove(vec![Removal { row: row.reference(), only: None }])).unwrap();
    }
    node.close();
    let mut node = Node::open_with(&config, &database, 0);
    assert!(node.find("f9").is_some(), "adopted");
    node.ids.stop();
    disk.cut_power();
    node.stores.close(Duration::from_secs(5));
    drop(node);
    disk.unmount();
    disk.mount();
    let torn = torn_rows(&store, &database);
    assert!(torn.is_empty(), "adopted, and not durable: {torn:?}");
    disk.unmount();
}

/// Uploads of 512 KiB until one is refused; how many went.
fn fill(node: &Node) -> (u64, UploadError) {
    for index in 0.. {
        if let Err(error) = node.put(&format!("fill{index}"), &content(index, 512 * 1024)) {
            return (index, error);
        }
    }
    unreachable!("a disk that is never full")
}

#[test]
fn a_full_disk_refuses_reads_on_and_comes_back_by_itself() {
    if skipped("a full disk") {
        return;
    }
    let database = tempfile::tempdir().unwrap();
    for reserve in [4 << 20, 0] {
        let mut disk = Disk::new("ext4", 48);
        let store = disk.mount.join("store");
        let mut config: StoreConfig = config(&[&store]);
        config.paths[0].reserve.bytes_min = reserve;
        let database = database.path().join(format!("{reserve}.db"));
        let node = Node::open_with(&config, &database, 0);
        let (count, error) = fill(&node);
        assert!(matches!(error, UploadError::Full), "{error}");
        assert_eq!(error.http_status(), 507);
        until("the refused upload is gone", || files(&store).len() as u64 == count);
        let status = &node.stores.status()[0];
        assert_eq!(status.fault, None, "full is not broken");
        if reserve > 0 {
            let free = disk.free();
            assert!(free >= reserve - (1 << 20), "the reserve stays free: {free}");
        }
        for index in (0..count).step_by(7) {
            assert_eq!(node.read(&format!("fill{index}")).unwrap(), content(index, 512 * 1024));
        }
        // Deletes work on a full disk, and make it take uploads again, by itself.
        for index in 0..count.min(20) {
            let file = key("tnv001", &format!("fill{index}"));
            wait(node.stores.delete(file)).unwrap();
            wait(node.stores.purge(file)).unwrap();
        }
        until("uploads are taken again", || node.put("again", b"content").is_ok());
        assert_eq!(node.read("again").unwrap(), b"content");
        node.close();
        disk.unmount();
    }
}

#[test]
fn a_failed_sync_makes_the_path_read_only_and_is_never_tried_again() {
    if skipped("a failing disk") {
        return;
    }
    // A disk whose backing store has no more room: writes seem to go well, and the sync tells.
    let backing = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(backing.path())
        .status();
    assert!(mounted.unwrap().success());
    let database = tempfile::tempdir().unwrap();
    {
        let mut disk = Disk::with("ext4", 128, backing.path(), "512");
        let store = disk.mount.join("store");
        let config = config(&[&store]);
        let mut node = Node::open_with(&config, &database.path().join("storage.db"), 0);
        let (count, error) = fill(&node);
        assert!(count > 5);
        assert!(
            matches!(error, UploadError::Disk { .. } | UploadError::ReadOnly | UploadError::Full),
            "{error:?}"
        );
        until("the path is read-only", || {
            let _ = node.put("another", &content(1, 512 * 1024));
            node.stores.status()[0].health == Health::ReadOnly
        });
        let failures = node.stores.status()[0].counts.commit_failures;
        for _ in 0..5 {
            assert!(matches!(node.put("more", b"x"), Err(UploadError::ReadOnly)));
        }
        assert_eq!(node.stores.status()[0].counts.commit_failures, failures, "no sync was tried");
        assert!(node.find("another").is_none());
        // What was acknowledged before has its row still, and reads go on where the disk lets them.
        assert!(node.find("fill0").is_some());
        node.ids.stop();
        node.stores.close(Duration::from_secs(5));
        drop(node);
        disk.cut_power();
        disk.unmount();
    }
    let unmounted = Command::new("umount").arg("-l").arg(backing.path()).status();
    assert!(unmounted.unwrap().success());
}

#[test]
fn read_only_outlives_a_restart_until_an_operator_re_admits() {
    let folder = kit::quick_folder();
    let node = Node::open(folder.path());
    node.put("f", b"content").unwrap();
    node.close();
    fs::write(folder.path().join("store/.reel/read-only"), "sync: I/O error").unwrap();
    let node = Node::open(folder.path());
    assert_eq!(node.stores.status()[0].fault.as_deref(), Some("sync: I/O error"));
    assert!(matches!(node.put("g", b"x"), Err(UploadError::ReadOnly)));
    assert_eq!(node.read("f").unwrap(), b"content", "reads go on");
    wait(node.stores.readmit(0)).unwrap();
    until("ids in hand", || node.put("g", b"x").is_ok());
    node.close();
    let node = Node::open(folder.path());
    assert_eq!(node.stores.status()[0].fault, None);
    node.close();
}

#[test]
fn a_hung_disk_holds_only_its_own_uploads() {
    if skipped("a hung disk") {
        return;
    }
    let (mut hung, mut well) = (Disk::new("ext4", 64), Disk::new("ext4", 64));
    let (one, two) = (hung.mount.join("store"), well.mount.join("store"));
    let database = tempfile::tempdir().unwrap();
    let mut config = config(&[&one, &two]);
    config.hang_limit = Duration::from_millis(300);
    let node = Node::open_with(&config, &database.path().join("storage.db"), 0);
    for index in 0..8 {
        node.put(&format!("before{index}"), b"content").unwrap();
    }
    let frozen = Frozen::new(&hung.mount);
    let stores = Arc::clone(&node.stores);
    // Some of these meet the frozen disk and wait for it.
    let waiting: Vec<_> = (0..24)
        .map(|index| {
            let stores = Arc::clone(&stores);
            std::thread::spawn(move || put_as(&stores, key("tnv001", &format!("w{index}")), b"x"))
        })
        .collect();
    until("the hung disk is noticed", || node.stores.status()[0].health == Health::Hung);
    for index in 0..20 {
        node.put(&format!("during{index}"), b"content").unwrap();
    }
    let placed = files(&two).len();
    drop(frozen);
    assert!(placed >= 20, "uploads went to the disk that is well: {placed}");
    for thread in waiting {
        thread.join().unwrap().unwrap();
    }
    drop(stores);
    until("the disk is back", || node.stores.status()[0].health == Health::Ok);
    node.close();
    hung.unmount();
    well.unmount();
}

#[test]
fn what_a_file_system_must_have_is_looked_at_when_a_store_opens() {
    if skipped("file systems") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let open = |store: &Path, name: &str| {
        let metadata = Metadata::sqlite(&folder.path().join(name)).unwrap();
        Stores::open(&config(&[store]), metadata)
    };
    // ramfs has no extended attributes at all.
    let bare = folder.path().join("ramfs");
    fs::create_dir(&bare).unwrap();
    let mount = |arguments: &[&str]| Command::new("mount").args(arguments).arg(&bare).status();
    assert!(mount(&["-t", "ramfs", "ramfs"]).unwrap().success());
    let refused = open(&bare.join("store"), "bare.db").err();
    assert!(Command::new("umount").arg("-l").arg(&bare).status().unwrap().success());
    assert!(matches!(refused, Some(OpenError::NoAttributes { .. })), "{refused:?}");
    let small = |kind: &str, mebibytes, inode: &str| {
        let backing = tempfile::tempdir().unwrap();
        let mut disk = Disk::with(kind, mebibytes, backing.path(), inode);
        let stores = open(&disk.mount.join("store"), &format!("{kind}{inode}.db")).unwrap();
        let small = stores.status()[0].small_inodes;
        stores.close(Duration::ZERO);
        drop(stores);
        disk.unmount();
        small
    };
    assert!(small("ext4", 32, "256"), "a record does not fit into inodes of 256 bytes");
    assert!(!small("ext4", 32, "512"));
    assert!(!small("xfs", 320, "1024"));
}

/// What a replay may bring about, nobody may take for undone: the row would name a file that was removed.
#[test]
fn a_file_stays_when_its_row_may_be_in_a_journal_that_failed() {
    if skipped("the journal's disk fails") {
        return;
    }
    let (folder, mut disk) = (quick_folder(), Disk::new("ext4", 256));
    let store = folder.path().join("store");
    let mut config = journaled(folder.path());
    config.journal.as_mut().unwrap().folder = disk.mount.join("journal");
    let open = || Node::open_with(&config, &folder.path().join(DATABASE), 0);
    let node = open();
    node.put("before", b"content").unwrap();
    let large = content(1, 3 << 20);
    disk.cut_power();
    let failed = node.put("large", &large).unwrap_err();
    assert!(matches!(failed, UploadError::Metadata { unknown: true, .. }), "{failed:?}");
    assert_eq!(files(&store).len(), 2);
    node.stores.close(Duration::from_secs(1));
    drop(node);
    disk.unmount();
    disk.mount();
    let node = open();
    assert_eq!(node.read("before").unwrap(), b"content");
    // Sealed, in a block that was held.
    assert!(node.read("large").unwrap() == large);
    node.close();
}

#[test]
fn a_disk_that_shrinks_under_an_upload_leaves_nothing_of_it() {
    if skipped("a disk that fills in the middle of an upload") {
        return;
    }
    let mut disk = Disk::new("ext4", 48);
    let database = tempfile::tempdir().unwrap();
    let store = disk.mount.join("store");
    let node = Node::open_with(&config(&[&store]), &database.path().join("storage.db"), 0);
    // Of unknown size, so nothing is reserved ahead; somebody else takes the space meanwhile.
    let mut upload = wait(node.stores.begin(request(key("tnv001", "f"), None))).unwrap();
    wait(upload.write(Bytes::from(content(1, 3 << 20)))).unwrap();
    let hog = disk.mount.join("hog");
    let _ = fs::write(&hog, vec![1_u8; 60 << 20]);
    let ended = (0..8).find_map(|_| wait(upload.write(Bytes::from(content(2, 3 << 20)))).err());
    let ended = ended.or_else(|| wait(upload.finish()).err());
    assert!(matches!(ended, Some(UploadError::Full)), "{ended:?}");
    assert_eq!(node.stores.status()[0].health, Health::Full);
    until("nothing is left of it", || files(&store).is_empty());
    fs::remove_file(&hog).unwrap();
    until("uploads are taken again", || node.put("again", b"content").is_ok());
    node.close();
    disk.unmount();
}
