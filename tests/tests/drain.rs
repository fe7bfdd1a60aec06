//! A group whose nodes are drained, upgraded and put back into service one after the other, while clients upload and read.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Output,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use reel_client::{
    Client, ClientConfig, Owner, RetryPolicy, Span, UploadDetails, UploadSource, new_file_id,
};
use reel_meta::{
    Role,
    mysql::{MysqlOptions, migrate},
};
use reel_proto::{command, frame};
use reel_tests::{
    database::{block_on, is_installed},
    http,
    mariadb::MariaDb,
    process,
    role::RoleProcess,
    seed::{Content, Seeded, count_from},
    uploaders::owner,
};
use serde_json::Value;

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(180);

const SECRET: &str = "the secret of this cluster";

const DRAINED: &str = "drained by an operator\n";

fn wait(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Two trackers, an ID node, a gateway, and a group of two storage nodes with one store.
struct Cluster {
    engines: Vec<RoleProcess>,
    gateway: RoleProcess,
    trackers: Vec<RoleProcess>,
    idgens: Vec<RoleProcess>,
    database: MariaDb,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// With this of the trackers' configuration.
    fn start(of_trackers: &[(&str, String)]) -> Self {
        let database = MariaDb::start().unwrap();
        for role in Role::ALL {
            let options = MysqlOptions::new(role, vec![database.address()], "root");
            block_on(migrate(&options, role, false)).unwrap();
        }
        // In the build folder: a temporary folder may be a tmpfs without attributes.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let start = |name, number, own: &[(&str, String)]| {
            start_role(folder.path(), &database, name, number, own)
        };
        let idgens = vec![start("idgen", 0, &[])];
        let trackers: Vec<_> = (0..2).map(|number| start("tracker", number, of_trackers)).collect();
        let gateway = start("gateway", 0, &[("REEL_GATEWAY__TRACKERS", list(&trackers))]);
        let engines = Vec::new();
        let mut cluster = Self { engines, gateway, trackers, idgens, database, folder };
        (0..2).for_each(|_| cluster.add_node("group001"));
        cluster
    }

    /// Starts one more storage node, with the store of its group, and waits until it is in service.
    fn add_node(&mut self, group: &str) {
        let number = self.engines.len();
        let store = self.folder.path().join(format!("store-{group}"));
        std::fs::create_dir_all(&store).unwrap();
        let store = format!("[{{ path = {store:?}, shared = true, reserve = \"1MiB\" }}]");
        let own = [
            ("REEL_ENGINE__HOSTNAME", format!("node{number}")),
            ("REEL_ENGINE__GROUP", group.to_owned()),
            ("REEL_ENGINE__IDGENS", list(&self.idgens)),
            ("REEL_ENGINE__TRACKERS", list(&self.trackers)),
            ("REEL_ENGINE__HTTP_LISTEN", "127.0.0.1:0".to_owned()),
            ("REEL_ENGINE__BEAT_INTERVAL", "1s".to_owned()),
            ("REEL_STORE_PATH", store),
        ];
        let engine = start_role(self.folder.path(), &self.database, "engine", number, &own);
        http::until_status(engine.address("admin_listen").unwrap(), "/readyz", 200).unwrap();
        self.engines.push(engine);
    }

    fn trackers(&self) -> Vec<String> {
        let addresses = self.trackers.iter().map(|role| role.address("listen").unwrap());
        addresses.map(|address| address.to_string()).collect()
    }

    /// `reel node …`, as an operator with this secret types it.
    fn node_with(&self, secret: Option<&str>, arguments: &[&str]) -> Output {
        let mut command = process::command().unwrap();
        command.arg("node").args(arguments).env("REEL_TRACKERS", self.trackers().join(","));
        command.envs(secret.map(|secret| ("REEL_CLUSTER_SECRET", secret)));
        command.output().unwrap()
    }

    fn node(&self, arguments: &[&str]) -> String {
        let output = self.node_with(Some(SECRET), arguments);
        let (out, said) = texts(&output);
        assert!(output.status.success(), "{arguments:?}: {out}{said}");
        if !arguments.contains(&"--json") {
            print!("{said}{out}");
        }
        out
    }

    /// What is listed of a node; null: it is not.
    fn listed(&self, node: usize) -> Value {
        let text = self.node(&["list", "--json"]);
        let mut all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        all.find(|one| one["host"] == format!("node{node}")).unwrap_or_default()
    }

    fn readiness(&self, node: usize) -> (u16, String) {
        let admin = self.engines[node].address("admin_listen").unwrap();
        let answer = http::request(admin, "GET", "/readyz", &[], None).unwrap();
        (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
    }

    /// What a series whose name and labels begin so adds up to.
    fn metric(role: &RoleProcess, series: &str) -> f64 {
        let admin = role.address("admin_listen").unwrap();
        let answer = http::request(admin, "GET", "/metrics", &[], None).unwrap();
        // All of it: the text of a response for people is cut.
        let page = String::from_utf8_lossy(&answer.body).into_owned();
        let lines: Vec<&str> = page.lines().filter(|line| line.starts_with(series)).collect();
        assert!(!lines.is_empty(), "no {series} in {page}");
        lines.iter().map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Requests of clients that a storage node has served.
    fn served(&self, node: usize) -> f64 {
        let engine = &self.engines[node];
        let of = |kind: &str| {
            let series = format!("reel_engine_requests_total{{role=\"engine\",kind=\"{kind}\"");
            Self::metric(engine, &series)
        };
        ["upload", "download", "stat", "filesize", "http_get", "http_put"].map(of).iter().sum()
    }
}

/// Starts a role with a folder of its own.
fn start_role(
    root: &Path,
    database: &MariaDb,
    name: &'static str,
    number: usize,
    own: &[(&str, String)],
) -> RoleProcess {
    let folder = root.join(format!("{name}{number}"));
    std::fs::create_dir(&folder).unwrap();
    let (host, port) = database.address();
    let shared = [
        ("REEL_META__MYSQL__SERVERS", format!("[\"{host}:{port}\"]")),
        ("REEL_META__MYSQL__USER", "root".to_owned()),
        ("REEL_NODE__DATA_THREADS", "1".to_owned()),
        ("REEL_CLUSTER_SECRET", SECRET.to_owned()),
    ];
    let environment: BTreeMap<String, String> =
        shared.iter().chain(own).map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    RoleProcess::start(name, &folder, environment).unwrap()
}

/// As a configuration has it.
fn list(roles: &[RoleProcess]) -> String {
    let addresses = roles.iter().map(|role| role.address("listen").unwrap().to_string());
    format!("{:?}", addresses.collect::<Vec<_>>())
}

fn texts(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

/// What clients do until they are stopped; the first request that fails ends its client with the test.
struct Load {
    stop: AtomicBool,
    requests: AtomicU64,
}

impl Load {
    fn goes_on(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        !self.stop.load(Ordering::Relaxed)
    }

    /// Waits until so many more requests were answered.
    fn advance(&self, count: u64) {
        let before = self.requests.load(Ordering::Relaxed);
        wait("clients make progress", || self.requests.load(Ordering::Relaxed) >= before + count);
    }

    fn content(seeded: &mut Seeded) -> Content {
        let size =
            if seeded.below(10) == 0 { seeded.below(4 << 20) } else { seeded.below(64 << 10) };
        Content { seed: seeded.draw(), size }
    }

    /// A program with the client library, which repeats nothing after a pause.
    fn library(&self, trackers: &[String], mut seeded: Seeded) {
        let mut config = ClientConfig::new(trackers);
        config.retry = RetryPolicy { window: Duration::ZERO, ..RetryPolicy::default() };
        let client = Client::new(config).unwrap();
        block_on(async {
            let mut stored = Vec::new();
            while self.goes_on() {
                let (content, file) = (Self::content(&mut seeded), new_file_id().unwrap());
                let (file, source) = (owner().file(file), UploadSource::bytes(content.bytes()));
                let details = UploadDetails::default();
                client.upload(&file, &source, &details, &mut |_| {}).await.unwrap();
                stored.push((file, content));
                let (file, content) = stored[seeded.below(stored.len() as u64) as usize];
                let mut download = client.download(&file, Span::whole()).await.unwrap();
                let mut bytes = Vec::new();
                while let Some(piece) = download.next().await.unwrap() {
                    bytes.extend_from_slice(&piece);
                }
                assert!(bytes == content.bytes(), "other bytes");
            }
        });
    }

    /// Players and uploaders behind the gateway.
    fn http(&self, gateway: SocketAddr, number: usize, mut seeded: Seeded) {
        let mut stored = Vec::new();
        while self.goes_on() {
            let content = Self::content(&mut seeded);
            let target = format!("/files/h{number}-{}", stored.len());
            let put = http::request(gateway, "PUT", &target, &[], Some(&content.bytes())).unwrap();
            assert_eq!(put.status, 201, "{target}: {}", put.text());
            stored.push((target, content));
            let (target, content) = &stored[seeded.below(stored.len() as u64) as usize];
            let got = http::request(gateway, "GET", target, &[], None).unwrap();
            assert_eq!(got.status, 200, "{target}: {}", got.text());
            assert!(got.body == content.bytes(), "{target}: other bytes");
        }
    }
}

/// The builds that nodes are brought to in turn: the one of `REEL_TEST_OTHER_BUILD`, and the one under test. Without it, only this.
fn builds() -> [PathBuf; 2] {
    let this = process::binary().unwrap();
    let Some(other) = std::env::var_os("REEL_TEST_OTHER_BUILD") else {
        return [this; 2].map(Path::to_owned);
    };
    let other = PathBuf::from(other);
    assert!(std::fs::read(&other).unwrap() != std::fs::read(this).unwrap(), "one build twice");
    [other, this.to_owned()]
}

/// Drains a node, stops it, starts this build of it and puts it back into service.
fn upgrade(cluster: &mut Cluster, node: usize, build: &Path, load: &Load) {
    let name = format!("node{node}");
    load.advance(20);
    cluster.node(&["drain", &name]);
    assert_eq!(cluster.readiness(node), (503, DRAINED.to_owned()));
    let before = cluster.served(node);
    load.advance(100);
    assert_eq!(cluster.served(node), before, "somebody still comes to {name}");

    cluster.engines[node].drain().unwrap();
    load.advance(20);
    let engine = &mut cluster.engines[node];
    engine.install(build);
    engine.run_again().unwrap();
    let runs = std::fs::read_link(format!("/proc/{}/exe", engine.pid().unwrap())).unwrap();
    assert_eq!(runs, build.canonicalize().unwrap());
    wait("it comes back drained", || cluster.readiness(node) == (503, DRAINED.to_owned()));
    wait("trackers have it back", || cluster.listed(node)["status"] == "ACTIVE");
    assert_eq!(cluster.listed(node)["draining"], true);
    load.advance(100);
    assert_eq!(cluster.served(node), 0.0, "somebody comes to {name}");

    cluster.node(&["undrain", &cluster.engines[node].address("listen").unwrap().to_string()]);
    assert_eq!(cluster.readiness(node).0, 200);
    let comes_again = (0..20).any(|_| {
        load.advance(50);
        cluster.served(node) > 20.0
    });
    assert!(
        comes_again,
        "nobody comes: {}\n{}",
        cluster.node(&["list"]),
        cluster.engines[node].log()
    );
    assert_eq!(cluster.listed(node)["draining"], false);
}

#[test]
fn nodes_are_drained_upgraded_and_put_back_under_load_and_no_request_fails() {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start(&[]);
    let rounds = count_from("REEL_TORTURE_DRAINS", 1) as usize;
    let builds = builds();
    let mut seeded = Seeded::of_test("drain");
    let load = Load { stop: AtomicBool::new(false), requests: AtomicU64::new(0) };
    let (trackers, gateway) = (cluster.trackers(), cluster.gateway.address("listen").unwrap());
    std::thread::scope(|scope| {
        let mut clients = Vec::new();
        for number in 0..2 {
            let (load, trackers) = (&load, &trackers);
            let (one, other) = (seeded.branch(), seeded.branch());
            clients.push(scope.spawn(move || load.library(trackers, one)));
            clients.push(scope.spawn(move || load.http(gateway, number, other)));
        }
        let upgraded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for round in 0..rounds {
                let build = &builds[round % 2];
                (0..2).for_each(|node| upgrade(&mut cluster, node, build, &load));
            }
        }));
        load.stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        upgraded.unwrap();
    });
    // Nor did a client only not notice.
    let failovers =
        |cluster: &Cluster| Cluster::metric(&cluster.gateway, "reel_gateway_failovers_total");
    assert_eq!(failovers(&cluster), 0.0, "the gateway had to ask a second node");
    println!("{} rounds of clients' requests", load.requests.load(Ordering::Relaxed));
    for engine in &cluster.engines {
        let log = engine.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert_eq!(errors, [""; 0]);
    }
    // What a drain is good for, and that the gateway would have said so: the same without one.
    cluster.engines[0].kill().unwrap();
    wait("a node that was not drained is missed", || {
        assert_eq!(http::status(gateway, "/files/h0-0").unwrap(), 200);
        failovers(&cluster) > 0.0
    });
    cluster.engines[1].drain().unwrap();
}

#[test]
fn what_an_operator_is_told() {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start(&[]);
    let table = cluster.node(&["list"]);
    assert!(table.trim_start().starts_with("GROUP"), "{table}");
    assert_eq!(table.lines().filter(|line| line.contains("ACTIVE")).count(), 2, "{table}");
    wait("the first reports", || cluster.listed(1)["stores"] == serde_json::json!(["ok"]));
    assert!(cluster.listed(1)["free_bytes"].as_u64().unwrap() > 0);

    for (secret, arguments, code, text) in [
        (None, ["drain", "node0"], 1, "REEL_CLUSTER_SECRET"),
        (Some("the secret of another"), ["drain", "node0"], 1, "REEL_CLUSTER_SECRET"),
        (Some(SECRET), ["drain", "node7"], 1, "node0 at 127.0.0.1:"),
        (Some(SECRET), ["drain", "--wait=x"], 2, "--wait"),
    ] {
        let output = cluster.node_with(secret, &arguments);
        let (_, said) = texts(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
    assert_eq!(cluster.readiness(0).0, 200);

    // One that nobody can stand in for is named all the same, and the operator hears why.
    cluster.node(&["drain", "node0", "--no-wait"]);
    let output = cluster.node_with(Some(SECRET), &["drain", "node1", "--wait", "2s"]);
    let (_, said) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no other node of its group is active"), "{said}");
    assert_eq!(cluster.readiness(1), (503, DRAINED.to_owned()));
    let client = Client::new(ClientConfig::new(cluster.trackers())).unwrap();
    let nodes = block_on(client.locate(owner())).unwrap().nodes.len();
    assert_eq!(nodes, 2, "files are served as long as a node is there");
    for node in ["node0", "node1"] {
        cluster.node(&["undrain", node]);
    }
    // A tracker that is away names nobody; it hears of the drain when the node joins it again.
    cluster.trackers[1].kill().unwrap();
    cluster.node(&["drain", "node1"]);
    cluster.trackers[1].run_again().unwrap();
    let restarted = cluster.trackers[1].address("listen").unwrap().to_string();
    wait("the tracker that was away", || {
        let client = Client::new(ClientConfig::new([&restarted])).unwrap();
        let nodes = block_on(client.nodes_of(&restarted)).unwrap_or_default();
        let drained: Vec<bool> = nodes.iter().map(|node| node.flags & 4 != 0).collect();
        nodes.len() == 2 && drained.contains(&true) && drained.contains(&false)
    });
}

#[test]
fn a_group_gets_a_node_and_loses_one_and_another_group_begins() {
    if !is_installed() {
        return;
    }
    let mut cluster = Cluster::start(&[
        ("REEL_TRACKER__GROUPS", "[\"group001\", \"group002\"]".to_owned()),
        ("REEL_TRACKER__BEAT_INTERVAL", "1s".to_owned()),
        ("REEL_TRACKER__CHECK_INTERVAL", "4s".to_owned()),
        ("REEL_TRACKER__FORGET_AFTER", "1s".to_owned()),
    ]);
    let gateway = cluster.gateway.address("listen").unwrap();
    let put = |target: &str| http::request(gateway, "PUT", target, &[], Some(b"content")).unwrap();
    assert_eq!(put("/files/before").status, 201);

    // A third one: it has all files at once, and clients come to it.
    cluster.add_node("group001");
    let media = cluster.engines[2].address("http_listen").unwrap();
    assert_eq!(http::status(media, "/files/before").unwrap(), 200);
    let before = cluster.served(2);
    wait("clients come to the new node", || {
        assert_eq!(http::status(gateway, "/files/before").unwrap(), 200);
        cluster.served(2) > before
    });

    // The first one goes for good.
    cluster.node(&["drain", "node0"]);
    cluster.engines[0].drain().unwrap();
    wait("trackers forget it", || {
        assert_eq!(http::status(gateway, "/files/before").unwrap(), 200);
        cluster.listed(0).is_null()
    });
    assert_eq!(put("/files/after").status, 201);

    // Another group: new users get one or the other, those who have one keep it.
    cluster.add_node("group002");
    let group = |user: &str| {
        let of = Owner { user: user.parse().unwrap(), ..owner() };
        // One for each: a connection belongs to the runtime that has made it.
        let client = Client::new(ClientConfig::new(cluster.trackers())).unwrap();
        block_on(client.locate(of)).unwrap().group.to_string()
    };
    let groups: BTreeSet<String> = (0..40).map(|number| group(&format!("new{number}"))).collect();
    assert_eq!(groups.into_iter().collect::<Vec<_>>(), ["group001", "group002"]);
    assert_eq!(group("tnv001"), "group001");
    let answers = cluster.engines[3].address("http_listen").unwrap();
    let url = "/files/of-another?user=new0";
    assert_eq!(put(url).status, 201);
    assert_eq!(http::status(gateway, url).unwrap(), 200);
    // With a shared database a node knows of the files of other groups, but has none of them.
    assert_ne!(http::status(answers, "/files/before").unwrap(), 200);
    for engine in &mut cluster.engines[1..] {
        engine.drain().unwrap();
    }
}

/// A tracker of the deployed kind: it knows GROUPS, answers anything else with an error and closes.
fn deployed_tracker() -> SocketAddr {
    const TEXT: &[u8] = b"COUNT OF GROUPS: 1\nGROUPNAME: group001\nCOUNT OF STORAGES: 1\n\
        COUNT OF ACTIVE STORAGES: 1\nVERSION: 1.0\nHOSTNAME: store-a\nADDRESS: 10.0.0.5:23000\n\
        STARTUP TIME: Mon Mar 11 20:14:02 2024\nJOIN TIME: Mon Mar 11 20:14:02 2024\n\
        BEAT TIME: Mon Mar 11 20:15:12 2024\nSTATUS: ACTIVE\0";
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; frame::HEADER_LEN];
            if stream.read_exact(&mut head).is_err() {
                continue;
            }
            let reply = match head[8] {
                command::GROUPS => frame::encode(command::REPLY_TRACKER, TEXT),
                _ => frame::error_reply(command::REPLY_TRACKER, "vm", "unknown command"),
            };
            let _ = stream.write_all(&reply);
            // What was not read would make the close a reset.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    address
}

#[test]
fn the_nodes_of_a_deployed_tracker_are_listed_by_what_it_tells() {
    let tracker = deployed_tracker().to_string();
    let list = |arguments: &[&str]| {
        let mut command = process::command().unwrap();
        let output = command.args(["node", "list", "--tracker", &tracker]).args(arguments).output();
        let (out, said) = texts(&output.unwrap());
        assert!(said.is_empty(), "{said}");
        out
    };
    let table = list(&[]);
    assert!(table.contains("store-a") && table.contains("10.0.0.5:23000"), "{table}");
    let node: Value = serde_json::from_str(list(&["--json"]).trim()).unwrap();
    assert_eq!((&node["status"], &node["draining"]), (&"ACTIVE".into(), &Value::Null));
}
