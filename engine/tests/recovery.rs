//! What is found after a crash: the sweep, repair, `verify`, `rebuild-index`, and a process killed under uploads.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use kit::{
    Node, attribute, config, content, faulty, files, key, put_as, quarantined, quick_folder,
    request, set_attribute,
};
use reel_engine::{
    metadata::{Metadata, Owned, wait},
    rebuild::{Rebuilt, rebuild_index},
    record::{Record, State},
    store::{Clock as _, Lookup, Status, Stores, SystemClock},
    verify::{Event, Fault, VerifyOptions, verify},
};
use reel_meta::Removal;
use reel_proto::path::PathId;

const STORE: &str = "store";
const DATABASE: &str = "storage.db";

fn place(folder: &Path, node: &Node, file: &str) -> PathBuf {
    folder.join(STORE).join(node.find(file).unwrap().relative.as_str())
}

fn record(path: &Path) -> Record {
    Record::decode(&attribute(path).unwrap()).unwrap()
}

fn seal(path: &Path, record: &Record) {
    set_attribute(path, Some(&record.encode().unwrap()));
}

/// Takes the row of a file away behind the engine's back.
fn lose_row(metadata: &Metadata, file: &str) {
    let owned = Owned { app: "tnvideo".into(), user: "tnv001".into(), file: file.into() };
    let row = wait(metadata.read_back(owned)).unwrap().unwrap();
    wait(metadata.remove(vec![Removal { row: row.reference(), only: None }])).unwrap();
}

/// A store in which every kind of leftover lies; the node is closed. The places, by name.
fn leftovers(folder: &Path) -> BTreeMap<&'static str, PathBuf> {
    let node = Node::open(folder);
    let names = [
        "normal",
        "adopt",
        "torn",
        "flipped",
        "stripped",
        "purging",
        "purging-no-row",
        "deleted",
        "follow",
        "revived",
        "flipped-no-row",
        "purge-lost",
    ];
    let mut places = BTreeMap::new();
    for (index, name) in names.into_iter().enumerate() {
        node.put(name, &content(index as u64, 3000)).unwrap();
        places.insert(name, place(folder, &node, name));
    }
    for name in ["adopt", "torn", "flipped-no-row", "purging-no-row", "deleted"] {
        lose_row(&node.metadata, name);
    }
    // A restore that was cut short after its record: the row says deleted still.
    wait(node.stores.delete(key("tnv001", "revived"))).unwrap();
    // A purge needs a deleted row. One that finds it normal was overtaken by a restore ("purge-lost").
    wait(node.stores.delete(key("tnv001", "purging"))).unwrap();
    node.close();
    let mut revived = record(&places["revived"]);
    revived.state = State::Normal;
    seal(&places["revived"], &revived);
    fs::write(&places["torn"], vec![0; 3000]).unwrap();
    for name in ["flipped", "flipped-no-row"] {
        let mut flipped = attribute(&places[name]).unwrap();
        flipped[20] ^= 4;
        set_attribute(&places[name], Some(&flipped));
    }
    set_attribute(&places["stripped"], None);
    for (name, state) in [
        ("purging", State::Purging),
        ("purge-lost", State::Purging),
        ("purging-no-row", State::Purging),
        ("deleted", State::Deleted),
        ("follow", State::Deleted),
    ] {
        let mut record = record(&places[name]);
        record.state = state;
        // Just now: the retention time of a file deleted long ago would be over, and it would be purged at once.
        record.deleted_at = Some(SystemClock.now());
        seal(&places[name], &record);
    }
    let tree = folder.join(STORE).join("000/000/000");
    // An upload cut short: no record.
    places.insert("unsealed", tree.join("65F1560C_030"));
    fs::write(&places["unsealed"], b"half a fi").unwrap();
    // A complete file that lost against another of the same id.
    places.insert("loser", tree.join("65F1560C_031"));
    fs::write(&places["loser"], content(0, 3000)).unwrap();
    let mut loser = record(&places["normal"]);
    loser.path_id = PathId::new(0x31).unwrap();
    seal(&places["loser"], &loser);
    // A copy that somebody made, record and all: its record belongs to another place.
    places.insert("copy", tree.join("65F1560C_032"));
    fs::write(&places["copy"], content(0, 3000)).unwrap();
    seal(&places["copy"], &record(&places["normal"]));
    places.insert("stranger", tree.join("notes.txt"));
    fs::write(&places["stranger"], b"mine").unwrap();
    places
}

fn status(node: &Node, file: &str) -> Option<Status> {
    wait(node.stores.stat(Lookup::Owned(key("tnv001", file)))).unwrap().map(|found| found.status)
}

#[test]
fn the_sweep_removes_adopts_and_keeps_aside() {
    let folder = quick_folder();
    let places = leftovers(folder.path());
    // The same leftover outside of every block that this node held.
    let elsewhere = folder.path().join(STORE).join("000/000/009/65F1560C_010");
    fs::create_dir_all(elsewhere.parent().unwrap()).unwrap();
    fs::write(&elsewhere, b"whose is it?").unwrap();

    let node = Node::open(folder.path());
    assert!(!places["unsealed"].exists(), "an unfinished upload of ours goes");
    assert!(elsewhere.exists(), "outside of our blocks nothing is looked at");
    assert!(places["stranger"].exists(), "a name that is not ours is nobody's business");
    assert!(places["stripped"].exists(), "what a row names is never removed");
    assert_eq!(node.read("adopt").unwrap(), content(1, 3000));
    assert_eq!(status(&node, "deleted"), Some(Status::Deleted), "adopted as what it was");
    assert_eq!(status(&node, "follow"), Some(Status::Deleted), "the row follows the record");
    assert_eq!(status(&node, "revived"), Some(Status::Deleted), "what is deleted stays deleted");
    assert_eq!(record(&places["revived"]).state, State::Deleted);
    for name in ["torn", "flipped-no-row", "loser", "copy"] {
        assert!(!places[name].exists(), "{name} is doubtful and moved away");
    }
    // Nothing is wrong with its content, and it was acknowledged: a row outweighs a record that cannot be read.
    assert_eq!(node.read("flipped").unwrap(), content(3, 3000));
    assert_eq!(quarantined(&folder.path().join(STORE)), 4);
    assert_eq!(status(&node, "torn"), None);
    for name in ["purging", "purging-no-row"] {
        assert!(!places[name].exists(), "{name}: the purge is finished");
        assert_eq!(status(&node, name), None);
    }
    assert_eq!(
        node.read("purge-lost").unwrap(),
        content(11, 3000),
        "somebody was told that it is back"
    );
    assert_eq!(record(&places["purge-lost"]).state, State::Normal);
    assert_eq!(node.read("normal").unwrap(), content(0, 3000));
    node.close();

    // A second start finds nothing to do.
    let before = files(&folder.path().join(STORE));
    Node::open(folder.path()).close();
    assert_eq!(files(&folder.path().join(STORE)), before);
    assert_eq!(quarantined(&folder.path().join(STORE)), 4);
}

#[test]
fn repair_looks_everywhere_but_at_young_files_and_unlinks_nothing_unknown() {
    let folder = quick_folder();
    let places = leftovers(folder.path());
    // Nothing is held any more: the sweep looks at none of them.
    fs::remove_file(folder.path().join(STORE).join(".reel/marks/local.mark")).unwrap();
    let node = Node::open(folder.path());
    assert!(places["unsealed"].exists() && places["adopt"].exists());

    // Files by name from 2024 are old; those uploaded now are not.
    let swept = node.stores.repair(0, Duration::from_secs(3600)).unwrap();
    assert_eq!((swept.adopted, swept.purged), (0, 0), "too young to be looked at: {swept:?}");
    assert!(places["adopt"].exists() && places["purging"].exists());

    let swept = node.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!((swept.adopted, swept.purged, swept.removed), (2, 2, 0), "{swept:?}");
    assert!(places["unsealed"].exists(), "unknown, outside of our blocks: never unlinked");
    assert_eq!(node.read("adopt").unwrap(), content(1, 3000));
    assert_eq!(status(&node, "follow"), Some(Status::Deleted));
    for name in ["torn", "flipped-no-row", "loser", "copy"] {
        assert!(!places[name].exists(), "{name} is kept aside");
    }
    assert_eq!(node.read("flipped").unwrap(), content(3, 3000), "a row names it");
    assert_eq!(node.read("purge-lost").unwrap(), content(11, 3000));
    let again = node.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!(
        (again.adopted, again.purged, again.followed, again.quarantined),
        (0, 0, 0, 0),
        "{again:?}"
    );
    node.close();
}

/// The row comes between repair's look and its act: what it does then must not be what the look said.
#[test]
fn repair_reads_the_row_again_before_it_acts() {
    let folder = quick_folder();
    let store = folder.path().join(STORE);
    let (metadata, script) = faulty::metadata(&folder.path().join(DATABASE));
    let stores = Stores::open(&config(&[&store]), metadata.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    node.put("late", &content(7, 3000)).unwrap();
    script.lock().unwrap().reads_early = 1;
    let swept = node.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!(script.lock().unwrap().reads_early, 0, "repair did not look at the row");
    assert_eq!((swept.adopted, swept.quarantined, swept.left), (0, 0, 0), "{swept:?}");
    assert_eq!(node.read("late").unwrap(), content(7, 3000));
    // The same with content that does not match, which would go to quarantine for want of a row.
    fs::write(place(folder.path(), &node, "late"), content(8, 3000)).unwrap();
    script.lock().unwrap().reads_early = 1;
    let swept = node.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!((swept.left, swept.quarantined), (1, 0), "{swept:?}");
    assert!(place(folder.path(), &node, "late").exists());
    node.close();
}

fn all_faults(folder: &Path) -> BTreeMap<String, Fault> {
    let metadata = Metadata::sqlite(&folder.join(DATABASE)).unwrap();
    let options = VerifyOptions {
        stores: vec![(folder.join(STORE), Vec::new())],
        content: true,
        age_min: Duration::ZERO,
    };
    let mut faults = BTreeMap::new();
    let progress = verify(&options, Some(&metadata), None, &mut |event| {
        if let Event::Finding(finding) = event {
            let name = finding.place.rsplit('/').next().unwrap();
            faults.entry(name.to_owned()).or_insert_with(|| finding.fault.clone());
        }
    });
    assert!(progress.unwrap().files > 0);
    faults
}

#[test]
fn verify_finds_every_kind_of_fault_and_nothing_in_a_sound_store() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let names = ["good", "bit", "cut", "gone", "record", "stripped", "row", "state"];
    let mut places = BTreeMap::new();
    for (index, name) in names.into_iter().enumerate() {
        node.put(name, &content(index as u64, 70_000)).unwrap();
        places.insert(name, place(folder.path(), &node, name));
    }
    assert!(all_faults(folder.path()).is_empty(), "beside a running engine, nothing is wrong");
    lose_row(&node.metadata, "row");
    node.close();
    let mut bytes = fs::read(&places["bit"]).unwrap();
    bytes[69_999] ^= 0x80;
    fs::write(&places["bit"], bytes).unwrap();
    fs::File::options().write(true).open(&places["cut"]).unwrap().set_len(69_999).unwrap();
    fs::remove_file(&places["gone"]).unwrap();
    let mut flipped = attribute(&places["record"]).unwrap();
    flipped[70] ^= 1;
    set_attribute(&places["record"], Some(&flipped));
    set_attribute(&places["stripped"], None);
    let mut deleted = record(&places["state"]);
    deleted.state = State::Deleted;
    seal(&places["state"], &deleted);

    let faults = all_faults(folder.path());
    let of = |name: &str| faults.get(places[name].file_name().unwrap().to_str().unwrap()).cloned();
    assert_eq!(of("good"), None);
    assert!(matches!(of("bit"), Some(Fault::Checksum { .. })));
    assert_eq!(of("cut"), Some(Fault::Size { found: 69_999, expected: 70_000 }));
    assert_eq!(of("gone"), Some(Fault::NoFile));
    assert!(matches!(of("record"), Some(Fault::BadRecord { .. })));
    assert_eq!(of("stripped"), Some(Fault::NoRecord));
    assert_eq!(of("row"), Some(Fault::NoRow));
    assert_eq!(of("state"), Some(Fault::Differs { field: "state" }));
    assert_eq!(faults.len(), 7);
}

fn rebuild(folder: &Path) -> Rebuilt {
    let metadata = Metadata::sqlite(&folder.join(DATABASE)).unwrap();
    rebuild_index(&[folder.join(STORE)], true, &metadata, &mut |_| {}).unwrap()
}

fn lose_database(folder: &Path) {
    for name in [DATABASE, "storage.db-wal", "storage.db-shm"] {
        let _ = fs::remove_file(folder.join(name));
    }
}

#[test]
fn the_disks_alone_give_back_the_index() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let mut last = 0;
    for index in 0..30_u64 {
        let user = ["tnv001", "tnv002", "用户"][index as usize % 3];
        let mut upload = request(key(user, &format!("f{index}")), None);
        upload.name = Some(format!("film {index}.mp4"));
        upload.content_type = Some("video/mp4".into());
        upload.expires_at = (index % 2 == 0).then_some(1 << 40);
        let stored = wait(async {
            let mut upload = node.stores.begin(upload).await?;
            upload.write(content(index, 1000).into()).await?;
            upload.finish().await
        });
        last = last.max(stored.unwrap().path_id.get());
    }
    for index in [3, 6, 9] {
        wait(node.stores.delete(key("tnv001", &format!("f{index}")))).unwrap();
    }
    let see = |node: &Node| {
        let mut all = Vec::new();
        for index in 0..30 {
            let user = ["tnv001", "tnv002", "用户"][index % 3];
            let file = key(user, &format!("f{index}"));
            let found = wait(node.stores.stat(Lookup::Owned(file))).unwrap().unwrap();
            all.push(format!("{found:?}"));
        }
        all
    };
    let before = see(&node);
    node.close();
    lose_database(folder.path());
    let rebuilt = rebuild(folder.path());
    assert_eq!((rebuilt.files, rebuilt.rows, rebuilt.deleted), (30, 30, 3));
    assert_eq!((rebuilt.damaged, rebuilt.unsealed, rebuilt.duplicates), (0, 0, 0));
    let again = rebuild(folder.path());
    assert_eq!((again.rows, again.already), (0, 30), "a second run changes nothing");
    let node = Node::open(folder.path());
    assert_eq!(see(&node), before);
    assert_eq!(node.read("f0").unwrap(), content(0, 1000));
    assert!(node.put("next", b"x").unwrap().path_id.get() > last, "path ids go on above the mark");
    node.close();
}

#[test]
fn no_damaged_file_gets_a_row_and_of_two_copies_the_whole_one() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    for name in ["record", "content", "short", "unsealed", "purging", "twice"] {
        node.put(name, &content(1, 5000)).unwrap();
    }
    let path = |name: &str| place(folder.path(), &node, name);
    let places: BTreeMap<_, _> =
        ["record", "content", "short", "unsealed", "purging", "twice"].map(|n| (n, path(n))).into();
    node.close();
    fs::write(&places["content"], content(2, 5000)).unwrap();
    fs::write(&places["short"], content(1, 4999)).unwrap();
    set_attribute(&places["unsealed"], None);
    let mut purging = record(&places["purging"]);
    purging.state = State::Purging;
    seal(&places["purging"], &purging);
    // A second, whole copy at a higher place; the first one rots.
    let copy = folder.path().join(STORE).join("000/000/000/65F1560C_03F");
    fs::write(&copy, content(1, 5000)).unwrap();
    let mut second = record(&places["twice"]);
    (second.path_id, second.created_at) = (PathId::new(0x3F).unwrap(), 0x65F1_560C);
    seal(&copy, &second);
    let whole = attribute(&places["record"]).unwrap();
    for bit in (0..whole.len() * 8).step_by(61) {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        set_attribute(&places["record"], Some(&flipped));
        lose_database(folder.path());
        let rebuilt = rebuild(folder.path());
        assert_eq!((rebuilt.rows, rebuilt.damaged), (1, 3), "bit {bit}: {rebuilt:?}");
        assert_eq!((rebuilt.unsealed, rebuilt.purging, rebuilt.duplicates), (1, 1, 1), "bit {bit}");
    }
    fs::write(&places["twice"], content(3, 5000)).unwrap();
    lose_database(folder.path());
    rebuild(folder.path());
    let metadata = Metadata::sqlite(&folder.path().join(DATABASE)).unwrap();
    let row = wait(metadata.get("twice")).unwrap().unwrap();
    assert!(row.file_path.ends_with("_03F"), "{}", row.file_path);
}

// --- kill -9

const CHILD: &str = "REEL_TEST_CHILD";

/// Not a test of its own: the process that the next test kills. It says each acknowledged upload on its output.
#[test]
fn child_that_uploads_until_it_is_killed() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let folder = PathBuf::from(folder);
    let seed: u64 = fs::read_to_string(folder.join("seed")).unwrap().parse().unwrap();
    let node = Node::open_with(&config(&[&folder.join(STORE)]), &folder.join(DATABASE), 0);
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let stores = &node.stores;
            scope.spawn(move || {
                for index in 0.. {
                    let number = seed * 1_000_000 + thread * 100_000 + index;
                    let name = format!("f{number}");
                    let len = if index % 7 == 6 { 900_000 } else { 4000 };
                    let stored =
                        put_as(stores, key("tnv001", &name), &content(number, len)).unwrap();
                    println!("ack {number} {len} {}", stored.path_id);
                    if index % 5 == 4 {
                        wait(stores.delete(key("tnv001", &name))).unwrap();
                        println!("del {number} {len} {}", stored.path_id);
                    }
                }
            });
        }
    });
}

/// What the child said until it died: number → (length, path id, deleted).
fn run_and_kill(folder: &Path, seed: u64) -> BTreeMap<u64, (usize, u64, bool)> {
    fs::write(folder.join("seed"), seed.to_string()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_uploads_until_it_is_killed", "--nocapture"])
        .env(CHILD, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let kill_after = 20 + (seed * 37 % 120) as usize;
    let mut said = BTreeMap::new();
    let mut killed = false;
    for line in lines.map_while(Result::ok) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [what @ ("ack" | "del"), number, len, id] = words[..] {
            let (len, id) = (len.parse().unwrap(), id.parse().unwrap());
            said.insert(number.parse().unwrap(), (len, id, what == "del"));
        }
        if said.len() >= kill_after && !killed {
            // SIGKILL: nothing of the process runs any more.
            child.kill().unwrap();
            killed = true;
        }
    }
    child.wait().unwrap();
    assert!(killed, "the child ended by itself");
    said
}

#[test]
fn killed_under_uploads_nothing_acknowledged_is_lost() {
    let folder = quick_folder();
    let mut said = BTreeMap::new();
    let mut ids = BTreeSet::new();
    for seed in 0..5 {
        let round = run_and_kill(folder.path(), seed);
        for (_, id, _) in round.values() {
            assert!(ids.insert(*id), "path id {id} twice");
        }
        said.extend(round);
        let node = Node::open(folder.path());
        for (number, (len, id, deleted)) in &said {
            let name = format!("f{number}");
            let found = wait(node.stores.stat(Lookup::Owned(key("tnv001", &name)))).unwrap();
            let found = found.unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
            assert_eq!(found.path_id.get(), *id);
            if *deleted {
                assert_eq!(found.status, Status::Deleted, "{name}");
            } else if found.status == Status::Normal {
                assert_eq!(node.read(&name).unwrap(), content(*number, *len), "{name}");
            }
        }
        let unfinished = quarantined(&folder.path().join(STORE));
        assert_eq!(unfinished, 0, "a killed process tears nothing: there is nothing doubtful");
        node.close();
        assert!(all_faults(folder.path()).is_empty(), "round {seed}");
    }
}
