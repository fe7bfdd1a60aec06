//! Bits that change on the disk under a brick: none of them reaches a reader, and the volume gets its copies back.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use reel_tests::{
    group::{Group, NODES, Setup},
    seed::{Content, Seeded, count_from},
    stored,
};
use serde_json::Value;

use super::{alone, bricks, disks};

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(300);

/// Within which time a storage node finds what has rotted on its brick.
const SCRUB_WITHIN: Duration = Duration::from_secs(20);

/// The node whose disk rots.
const ROTTEN: usize = 0;

#[test]
fn no_bit_that_changed_on_a_brick_is_served_and_every_copy_is_mended() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let Some(disks) = disks() else { return };
    let setup = Setup { scrub_within: SCRUB_WITHIN, ..Setup::default() };
    let mut group = Group::start_as(&bricks(&disks), setup).unwrap();
    let mut seeded = Seeded::of_test("rot");
    let count = count_from("REEL_TORTURE_ROT", 20);
    let files: Vec<(String, Vec<u8>)> = (0..count)
        .map(|number| {
            let content = Content { seed: seeded.draw(), size: 1 + seeded.below(512 << 10) };
            (format!("/files/f{number}"), content.bytes())
        })
        .collect();
    for (number, (target, bytes)) in files.iter().enumerate() {
        let put = group.request(number % NODES, "PUT", target, Some(bytes)).unwrap();
        assert_eq!(put.status, 201, "{}", put.text());
    }
    let copies = stored::files_below(&group.volume().brick(ROTTEN).join("store")).unwrap();
    assert_eq!(copies.len() as u64, count);

    // Nobody has read them here yet, and whoever does finds out.
    copies.iter().for_each(|copy| flip(copy, seeded.draw(), false));
    read_from_all(&group, &files);
    until_mended(&mut group, count);
    all_read_right(&group, &files);
    println!("{count} that nobody had read: {}", brick(&group));

    // Now all were read and found to be good, and only the disk knows.
    let copies = stored::files_below(&group.volume().brick(ROTTEN).join("store")).unwrap();
    copies.iter().for_each(|copy| flip(copy, seeded.draw(), true));
    until_mended(&mut group, 2 * count);
    all_read_right(&group, &files);
    println!("{count} that were checked before: {}", brick(&group));
    assert_eq!(brick(&group)["beyond_help"], 0);
    group.volume().until_healed().unwrap();
    group.drain().unwrap();
    assert_eq!(group.logged("ERROR"), [""; 0]);
}

/// Changes one bit. `hidden`: and the time of change stays, as it does when a disk does that.
fn flip(path: &Path, random: u64, hidden: bool) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap();
    let at = random % before.len();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ (1 << (random >> 61))], at).unwrap();
    if hidden {
        let changed = Duration::new(before.mtime() as u64, before.mtime_nsec() as u32);
        file.set_modified(SystemTime::UNIX_EPOCH + changed).unwrap();
    }
    file.sync_all().unwrap();
}

fn brick(group: &Group) -> Value {
    group.store_path(ROTTEN).unwrap()["brick"].take()
}

/// The node with the rotten brick gives the right bytes or none, the others the right ones.
fn read_from_all(group: &Group, files: &[(String, Vec<u8>)]) {
    for (target, bytes) in files {
        for node in 0..NODES {
            let got = group.request(node, "GET", target, None).unwrap();
            let is_right = got.status == 200 && got.body == *bytes;
            let is_refused = node == ROTTEN && got.status == 503;
            assert!(is_right || is_refused, "{target} at {node}: {} {}", got.status, got.text());
        }
    }
}

fn until_mended(group: &mut Group, count: u64) {
    let begin = Instant::now();
    loop {
        let brick = brick(group);
        if brick["mended"] == count && brick["mending"] == 0 {
            assert_eq!(brick["bad"], count, "{brick}");
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{brick}\n{}", group.engine(ROTTEN).log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn all_read_right(group: &Group, files: &[(String, Vec<u8>)]) {
    for (target, bytes) in files {
        for node in 0..NODES {
            let got = group.request(node, "GET", target, None).unwrap();
            assert!(got.status == 200 && got.body == *bytes, "{target} at {node}: {}", got.text());
        }
    }
}
