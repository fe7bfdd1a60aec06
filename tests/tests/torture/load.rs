//! Crashes at random moments under clients that upload and delete; with the journal of the defaults, and with the
//! smallest one, which is full again and again, so that most of them strike a round of its recycler.

use std::time::{Duration, Instant};

use anyhow::Result;
use reel_tests::{
    crash::Crash,
    disk::FileSystem,
    history::History,
    log::Log,
    mariadb,
    process::{Up, verify},
    seed::{Seeded, count_from},
    uploaders::{Load, upload_until},
};

use crate::{judge::judge, possible, runtime};

/// Crashes for each that is to strike what it is meant for: one that misses is judged all the same.
const MISSES_MAX: u64 = 10;

/// Longest wait for a round. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the recycler says of a round.
const ROUND: [&str; 4] = [
    "a round of the journal begins",
    "the store paths are synced",
    "the database is checkpointed",
    "a round of the journal has ended",
];

/// After each kill the store starts cleanly; every acknowledged upload is there with its bytes, nothing is half
/// there, and no path id ever names two files.
#[test]
fn kill_nine_under_uploads_loses_nothing() {
    under_uploads(Crash::kill(), "kill", count_from("REEL_TORTURE_KILLS", 4));
}

#[test]
fn power_loss_on_ext4_loses_nothing_acknowledged() {
    let rounds = count_from("REEL_TORTURE_POWER_CUTS", 2);
    under_uploads(Crash::power(FileSystem::Ext4), "power-ext4", rounds);
}

#[test]
fn power_loss_on_xfs_loses_nothing_acknowledged() {
    let rounds = count_from("REEL_TORTURE_POWER_CUTS", 2);
    under_uploads(Crash::power(FileSystem::Xfs), "power-xfs", rounds);
}

#[test]
fn kill_nine_in_the_recyclers_rounds_loses_nothing() {
    in_rounds(Crash::kill(), "rounds-kill");
}

#[test]
fn power_loss_on_ext4_in_the_recyclers_rounds_loses_nothing() {
    in_rounds(Crash::power_of_two_disks(FileSystem::Ext4), "rounds-ext4");
}

#[test]
fn power_loss_on_xfs_in_the_recyclers_rounds_loses_nothing() {
    in_rounds(Crash::power_of_two_disks(FileSystem::Xfs), "rounds-xfs");
}

fn under_uploads(crash: Result<Crash>, name: &str, wanted: u64) {
    let Some(crash) = possible(name, crash) else { return };
    let case = Case {
        name,
        wanted,
        // What a store says of a database that dies under it.
        up: |up| match mariadb::is_in_use() {
            false => up,
            true => up
                .expect_log("the metadata can be used")
                .expect_log("the database does not answer")
                .expect_log("was committed is not known")
                .expect_log("metadata:"),
        },
        load: Load::mixed,
        moment: |seeded| {
            let then = Duration::from_millis(20 + seeded.below(1200));
            Moment { round: 0, step: 0, then }
        },
    };
    case.crashes(crash, |_| true);
}

fn in_rounds(crash: Result<Crash>, name: &str) {
    let Some(crash) = possible(name, crash) else { return };
    let case = Case {
        name,
        wanted: count_from("REEL_TORTURE_ROUNDS", 2),
        // Two segments of 4 MiB, the least there can be: the writer waits for one while the other is recycled.
        up: |up| {
            let level = "info,reel_engine::journal=debug,reel_engine::store::journaling=debug";
            up.set("engine.journal", "8MiB").set("log.level", level)
        },
        load: Load::filling,
        // The first step takes some ten milliseconds, the others one or two each.
        moment: |seeded| {
            let step = seeded.below(3) as usize;
            let longest = [8000, 2000, 2000][step] >> seeded.below(3);
            let then = Duration::from_micros(seeded.below(longest));
            Moment { round: 1 + seeded.below(12), step, then }
        },
    };
    let (mut begun, mut struck) = (0, [0; ROUND.len()]);
    case.crashes(crash, |log| {
        begun += log.with_message(ROUND[0]).len();
        let step = log.last_of(&ROUND).unwrap_or(ROUND.len() - 1);
        struck[step] += 1;
        step < ROUND.len() - 1
    });
    let [syncing, checkpointing, giving_back, between] = struck;
    println!(
        "{name}: {begun} rounds; crashes while store paths were synced: {syncing}, while the database was \
         checkpointed: {checkpointing}, while segments were given back: {giving_back}, between rounds: {between}"
    );
}

/// When a store is struck: so long after the recycler has begun this step of [`ROUND`] so many times.
#[derive(Debug)]
struct Moment {
    round: u64,
    step: usize,
    then: Duration,
}

impl Moment {
    fn wait(&self, log: &Log) {
        let begin = Instant::now();
        while (log.with_message(ROUND[self.step]).len() as u64) < self.round {
            assert!(begin.elapsed() < PATIENCE, "{self:?} does not come:\n{}", log.text());
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(self.then);
    }
}

struct Case<'a> {
    name: &'a str,
    /// Crashes that strike what they are meant for.
    wanted: u64,
    up: fn(Up) -> Up,
    load: fn() -> Load,
    moment: fn(&mut Seeded) -> Moment,
}

impl Case<'_> {
    /// Crashes stores of one data folder under load, and judges what each next start finds. `has_struck`: whether a
    /// store was struck by what this case is about, by its log.
    fn crashes(&self, mut crash: Crash, mut has_struck: impl FnMut(&Log) -> bool) {
        let Self { name, wanted, .. } = *self;
        let mut seeded = Seeded::of_test(name);
        let data = crash.folder("data").unwrap();
        let up = (self.up)(Up::new(&data));
        let mut history = History::default();
        let (mut struck, mut round) = (0, 0);
        while struck < wanted {
            round += 1;
            assert!(round <= MISSES_MAX * wanted, "{struck} of {round} crashes struck");
            let moment = (self.moment)(&mut seeded);
            let log = self.crash(&mut crash, &up, &moment, &mut seeded, &mut history);
            struck += u64::from(has_struck(&log));
            let store = crash.survivor(&up).start().unwrap();
            let verdict = judge(&mut history, &store)
                .unwrap_or_else(|error| panic!("{name} {round}, {moment:?}: {error:#}"));
            println!("{name} {round}: {moment:?}; {verdict:?}");
            // Every other time the judging store is killed while idle, too.
            let killed = round % 2 == 0 && struck < wanted;
            if killed { store.kill().unwrap() } else { store.drain().unwrap() }
        }
        assert!(history.len() as u64 > round, "the clients uploaded nothing");
        verify(&data).unwrap();
    }

    /// Crashes one store under load; its log.
    fn crash(
        &self,
        crash: &mut Crash,
        up: &Up,
        moment: &Moment,
        seeded: &mut Seeded,
        history: &mut History,
    ) -> Log {
        let store = crash.doomed(up).start().unwrap();
        let log = store.log().clone();
        std::thread::scope(|scope| {
            let (tell, told) = tokio::sync::oneshot::channel();
            // Not by the thread of the clients: it is busy, and would be late for a round.
            scope.spawn(|| {
                moment.wait(&log);
                if mariadb::is_in_use() {
                    // First the database under the store, which goes on for a while; then the store.
                    mariadb::crash_shared().unwrap();
                    moment.wait(&log);
                }
                crash.strike(&store).unwrap();
                tell.send(())
            });
            let load = (self.load)();
            let trackers = [store.addresses.tracker];
            let uploads = upload_until(&trackers, &load, seeded, history, told);
            runtime().block_on(uploads).unwrap()
        })
        .unwrap();
        crash.settle(store).unwrap();
        log
    }
}
