//! kill -9 of the whole store at random moments under uploading clients.

use std::time::Duration;

use reel_tests::{
    history::History,
    process::Up,
    seed::{Seeded, count_from},
    uploaders::{owner, upload_until},
};

use crate::runtime;

/// After each kill the store starts cleanly; every acknowledged upload is there with its bytes, nothing is half
/// there, and no path id ever names two files.
#[test]
fn kill_nine_under_uploads_loses_nothing() {
    let rounds = count_from("REEL_TORTURE_KILLS", 4);
    let mut seeded = Seeded::of_test("kill");
    let folder = tempfile::tempdir().unwrap();
    let up = Up::new(folder.path());
    let mut history = History::default();
    let runtime = runtime();
    for round in 1..=rounds {
        let store = up.start().unwrap();
        let moment = Duration::from_millis(20 + seeded.below(800));
        runtime.block_on(async {
            let killed = async {
                tokio::time::sleep(moment).await;
                store.kill_now().unwrap();
            };
            upload_until(&store, &mut seeded, &mut history, killed).await.unwrap();
        });
        store.reap_killed().unwrap();
        let store = up.start().unwrap();
        let verdict = runtime
            .block_on(async { history.judge(&store.client().unwrap(), owner()).await })
            .unwrap_or_else(|error| panic!("round {round}, killed after {moment:?}: {error:#}"));
        println!("round {round}: killed after {moment:?}; {verdict:?}");
        // Every other time the judging store is killed while idle, too.
        if round % 2 == 0 { store.kill().unwrap() } else { store.drain().unwrap() }
    }
    assert!(history.len() > rounds as usize, "the clients uploaded nothing");
}
