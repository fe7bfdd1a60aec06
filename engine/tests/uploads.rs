//! Uploads, the same id again, deletes, ids and marks: what the rules of storage.md promise while nothing crashes.
#![allow(clippy::unwrap_used)]

mod kit;

use std::{fs, time::Duration};

use bytes::Bytes;
use kit::{
    HandClock, Node, START, attribute, config, content,
    faulty::{self, Wrong},
    files, key, put_as, quarantined, quick_folder, request, until, within,
};
use reel_engine::{
    housekeeping::purge_due,
    metadata::{Metadata, wait},
    record::{Record, State},
    store::{
        BlockRefused, ChangeError, Changed, Conflict, Listing, Lookup, OpenFileError, Outcome,
        Status, Stores, UploadError,
    },
};
use reel_meta::{FileRow, Selection, StatusFilter};
use reel_proto::{checksum::Crc64, name::FileId};

#[test]
fn what_is_acknowledged_is_there_with_record_and_row() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    for (index, len) in [0, 1, 16 * 1024, 256 * 1024, 256 * 1024 + 1, 3_500_000].iter().enumerate()
    {
        let (name, bytes) = (format!("file-{index}"), content(index as u64, *len));
        let stored = node.put(&name, &bytes).unwrap();
        assert_eq!(stored.outcome, Outcome::New);
        assert_eq!((stored.size, stored.checksum), (*len as u64, Crc64::of(&bytes)));
        assert_eq!(node.read(&name).unwrap(), bytes);
        let located = node.find(&name).unwrap();
        let path = folder.path().join("store").join(located.relative.as_str());
        let record = Record::decode(&attribute(&path).unwrap()).unwrap();
        assert_eq!(record.file.as_str(), name);
        assert_eq!((record.size, record.checksum), (stored.size, stored.checksum));
        assert_eq!((record.path_id, record.state), (stored.path_id, State::Normal));
        assert_eq!(located.checksum, Some(stored.checksum));
    }
    assert_eq!(files(&folder.path().join("store")).len(), 6);
    node.close();
}

#[test]
fn many_at_once_share_commits_and_all_are_there() {
    let folder = quick_folder();
    let mut config = config(&[&folder.path().join("store")]);
    // As many as are used: how they are fetched is not looked at here.
    config.id_block = 512;
    let node = Node::open_with(&config, &folder.path().join("storage.db"), 0);
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let stores = &node.stores;
            scope.spawn(move || {
                for index in 0..25 {
                    let name = format!("{thread}-{index}");
                    put_as(stores, key("tnv001", &name), &content(thread * 100 + index, 2000))
                        .unwrap();
                }
            });
        }
    });
    for thread in 0..8_u64 {
        for index in 0..25 {
            assert_eq!(
                node.read(&format!("{thread}-{index}")).unwrap(),
                content(thread * 100 + index, 2000)
            );
        }
    }
    let counts = node.stores.status()[0].counts;
    assert_eq!((counts.uploads, counts.commit_files + counts.journaled), (200, 200));
    assert!(counts.commits < 200, "eight at once never met in a commit: {counts:?}");
    node.close();
}

#[test]
fn an_upload_that_is_dropped_leaves_nothing() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    for len in [1000, 600_000, 3_000_000] {
        let mut upload =
            wait(node.stores.begin(request(key("tnv001", "gone"), Some(4_000_000)))).unwrap();
        for piece in content(1, len).chunks(100_000) {
            wait(upload.write(Bytes::copy_from_slice(piece))).unwrap();
        }
        drop(upload);
    }
    until("the files are removed", || files(&folder.path().join("store")).is_empty());
    assert!(node.find("gone").is_none());
    node.close();
}

#[test]
fn an_upload_dropped_while_it_commits_is_kept_with_its_row_or_not_at_all() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    for index in 0..40 {
        let name = format!("dropped-{index}");
        let mut upload = wait(node.stores.begin(request(key("tnv001", &name), None))).unwrap();
        wait(upload.write(Bytes::from(content(index, 5000)))).unwrap();
        // Polled a little and dropped: before, during or after the commit.
        let _ = within(Duration::from_micros(index * 100), upload.finish());
    }
    until("all are settled", || node.stores.status()[0].open_files == 0);
    let there: Vec<_> =
        (0..40).filter(|index| node.find(&format!("dropped-{index}")).is_some()).collect();
    for index in &there {
        assert_eq!(node.read(&format!("dropped-{index}")).unwrap(), content(*index, 5000));
    }
    assert_eq!(files(&folder.path().join("store")).len(), there.len());
    node.close();
}

#[test]
fn sizes_and_texts_are_held_to_what_was_announced() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let mut more = wait(node.stores.begin(request(key("tnv001", "more"), Some(3)))).unwrap();
    let error = wait(more.write(Bytes::from_static(b"four"))).unwrap_err();
    assert!(matches!(error, UploadError::Size { announced: 3, got: 4 }));
    assert_eq!(error.http_status(), 400);
    let mut less = wait(node.stores.begin(request(key("tnv001", "less"), Some(5)))).unwrap();
    wait(less.write(Bytes::from_static(b"four"))).unwrap();
    assert!(matches!(wait(less.finish()), Err(UploadError::Size { announced: 5, got: 4 })));
    let mut long = request(key("tnv001", "long"), None);
    long.name = Some("n".repeat(256));
    assert!(matches!(wait(node.stores.begin(long)), Err(UploadError::TooLong { field: "name" })));
    let all = request(key("tnv001", "huge"), Some(1 << 60));
    assert!(matches!(wait(node.stores.begin(all)), Err(UploadError::Full)));
    assert!(files(&folder.path().join("store")).is_empty());
    node.close();
}

#[test]
fn the_same_file_id_again() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let (bytes, other) = (content(1, 5000), content(2, 5000));
    let first = node.put("f", &bytes).unwrap();
    let again = node.put("f", &bytes).unwrap();
    assert_eq!((again.outcome, again.path_id), (Outcome::Same, first.path_id));
    let conflict = |result: Result<_, UploadError>| match result {
        Err(UploadError::Conflict(conflict)) => conflict,
        other => panic!("{other:?}"),
    };
    assert_eq!(conflict(node.put("f", &other)), Conflict::OtherContent);
    // tnv001 and alice share table 02, so the id is taken; tnv002 has a table of its own.
    assert_eq!(conflict(put_as(&node.stores, key("alice", "f"), &bytes)), Conflict::OtherOwner);
    assert_eq!(put_as(&node.stores, key("tnv002", "f"), &other).unwrap().outcome, Outcome::New);
    wait(node.stores.delete(key("tnv001", "f"))).unwrap();
    assert_eq!(conflict(node.put("f", &bytes)), Conflict::Deleted);
    until("the losers are removed", || files(&folder.path().join("store")).len() == 2);
    node.close();
}

#[test]
fn the_same_file_again_mends_one_that_is_damaged_or_lost() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let node = Node::open(folder.path());
    let bytes = content(1, 5000);
    for damage in ["flipped", "short", "missing"] {
        let before = node.put(damage, &bytes).unwrap();
        let path = store.join(node.find(damage).unwrap().relative.as_str());
        let mut rotten = bytes.clone();
        rotten[2500] ^= 1;
        match damage {
            "flipped" => fs::write(&path, &rotten).unwrap(),
            "short" => fs::write(&path, &bytes[..4999]).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let epoch = node.stores.epoch(&FileId::parse(damage).unwrap());
        let after = node.put(damage, &bytes).unwrap();
        assert_ne!(after.path_id, before.path_id, "{damage}: one path id, one file, for ever");
        assert_eq!(node.read(damage).unwrap(), bytes, "{damage}");
        assert_ne!(node.stores.epoch(&FileId::parse(damage).unwrap()), epoch, "{damage}");
    }
    until("the damaged ones are kept aside", || quarantined(&store) == 2);
    assert_eq!(files(&store).len(), 3);
    node.close();
}

#[test]
fn looking_through_stored_files_keeps_no_reader_from_opening_one() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    node.put("large", &content(1, 5000)).unwrap();
    node.put("other", &content(2, 5000)).unwrap();
    let large = node.find("large").unwrap();
    // A file that takes for ever to read: a pipe that somebody holds open and nobody writes to.
    let place = folder.path().join("store").join(large.relative.as_str());
    fs::remove_file(&place).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&place).status().unwrap().success());
    std::thread::scope(|scope| {
        let pipe = fs::File::options().read(true).write(true).open(&place).unwrap();
        for _ in 0..8 {
            scope.spawn(|| node.put("large", &content(1, 5000)));
        }
        std::thread::sleep(Duration::from_millis(500));
        let other = node.find("other").unwrap().place();
        let opened = within(Duration::from_secs(10), node.stores.open_file(&other));
        // Whoever comes after the one that has it open finds no file at all.
        fs::remove_file(&place).unwrap();
        drop(pipe);
        assert!(opened.is_some(), "a reader waits behind checks of other files");
    });
    node.close();
}

#[test]
fn two_at_once_with_one_id_end_with_one_file() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    for round in 0..10_u64 {
        let name = format!("race-{round}");
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u64)
                .map(|thread| {
                    let (stores, name) = (&node.stores, &name);
                    scope.spawn(move || {
                        let bytes = content(round * 10 + thread % 2, 3000);
                        (thread % 2, put_as(stores, key("tnv001", name), &bytes))
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let now = node.read(&name).unwrap();
        let winner = u64::from(now == content(round * 10 + 1, 3000));
        assert_eq!(now, content(round * 10 + winner, 3000));
        for (which, result) in results {
            match result {
                Ok(_) => assert_eq!(which, winner),
                Err(UploadError::Conflict(Conflict::OtherContent)) => assert_ne!(which, winner),
                Err(other) => panic!("{other}"),
            }
        }
    }
    until("the losers are removed", || files(&folder.path().join("store")).len() == 10);
    node.close();
}

#[test]
fn delete_restore_and_purge_reach_record_row_and_caches() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let file = key("tnv001", "f");
    let bytes = content(1, 100);
    node.put("f", &bytes).unwrap();
    let located = node.find("f").unwrap();
    let path = folder.path().join("store").join(located.relative.as_str());
    let state = || Record::decode(&attribute(&path).unwrap()).unwrap().state;
    assert!(matches!(wait(node.stores.purge(file)), Err(ChangeError::NotDeleted)));
    let epoch = node.stores.epoch(&file.file);
    assert_eq!(wait(node.stores.delete(file)).unwrap(), Changed::Done);
    assert!(node.stores.epoch(&file.file) > epoch, "caches are told before the reply");
    assert_eq!(wait(node.stores.delete(file)).unwrap(), Changed::Already);
    assert!(node.find("f").is_none(), "a deleted file does not exist to a reader");
    let stat = wait(node.stores.stat(Lookup::Owned(file))).unwrap().unwrap();
    assert_eq!((stat.status, state()), (Status::Deleted, State::Deleted));
    assert!(stat.deleted_at.is_some());
    assert_eq!(wait(node.stores.restore(file)).unwrap(), Changed::Done);
    assert_eq!((node.read("f").unwrap(), state()), (bytes, State::Normal));
    wait(node.stores.delete(file)).unwrap();
    assert_eq!(wait(node.stores.purge(file)).unwrap(), Changed::Done);
    assert!(!path.exists());
    assert!(wait(node.stores.stat(Lookup::Owned(file))).unwrap().is_none());
    assert!(matches!(wait(node.stores.restore(file)), Err(ChangeError::Unknown)));
    // The id is free again, for other content too; its place is not.
    let again = node.put("f", b"other").unwrap();
    assert_ne!(again.path_id, located.path_id);
    // Other users do not see it.
    assert!(matches!(wait(node.stores.delete(key("alice", "f"))), Err(ChangeError::Unknown)));
    node.close();
}

#[test]
fn changes_of_one_file_at_once_leave_record_and_row_in_agreement() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    node.put("f", b"content").unwrap();
    let path = folder.path().join("store").join(node.find("f").unwrap().relative.as_str());
    std::thread::scope(|scope| {
        for thread in 0..6 {
            let stores = &node.stores;
            scope.spawn(move || {
                for _ in 0..20 {
                    let change = if thread % 2 == 0 {
                        wait(stores.delete(key("tnv001", "f")))
                    } else {
                        wait(stores.restore(key("tnv001", "f")))
                    };
                    change.unwrap();
                }
            });
        }
    });
    let stat = wait(node.stores.stat(Lookup::Owned(key("tnv001", "f")))).unwrap().unwrap();
    let state = Record::decode(&attribute(&path).unwrap()).unwrap().state;
    assert_eq!(stat.status == Status::Deleted, state == State::Deleted);
    node.close();
}

#[test]
fn retention_is_over_and_the_file_is_purged() {
    let folder = quick_folder();
    let clock = HandClock::at(START);
    let config = config(&[&folder.path().join("store")]);
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open_at(&config, metadata.clone(), clock.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    for name in ["kept", "deleted"] {
        node.put(name, b"content").unwrap();
    }
    wait(node.stores.delete(key("tnv001", "deleted"))).unwrap();
    clock.advance(7 * 24 * 3600);
    assert_eq!(purge_due(&node.stores).unwrap(), 0, "not before the retention time is over");
    clock.advance(1);
    assert_eq!(purge_due(&node.stores).unwrap(), 1);
    assert_eq!(files(&folder.path().join("store")).len(), 1);
    assert_eq!(node.read("kept").unwrap(), b"content");
    node.close();
}

#[test]
fn the_record_is_changed_before_the_row() {
    let folder = quick_folder();
    let (metadata, script) = faulty::metadata(&folder.path().join("storage.db"));
    let stores = Stores::open(&config(&[&folder.path().join("store")]), metadata.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    node.put("f", b"content").unwrap();
    let file = key("tnv001", "f");
    let path = folder.path().join("store").join(node.find("f").unwrap().relative.as_str());
    let state = || Record::decode(&attribute(&path).unwrap()).unwrap().state;
    script.lock().unwrap().writes.push_back(Wrong::Refused);
    assert!(matches!(wait(node.stores.delete(file)), Err(ChangeError::Metadata { .. })));
    assert_eq!(state(), State::Deleted, "record first");
    assert!(node.find("f").is_some(), "and the row not at all");
    wait(node.stores.delete(file)).unwrap();
    script.lock().unwrap().writes.push_back(Wrong::Refused);
    assert!(wait(node.stores.purge(file)).is_err());
    assert_eq!(
        state(),
        State::Purging,
        "the record says so before the row goes; the file is still there"
    );
    // Too late to restore; repair goes on from here.
    assert!(matches!(wait(node.stores.restore(file)), Err(ChangeError::Purging)));
    let swept = node.stores.repair(0, Duration::ZERO).unwrap();
    assert_eq!(swept.purged, 1);
    assert!(!path.exists());
    assert!(wait(node.stores.stat(Lookup::Owned(file))).unwrap().is_none());
    node.close();
}

#[test]
fn an_unknown_commit_keeps_the_file_until_its_row_was_read_back() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let (metadata, script) = faulty::metadata(&folder.path().join("storage.db"));
    let stores = Stores::open(&config(&[&store]), metadata.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    let wrong = |wrong| script.lock().unwrap().writes.push_back(wrong);

    wrong(Wrong::LostDone);
    assert_eq!(node.put("done", b"content").unwrap().outcome, Outcome::New);
    assert_eq!(node.read("done").unwrap(), b"content");

    wrong(Wrong::LostUndone);
    assert!(matches!(
        node.put("undone", b"content"),
        Err(UploadError::Metadata { unknown: false, .. })
    ));
    until("the file without a row is removed", || files(&store).len() == 1);

    wrong(Wrong::Refused);
    assert!(matches!(
        node.put("refused", b"content"),
        Err(UploadError::Metadata { unknown: false, .. })
    ));
    until("the file without a row is removed", || files(&store).len() == 1);

    // The answer is lost and the database does not say for a while: the file stays all that time.
    wrong(Wrong::LostDone);
    script.lock().unwrap().reads_refused = 3;
    assert!(matches!(
        node.put("late", b"content"),
        Err(UploadError::Metadata { unknown: true, .. })
    ));
    assert_eq!(files(&store).len(), 2);
    until("the row was read back", || node.stores.status()[0].open_files == 0);
    assert_eq!(node.read("late").unwrap(), b"content");
    node.close();
}

#[test]
fn a_block_is_in_the_mark_before_its_first_id_is_used() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open(&config(&[&store]), metadata).unwrap();
    let wanted = wait(stores.block_wanted(0));
    assert_eq!((wanted.store, wanted.count, wanted.at_least), (0, 64, 0));
    assert_eq!(wanted.key, store.to_str().unwrap());
    let early = wait(async {
        let upload = stores.begin(request(key("tnv001", "early"), Some(0))).await?;
        upload.finish().await
    });
    assert!(matches!(early, Err(UploadError::Busy(_))), "no id, no upload");
    wait(stores.block_arrived(0, 640..704)).unwrap();
    let mark = fs::read(store.join(".reel/marks/local.mark")).unwrap();
    assert_eq!(mark[16..24], 704_u64.to_be_bytes());
    assert_eq!(stores.status()[0].mark, 704);
    // The mark cannot be written: the block is not used. It is, once the mark can be written again.
    let (marks, aside) = (store.join(".reel/marks"), store.join(".reel/aside"));
    fs::rename(&marks, &aside).unwrap();
    assert!(matches!(wait(stores.block_arrived(0, 704..768)), Err(BlockRefused::Disk(_))));
    assert_eq!((stores.status()[0].mark, stores.status()[0].ids_left), (704, 64));
    fs::rename(&aside, &marks).unwrap();
    wait(stores.block_arrived(0, 704..768)).unwrap();
    assert_eq!((stores.status()[0].mark, stores.status()[0].ids_left), (768, 128));
}

#[test]
fn an_id_node_behind_the_mark_is_moved_up() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let first = node.put("f", b"content").unwrap();
    node.close();
    // Its database is lost: it starts at zero and would give the same ids again.
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open(&config(&[&folder.path().join("store")]), metadata).unwrap();
    let wanted = wait(stores.block_wanted(0));
    assert!(wanted.at_least > first.path_id.get());
    assert!(matches!(wait(stores.block_arrived(0, 0..64)), Err(BlockRefused::Block(_))));
    assert_eq!(stores.status()[0].ids_left, 0, "a block below the mark is never believed");
    let wanted = wait(stores.block_wanted(0));
    wait(stores.block_arrived(0, wanted.at_least..wanted.at_least + 64)).unwrap();
    let second = put_as(&stores, key("tnv001", "g"), b"content").unwrap();
    assert!(second.path_id > first.path_id);
}

#[test]
fn a_lost_mark_file_is_made_up_for_by_the_files_on_the_disk() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    let last = (0..5).map(|n| node.put(&format!("f{n}"), b"x").unwrap().path_id).max().unwrap();
    node.close();
    fs::remove_file(folder.path().join("store/.reel/marks/local.mark")).unwrap();
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open(&config(&[&folder.path().join("store")]), metadata).unwrap();
    assert_eq!(wait(stores.block_wanted(0)).at_least, last.get() + 1);
}

#[test]
fn a_place_that_is_taken_is_left_alone_and_the_next_id_used() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let clock = HandClock::at(START);
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open_at(&config(&[&store]), metadata.clone(), clock).unwrap();
    // Somebody else's file at id 0, from another second: found when the block arrives.
    fs::create_dir_all(store.join("000/000/000")).unwrap();
    fs::write(store.join("000/000/000/5_000"), b"stranger").unwrap();
    let node = Node::serve(stores, metadata, 0);
    // And one of this very second at id 1, after that: O_EXCL finds it.
    let exact = store.join(format!("000/000/000/{START:X}_001"));
    fs::write(&exact, b"another").unwrap();
    assert_eq!(node.put("f", b"content").unwrap().path_id.get(), 2);
    assert_eq!(fs::read(&exact).unwrap(), b"another");
    assert_eq!(fs::read(store.join("000/000/000/5_000")).unwrap(), b"stranger");
    assert_eq!(node.read("f").unwrap(), b"content");
    node.close();
}

#[test]
fn a_file_that_is_not_as_its_row_says_is_not_opened() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    node.put("f", &content(1, 1000)).unwrap();
    let located = node.find("f").unwrap();
    let path = folder.path().join("store").join(located.relative.as_str());
    fs::write(&path, b"cut short").unwrap();
    let refused = wait(node.stores.open_file(&located.place())).unwrap_err();
    assert!(matches!(refused, OpenFileError::Size { on_disk: 9, expected: 1000 }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(wait(node.stores.open_file(&located.place())), Err(OpenFileError::Missing)));
    node.close();
}

#[test]
fn listing_pages_through_a_users_files() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    for index in 0..5 {
        node.put(&format!("f{index}"), b"x").unwrap();
    }
    wait(node.stores.delete(key("tnv001", "f3"))).unwrap();
    let page = |filter, after, limit| {
        let of = Selection::of_user("tnvideo", "tnv001").in_state(filter);
        let Listing { files, left_out, next } = wait(node.stores.list(of, after, limit)).unwrap();
        assert_eq!(left_out, 0);
        (files.iter().map(|file| file.key.file.to_string()).collect::<Vec<_>>(), next)
    };
    let (files, next) = page(StatusFilter::Normal, None, 2);
    assert_eq!(files, ["f0", "f1"]);
    assert_eq!(page(StatusFilter::Normal, next, 9), (vec!["f2".into(), "f4".into()], None));
    assert_eq!(page(StatusFilter::Deleted, None, 9), (vec!["f3".into()], None));
    node.close();
}

#[test]
fn a_row_that_nobody_can_name_stops_no_listing() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    node.put("a", b"x").unwrap();
    node.put("c", b"x").unwrap();
    let row = wait(node.metadata.get("a")).unwrap().unwrap();
    let strange = [
        FileRow { file: "b\n".into(), ..row.clone() },
        FileRow { file: "b".into(), file_path: "elsewhere".into(), ..row.clone() },
    ];
    // Of a store path of another node.
    let elsewhere = row.file_path.rsplit_once("/000/000/000/").unwrap().1;
    let elsewhere = format!("/srv/other/000/000/000/{elsewhere}");
    let of_other = FileRow { file: "d".into(), file_path: elsewhere, ..row };
    wait(node.metadata.upsert(strange.to_vec())).unwrap();
    wait(node.metadata.upsert(vec![of_other])).unwrap();
    let mut found = Vec::new();
    let (mut after, mut left_out) = (None, 0);
    loop {
        let of = Selection::of_app("tnvideo");
        let page = wait(node.stores.list(of, after, 1)).unwrap();
        found.extend(page.files.into_iter().map(|file| (file.key.file.to_string(), file.store)));
        left_out += page.left_out;
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    found.sort();
    assert_eq!(left_out, 2);
    let ids: Vec<&str> = found.iter().map(|(id, _)| id.as_str()).collect();
    assert_eq!(ids, ["a", "c", "d"]);
    assert_eq!(found[2].1, "/srv/other");
    node.close();
}

#[test]
fn a_draining_node_takes_no_upload_and_two_processes_no_one_store() {
    let folder = quick_folder();
    let node = Node::open(folder.path());
    node.stores.drain();
    assert!(matches!(node.put("f", b"x"), Err(UploadError::Draining)));
    let metadata = Metadata::sqlite(&folder.path().join("other.db")).unwrap();
    let again = Stores::open(&config(&[&folder.path().join("store")]), metadata);
    assert!(again.is_err(), "the store is locked");
    node.close();
}

#[test]
fn two_stores_share_the_load_and_are_told_apart() {
    let folder = quick_folder();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let config = config(&[&one, &two]);
    let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
    let stores = Stores::open(&config, metadata.clone()).unwrap();
    let node = Node::serve(stores, metadata, 0);
    for index in 0..60 {
        node.put(&format!("f{index}"), &content(index, 100)).unwrap();
    }
    assert!(files(&one).len() > 10 && files(&two).len() > 10);
    for index in 0..60 {
        assert_eq!(node.read(&format!("f{index}")).unwrap(), content(index, 100));
    }
    node.close();
}
