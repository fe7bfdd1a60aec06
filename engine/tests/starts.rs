//! Store paths whose disk is full, read-only or broken when the node starts: the others work, their own files are read,
//! and what a crash left there is not forgotten. Most need root; without it they print why they are skipped.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use kit::{
    Node, config, content,
    disk::{Disk, skipped},
    files, key, put_as, quick_folder, request, until,
};
use reel_engine::{
    metadata::{Metadata, wait},
    store::{Health, OpenError, ReadmitError, StoreConfig, Stores, UploadError},
};

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A store with one file and half an upload, as a killed process leaves it; where the half lies.
fn interrupted(config: &StoreConfig, database: &Path) -> (String, PathBuf) {
    let node = Node::open_with(config, database, 0);
    put_as(&node.stores, key("tnv001", "whole"), &content(1, 5000)).unwrap();
    let store = config.paths[0].path.clone();
    let begun = files(&store);
    let mut upload = wait(node.stores.begin(request(key("tnv001", "half"), None))).unwrap();
    wait(upload.write(Bytes::from(content(2, 600_000)))).unwrap();
    until("half a file", || files(&store).len() > begun.len());
    let half = files(&store).difference(&begun).next().unwrap().clone();
    // The mark and the half as they are now, put back when the process has ended well.
    let mark = fs::read(store.join(".reel/marks/local.mark")).unwrap();
    drop(upload);
    let name = node.find("whole").unwrap().relative.as_str().to_owned();
    node.close();
    fs::write(store.join(".reel/marks/local.mark"), mark).unwrap();
    fs::write(store.join(&half), content(2, 600_000)).unwrap();
    (name, half)
}

fn put(node: &Node, name: &str) -> Result<(), UploadError> {
    node.put(name, &content(7, 3000)).map(|_| ())
}

#[test]
fn a_re_admitted_path_is_swept_of_what_an_earlier_run_left() {
    let folder = quick_folder();
    let (store, database) = (folder.path().join("store"), folder.path().join("storage.db"));
    let config = config(&[&store]);
    let (_, half) = interrupted(&config, &database);
    fs::write(store.join(".reel/read-only"), "sync: I/O error").unwrap();
    let mark = fs::read(store.join(".reel/marks/local.mark")).unwrap();
    let node = Node::open_with(&config, &database, 0);
    assert_eq!(node.stores.status()[0].fault.as_deref(), Some("sync: I/O error"));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(node.stores.status()[0].ids_left, 0, "no ids for a path that takes no uploads");
    let kept = fs::read(store.join(".reel/marks/local.mark")).unwrap();
    assert_eq!(kept, mark, "what is held stays held while nothing may be swept");
    assert!(store.join(&half).exists());
    assert_eq!(node.read("whole").unwrap(), content(1, 5000));
    let swept = wait(node.stores.readmit(0)).unwrap();
    assert_eq!(swept.removed, 1);
    assert!(!store.join(&half).exists());
    until("ids in hand", || put(&node, "again").is_ok());
    assert!(matches!(wait(node.stores.readmit(0)), Err(ReadmitError::NotReadOnly)));
    assert!(matches!(wait(node.stores.readmit(1)), Err(ReadmitError::Unknown)));
    node.close();
    assert!(!store.join(".reel/read-only").exists());
}

#[test]
fn a_path_that_is_not_in_order_is_not_re_admitted() {
    let folder = quick_folder();
    let (store, database) = (folder.path().join("store"), folder.path().join("storage.db"));
    let node = Node::open_with(&config(&[&store]), &database, 0);
    put(&node, "f").unwrap();
    node.close();
    fs::write(store.join(".reel/read-only"), "sync: I/O error").unwrap();
    // The mark is written to a file of this name first.
    let in_the_way = store.join(".reel/marks/local.mark.new");
    fs::create_dir(&in_the_way).unwrap();
    let node = Node::open_with(&config(&[&store]), &database, 0);
    let refused = wait(node.stores.readmit(0)).unwrap_err();
    assert!(matches!(refused, ReadmitError::NotInOrder(_)), "{refused:?}");
    assert!(store.join(".reel/read-only").exists());
    assert_eq!(node.stores.status()[0].health, Health::ReadOnly);
    fs::remove_dir(&in_the_way).unwrap();
    wait(node.stores.readmit(0)).unwrap();
    until("ids in hand", || put(&node, "again").is_ok());
    node.close();
}

/// A marker that is there and cannot be read says nothing good.
#[test]
fn a_read_only_marker_that_cannot_be_read_is_one() {
    let folder = quick_folder();
    let (store, database) = (folder.path().join("store"), folder.path().join("storage.db"));
    Node::open_with(&config(&[&store]), &database, 0).close();
    fs::create_dir(store.join(".reel/read-only")).unwrap();
    let node = Node::open_with(&config(&[&store]), &database, 0);
    let fault = node.stores.status()[0].fault.clone().unwrap();
    assert!(fault.contains("marker"), "{fault}");
    node.close();
}

/// Fills a disk to its last byte, with what root may take as well.
fn hog(disk: &Disk) -> PathBuf {
    let hog = disk.mount.join("hog");
    let text = hog.to_str().unwrap();
    let _ = Command::new("dd").args(["if=/dev/zero", "bs=64k", &format!("of={text}")]).output();
    let more = ["if=/dev/zero", "bs=512", "oflag=append", "conv=notrunc", &format!("of={text}")];
    let _ = Command::new("dd").args(more).output();
    run("sync", &["-f", text]);
    // What is left goes into small files.
    for index in 0..4000 {
        if fs::write(disk.mount.join(format!("hog{index}")), [1; 4096]).is_err() {
            break;
        }
    }
    let _ = Command::new("sync").args(["-f", text]).output();
    hog
}

fn full_at_the_start(kind: &str, mebibytes: u64) {
    if skipped("a disk that is full when the node starts") {
        return;
    }
    let mut disk = Disk::new(kind, mebibytes);
    let well = quick_folder();
    let (store, other) = (disk.mount.join("store"), well.path().join("store"));
    let database = well.path().join("storage.db");
    let (_, half) = interrupted(&config(&[&store]), &database);
    // Nothing that the sweep removes may make room: the mark would be written.
    fs::write(disk.mount.join("store").join(&half), b"").unwrap();
    let hog = hog(&disk);
    let node = Node::open_with(&config(&[&store, &other]), &database, 1000);
    let status = node.stores.status();
    assert_eq!((status[0].health, &status[0].fault), (Health::Full, &None), "full is not broken");
    assert_eq!(node.read("whole").unwrap(), content(1, 5000), "reads go on");
    for index in 0..10 {
        put(&node, &format!("f{index}")).unwrap();
    }
    assert_eq!(files(&other).len(), 10, "the other path takes them");
    fs::remove_file(hog).unwrap();
    until("it comes back by itself, with ids", || {
        let status = &node.stores.status()[0];
        status.health == Health::Ok && status.ids_left > 0
    });
    node.close();
    let node = Node::open_with(&config(&[&store]), &database, 0);
    put(&node, "again").unwrap();
    assert!(!store.join(half).exists(), "what was held was not forgotten");
    node.close();
    disk.unmount();
}

#[test]
fn an_ext4_that_is_full_at_the_start_opens_full() {
    full_at_the_start("ext4", 48);
}

#[test]
fn an_xfs_that_is_full_at_the_start_opens_full() {
    full_at_the_start("xfs", 320);
}

#[test]
fn a_disk_that_is_mounted_read_only_opens_read_only_and_keeps_what_it_held() {
    if skipped("a read-only disk at the start") {
        return;
    }
    let mut disk = Disk::new("ext4", 48);
    let well = quick_folder();
    let (store, other) = (disk.mount.join("store"), well.path().join("store"));
    let database = well.path().join("storage.db");
    let (_, half) = interrupted(&config(&[&store]), &database);
    let mount = disk.mount.to_str().unwrap().to_owned();
    run("mount", &["-o", "remount,ro", &mount]);
    let both = config(&[&store, &other]);
    let node = Node::open_with(&both, &database, 1000);
    assert_eq!(node.stores.status()[0].health, Health::ReadOnly);
    assert_eq!(node.read("whole").unwrap(), content(1, 5000), "reads go on");
    put(&node, "other").unwrap();
    assert_eq!(files(&other).len(), 1);
    let again = Stores::open(&both, Metadata::sqlite(&database).unwrap());
    assert!(matches!(again, Err(OpenError::Locked(_))), "locked without a write");
    assert!(matches!(wait(node.stores.readmit(0)), Err(ReadmitError::NotInOrder(_))));
    run("mount", &["-o", "remount,rw", &mount]);
    assert_eq!(wait(node.stores.readmit(0)).unwrap().removed, 1);
    assert!(!store.join(half).exists());
    node.close();
    disk.unmount();
}

/// One inode that the file system cannot read, in a block that was held: the sweep meets it.
fn with_a_broken_inode(disk: &mut Disk, half: &Path) {
    let place = Path::new("/store").join(half);
    disk.unmount();
    disk.debug(&format!("set_inode_field {} mode 0070000", place.display()));
    disk.mount();
}

#[test]
fn an_inode_that_cannot_be_read_keeps_no_other_disk_down_and_read_only_outlives_a_power_cut() {
    if skipped("a broken inode at the start") {
        return;
    }
    let mut disk = Disk::new("ext4", 48);
    let well = quick_folder();
    let (store, other) = (disk.mount.join("store"), well.path().join("store"));
    let database = well.path().join("storage.db");
    let (_, half) = interrupted(&config(&[&store]), &database);
    with_a_broken_inode(&mut disk, &half);
    let both = config(&[&store, &other]);
    let mut node = Node::open_with(&both, &database, 1000);
    let status = node.stores.status().remove(0);
    assert_eq!(status.health, Health::ReadOnly);
    let fault = status.fault.unwrap();
    assert!(fault.contains(half.to_str().unwrap()), "the file is named: {fault}");
    assert_eq!(node.read("whole").unwrap(), content(1, 5000), "reads go on");
    put(&node, "other").unwrap();
    assert_eq!(files(&other).len(), 1);
    // The disk takes writes: the state is on it, whatever happens next.
    node.ids.stop();
    disk.cut_power();
    node.stores.close(Duration::from_secs(5));
    drop(node);
    disk.unmount();
    disk.mount();
    let marker = fs::read_to_string(store.join(".reel/read-only")).unwrap();
    assert_eq!(marker, fault);
    // Mended as a person would, by fsck; then re-admitted and swept.
    disk.unmount();
    disk.check();
    disk.mount();
    let node = Node::open_with(&both, &database, 1000);
    assert_eq!(node.stores.status()[0].health, Health::ReadOnly);
    wait(node.stores.readmit(0)).unwrap();
    assert_eq!(node.stores.status()[0].fault, None);
    node.close();
    disk.unmount();
}

#[test]
fn a_file_system_with_too_little_room_for_a_long_record_is_refused() {
    if skipped("ext4 with blocks of 1 KiB") {
        return;
    }
    let mut disk = Disk::new("ext4-1k", 32);
    let database = quick_folder();
    let metadata = Metadata::sqlite(&database.path().join("storage.db")).unwrap();
    let refused = Stores::open(&config(&[&disk.mount.join("store")]), metadata).err().unwrap();
    assert!(matches!(refused, OpenError::ShortAttributes { .. }), "{refused:?}");
    let text = refused.to_string();
    assert!(text.contains("1347 bytes") && text.contains("mkfs.ext4 -b 4096"), "{text}");
    disk.unmount();
    // The longest record there is fits where the store opens.
    let mut disk = Disk::new("ext4", 32);
    let database = database.path().join("other.db");
    let node = Node::open_with(&config(&[&disk.mount.join("store")]), &database, 0);
    let mut long = request(key(&"u".repeat(127), &"f".repeat(127)), None);
    (long.name, long.content_type) = (Some("n".repeat(255)), Some("t".repeat(255)));
    wait(async { wait(node.stores.begin(long)).unwrap().finish().await }).unwrap();
    node.close();
    disk.unmount();
}
