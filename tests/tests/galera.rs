//! A real Galera cluster under a real cluster of ours: the server that is written to dies, is cut off, loses the others; what
//! clients were told stays true, and they go on.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mysql_async::Row;
use mysql_async::prelude::Queryable;
use reel_client::{
    Client, ClientConfig, ClientError, FileId, Owner, Refusal, Span, StatusFilter, UploadDetails,
    UploadSource, UserId, new_file_id,
};
use reel_engine::record::{self, Record, State};
use reel_meta::Role;
use reel_meta::mysql::{MysqlOptions, migrate};
use reel_tests::galera::{Galera, NODES, USER};
use reel_tests::history::History;
use reel_tests::network::Way;
use reel_tests::pulse::Pulse;
use reel_tests::role::RoleProcess;
use reel_tests::seed::{Content, Seeded, count_from};
use reel_tests::stored::{attribute, files_below};
use reel_tests::uploaders::{Load, impatient_client, owner, upload_until};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Roles of a kind, of those of which there can be several.
const OF_A_KIND: usize = 2;

/// Files that are read all the time.
const STANDING: usize = 50;

/// What tells "goes on" from "never": far more than Galera and we need.
const GOES_ON_WITHIN: Duration = Duration::from_secs(60);

/// How often something has to go well to go on.
const OFTEN: u64 = 20;

/// Pause of a client that was refused; and of one that only asks, as the machine has others to serve.
const PAUSE: Duration = Duration::from_millis(20);

/// What roles say, as errors, of a database that does not answer.
const EXPECTED: [&str; 4] = [
    "an upload failed",
    "a change failed",
    "the group of a user could not be told",
    "no block of ids could be taken",
];

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
            for loss in [Loss::Killed, Loss::CutOff, Loss::CutOffFromOthers] {
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
    let client = Client::new(ClientConfig::new(readers.trackers.clone())).unwrap();
    let verdict = history.judge(&client, owner()).await.unwrap();
    println!("{verdict:?}");
    assert!(verdict.acknowledged > STANDING);
    reel.drain();
    let users = readers.users.get();
    judge_tables(galera, &folder.path().join("store"), users).await;
    reel.judge_logs();
}

/// A way to lose a server.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Killed,
    /// From everybody.
    CutOff,
    /// And not from those who use it: it answers them, and not well.
    CutOffFromOthers,
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
    }
    galera.until((node + 1) % NODES, "wsrep_cluster_size", "2").await.unwrap();
    println!("  server {node} {loss:?}: the others agree on it after {}", seconds(begin));
    watch.goes_on("the loss").await;
    watch.begin();
    let begin = Instant::now();
    match loss {
        Loss::Killed => galera.run_again(node).await.unwrap(),
        Loss::CutOff | Loss::CutOffFromOthers => {
            galera.join(node).unwrap();
            galera.until(node, "wsrep_cluster_size", "3").await.unwrap();
            galera.until_synced(node).await.unwrap();
        }
    }
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
    for node in 0..NODES {
        galera.until(node, "wsrep_cluster_size", "3").await.unwrap();
        galera.until_synced(node).await.unwrap();
    }
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

/// The roles, on the host of the databases' client.
struct Reel {
    idgens: Vec<RoleProcess>,
    trackers: Vec<RoleProcess>,
    engine: RoleProcess,
}

impl Reel {
    fn start(galera: &Galera, folder: &Path) -> Self {
        let servers: Vec<String> =
            galera.servers().iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let common = BTreeMap::from([
            ("REEL_META__MYSQL__SERVERS".to_owned(), format!("{servers:?}")),
            ("REEL_META__MYSQL__USER".to_owned(), USER.to_owned()),
            ("REEL_NODE__DATA_THREADS".to_owned(), "1".to_owned()),
            ("REEL_CLUSTER_SECRET".to_owned(), "0123456789abcdef".to_owned()),
        ]);
        let start = |name: &'static str, number: usize, further: &[(&str, String)]| {
            let own = folder.join(format!("{name}{number}"));
            std::fs::create_dir(&own).unwrap();
            let mut environment = common.clone();
            environment
                .extend(further.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            RoleProcess::start(name, &own, environment).unwrap()
        };
        let idgens: Vec<_> = (0..OF_A_KIND).map(|number| start("idgen", number, &[])).collect();
        let trackers: Vec<_> = (0..OF_A_KIND).map(|number| start("tracker", number, &[])).collect();
        let store = folder.join("store");
        std::fs::create_dir(&store).unwrap();
        let engine = start(
            "engine",
            0,
            &[
                ("REEL_ENGINE__IDGENS", list(&idgens)),
                ("REEL_ENGINE__TRACKERS", list(&trackers)),
                ("REEL_ENGINE__HTTP_LISTEN", "127.0.0.1:0".to_owned()),
                ("REEL_ENGINE__BEAT_INTERVAL", "1s".to_owned()),
                // So few that the ID nodes are needed all the time.
                ("REEL_ENGINE__ID_BLOCK", "256".to_owned()),
                ("REEL_STORE_PATH", format!("[{{ path = {store:?}, reserve = \"1MiB\" }}]")),
            ],
        );
        Self { idgens, trackers, engine }
    }

    fn trackers(&self) -> Vec<SocketAddr> {
        addresses(&self.trackers)
    }

    fn drain(&mut self) {
        self.engine.drain().unwrap();
        for role in self.trackers.iter_mut().chain(&mut self.idgens) {
            role.drain().unwrap();
        }
    }

    fn judge_logs(&self) {
        for role in [&self.engine].into_iter().chain(&self.trackers).chain(&self.idgens) {
            for line in role.log().lines().filter(|line| line.contains("ERROR")) {
                assert!(EXPECTED.iter().any(|text| line.contains(text)), "{line}");
            }
        }
    }
}

fn addresses(roles: &[RoleProcess]) -> Vec<SocketAddr> {
    roles.iter().map(|role| role.address("listen").unwrap()).collect()
}

/// As a configuration has it.
fn list(roles: &[RoleProcess]) -> String {
    let addresses: Vec<String> = addresses(roles).iter().map(ToString::to_string).collect();
    format!("{addresses:?}")
}

/// Clients that only ask.
struct Readers {
    trackers: Vec<String>,
    client: Client,
    standing: Vec<(FileId, Content)>,
    /// Users who were given a group.
    users: Rc<Cell<u64>>,
}

impl Readers {
    /// Uploads what they will read.
    async fn new(reel: &Reel, history: &mut History, seeded: &mut Seeded) -> Self {
        let trackers: Vec<String> = reel.trackers().iter().map(ToString::to_string).collect();
        let patient = Client::new(ClientConfig::new(trackers.clone())).unwrap();
        let mut standing = Vec::new();
        for _ in 0..STANDING {
            let content = Content { seed: seeded.draw(), size: seeded.below(64 << 10) };
            let file = new_file_id().unwrap();
            let source = UploadSource::bytes(content.bytes());
            let details = UploadDetails::default();
            let result = patient.upload(&owner().file(file), &source, &details, &mut |_| {}).await;
            history.uploaded(file, content, &result);
            result.unwrap();
            standing.push((file, content));
        }
        let client = impatient_client(&reel.trackers()).unwrap();
        Self { trackers, client, standing, users: Rc::default() }
    }

    /// Lets one of each kind ask until `stop`, on this thread.
    fn start(&self, watch: &Watch, seeded: &mut Seeded, stop: &Rc<Cell<bool>>) -> JoinSet<()> {
        let mut running = JoinSet::new();
        let (standing, mut drawn) = (self.standing.clone(), seeded.branch());
        self.ask(&mut running, &watch.reads, stop, async move |client: &Client| {
            let (file, content) = standing[drawn.below(standing.len() as u64) as usize];
            let bytes = whole(client, file).await?;
            assert_eq!(bytes, content.bytes(), "{file}");
            Ok(())
        });
        self.ask(&mut running, &watch.lookups, stop, async |client: &Client| {
            let page = client.list(owner(), StatusFilter::All, None, 10).await?;
            assert_eq!(page.files.len(), 10);
            Ok(())
        });
        let users = Rc::clone(&self.users);
        self.ask(&mut running, &watch.newcomers, stop, async move |client: &Client| {
            let user = UserId::parse(&format!("new{}", users.get())).unwrap();
            client.locate(Owner { user, ..owner() }).await?;
            users.set(users.get() + 1);
            Ok(())
        });
        running
    }

    fn ask(
        &self,
        running: &mut JoinSet<()>,
        pulse: &Pulse,
        stop: &Rc<Cell<bool>>,
        mut ask: impl AsyncFnMut(&Client) -> Result<(), ClientError> + 'static,
    ) {
        let (client, pulse, stop) = (self.client.clone(), pulse.clone(), Rc::clone(stop));
        running.spawn_local(async move {
            while !stop.get() {
                match ask(&client).await {
                    Ok(()) => pulse.beat(),
                    Err(error) => assert_ne!(error.refusal(), Some(Refusal::NoSuchFile)),
                }
                sleep(PAUSE).await;
            }
        });
    }
}

async fn whole(client: &Client, file: FileId) -> Result<Vec<u8>, ClientError> {
    let mut download = client.download(&owner().file(file), Span::whole()).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// All servers have the same rows; each file id, each place and each user has one; and a file lies in each place that a row
/// names, and nowhere else.
async fn judge_tables(galera: &Galera, store: &Path, users: u64) {
    let first = Tables::of(galera, 0).await;
    for node in 1..NODES {
        assert_eq!(Tables::of(galera, node).await, first, "server {node}");
    }
    let Tables { files, routes, sequences } = first;
    let mut named: Vec<&str> = files.iter().map(|row| row.1.as_str()).collect();
    named.sort_unstable();
    let ids: HashSet<&str> = files.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(ids.len(), files.len(), "a file id has two rows");
    assert_eq!(named.iter().collect::<HashSet<_>>().len(), files.len(), "a place has two rows");
    let there = files_below(store).unwrap();
    // Of a purge whose outcome was not known the file may be left for the next repair.
    let there = there
        .iter()
        .filter(|file| named.binary_search(&file.to_str().unwrap()).is_ok() || !is_purging(file));
    let there: Vec<&str> = there.map(|file| file.to_str().unwrap()).collect();
    assert_eq!(named, there, "a file for each row, a row for each file");
    let of_users: HashSet<&str> = routes.iter().map(|row| row.0.as_str()).collect();
    assert_eq!(of_users.len(), routes.len(), "a user has two groups");
    // Some were given one, and not told.
    assert!((0..users).all(|user| of_users.contains(format!("new{user}").as_str())));
    assert_eq!(sequences.len(), 1);
    println!("{} files, {} users, {sequences:?}, on each server", files.len(), routes.len());
}

fn is_purging(file: &Path) -> bool {
    let record = Record::decode(&attribute(file, record::ATTRIBUTE).unwrap()).unwrap();
    record.state == State::Purging
}

/// What a server has, each in its order.
#[derive(Debug, PartialEq, Eq)]
struct Tables {
    /// File id and place, then the rest.
    files: Vec<(String, String, String)>,
    /// User and group.
    routes: Vec<(String, String)>,
    /// Key and next.
    sequences: Vec<(String, u64)>,
}

impl Tables {
    async fn of(galera: &Galera, node: usize) -> Self {
        let mut conn = galera.operator(node).await.unwrap();
        // Behind all that the cluster agreed on.
        conn.query_drop("SET SESSION wsrep_sync_wait = 1").await.unwrap();
        let mut files = Vec::new();
        for table in 1..=3 {
            let sql = format!(
                "SELECT id, file_path, t.* FROM tnv_storagedb.t_file_0{table} t ORDER BY id"
            );
            let rows: Vec<Row> = conn.query(sql).await.unwrap();
            files.extend(rows.into_iter().map(|mut row| {
                let (id, path) = (row.take(0).unwrap(), row.take(1).unwrap());
                (id, path, format!("{row:?}"))
            }));
        }
        let routes = "SELECT userid, group_name FROM tnv_trackerdb.t_router ORDER BY userid, id";
        let routes = conn.query(routes).await.unwrap();
        let sequences = "SELECT id, id_value FROM tnv_idsdb.t_id_gen ORDER BY id";
        let sequences = conn.query(sequences).await.unwrap();
        Self { files, routes, sequences }
    }
}
