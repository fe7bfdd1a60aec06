//! A group of three storage nodes on one replicated volume: what one has acknowledged every other has, at once and after the power
//! of all of them was cut.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use reel_client::{Client, ClientConfig};
use reel_tests::{
    disk::{FileSystem, LoopDisk},
    group::{Group, NODES},
    history::History,
    seed::{Content, Seeded, count_from},
    uploaders::{Load, owner, upload_until},
};

/// Bytes of a disk under a brick. Sparse.
const DISK_BYTES: u64 = 8 << 30;

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Each of a kind that some installation has.
fn disks() -> Option<Vec<LoopDisk>> {
    let kinds = [FileSystem::Ext4, FileSystem::Xfs, FileSystem::Ext4];
    let disks = kinds.into_iter().map(|kind| LoopDisk::new(kind, DISK_BYTES));
    disks.collect::<anyhow::Result<_>>().inspect_err(|error| println!("skipped: {error:#}")).ok()
}

fn bricks(disks: &[LoopDisk]) -> Vec<PathBuf> {
    disks.iter().map(|disk| disk.path().join("brick")).collect()
}

#[test]
fn what_one_node_has_acknowledged_every_other_reads_at_once() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let Some(disks) = disks() else { return };
    let mut group = Group::start(&bricks(&disks)).unwrap();
    let mut seeded = Seeded::of_test("fresh");
    let files = count_from("REEL_TORTURE_FRESH", 100);
    for number in 0..files {
        let content = Content { seed: seeded.draw(), size: seeded.below(256 << 10) };
        let (target, bytes) = (format!("/files/f{number}"), content.bytes());
        let node = number as usize % NODES;
        let put = group.request(node, "PUT", &target, Some(&bytes)).unwrap();
        assert_eq!(put.status, 201, "{}", put.text());
        for other in (0..NODES).filter(|other| *other != node) {
            let got = group.request(other, "GET", &target, None).unwrap();
            assert_eq!(got.status, 200, "{number} at {other}: {}", got.text());
            assert!(got.body == bytes, "{number} at {other}: other bytes");
        }
    }
    println!("{files} files, each read from {} others", NODES - 1);
    group.drain().unwrap();
    assert_eq!(group.logged("ERROR"), [""; 0]);
}

#[test]
fn the_power_of_all_hosts_is_cut_and_nothing_is_lost() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let Some(mut disks) = disks() else { return };
    let rounds = count_from("REEL_TORTURE_GROUP_POWER_CUTS", 1);
    let mut group = Group::start(&bricks(&disks)).unwrap();
    let namespace = group.client().namespace().clone();
    let mut seeded = Seeded::of_test("group power");
    let mut history = History::default();
    let trackers = group.trackers().unwrap();
    let client = ClientConfig::new(trackers.iter().map(ToString::to_string));
    for round in 1..=rounds {
        let wanted = 20 + seeded.below(200);
        let uploads = || {
            let load = Load::mixed();
            let cut = async {
                load.reaches(wanted).await.unwrap();
                disks.iter().for_each(|disk| disk.shut_down().unwrap());
            };
            block_on(upload_until(&trackers, &load, &mut seeded, &mut history, cut))
        };
        namespace.run(uploads).unwrap().unwrap();
        (0..NODES).for_each(|node| group.kill_host(node).unwrap());
        disks.iter_mut().for_each(|disk| disk.remount().unwrap());
        (0..NODES).for_each(|node| group.volume().start_daemons(node).unwrap());
        (0..NODES).for_each(|node| group.run_host(node).unwrap());
        group.until_ready().unwrap();
        let judged = || {
            block_on(async {
                let client = Client::new(client.clone()).unwrap();
                history.judge(&client, owner()).await.unwrap()
            })
        };
        println!("round {round}: {:?}", namespace.run(judged).unwrap());
    }
    group.drain().unwrap();
}
