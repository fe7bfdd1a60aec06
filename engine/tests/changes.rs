//! Changes of state that are cut short or meet each other: whoever was told of a state finds it in row and record,
//! whatever comes later.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use kit::{
    HandClock, Node, START, attribute, config, content,
    faulty::{self, Wrong},
    files, key, put_as, quarantined, quick_folder, request, set_attribute, until, within,
};
use reel_engine::{
    metadata::{Metadata, Owned, wait},
    rebuild::rebuild_index,
    record::{Record, State},
    store::{
        ChangeError, Changed, Conflict, Lookup, Outcome, Status, Stores, UploadError, UploadRequest,
    },
    sweep::Swept,
    verify::{Event, VerifyOptions, verify},
};
use reel_meta::{FileRow, FileStatus, Removal};

/// A node whose metadata goes wrong by a script.
struct Scripted {
    folder: tempfile::TempDir,
    node: Node,
    script: faulty::Shared,
}

impl Scripted {
    fn open() -> Self {
        let folder = quick_folder();
        let (metadata, script) = faulty::metadata(&folder.path().join("storage.db"));
        let config = config(&[&folder.path().join("store")]);
        let stores = Stores::open(&config, metadata.clone()).unwrap();
        let node = Node::serve(stores, metadata, 0);
        Self { folder, node, script }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    /// Uploads a file; where it lies.
    fn put(&self, file: &str, bytes: &[u8]) -> PathBuf {
        self.node.put(file, bytes).unwrap();
        self.store().join(self.node.find(file).unwrap().relative.as_str())
    }

    fn next_write(&self, wrong: Wrong) {
        self.script.lock().unwrap().writes.push_back(wrong);
    }

    fn row(&self, file: &str) -> Option<FileRow> {
        row(&self.node.metadata, file)
    }

    /// A delete of which the row was refused: the record alone says so.
    fn cut_delete_short(&self, file: &str) {
        self.next_write(Wrong::Refused);
        let deleted = wait(self.node.stores.delete(key("tnv001", file)));
        assert!(matches!(deleted, Err(ChangeError::Metadata { .. })), "{deleted:?}");
    }

    fn repair(&self) -> Swept {
        self.node.stores.repair(0, Duration::ZERO).unwrap()
    }
}

fn row(metadata: &Metadata, file: &str) -> Option<FileRow> {
    let owned = Owned { app: "tnvideo".into(), user: "tnv001".into(), file: file.into() };
    wait(metadata.read_back(owned)).unwrap()
}

fn lose_row(metadata: &Metadata, file: &str) {
    let row = row(metadata, file).unwrap().reference();
    wait(metadata.remove(vec![Removal { row, only: None }])).unwrap();
}

fn record(path: &Path) -> Record {
    Record::decode(&attribute(path).unwrap()).unwrap()
}

fn mark(path: &Path, state: State) {
    let mut record = record(path);
    record.state = state;
    record.deleted_at = (state != State::Normal).then_some(START);
    set_attribute(path, Some(&record.encode().unwrap()));
}

#[test]
fn a_restore_after_a_delete_that_was_cut_short_is_kept() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    kit.cut_delete_short("f");
    assert_eq!(record(&path).state, State::Deleted);
    wait(kit.node.stores.restore(key("tnv001", "f"))).unwrap();
    assert_eq!(record(&path).state, State::Normal, "before anybody is told");
    assert_eq!(kit.repair().followed, 0);
    assert_eq!(kit.node.read("f").unwrap(), b"content");
    kit.node.close();
}

#[test]
fn the_same_upload_after_a_delete_that_was_cut_short_is_kept() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    kit.cut_delete_short("f");
    assert_eq!(kit.node.put("f", b"content").unwrap().outcome, Outcome::Same);
    assert_eq!(record(&path).state, State::Normal, "before anybody is told");
    assert_eq!(kit.repair().followed, 0);
    assert_eq!(kit.node.read("f").unwrap(), b"content");
    kit.node.close();
}

#[test]
fn a_delete_after_a_restore_that_was_cut_short_holds_for_the_disks_too() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    let file = key("tnv001", "f");
    wait(kit.node.stores.delete(file)).unwrap();
    kit.next_write(Wrong::Refused);
    assert!(wait(kit.node.stores.restore(file)).is_err());
    assert_eq!(record(&path).state, State::Normal);
    assert_eq!(wait(kit.node.stores.delete(file)).unwrap(), Changed::Already);
    assert_eq!(
        record(&path).state,
        State::Deleted,
        "an index made from the disks would bring it back"
    );
    kit.node.close();
}

#[test]
fn what_is_so_already_is_told_to_caches_before_the_reply() {
    let kit = Scripted::open();
    kit.put("f", b"content");
    let file = key("tnv001", "f");
    wait(kit.node.stores.delete(file)).unwrap();
    // Another delete may have made it so a moment ago, and not have told the caches yet.
    let epoch = kit.node.stores.epoch(&file.file);
    assert_eq!(wait(kit.node.stores.delete(file)).unwrap(), Changed::Already);
    assert_ne!(kit.node.stores.epoch(&file.file), epoch);
    kit.node.close();
}

#[test]
fn a_purge_that_a_restore_overtakes_never_marks_the_file() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    let file = key("tnv001", "f");
    for _ in 0..30 {
        wait(kit.node.stores.delete(file)).unwrap();
        // Both find the row deleted, and meet at the keeper.
        let both =
            futures_util::future::join(kit.node.stores.restore(file), kit.node.stores.purge(file));
        let (restored, purged) = wait(both);
        assert_eq!(restored.unwrap(), Changed::Done);
        assert!(matches!(purged, Err(ChangeError::NotDeleted)), "{purged:?}");
        assert_eq!(record(&path).state, State::Normal);
    }
    let removals = kit.script.lock().unwrap().removals;
    assert_eq!(
        removals, 0,
        "a purge went so far as to ask for the row's removal, its record written"
    );
    kit.node.close();
}

#[test]
fn a_restore_on_another_node_wins_against_a_purge() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    let file = key("tnv001", "f");
    wait(kit.node.stores.delete(file)).unwrap();
    kit.script.lock().unwrap().before_removal = Some(FileStatus::Normal);
    assert!(matches!(wait(kit.node.stores.purge(file)), Err(ChangeError::NotDeleted)));
    assert_eq!(record(&path).state, State::Normal, "the record is put back");
    assert_eq!(kit.node.read("f").unwrap(), b"content");

    // The same, but the node died before it could put the record back: repair does.
    mark(&path, State::Purging);
    let swept = kit.repair();
    assert_eq!((swept.followed, swept.purged), (1, 0), "{swept:?}");
    assert_eq!(record(&path).state, State::Normal);
    assert_eq!(kit.node.read("f").unwrap(), b"content");
    kit.node.close();
}

#[test]
fn a_purge_keeps_aside_what_it_does_not_know() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    kit.put("other", b"another file");
    let file = key("tnv001", "f");
    wait(kit.node.stores.delete(file)).unwrap();
    let mut rotten = attribute(&path).unwrap();
    rotten[20] ^= 4;
    set_attribute(&path, Some(&rotten));
    assert_eq!(wait(kit.node.stores.purge(file)).unwrap(), Changed::Done);
    assert!(kit.row("f").is_none());
    assert_eq!((path.exists(), quarantined(&kit.store())), (false, 1), "moved, not unlinked");
    kit.node.close();
}

#[test]
fn an_upload_that_repair_adopted_first_keeps_its_file() {
    let kit = Scripted::open();
    kit.next_write(Wrong::Twice);
    assert_eq!(kit.node.put("f", b"content").unwrap().outcome, Outcome::New);
    // And one whose client is gone by then.
    kit.next_write(Wrong::Twice);
    let mut upload = wait(kit.node.stores.begin(request(key("tnv001", "g"), None))).unwrap();
    wait(upload.write(Bytes::from_static(b"content"))).unwrap();
    let _ = within(Duration::ZERO, upload.finish());
    until("both are settled", || {
        kit.script.lock().unwrap().writes.is_empty() && kit.node.stores.status()[0].open_files == 0
    });
    for file in ["f", "g"] {
        assert_eq!(kit.node.read(file).unwrap(), b"content", "{file}: a row names it");
    }
    kit.node.close();
}

#[test]
fn a_file_that_this_node_cannot_read_is_not_replaced() {
    let kit = Scripted::open();
    let bytes = content(1, 5000);
    let path = kit.put("f", &bytes);
    let row = kit.row("f").unwrap();
    // As a want of rights or descriptors would: open fails, and the content is whole all the same.
    let aside = path.with_extension("aside");
    fs::rename(&path, &aside).unwrap();
    std::os::unix::fs::symlink(&aside, &path).unwrap();
    assert!(matches!(kit.node.put("f", &bytes), Err(UploadError::Disk { .. })));
    assert_eq!(kit.row("f").unwrap(), row);
    // A row taken over knows no checksum: other content of the same size is not taken for the same.
    wait(kit.node.metadata.upsert(vec![FileRow { checksum: None, ..row.clone() }])).unwrap();
    assert!(matches!(kit.node.put("f", &content(2, 5000)), Err(UploadError::Disk { .. })));
    // Nor is a file in a store that is not here.
    let nowhere = FileRow { file_path: "/gone/000/000/000/5_001".into(), ..row.clone() };
    wait(kit.node.metadata.upsert(vec![nowhere])).unwrap();
    assert!(matches!(kit.node.put("f", &bytes), Err(UploadError::Metadata { unknown: false, .. })));
    wait(kit.node.metadata.upsert(vec![row])).unwrap();
    fs::rename(&aside, &path).unwrap();
    assert_eq!(kit.node.put("f", &bytes).unwrap().outcome, Outcome::Same);
    assert_eq!(quarantined(&kit.store()), 0);
    kit.node.close();
}

#[test]
fn a_damaged_file_that_is_deleted_before_it_is_replaced_stays() {
    let kit = Scripted::open();
    let bytes = content(1, 5000);
    let path = kit.put("f", &bytes);
    fs::write(&path, content(2, 5000)).unwrap();
    kit.script.lock().unwrap().before_removal = Some(FileStatus::Deleted);
    let refused = kit.node.put("f", &bytes);
    assert!(matches!(refused, Err(UploadError::Conflict(Conflict::Deleted))), "{refused:?}");
    until("the new copy is removed", || files(&kit.store()).len() == 1);
    assert!(path.exists(), "it can still be restored, damaged as it is");
    assert_eq!(quarantined(&kit.store()), 0);
    kit.node.close();
}

#[test]
fn a_damaged_file_whose_replacement_is_refused_keeps_its_row() {
    let kit = Scripted::open();
    let bytes = content(1, 5000);
    let path = kit.put("f", &bytes);
    fs::write(&path, content(2, 5000)).unwrap();
    // The insert that finds the row, the removal, and what is to take its place.
    kit.script.lock().unwrap().writes.extend([Wrong::Nothing, Wrong::Nothing, Wrong::Refused]);
    assert!(matches!(kit.node.put("f", &bytes), Err(UploadError::Metadata { .. })));
    assert!(kit.node.find("f").is_some() && path.exists());
    kit.node.put("f", &bytes).unwrap();
    assert_eq!(kit.node.read("f").unwrap(), bytes);
    until("the damaged one is kept aside", || quarantined(&kit.store()) == 1);
    kit.node.close();
}

#[test]
fn an_expired_file_acknowledges_no_upload() {
    let folder = quick_folder();
    let clock = HandClock::at(START);
    let config = config(&[&folder.path().join("store")]);
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open_at(&config, metadata.clone(), clock.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    let put = || {
        let expires_at = Some(START + 10);
        let request = UploadRequest { expires_at, ..request(key("tnv001", "f"), None) };
        wait(async {
            let mut upload = node.stores.begin(request).await?;
            upload.write(Bytes::from_static(b"content")).await?;
            upload.finish().await
        })
    };
    assert_eq!(put().unwrap().outcome, Outcome::New);
    clock.advance(9);
    assert_eq!(put().unwrap().outcome, Outcome::Same);
    // What is to stay is not acknowledged by what goes.
    let for_ever = node.put("f", b"content");
    let earlier = Conflict::ExpiresEarlier;
    assert!(matches!(for_ever, Err(UploadError::Conflict(c)) if c == earlier), "{for_ever:?}");
    clock.advance(1);
    assert!(node.find("f").is_none());
    let late = put();
    assert!(matches!(late, Err(UploadError::Conflict(Conflict::Expired))), "{late:?}");
    // The way on.
    wait(node.stores.delete(key("tnv001", "f"))).unwrap();
    wait(node.stores.purge(key("tnv001", "f"))).unwrap();
    node.put("f", b"content").unwrap();
    assert_eq!(node.read("f").unwrap(), b"content");
    node.close();
}

#[test]
fn caches_hear_of_an_older_upload_that_ends_later() {
    let folder = quick_folder();
    let clock = HandClock::at(START);
    let config = config(&[&folder.path().join("store")]);
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open_at(&config, metadata.clone(), clock.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    let file = key("tnv001", "f").file;
    let mut slow = wait(node.stores.begin(request(key("tnv001", "f"), None))).unwrap();
    wait(slow.write(Bytes::from(content(1, 1_000_000)))).unwrap();
    // Its time is that of its file, which a worker makes.
    until("it has begun", || files(&folder.path().join("store")).len() == 1);
    clock.advance(5);
    put_as(&node.stores, key("tnv002", "f"), b"quick").unwrap();
    let epoch = node.stores.epoch(&file);
    let find = || wait(node.stores.lookup(Lookup::Any(file))).unwrap().unwrap();
    assert_eq!(find().size, 5);
    wait(slow.finish()).unwrap();
    assert_eq!(find().size, 1_000_000, "it began before: it is the older");
    assert_ne!(node.stores.epoch(&file), epoch, "what a thread keeps of the quick one is void");
    node.close();
}

// --- repair and sweep

#[test]
fn a_deleted_file_is_adopted_as_deleted_in_one_step() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    wait(kit.node.stores.delete(key("tnv001", "f"))).unwrap();
    let deleted_at = record(&path).deleted_at;
    lose_row(&kit.node.metadata, "f");
    // The process ends after the first write.
    kit.next_write(Wrong::Nothing);
    kit.next_write(Wrong::Refused);
    let swept = kit.node.stores.repair(0, Duration::ZERO);
    let row = kit.row("f").unwrap();
    assert_eq!((row.status, row.deleted_at), (FileStatus::Deleted, deleted_at), "{swept:?}");
    assert_eq!(swept.unwrap().adopted, 1);
    kit.script.lock().unwrap().writes.clear();
    kit.node.close();
}

#[test]
fn repair_moves_no_time_of_change() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    let row = FileRow { updated_at: 77, ..kit.row("f").unwrap() };
    wait(kit.node.metadata.upsert(vec![row])).unwrap();
    mark(&path, State::Deleted);
    assert_eq!(kit.repair().followed, 1);
    let row = kit.row("f").unwrap();
    assert_eq!((row.status, row.updated_at), (FileStatus::Deleted, 77));
    // Retention runs from now on: the delete that was cut short is long ago, and the file was served until now.
    assert!(row.deleted_at.unwrap() > START);
    assert_eq!(record(&path).deleted_at, row.deleted_at);
    kit.node.close();
}

#[test]
fn a_file_that_vanishes_under_repair_ends_no_pass() {
    let kit = Scripted::open();
    let path = kit.put("f", b"content");
    wait(kit.node.stores.delete(key("tnv001", "f"))).unwrap();
    mark(&path, State::Purging);
    kit.script.lock().unwrap().vanishes = Some(path.clone());
    let swept = kit.repair();
    assert_eq!((swept.purged, path.exists(), kit.row("f")), (1, false, None), "{swept:?}");
    kit.node.close();
}

/// A database taken over names files by an old prefix, which is configured.
#[test]
fn a_row_that_uses_an_alias_names_its_file() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let mut config = config(&[&store]);
    config.paths[0].aliases = vec!["../data".into()];
    let database = folder.path().join("storage.db");
    let node = Node::open_with(&config, &database, 0);
    for (index, name) in ["sealed", "unsealed", "marked"].into_iter().enumerate() {
        node.put(name, &content(index as u64, 3000)).unwrap();
        let mut row = row(&node.metadata, name).unwrap();
        let relative = node.find(name).unwrap().relative;
        row.file_path = format!("../data/{relative}");
        wait(node.metadata.upsert(vec![row])).unwrap();
        match name {
            "unsealed" => set_attribute(&store.join(relative.as_str()), None),
            "marked" => mark(&store.join(relative.as_str()), State::Deleted),
            _ => {}
        }
    }
    let swept = node.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!((swept.quarantined, swept.adopted, swept.followed), (0, 0, 1), "{swept:?}");
    let gone = wait(node.stores.stat(Lookup::Owned(key("tnv001", "marked")))).unwrap().unwrap();
    assert_eq!(gone.status, Status::Deleted, "the row is changed under the text that it has");
    wait(node.stores.restore(key("tnv001", "marked"))).unwrap();
    node.close();

    // The sweep, which unlinks what is unsealed and no row names.
    let node = Node::open_with(&config, &database, 0);
    for (index, name) in ["sealed", "unsealed", "marked"].into_iter().enumerate() {
        assert_eq!(node.read(name).unwrap(), content(index as u64, 3000), "{name}");
    }
    assert_eq!(node.put("sealed", &content(0, 3000)).unwrap().outcome, Outcome::Same);
    let metadata = node.metadata.clone();
    node.close();
    let options = VerifyOptions {
        stores: vec![(store, vec!["../data".into()])],
        content: true,
        age_min: Duration::ZERO,
    };
    let mut faults = Vec::new();
    verify(&options, Some(&metadata), None, &mut |event| {
        if let Event::Finding(finding) = event {
            faults.push(format!("{finding:?}"));
        }
    })
    .unwrap();
    assert_eq!(faults.len(), 1, "the one without a record: {faults:#?}");
}

// --- rebuild-index

#[test]
fn an_index_made_again_leaves_an_id_to_its_owner() {
    let folder = quick_folder();
    let (lost, kept) = (folder.path().join("lost"), folder.path().join("kept"));
    // alice sealed a file of this id, and lost the insert against tnv001, whose rows share her table; then the
    // process died. Her file lies in a block that was held.
    let node = Node::open_with(&config(&[&lost]), &folder.path().join("lost.db"), 0);
    put_as(&node.stores, key("alice", "f"), b"of alice").unwrap();
    node.close();
    let node = Node::open_with(&config(&[&kept]), &folder.path().join("kept.db"), 0);
    node.put("f", b"of tnv001").unwrap();
    // Past the block of its id, which is held no longer then.
    for index in 0..130 {
        // Uploads may be faster than the ID node.
        until("ids in hand", || node.stores.status()[0].ids_left > 0);
        node.put(&format!("more-{index}"), b"x").unwrap();
    }
    let path = kept.join(node.find("f").unwrap().relative.as_str());
    let metadata = node.metadata.clone();
    node.close();

    let stores = [lost, kept];
    let owner = |metadata: &Metadata| wait(metadata.get("f")).unwrap().unwrap().user;
    let rebuilt = rebuild_index(&stores, true, &metadata, &mut |_| {}).unwrap();
    assert_eq!((rebuilt.rows, rebuilt.duplicates, rebuilt.already), (0, 1, 131), "{rebuilt:?}");
    assert_eq!(owner(&metadata), "tnv001", "the row is there and stays");

    let empty = Metadata::sqlite(&folder.path().join("empty.db")).unwrap();
    let rebuilt = rebuild_index(&stores, true, &empty, &mut |_| {}).unwrap();
    assert_eq!((rebuilt.rows, rebuilt.duplicates), (131, 1), "{rebuilt:?}");
    assert_eq!(owner(&empty), "tnv001", "what was held comes last");
    fs::write(path, b"of nobody").unwrap();
    let again = rebuild_index(&stores, true, &empty, &mut |_| {}).unwrap();
    assert_eq!((again.rows, again.duplicates, again.damaged), (0, 1, 1), "{again:?}");
    assert_eq!(owner(&empty), "tnv001", "damaged as it is: what is another's is not given away");
}
