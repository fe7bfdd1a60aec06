//! Path ids of a running engine with several store paths: what keeps one from its ids keeps no other.
#![allow(clippy::unwrap_used, missing_docs)]

mod kit;

use std::{fs, path::Path, time::Duration};

use bytes::Bytes;
use kit::{
    Node, config, content,
    disk::{Disk, Frozen, skipped},
    engine::{Engine, IdServer},
    key, quick_folder, request, until,
};
use reel_engine::metadata::wait;

fn mark_of(store: &Path) -> u64 {
    let mark = fs::read(store.join(".reel/marks/local.mark")).unwrap();
    u64::from_be_bytes(mark[16..24].try_into().unwrap())
}

#[test]
fn a_path_whose_mark_cannot_be_written_starves_no_other_and_burns_no_ids() {
    let folder = quick_folder();
    let [bad, well] = ["bad", "well"].map(|name| folder.path().join(name));
    let (idgen, ids) = IdServer::start(false);
    let engine = Engine::start(&[&bad, &well], &[idgen]);
    until("both have ids", || mark_of(&bad) > 0 && mark_of(&well) > 0);
    let in_the_way = bad.join(".reel/marks/local.mark.new");
    until("something is in the way of the mark", || fs::create_dir(&in_the_way).is_ok());
    engine.take("f", 400);
    assert!(mark_of(&well) > 200, "the path that is well got its blocks");
    // It is at its longest pause by now, or soon: no id is drawn for what cannot be used.
    let before = ids.given(&bad);
    std::thread::sleep(Duration::from_secs(3));
    assert!(ids.given(&bad) <= before.max(192), "{before} and {} ids", ids.given(&bad));
    fs::remove_dir(&in_the_way).unwrap();
    let stuck = mark_of(&bad);
    until("it gets its ids once the mark can be written", || mark_of(&bad) > stuck);
}

#[test]
fn a_hung_disk_keeps_no_other_from_its_ids() {
    if skipped("ids beside a hung disk") {
        return;
    }
    let disk = Disk::new("ext4", 64);
    let folder = quick_folder();
    let (hung, well) = (disk.mount.join("store"), folder.path().join("well"));
    let (idgen, ids) = IdServer::start(false);
    ids.refused.lock().unwrap().push(hung.to_str().unwrap().to_owned());
    let engine = Engine::start(&[&hung, &well], &[idgen]);
    let frozen = Frozen::new(&disk.mount);
    ids.refused.lock().unwrap().clear();
    until("a block for the hung disk is there", || ids.given(&hung) >= 64);
    engine.take("f", 300);
    assert!(ids.given(&well) > 256);
    drop(frozen);
    until("it takes its block when it is back", || mark_of(&hung) > 0);
}

#[test]
fn a_block_of_more_ids_than_were_asked_for_is_refused() {
    let folder = quick_folder();
    let store = folder.path().join("store");
    let ((wrong, _), (right, ids)) = (IdServer::start(true), IdServer::start(false));
    let engine = Engine::start(&[&store], &[wrong, right]);
    engine.take("f", 10);
    assert!(ids.given(&store) > 0 && mark_of(&store) < 1000, "{}", mark_of(&store));
}

#[test]
fn slow_uploads_never_keep_others_from_their_ids() {
    let folder = quick_folder();
    let mut config = config(&[&folder.path().join("store")]);
    config.id_block = 2;
    let node = Node::open_with(&config, &folder.path().join("storage.db"), 0);
    let mut slow = Vec::new();
    for index in 0..150 {
        let name = format!("slow{index}");
        until("a place for a slow upload", || {
            let begun = wait(node.stores.begin(request(key("tnv001", &name), None)));
            let Ok(mut upload) = begun else { return false };
            // Past what is kept in memory: it takes its place now, or finds no id.
            let written = wait(upload.write(Bytes::from(content(index, 270_000))));
            slow.push(upload);
            written.is_ok()
        });
        until("others go on", || node.put(&format!("f{index}"), b"content").is_ok());
    }
    let finished = slow.into_iter().map(|upload| wait(upload.finish()));
    assert!(finished.filter(Result::is_ok).count() > 100, "few were slow and had a place");
    node.close();
}
