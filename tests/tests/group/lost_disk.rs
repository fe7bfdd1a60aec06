//! The disk under a brick is lost, and another one comes in its place, as the operator's guide tells.

use std::path::{Path, PathBuf};

use reel_tests::{
    group::{Group, NODES},
    seed::{Content, Seeded},
    stored,
};

use super::alone;

/// The node whose disk is lost.
const LOST: usize = 1;

/// Files of each kind. Two are large enough to be checked before they are asked for.
const FILES: usize = 12;

#[test]
fn a_lost_disk_is_replaced_and_everything_comes_back_to_it() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let bricks: Vec<_> = (0..NODES).map(|node| folder.path().join(node.to_string())).collect();
    let mut group = Group::start(&bricks).unwrap();
    let mut seeded = Seeded::of_test("lost disk");
    let mut files = Vec::new();
    let mut put = |group: &Group, name: String, nodes: &[usize]| {
        let number = files.len();
        let large = if number % FILES == 0 { 16 << 20 } else { 0 };
        let content = Content { seed: seeded.draw(), size: large + seeded.below(256 << 10) };
        let (target, bytes) = (format!("/files/{name}"), content.bytes());
        let put = group.request(nodes[number % nodes.len()], "PUT", &target, Some(&bytes)).unwrap();
        assert_eq!(put.status, 201, "{}", put.text());
        files.push((target, bytes));
    };
    (0..FILES).for_each(|number| put(&group, format!("before{number}"), &[0, 1, 2]));

    group.engine(LOST).drain().unwrap();
    group.volume().lose_disk(LOST).unwrap();
    // What the node knew of its brick lay on that disk.
    std::fs::remove_dir_all(group.volume().brick(LOST).with_extension("state")).unwrap();
    (0..FILES).for_each(|number| put(&group, format!("without{number}"), &[0, 2]));
    let (deleted, _) = files.remove(1);
    assert_eq!(group.request(0, "DELETE", &deleted, None).unwrap().status, 204);

    group.volume().use_new_disk(LOST).unwrap();
    group.volume().until_healed().unwrap();
    let [whole, back] = [0, LOST].map(|node| copies(group.volume().brick(node)));
    assert_eq!(back, whole);
    group.engine(LOST).run_again().unwrap();
    group.until_ready().unwrap();
    for (target, bytes) in &files {
        for node in 0..NODES {
            let got = group.request(node, "GET", target, None).unwrap();
            assert!(got.status == 200 && got.body == *bytes, "{target} at {node}: {}", got.text());
        }
    }
    assert_eq!(group.request(LOST, "GET", &deleted, None).unwrap().status, 404);
    // All of it was read there, and not through the mount.
    let brick = group.store_path(LOST).unwrap()["brick"].take();
    println!("{} copies came back: {brick}", back.len());
    let checked = brick["checked"].as_u64().unwrap() + brick["ahead"].as_u64().unwrap();
    assert_eq!((brick["lacking"].as_u64(), checked), (Some(0), files.len() as u64), "{brick}");
    group.drain().unwrap();
    assert_eq!(group.logged("ERROR"), [""; 0]);
}

/// The places of all files on a brick.
fn copies(brick: &Path) -> Vec<PathBuf> {
    let store = brick.join("store");
    let copies = stored::files_below(&store).unwrap();
    copies.iter().map(|copy| copy.strip_prefix(&store).unwrap().to_owned()).collect()
}
