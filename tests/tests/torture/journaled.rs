//! A store that ended with most of what it was told only in its journal.

use reel_tests::{
    crash::Crash,
    history::History,
    process::Up,
    seed::{Seeded, count_from},
    uploaders::{Load, upload_until},
};

use crate::runtime;

/// Uploads small files until the journal holds so many, and crashes under that load. What was written in the first part
/// of it is on one of the disks by then, also where the power is cut.
pub(crate) fn fill(crash: &mut Crash, up: &Up, seeded: &mut Seeded) -> History {
    let files = count_from("REEL_TORTURE_FILES", 600);
    let (durable, disk) = (seeded.below(files * 3 / 4), seeded.draw());
    let mut history = History::default();
    let load = Load::small();
    let store = crash.doomed(up).start().unwrap();
    runtime().block_on(async {
        let struck = async {
            load.reaches(durable).await.unwrap();
            crash.sync_one(disk).unwrap();
            load.reaches(files).await.unwrap();
            crash.strike(&store).unwrap();
        };
        upload_until(&[store.addresses.tracker], &load, seeded, &mut history, struck)
            .await
            .unwrap();
    });
    crash.settle(store).unwrap();
    history
}
