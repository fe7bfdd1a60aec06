//! A store path that several nodes have: each sees at once what another has done, path ids are given once, and no node takes
//! another's work for what a crash has left. Two nodes in this process, on one folder and one database.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    fs,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::{Arc, Barrier, Mutex},
    time::Duration,
};

use bytes::Bytes;
use kit::{
    HandClock, IdNode, Node, START, attribute, config, content, files, key, put_as, quick_folder,
    request, set_attribute,
};
use reel_engine::{
    housekeeping::{expire_due, purge_due},
    metadata::{Metadata, Owned, wait},
    rebuild::rebuild_index,
    record::{Record, State},
    store::{
        BlockRefused, ChangeError, Health, Lookup, OpenError, Status, StoreConfig, Stores,
        UploadRequest,
    },
};
use reel_proto::name::{GroupName, HostName};

/// The folder that all have, and what else they share.
struct Group {
    folder: tempfile::TempDir,
    metadata: Metadata,
    sequence: Arc<Mutex<u64>>,
}

impl Group {
    fn new() -> Self {
        let folder = quick_folder();
        let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
        Self { folder, metadata, sequence: Arc::default() }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn config(&self, node: &str) -> StoreConfig {
        let mut config = config(&[&self.store()]);
        config.node = HostName::parse(node).unwrap();
        config.paths[0].shared = Some(true);
        config
    }

    fn stores(&self, node: &str) -> Result<Arc<Stores>, OpenError> {
        Stores::open(&self.config(node), self.metadata.clone())
    }

    /// Ends a node, and leaves its mark as a crash does.
    fn crash(&self, name: &str, node: Node) {
        let mark = self.store().join(format!(".reel/marks/{name}.mark"));
        let before = fs::read(&mark).unwrap();
        node.close();
        fs::write(&mark, before).unwrap();
    }

    fn node(&self, node: &str) -> Node {
        let stores = self.stores(node).unwrap();
        let ids = IdNode::serve(&stores, Arc::clone(&self.sequence));
        kit::until("ids in hand", || stores.status()[0].ids_left > 0);
        Node { stores, metadata: self.metadata.clone(), ids }
    }
}

fn record(path: &Path) -> Record {
    Record::decode(&attribute(path).unwrap()).unwrap()
}

#[test]
fn what_one_node_takes_the_other_has_at_once() {
    let group = Group::new();
    let (one, two) = (group.node("one"), group.node("two"));
    for number in 0..50_u64 {
        let (file, bytes) = (format!("f-{number}"), content(number, 3000));
        let (to, from) = if number % 2 == 0 { (&one, &two) } else { (&two, &one) };
        to.put(&file, &bytes).unwrap();
        assert_eq!(from.read(&file).unwrap(), bytes);
        if number % 10 == 0 {
            wait(from.stores.delete(key("tnv001", &file))).unwrap();
            assert_eq!(to.read(&file), None);
            wait(to.stores.restore(key("tnv001", &file))).unwrap();
            assert_eq!(from.read(&file).unwrap(), bytes);
        }
    }
    assert_eq!(files(&group.store()).len(), 50);
    let identities = [&one, &two].map(|node| node.stores.status()[0].uuid.clone());
    assert_eq!(identities[0], identities[1]);
    one.close();
    two.close();
}

#[test]
fn each_node_is_there_once_and_a_tool_for_stores_at_rest_waits_for_all() {
    let group = Group::new();
    let (one, two) = (group.node("one"), group.node("two"));
    assert!(matches!(group.stores("two"), Err(OpenError::Locked(_))));
    let mut alone = group.config("three");
    alone.paths[0].shared = Some(false);
    assert!(matches!(Stores::open(&alone, group.metadata.clone()), Err(OpenError::Locked(_))));
    one.put("f", b"content").unwrap();
    one.close();
    let rebuild = || rebuild_index(&[group.store()], true, &group.metadata, &mut |_| {});
    assert!(rebuild().is_err(), "another node is at work");
    two.close();
    assert_eq!(rebuild().unwrap().already, 1);
}

#[test]
fn an_id_node_that_lost_its_database_gives_nothing_twice() {
    let group = Group::new();
    let (one, two) = (group.stores("one").unwrap(), group.stores("two").unwrap());
    wait(one.block_arrived(0, 0..64)).unwrap();
    // The second knows of the first what its mark says, and asks for what is above.
    let refused = wait(two.block_arrived(0, 0..64));
    assert!(matches!(refused, Err(BlockRefused::Block(_))), "{refused:?}");
    let wanted = kit::within(Duration::from_secs(5), two.block_wanted(0)).unwrap();
    assert_eq!(wanted.at_least, 64);
    wait(two.block_arrived(0, 64..128)).unwrap();
    // At the same moment.
    for round in 2..100_u64 {
        let block = round * 64..(round + 1) * 64;
        let barrier = Barrier::new(2);
        let taken = std::thread::scope(|scope| {
            let offers = [&one, &two].map(|stores| {
                let (barrier, block) = (&barrier, block.clone());
                scope.spawn(move || {
                    barrier.wait();
                    wait(stores.block_arrived(0, block)).is_ok()
                })
            });
            offers.map(|offer| offer.join().unwrap()).into_iter().filter(|taken| *taken).count()
        });
        assert!(taken <= 1, "block {block:?} was taken by {taken}");
        // Whoever has more in hand than it can hold settles.
        for stores in [&one, &two] {
            let _ = put_as(stores, key("tnv001", &format!("f-{round}")), b"content");
        }
    }
    for stores in [one, two] {
        stores.close(Duration::from_secs(10));
    }
}

#[test]
fn changes_of_one_file_on_two_nodes_end_with_a_record_and_a_row_that_agree() {
    let group = Group::new();
    let (one, two) = (group.node("one"), group.node("two"));
    one.put("f", b"content").unwrap();
    let path = group.store().join(one.find("f").unwrap().relative.as_str());
    for round in 0..100 {
        let barrier = Barrier::new(2);
        let file = key("tnv001", "f");
        let (deleted, restored) = std::thread::scope(|scope| {
            let deleted = scope.spawn(|| {
                barrier.wait();
                wait(one.stores.delete(file))
            });
            barrier.wait();
            let restored = wait(two.stores.restore(file));
            (deleted.join().unwrap(), restored)
        });
        for outcome in [&deleted, &restored] {
            let fine = matches!(outcome, Ok(_) | Err(ChangeError::Busy | ChangeError::Unknown));
            assert!(fine, "round {round}: {deleted:?} {restored:?}");
        }
        let status = kit::status(&one, "f").unwrap();
        let wanted = if status == Status::Normal { State::Normal } else { State::Deleted };
        assert_eq!(record(&path).state, wanted, "round {round}: {deleted:?} {restored:?}");
    }
    one.close();
    two.close();
}

#[test]
fn a_start_sweeps_what_its_own_node_left_and_nothing_of_another() {
    let group = Group::new();
    let (one, two) = (group.node("one"), group.node("two"));
    // Under way on the one, left by a crash of the other.
    let under_way = wait(async {
        let mut upload =
            one.stores.begin(request(key("tnv001", "under-way"), Some(4 << 20))).await.unwrap();
        upload.write(Bytes::from(content(1, 2 << 20))).await.unwrap();
        upload
    });
    kit::until("it has a file", || files(&group.store()).len() == 1);
    let left = wait(async {
        let mut upload =
            two.stores.begin(request(key("tnv001", "left"), Some(4 << 20))).await.unwrap();
        upload.write(Bytes::from(content(2, 2 << 20))).await.unwrap();
        upload
    });
    kit::until("it has a file", || files(&group.store()).len() == 2);
    let marks = group.store().join(".reel/marks");
    let before = fs::read(marks.join("two.mark")).unwrap();
    let lying: Vec<_> = files(&group.store()).into_iter().collect();
    let contents: Vec<_> =
        lying.iter().map(|file| fs::read(group.store().join(file)).unwrap()).collect();
    drop(left);
    two.close();
    // As the crash of the second would have left it.
    fs::write(marks.join("two.mark"), before).unwrap();
    for (file, bytes) in lying.iter().zip(contents) {
        if !group.store().join(file).exists() {
            fs::write(group.store().join(file), bytes).unwrap();
        }
    }
    let two = group.node("two");
    assert_eq!(files(&group.store()).len(), 1, "its own is removed, the other's stays");
    let stored = wait(async {
        let mut upload = under_way;
        upload.write(Bytes::from(content(3, 2 << 20))).await.unwrap();
        upload.finish().await
    });
    stored.unwrap();
    assert_eq!(two.read("under-way").unwrap().len(), 4 << 20);
    one.close();
    two.close();
}

#[test]
fn a_file_that_cannot_be_looked_at_keeps_no_node_down_and_is_swept_when_it_can() {
    let group = Group::new();
    let two = group.node("two");
    let left = wait(async {
        let mut upload =
            two.stores.begin(request(key("tnv001", "left"), Some(4 << 20))).await.unwrap();
        upload.write(Bytes::from(content(2, 2 << 20))).await.unwrap();
        upload
    });
    kit::until("it has a file", || files(&group.store()).len() == 1);
    let mark = group.store().join(".reel/marks/two.mark");
    let before = fs::read(&mark).unwrap();
    let file = group.store().join(files(&group.store()).first().unwrap());
    drop(left);
    two.close();
    fs::write(&mark, before).unwrap();
    // As its crash would have left it, but that nobody can open it: neither can a socket be.
    if file.exists() {
        fs::remove_file(&file).unwrap();
    }
    let socket = UnixListener::bind(&file).unwrap();
    for more in ["one", "more"] {
        let two = group.node("two");
        two.put(more, b"content").unwrap();
        two.close();
        assert!(file.exists());
    }
    drop(socket);
    fs::remove_file(&file).unwrap();
    fs::write(&file, b"unfinished").unwrap();
    let two = group.node("two");
    assert!(!file.exists(), "its block was held until it could be looked at");
    two.close();
}

#[test]
fn a_start_waits_a_while_for_what_it_cannot_look_at() {
    let group = Group::new();
    let two = group.node("two");
    two.put("f", b"content").unwrap();
    let path = group.store().join(two.find("f").unwrap().relative.as_str());
    group.crash("two", two);
    let deleted = Record { state: State::Deleted, deleted_at: Some(1), ..record(&path) };
    set_attribute(&path, Some(&deleted.encode().unwrap()));
    let lock = fs::File::open(&path).unwrap();
    lock.lock().unwrap();
    let mut config = group.config("two");
    config.sweep_patience = Duration::from_secs(60);
    let stores = std::thread::scope(|scope| {
        let start = scope.spawn(|| Stores::open(&config, group.metadata.clone()).unwrap());
        std::thread::sleep(Duration::from_millis(500));
        drop(lock);
        start.join().unwrap()
    });
    let state = wait(stores.stat(Lookup::Owned(key("tnv001", "f")))).unwrap().unwrap().status;
    assert_eq!(state, Status::Deleted, "decided before it is served");
    stores.close(Duration::from_secs(10));
}

#[test]
fn a_file_that_another_node_holds_keeps_no_node_down_and_is_brought_in_order_later() {
    let group = Group::new();
    let (one, two) = (group.node("one"), group.node("two"));
    two.put("first", b"content").unwrap();
    two.put("second", b"content").unwrap();
    let place = |file: &str| group.store().join(two.find(file).unwrap().relative.as_str());
    let (first, second) = (place("first"), place("second"));
    group.crash("two", two);
    // A delete was cut short behind its record, by a node whose lock is still there.
    for path in [&first, &second] {
        let deleted = Record { state: State::Deleted, deleted_at: Some(1), ..record(path) };
        set_attribute(path, Some(&deleted.encode().unwrap()));
    }
    let lock = fs::File::open(&first).unwrap();
    lock.lock().unwrap();
    let swept = one.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!((swept.unreadable, swept.followed), (1, 1), "{swept:?}");
    let two = group.node("two");
    assert!(two.find("first").is_some() && two.find("second").is_none());
    two.close();
    drop(lock);
    let two = group.node("two");
    assert!(two.find("first").is_none(), "its block was held until it could be changed");
    two.close();
    one.close();
}

/// A prefix of an installation that was taken over, or of a node whose configuration is older.
#[test]
fn a_file_whose_row_has_a_prefix_that_this_node_does_not_know_is_left_alone() {
    let group = Group::new();
    let mut config = group.config("one");
    config.paths[0].aliases = vec!["../data".into()];
    let stores = Stores::open(&config, group.metadata.clone()).unwrap();
    let one = Node::serve(stores, group.metadata.clone(), 0);
    for file in ["f", "doubtful"] {
        one.put(file, b"content").unwrap();
        let relative = one.find(file).unwrap().relative;
        let owned = Owned { app: "tnvideo".into(), user: "tnv001".into(), file: file.into() };
        let mut row = wait(group.metadata.read_back(owned)).unwrap().unwrap();
        row.file_path = format!("../data/{relative}");
        wait(group.metadata.upsert(vec![row])).unwrap();
        assert_eq!(one.read(file).unwrap(), b"content");
    }
    let doubtful = group.store().join(one.find("doubtful").unwrap().relative.as_str());
    set_attribute(&doubtful, Some(b"no record"));
    let two = group.node("two");
    let before = files(&group.store());
    let swept = two.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!((swept.left, swept.quarantined), (2, 0), "{swept:?}");
    assert_eq!(files(&group.store()), before);
    assert_eq!(one.read("f").unwrap(), b"content");
    two.close();
    one.close();
}

/// Two groups with one database, and with the same prefix for their places.
#[test]
fn what_has_expired_or_was_deleted_is_looked_after_by_those_who_have_it() {
    let group = Group::new();
    let clock = HandClock::at(START);
    let begin = |name: &str, next_id: u64| {
        let folder = group.folder.path().join(name);
        fs::create_dir(&folder).unwrap();
        let mut config = config(&[&folder]);
        config.node = HostName::parse(name).unwrap();
        config.group = GroupName::parse(name).unwrap();
        config.paths[0].id_key = Some("../data".to_owned());
        let stores = Stores::open_at(&config, group.metadata.clone(), clock.clone()).unwrap();
        (folder, Node::serve(stores, group.metadata.clone(), next_id))
    };
    let ((_, one), (folder, two)) = (begin("one", 0), begin("two", 10_000));
    let expiring =
        UploadRequest { expires_at: Some(START + 5), ..request(key("tnv001", "expires"), None) };
    wait(async {
        let mut upload = two.stores.begin(expiring).await.unwrap();
        upload.write(Bytes::from_static(b"content")).await.unwrap();
        Box::pin(upload.finish()).await.unwrap();
    });
    two.put("deleted", b"content").unwrap();
    wait(two.stores.delete(key("tnv001", "deleted"))).unwrap();
    clock.advance(10);
    assert_eq!(expire_due(&one.stores).unwrap(), 0);
    assert_eq!(expire_due(&two.stores).unwrap(), 1);
    clock.advance(8 * 24 * 3600);
    assert_eq!(purge_due(&one.stores).unwrap(), 0);
    assert_eq!(files(&folder).len(), 2);
    assert_eq!(purge_due(&two.stores).unwrap(), 2);
    assert_eq!(files(&folder).len(), 0);
    one.close();
    two.close();
}

#[test]
fn a_node_that_stops_writing_stops_no_other() {
    let group = Group::new();
    let (one, two) = (group.node("one"), group.node("two"));
    let marker = group.store().join(".reel/marks/one.read-only");
    fs::write(&marker, "a test says so").unwrap();
    one.close();
    let one = group.stores("one").unwrap();
    assert_eq!(one.status()[0].health, Health::ReadOnly);
    two.put("f", b"content").unwrap();
    assert_eq!(two.stores.status()[0].health, Health::Ok);
    wait(one.readmit(0)).unwrap();
    assert!(!marker.exists());
    one.close(Duration::from_secs(10));
    two.close();
}
