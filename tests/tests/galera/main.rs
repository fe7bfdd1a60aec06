//! A real Galera cluster under a real cluster of ours: the server that is written to dies, is cut off, loses the others; what
//! clients were told stays true, and they go on.
#![allow(clippy::unwrap_used)]

mod readers;
mod roles;
mod tables;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reel_meta::Role;
use reel_meta::mysql::{MysqlOptions, migrate};
use reel_tests::galera::{Galera, NODES, USER};
use reel_tests::history::History;
use reel_tests::network::Way;
use reel_tests::pulse::Pulse;
use reel_tests::seed::{Seeded, count_from};
use reel_tests::uploaders::{Load, owner, upload_until};
use tokio::time::sleep;

use readers::Readers;
use roles::Reel;

/// What tells "goes on" from "never": far more than Galera and we need.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);

/// How often something has to go well to go on.
const OFTEN: u64 = 20;

#[test]
fn uploads_and_reads_go_on_while_galera_loses_the_server_that_they_use() {
    if let Some(why) = Galera::missing() {
        return eprintln!("skipped: {why}");
    }
    let rounds = count_from("REEL_TORTURE_GALERA", 1);
    let mut galera = block_on(Galera::start()).unwrap();
    let namespace = galera.client().namespace().clone();
    namespace.run(|| block_on(lose_servers(&mut galera, rounds))).unwrap();
}

fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

async fn lose_servers(galera: &mut Galera, rounds: u64) {
    let mut seeded = Seeded::of_test("galera");
    let folder = tempfile::tempdir().unwrap();
    for role in Role::ALL {
        let options = MysqlOptions::new(role, galera.servers(), USER);
        migrate(&options, role, false).await.unwrap();
    }
    let mut reel = Reel::start(galera, folder.path());
    let (mut history, load) = (History::default(), Load::small());
    let readers = Readers::new(&reel, &mut history, &mut seeded).await;
    let watch = Watch::new(&load);
    let mut reading = seeded.branch();
    let disasters = async {
        let stop = Rc::new(Cell::new(false));
        let mut running = readers.start(&watch, &mut reading, &stop);
        for round in 1..=rounds {
            println!("round {round}");
            watch.begin();
            watch.goes_on("nothing").await;
            for loss in [Loss::Killed, Loss::CutOff, Loss::CutOffFromOthers, Loss::Blocked] {
                lose(galera, loss, &watch).await;
            }
        }
        lose_quorum(galera, &watch).await;
        stop.set(true);
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    };
    upload_until(&reel.trackers(), &load, &mut seeded, &mut history, disasters).await.unwrap();
    println!("{:?}", history.judge(&readers.patient, owner()).await.unwrap());
    reel.drain();
    tables::judge(galera, &reel.store, readers.users.get()).await;
    reel.judge_logs();
}

/// A way to lose a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    /// From everybody.
    CutOff,
    /// And not from those who use it: it answers them, and not well.
    CutOffFromOthers,
    /// It is there, and takes no changes.
    Blocked,
}

/// Loses the server that the storage node writes to, and gets it back.
async fn lose(galera: &mut Galera, loss: Loss, watch: &Watch) {
    let node = galera.written_to(Role::Storage.database()).await.unwrap();
    watch.begin();
    let begin = Instant::now();
    match loss {
        Loss::Killed => galera.kill(node).unwrap(),
        Loss::CutOff => Way::ALL.into_iter().for_each(|way| galera.cut(node, way).unwrap()),
        Loss::CutOffFromOthers => galera.cut(node, Way::Back).unwrap(),
        Loss::Blocked => galera.block(node).await.unwrap(),
    }
    println!("  server {node} {loss:?}");
    if loss != Loss::Blocked {
        for other in [(node + 1) % NODES, (node + 2) % NODES] {
            galera.until(other, "wsrep_cluster_size", "2").await.unwrap();
        }
        println!("  the others agree on it after {}", seconds(begin));
    }
    watch.goes_on("the loss").await;
    watch.begin();
    let begin = Instant::now();
    match loss {
        Loss::Killed => galera.run_again(node).await.unwrap(),
        Loss::CutOff | Loss::CutOffFromOthers => galera.join(node).unwrap(),
        Loss::Blocked => galera.unblock().await.unwrap(),
    }
    galera.until_whole().await.unwrap();
    println!("  server {node} is back after {}", seconds(begin));
    watch.goes_on("its return").await;
}

/// Cuts each server off from each other: nothing new is acknowledged, what is known is read, and all comes back by itself.
async fn lose_quorum(galera: &mut Galera, watch: &Watch) {
    let node = galera.written_to(Role::Storage.database()).await.unwrap();
    let others = [(node + 1) % NODES, (node + 2) % NODES];
    for other in others {
        galera.cut(other, Way::Back).unwrap();
    }
    galera.until(node, "wsrep_cluster_status", "non-Primary").await.unwrap();
    let (uploads, reads) = (watch.uploads.count(), watch.reads.count());
    sleep(Duration::from_secs(3)).await;
    assert_eq!(watch.uploads.count(), uploads, "acknowledged by a server without its quorum");
    watch.reads.reaches(reads + OFTEN, GOES_ON_WITHIN).await.unwrap();
    let begin = Instant::now();
    for other in others {
        galera.join(other).unwrap();
    }
    galera.until_whole().await.unwrap();
    println!("  the quorum was lost, and is there again after {}", seconds(begin));
    watch.begin();
    watch.goes_on("its return").await;
}

fn seconds(since: Instant) -> String {
    format!("{:.1} s", since.elapsed().as_secs_f64())
}

/// What is to go on.
struct Watch {
    /// Uploads.
    uploads: Pulse,
    /// Downloads of files that the storage node knows.
    reads: Pulse,
    /// What the storage node reads in the database.
    lookups: Pulse,
    /// Users whom the trackers meet for the first time: rows in the database.
    newcomers: Pulse,
}

impl Watch {
    fn new(load: &Load) -> Self {
        let uploads = load.acknowledged().clone();
        let (reads, lookups, newcomers) = Default::default();
        Self { uploads, reads, lookups, newcomers }
    }

    fn all(&self) -> [(&'static str, &Pulse); 4] {
        [
            ("upload", &self.uploads),
            ("read", &self.reads),
            ("lookup", &self.lookups),
            ("newcomer", &self.newcomers),
        ]
    }

    fn begin(&self) {
        self.all().iter().for_each(|(_, pulse)| pulse.begin());
    }

    /// Waits until everything does, and prints for how long something did not since [`Self::begin`].
    async fn goes_on(&self, after: &str) {
        let wanted = self.all().map(|(name, pulse)| (name, pulse, pulse.count() + OFTEN));
        for (name, pulse, count) in wanted {
            let reached = pulse.reaches(count, GOES_ON_WITHIN).await;
            reached.unwrap_or_else(|error| panic!("after {after} no {name}: {error:#}"));
        }
        let gap =
            |(name, pulse): (_, &Pulse)| format!("{name} {:.1} s", pulse.longest().as_secs_f64());
        println!(
            "  after {after}, the longest time without one: {}",
            self.all().map(gap).join(", ")
        );
    }
}
