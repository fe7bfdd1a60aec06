//! Several nodes of a kind on one database, which die at random as it does.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reel_meta::mysql::{MysqlGroupStore, MysqlOptions, migrate};
use reel_meta::{GroupStore, Role};
use reel_proto::command;
use reel_proto::frame::{self, HEADER_LEN, Header};
use reel_proto::idgen::{IdGet, decode_id};
use reel_proto::name::IdKey;
use reel_tests::database::{block_on, is_installed};
use reel_tests::mariadb::MariaDb;
use reel_tests::role::RoleProcess;
use reel_tests::seed::{Seeded, count_from};

/// Nodes that draw from one sequence.
const NODES: usize = 3;
/// Clients that ask them.
const CLIENTS: usize = 8;

/// How a role finds the server.
fn environment(server: &MariaDb, role: Role) -> BTreeMap<String, String> {
    let (host, port) = server.address();
    let options = MysqlOptions::new(role, vec![(host.clone(), port)], "root");
    block_on(migrate(&options, role, false)).unwrap();
    let variables = [
        ("REEL_META__MYSQL__SERVERS", format!("[\"{host}:{port}\"]")),
        ("REEL_META__MYSQL__USER", "root".to_owned()),
        ("REEL_NODE__DATA_THREADS", "1".to_owned()),
    ];
    variables.map(|(name, value)| (name.to_owned(), value)).into()
}

/// One ID_GET over a connection that is made where there is none.
fn id_get(conn: &mut Option<TcpStream>, node: SocketAddr) -> std::io::Result<Option<u64>> {
    if conn.is_none() {
        let stream = TcpStream::connect(node)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        *conn = Some(stream);
    }
    let Some(stream) = conn else { return Ok(None) };
    let mut body = Vec::new();
    IdGet { key: IdKey::parse("../data").unwrap() }.encode(&mut body);
    stream.write_all(&frame::encode(command::ID_GET, &body))?;
    let mut head = [0; HEADER_LEN];
    stream.read_exact(&mut head)?;
    let header = Header::decode(&head).unwrap();
    let mut reply = vec![0; usize::try_from(header.length).unwrap()];
    stream.read_exact(&mut reply)?;
    Ok((!header.is_error()).then(|| decode_id(&reply).unwrap()))
}

/// A client's ids, until it has enough of them and everything has happened.
fn draw(
    nodes: &[SocketAddr],
    wanted: usize,
    over: &AtomicBool,
    seeded: &mut Seeded,
    drawn: &AtomicU64,
) -> Vec<u64> {
    let mut ids = Vec::with_capacity(wanted);
    let mut conn = None;
    let mut node = nodes[seeded.below(nodes.len() as u64) as usize];
    while ids.len() < wanted || !over.load(Ordering::Relaxed) {
        match id_get(&mut conn, node) {
            Ok(Some(id)) => {
                ids.push(id);
                drawn.fetch_add(1, Ordering::Relaxed);
            }
            // It has no database, or died: the next one.
            Ok(None) | Err(_) => {
                conn = None;
                node = nodes[seeded.below(nodes.len() as u64) as usize];
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        if ids.len() >= wanted {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    ids
}

#[test]
fn no_id_is_given_twice_by_nodes_that_die_on_a_database_that_dies() {
    if !is_installed() {
        return;
    }
    let wanted = count_from("REEL_TORTURE_IDS", 10_000) as usize;
    let disasters = count_from("REEL_TORTURE_ID_DEATHS", 12);
    let mut seeded = Seeded::of_test("ids");
    let mut server = MariaDb::start().unwrap();
    let environment = environment(&server, Role::Ids);
    let folders: Vec<_> = (0..NODES).map(|_| tempfile::tempdir().unwrap()).collect();
    let mut nodes: Vec<RoleProcess> = folders
        .iter()
        .map(|folder| RoleProcess::start("idgen", folder.path(), environment.clone()).unwrap())
        .collect();
    let addresses: Vec<SocketAddr> =
        nodes.iter().map(|node| node.address("listen").unwrap()).collect();
    let (over, drawn) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut all = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let mut seeded = seeded.branch();
                let (addresses, over, drawn) = (&addresses, &over, &drawn);
                scope.spawn(move || draw(addresses, wanted, over, &mut seeded, drawn))
            })
            .collect();
        for _ in 0..disasters {
            std::thread::sleep(Duration::from_millis(50 + seeded.below(400)));
            let before = drawn.load(Ordering::Relaxed);
            if seeded.below(3) == 0 {
                server.kill().unwrap();
                // What is in hand goes on.
                std::thread::sleep(Duration::from_millis(seeded.below(500)));
                server.run().unwrap();
            } else {
                let node = &mut nodes[seeded.below(NODES as u64) as usize];
                node.kill().unwrap();
                node.run_again().unwrap();
            }
            while drawn.load(Ordering::Relaxed) < before + 100 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        over.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect::<Vec<u64>>()
    });
    let count = all.len();
    assert!(count >= CLIENTS * wanted);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "an id was given twice");
    println!("{count} ids, {disasters} deaths, the last id is {:?}", all.last());
}

#[test]
fn sixteen_trackers_that_meet_a_new_user_at_once_give_it_one_group() {
    const TRACKERS: usize = 16;
    const USERS: usize = 20;
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let options = MysqlOptions::new(Role::Tracker, vec![server.address()], "root");
    block_on(migrate(&options, Role::Tracker, false)).unwrap();
    let groups: Vec<String> = (0..TRACKERS).map(|number| format!("group{number:03}")).collect();
    block_on(async {
        let mut store = MysqlGroupStore::new(options.clone());
        for group in &groups {
            store.add_group(group).await.unwrap();
        }
    });
    let start = Barrier::new(TRACKERS);
    let answers: Vec<Vec<String>> = std::thread::scope(|scope| {
        let trackers: Vec<_> = groups
            .iter()
            .map(|group| {
                let (start, options) = (&start, options.clone());
                scope.spawn(move || {
                    block_on(async {
                        let mut store = MysqlGroupStore::open(options).await.unwrap();
                        let mut answers = Vec::new();
                        for user in 0..USERS {
                            start.wait();
                            let user = format!("new{user}");
                            answers.push(
                                store.route_or_insert("tnvideo", &user, group).await.unwrap(),
                            );
                        }
                        answers
                    })
                })
            })
            .collect();
        trackers.into_iter().map(|tracker| tracker.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!(answer, &answers[0], "one group for each user");
    }
    let rows: u64 = block_on(async {
        let mut store = MysqlGroupStore::open(options).await.unwrap();
        let mut rows = 0;
        for (user, group) in answers[0].iter().enumerate() {
            let found = store.route("tnvideo", &format!("new{user}")).await.unwrap();
            rows += u64::from(found.as_deref() == Some(group));
        }
        rows
    });
    assert_eq!(rows, USERS as u64);
}
