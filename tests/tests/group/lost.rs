//! A disk under a brick or a whole host is lost for good, and another one comes in its place, as the operator's guide tells.

use std::path::{Path, PathBuf};

use reel_tests::{
    group::{Group, NODES, bricks_in},
    http,
    seed::{Content, Seeded},
    stored,
};

use super::alone;

/// The node that is lost, or its disk.
const LOST: usize = 1;

/// Files that are there before, and that come while it is away.
const FILES: usize = 12;

#[test]
fn a_lost_disk_is_replaced_and_everything_comes_back_to_it() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut group = Group::start(&bricks_in(folder.path())).unwrap();
    let mut files = Files::new("lost disk");
    files.put(&group, &[0, 1, 2]);

    group.engine(LOST).drain().unwrap();
    group.volume().lose_disk(LOST).unwrap();
    // What the node knew of its brick lay on that disk.
    std::fs::remove_dir_all(group.volume().brick(LOST).with_extension("state")).unwrap();
    files.put(&group, &[0, 2]);
    files.delete(&group, 0);

    group.volume().use_new_disk(LOST).unwrap();
    until_whole(&mut group);
    group.engine(LOST).run_again().unwrap();
    group.until_ready().unwrap();
    files.are_all_there(&mut group);
    group.drain().unwrap();
    assert_eq!(group.logged("ERROR"), [""; 0]);
}

#[test]
fn a_lost_host_is_replaced_by_one_with_another_address() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut group = Group::start(&bricks_in(folder.path())).unwrap();
    let mut files = Files::new("lost host");
    files.put(&group, &[0, 1, 2]);

    group.kill_host(LOST).unwrap();
    files.put(&group, &[0, 2]);
    files.delete(&group, 0);

    let lost = group.replace_host(LOST, &folder.path().join("new")).unwrap();
    until_whole(&mut group);
    group.volume().forget_host(lost).unwrap();
    group.run_new_host(LOST).unwrap();
    group.until_ready().unwrap();
    files.are_all_there(&mut group);
    files.put(&group, &[LOST]);
    files.are_all_there(&mut group);
    group.drain().unwrap();
    assert_eq!(group.logged("ERROR"), [""; 0]);
}

/// Waits until the volume has brought everything to the new brick.
fn until_whole(group: &mut Group) {
    group.volume().until_healed().unwrap();
    let [whole, back] = [0, LOST].map(|node| copies(group.volume().brick(node)));
    assert_eq!(back, whole);
}

/// The places of all files on a brick.
fn copies(brick: &Path) -> Vec<PathBuf> {
    let store = brick.join("store");
    let copies = stored::files_below(&store).unwrap();
    copies.iter().map(|copy| copy.strip_prefix(&store).unwrap().to_owned()).collect()
}

/// What was uploaded.
struct Files {
    seeded: Seeded,
    count: usize,
    there: Vec<(String, Vec<u8>)>,
    deleted: Vec<String>,
}

impl Files {
    fn new(test: &str) -> Self {
        let (there, deleted) = (Vec::new(), Vec::new());
        Self { seeded: Seeded::of_test(test), count: 0, there, deleted }
    }

    /// Uploads some to these nodes in turn. The first is large enough to be checked before it is asked for.
    fn put(&mut self, group: &Group, nodes: &[usize]) {
        for number in 0..FILES {
            let large = if number == 0 { 16 << 20 } else { 0 };
            let size = large + self.seeded.below(256 << 10);
            let bytes = Content { seed: self.seeded.draw(), size }.bytes();
            let target = format!("/files/f{}", self.count);
            let node = nodes[number % nodes.len()];
            let put = group.request(node, "PUT", &target, Some(&bytes)).unwrap();
            assert_eq!(put.status, 201, "{}", put.text());
            self.count += 1;
            self.there.push((target, bytes));
        }
    }

    /// Deletes one.
    fn delete(&mut self, group: &Group, node: usize) {
        let (target, _) = self.there.remove(1);
        assert_eq!(group.request(node, "DELETE", &target, None).unwrap().status, 204);
        self.deleted.push(target);
    }

    /// Each node has all, and so has the gateway; the one with the new brick has it from there.
    fn are_all_there(&self, group: &mut Group) {
        let (gateway, client) = (group.gateways().address(), group.client().namespace().clone());
        for (target, bytes) in &self.there {
            for node in 0..NODES {
                let got = group.request(node, "GET", target, None).unwrap();
                let is_right = got.status == 200 && got.body == *bytes;
                assert!(is_right, "{target} at {node}: {}", got.text());
            }
            let get = || http::request(gateway, "GET", target, &[], None);
            let got = client.run(get).unwrap().unwrap();
            assert!(got.status == 200 && got.body == *bytes, "{target}: {}", got.text());
        }
        for target in &self.deleted {
            assert_eq!(group.request(LOST, "GET", target, None).unwrap().status, 404);
        }
        let brick = group.store_path(LOST).unwrap()["brick"].take();
        println!("{} files: {brick}", self.there.len());
        let checked = brick["checked"].as_u64().unwrap() + brick["ahead"].as_u64().unwrap();
        let all = (Some(0), self.there.len() as u64);
        assert_eq!((brick["lacking"].as_u64(), checked), all, "{brick}");
    }
}
