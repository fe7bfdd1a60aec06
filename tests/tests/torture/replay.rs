//! Crashes while a start replays its journal, several in a row: each next start replays again, and nothing is lost.

use std::{fmt, time::Duration};

use anyhow::Result;
use reel_tests::{
    crash::Crash,
    disk::FileSystem,
    history::History,
    log::Log,
    process::{Store, Up, verify},
    seed::{Seeded, count_from},
};

use crate::{journaled, judge::judge, possible};

/// What a start says of a replay.
const REPLAY: [&str; 4] = [
    "replaying the journal of the last run",
    "replayed the rows; their files follow",
    "replayed the files; syncing the disks",
    "replayed the journal of the last run",
];

/// Crashes of one replay, at most.
const IN_A_ROW: u64 = 8;

#[test]
fn kill_nine_in_a_replay_loses_nothing() {
    in_replay(Crash::kill(), "replay-kill");
}

#[test]
fn power_loss_on_ext4_in_a_replay_loses_nothing() {
    in_replay(Crash::power_of_two_disks(FileSystem::Ext4), "replay-ext4");
}

#[test]
fn power_loss_on_xfs_in_a_replay_loses_nothing() {
    in_replay(Crash::power_of_two_disks(FileSystem::Xfs), "replay-xfs");
}

fn in_replay(crash: Result<Crash>, name: &str) {
    let Some(mut crash) = possible(name, crash) else { return };
    let mut seeded = Seeded::of_test(name);
    let mut struck = [0; REPLAY.len()];
    for journal in 1..=count_from("REEL_TORTURE_REPLAYS", 1) {
        let data = crash.folder(&format!("data-{journal}")).unwrap();
        let up = Up::new(&data);
        let mut history = journaled::fill(&mut crash, &up, &mut seeded);
        // Whatever comes first is right.
        let (mut last, mut killed) = (Replay::default(), false);
        for nth in 1..=IN_A_ROW {
            let moment = Moment::of_nth(nth, &mut seeded);
            let replay = Replay::of(&moment.strikes(&mut crash, &up));
            println!("{name} {journal}: {moment:?}; {replay}");
            replay.follows(&last, killed);
            struck[replay.step] += 1;
            (last, killed) = (replay, moment.kill || matches!(crash, Crash::Kill(_)));
            if last.is_over() {
                break;
            }
        }
        let judged = |history: &mut History, store: &Store| {
            let verdict = judge(history, store);
            verdict.unwrap_or_else(|error| panic!("{name} {journal}: {error:#}"))
        };
        // Ready, so what it replayed is durable: the last crash takes nothing of it.
        let store = crash.doomed(&up).start().unwrap();
        let replay = Replay::of(store.log());
        replay.follows(&last, killed);
        let verdict = judged(&mut history, &store);
        println!("{name} {journal}: left alone; {replay}; {verdict:?}");
        crash.strike(&store).unwrap();
        crash.settle(store).unwrap();
        let store = crash.survivor(&up).start().unwrap();
        judged(&mut history, &store);
        store.drain().unwrap();
        verify(&data).unwrap();
    }
    let [rows, files, syncing, after] = struck;
    println!(
        "{name}: crashes while rows were replayed: {rows}, files: {files}, synced: {syncing}, after it: {after}"
    );
    assert!(rows + files + syncing > 0, "no crash was in a replay");
}

/// When a start is struck, and by what: so long after this step of its replay has begun.
#[derive(Debug)]
struct Moment {
    step: usize,
    then: Duration,
    /// Only its process is killed, also where the power could be cut: what it had replayed stays.
    kill: bool,
}

impl Moment {
    /// Later and later: the early ones land in the replay of a fast machine, the late ones at its end on a slow one. At
    /// most 512 ms after the first step has begun, 8 ms after the last: then everything is to be durable already.
    fn of_nth(nth: u64, seeded: &mut Seeded) -> Self {
        let step = seeded.below(nth.min(4)) as usize;
        let then = Duration::from_micros(seeded.below((2000 << nth) >> (2 * step)));
        Self { step, then, kill: seeded.below(3) == 0 }
    }

    /// Starts a store and strikes it; its log.
    fn strikes(&self, crash: &mut Crash, up: &Up) -> Log {
        let mut starting = crash.doomed(up).spawn().unwrap();
        let log = starting.store.log().clone();
        assert!(starting.says(REPLAY[self.step]).unwrap(), "nothing to replay:\n{}", log.text());
        std::thread::sleep(self.then);
        if self.kill {
            starting.store.kill().unwrap();
        } else {
            crash.strike(&starting.store).unwrap();
            crash.settle(starting.store).unwrap();
        }
        log
    }
}

/// How far a replay came.
#[derive(Debug, Default)]
struct Replay {
    /// The step of [`REPLAY`] that was under way; the last one: it was over.
    step: usize,
    /// Entries in the journal.
    live: u64,
    /// Of them, those that the database did not have.
    behind: u64,
    /// Files that were made again, once that was done.
    written: Option<u64>,
}

impl Replay {
    fn of(log: &Log) -> Self {
        let number = |step: usize, field: &str| {
            log.with_message(REPLAY[step]).pop().and_then(|line| line[field].as_u64())
        };
        let step = log.last_of(&REPLAY).unwrap_or(0);
        // On a disk that is gone a replay ends, too: with files that could not be made.
        let failed = number(3, "failed").is_some_and(|files| files > 0);
        Self {
            step: if failed { step.min(2) } else { step },
            live: number(0, "live").unwrap_or(0),
            behind: number(0, "behind").unwrap_or(0),
            written: number(2, "written"),
        }
    }

    fn is_over(&self) -> bool {
        self.step == 3
    }

    /// Asserts what must hold after `earlier`, which was cut short: the journal is as it was, and what a killed process
    /// had replayed is not replayed again.
    fn follows(&self, earlier: &Self, killed: bool) {
        if earlier.is_over() {
            return;
        }
        // More entries: a write that was on its way when the process was killed has come in meanwhile.
        assert!(self.live >= earlier.live, "{self}, after: {earlier}");
        let late = self.live - earlier.live;
        assert!(!killed || self.behind <= earlier.behind + late, "{self}, after: {earlier}");
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { live, behind, .. } = self;
        if *live == 0 {
            return f.write_str("nothing to replay");
        }
        let doing = ["in the rows", "in the files", "in the sync", "over"][self.step];
        write!(f, "{live} entries, {behind} of them not in the database: {doing}")?;
        match self.written {
            Some(files) => write!(f, ", {files} files written"),
            None => Ok(()),
        }
    }
}
