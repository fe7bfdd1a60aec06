//! Power loss on a real file system: the disk under the store stops taking anything at a random moment, and what the
//! next mount finds is judged. Needs root; skips itself, aloud, without.

use std::time::Duration;

use reel_tests::{
    disk::{FileSystem, LoopDisk},
    history::History,
    process::Up,
    seed::{Seeded, count_from},
    uploaders::{owner, upload_until},
};

use crate::runtime;

/// Bytes of the image: more than twenty rounds write, beside the reserve. Sparse, so that only what is written takes
/// space.
const DISK_BYTES: u64 = 16 << 30;

#[test]
fn power_loss_on_ext4_loses_nothing_acknowledged() {
    power_loss(FileSystem::Ext4, "power-ext4");
}

#[test]
fn power_loss_on_xfs_loses_nothing_acknowledged() {
    power_loss(FileSystem::Xfs, "power-xfs");
}

fn power_loss(kind: FileSystem, name: &str) {
    let mut disk = match LoopDisk::new(kind, DISK_BYTES) {
        Ok(disk) => disk,
        Err(error) => return println!("{name}: skipped: {error:#}"),
    };
    let rounds = count_from("REEL_TORTURE_POWER_CUTS", 2);
    let mut seeded = Seeded::of_test(name);
    let data = disk.path().join("data");
    // After the cut every write fails, and the store says so: any line is expected until the next start.
    let doomed = Up::new(&data).expect_log("");
    // An upload that was not acknowledged may leave its record on the disk and not its content. The sweep at start
    // unlinks nothing that it cannot know to be worthless: it moves such a file away, and says so.
    let clean = Up::new(&data).expect_log("moved to quarantine");
    let mut history = History::default();
    let runtime = runtime();
    for round in 1..=rounds {
        let store = doomed.start().unwrap();
        let moment = Duration::from_millis(20 + seeded.below(1500));
        runtime.block_on(async {
            let cut = async {
                tokio::time::sleep(moment).await;
                disk.shut_down().unwrap();
            };
            upload_until(&store, &mut seeded, &mut history, cut).await.unwrap();
        });
        store.kill().unwrap();
        disk.remount().unwrap();
        let store = clean.start().unwrap();
        let verdict = runtime
            .block_on(async { history.judge(&store.client().unwrap(), owner()).await })
            .unwrap_or_else(|error| panic!("round {round}, cut after {moment:?}: {error:#}"));
        println!("{name} round {round}: cut after {moment:?}; {verdict:?}");
        store.drain().unwrap();
    }
    assert!(history.len() > rounds as usize, "the clients uploaded nothing");
}
