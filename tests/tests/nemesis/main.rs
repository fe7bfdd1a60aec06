//! A whole cluster under load loses one thing after the other: processes, hosts, packets, disks, the database. What clients
//! were told stays true, and they go on. `cargo xtask nemesis` does it at full counts.
#![allow(clippy::unwrap_used)]

mod clients;
mod load;
mod strikes;
mod viewer;

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use reel_tests::disk::{FileSystem, LoopDisk};
use reel_tests::group::{Group, NODES};
use reel_tests::history::operations::{Act, Operations, Outcome};
use reel_tests::history::rules;
use reel_tests::seed::{Seeded, count_from};

use clients::{Http, Library};
use load::{Kind, Load, Places};
use strikes::{Cluster, Nemesis};

/// Bytes of a disk under a brick. Sparse.
const DISK_BYTES: u64 = 2 << 30;

/// How often a node is asked for a file at the end until it says whether it has it.
const LAST_TRIES: u64 = 100;

/// One cluster is enough for a small machine.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
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

fn places(group: &mut Group) -> Places {
    Places {
        trackers: group.trackers().own_addresses(),
        tracker: group.trackers().address(),
        gateway: group.gateways().address(),
        nodes: group.media().unwrap(),
    }
}

#[test]
fn clients_go_on_whatever_is_lost_and_what_they_were_told_stays_true() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = alone();
    let Some(disks) = disks() else { return };
    let rounds = count_from("REEL_NEMESIS_ROUNDS", 1);
    let only = std::env::var("REEL_NEMESIS_ONLY").unwrap_or_default();
    let mut seeded = Seeded::of_test("nemesis");
    let mut group = Group::start(&bricks(&disks)).unwrap();
    let places = places(&mut group);
    let namespace = group.client().namespace().clone();
    let mut load = Load::start(&namespace, &places, &mut seeded);
    load.goes_on(&Kind::ALL, "at first");
    let mut cluster = Cluster { group, disks, seeded };
    for round in 1..=rounds {
        println!("round {round}");
        let wanted =
            |nemesis: &Nemesis| only.split(',').any(|name| format!("{nemesis:?}").contains(name));
        for nemesis in Nemesis::ALL.into_iter().filter(wanted) {
            cluster.meet(nemesis, &load);
        }
    }
    load.stop();
    cluster.group.volume().until_healed().unwrap();
    let operations = &load.shared.operations;
    namespace.run(|| look_at_all(operations, &places)).unwrap();
    let path = history_file();
    operations.write(&path).unwrap();
    let verdict = rules::judge(&operations.all(), NODES);
    println!("history: {}", path.display());
    println!("{:?}", verdict.unwrap());
    cluster.group.drain().unwrap();
}

/// Where the history goes: `REEL_NEMESIS_HISTORY`, or with what else tests leave.
fn history_file() -> PathBuf {
    let default = || PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("nemesis-history.txt");
    std::env::var_os("REEL_NEMESIS_HISTORY").map_or_else(default, PathBuf::from)
}

/// Asks every node for every file that somebody tried to upload, and lists what there is.
fn look_at_all(operations: &Operations, places: &Places) {
    let all = operations.all();
    let uploads = all.iter().filter_map(|operation| match operation.act {
        Act::Upload(content) => Some((operation.file, content)),
        _ => None,
    });
    let uploads: Vec<_> = uploads.collect();
    for (node, address) in places.nodes.iter().enumerate() {
        let http = Http::new(vec![*address]);
        for (file, content) in &uploads {
            let begin = operations.now();
            let outcome = patiently(|| http.read(0, *file, *content, None));
            operations.note("judge", begin, Act::Last(node), *file, outcome);
        }
    }
    let begin = operations.now();
    for (file, path_id) in Library::patient(&places.trackers).list().unwrap() {
        let outcome = Outcome::Done { path_id: Some(path_id) };
        operations.note("judge", begin, Act::List, file, outcome);
    }
}

/// Repeats what fails: only an answer that stays away is a fault.
fn patiently(read: impl Fn() -> Outcome) -> Outcome {
    for _ in 1..LAST_TRIES {
        match read() {
            Outcome::Failed(_) => std::thread::sleep(std::time::Duration::from_millis(100)),
            outcome => return outcome,
        }
    }
    read()
}
