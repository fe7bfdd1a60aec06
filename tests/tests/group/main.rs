//! A group of three storage nodes on one replicated volume: what one has acknowledged every other has, at once and after the power
//! of all of them was cut.
#![allow(clippy::unwrap_used)]

mod lost;
mod rot;

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use reel_client::{Client, ClientConfig};
use reel_tests::{
    disk::{FileSystem, LoopDisk},
    group::{Group, NODES, Setup, bricks_in},
    history::History,
    http,
    seed::{Content, Seeded, count_from},
    uploaders::{Load, owner, upload_until},
};

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes of a disk under a brick. Sparse.
const DISK_BYTES: u64 = 8 << 30;

/// Nine daemons and three stores are enough for a small machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

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
    let _alone = alone();
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
    let _alone = alone();
    let Some(mut disks) = disks() else { return };
    let rounds = count_from("REEL_TORTURE_GROUP_POWER_CUTS", 1);
    let mut group = Group::start(&bricks(&disks)).unwrap();
    let namespace = group.client().namespace().clone();
    let mut seeded = Seeded::of_test("group power");
    let mut history = History::default();
    let trackers = group.trackers().own_addresses();
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
                history.judge(&client, owner()).await
            })
        };
        let verdict = namespace.run(judged).unwrap().unwrap_or_else(|error| {
            let told = ["swept", "stays as it is"].map(|text| group.logged(text).join("\n"));
            panic!("round {round}: {error:#}\n{}", told.join("\n"))
        });
        println!("round {round}: {verdict:?}");
    }
    group.drain().unwrap();
}

#[test]
fn a_mount_that_hangs_holds_up_those_alone_who_need_it() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let store_timeout = Duration::from_secs(3);
    let setup = Setup { reads_bricks: false, store_timeout, ..Setup::default() };
    let mut group = Group::start_as(&bricks_in(folder.path()), setup).unwrap();
    let film = Content { seed: 1, size: 16 << 20 }.bytes();
    assert_eq!(group.request(1, "PUT", "/files/film", Some(&film)).unwrap().status, 201);
    let (media, namespace) = (group.media().unwrap()[0], group.client().namespace().clone());
    let range = |first: usize| {
        let range = format!("Range: bytes={first}-{}", first + 0xFFFF);
        let get = || http::request(media, "GET", "/files/film", &[&range], None);
        namespace.run(get).unwrap().unwrap()
    };
    let is_right = |first: usize| {
        let got = range(first);
        got.status == 206 && got.body == film[first..first + 0x1_0000]
    };
    assert!(is_right(0));
    // What the kernel knows of the file from its servers is old by then.
    std::thread::sleep(Duration::from_secs(2));
    let frozen = group.volume().freeze_mount(0).unwrap();
    std::thread::scope(|scope| {
        let places = [0, 8 << 20, 9 << 20];
        let waiting: Vec<_> = places.map(|first| scope.spawn(move || range(first).status)).into();
        while waiting.iter().any(|one| !one.is_finished()) {
            // All are served by one data thread.
            let none = group.request(0, "GET", "/files/none", None).unwrap();
            assert_eq!(none.status, 404, "{}", none.text());
        }
        let statuses: Vec<u16> = waiting.into_iter().map(|one| one.join().unwrap()).collect();
        println!("{statuses:?}");
        assert_eq!(statuses[1..], [503, 503]);
    });
    drop(frozen);
    group.until_healthy(0).unwrap();
    assert!(is_right(8 << 20));
    group.drain().unwrap();
}

#[test]
fn a_volume_without_its_quorum_refuses_uploads_and_takes_them_again_by_itself() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let mut group = Group::start(&bricks_in(folder.path())).unwrap();
    let put = |group: &Group, file: &str| {
        group.request(0, "PUT", &format!("/files/{file}"), Some(b"content")).unwrap()
    };
    assert_eq!(put(&group, "before").status, 201);
    group.kill_host(1).unwrap();
    assert_eq!(put(&group, "two-of-three").status, 201);

    group.kill_host(2).unwrap();
    let refused = put(&group, "without");
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    let path = group.store_path(0).unwrap();
    assert_eq!(path["health"], "away", "{path}");
    println!("{}", path["fault"]);
    let got = group.request(0, "GET", "/files/without", None).unwrap();
    assert_eq!(got.status, 404, "{}", got.text());
    // The mount gives what it has in memory, if anything: the right bytes or none.
    match group.request(0, "GET", "/files/before", None) {
        Ok(got) => assert!(got.status == 503 || got.body == b"content", "{}", got.text()),
        Err(error) => println!("{error:#}"),
    }

    // As if its power had been cut, too, and had taken back that the other was found to be whole.
    group.volume().accuse(1, 2, "store/000").unwrap();
    group.volume().start_daemons(1).unwrap();
    group.until_healthy(0).unwrap();
    for file in ["without", "after"] {
        assert_eq!(put(&group, file).status, 201);
    }
    group.volume().start_daemons(2).unwrap();
    (1..NODES).for_each(|node| group.run_host(node).unwrap());
    group.until_ready().unwrap();
    for file in ["before", "two-of-three", "without", "after"] {
        for node in 0..NODES {
            let get = || group.request(node, "GET", &format!("/files/{file}"), None).unwrap();
            let mut got = get();
            let begin = Instant::now();
            // By a descriptor of the time when the servers were away, or they have not agreed on that file yet.
            while got.status == 503 && begin.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(100));
                got = get();
            }
            let (log, is_right) = (group.engine(node).log(), got.body == b"content");
            assert!(got.status == 200 && is_right, "{file} at {node}: {}\n{log}", got.text());
        }
    }
    group.volume().until_healed().unwrap();
    group.drain().unwrap();
}
