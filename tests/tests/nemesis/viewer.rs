//! A viewer of one long film, at the speed of a player, through the gateways' floating address: the storage node that sends it
//! dies, and the tracker that the gateway asks, and the viewer sees nothing of it; when the gateway's host dies, what has not
//! come is asked for anew.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use reel_tests::group::{Group, NODES, bricks_in};
use reel_tests::http::{self, Reading};
use reel_tests::network::Way;
use reel_tests::seed::{Content, Seeded, count_from};

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A player that has had no byte for so long connects anew. More than a busy machine may need to pass a film on.
const STALL_MAX: Duration = Duration::from_secs(5);

/// And so long waits who has connected anew.
const TRY_MAX: Duration = Duration::from_secs(1);

/// Time between two pieces: as if the film were not over before it was struck.
const PACE: Duration = Duration::from_millis(20);

/// Pieces of a film, however long it is.
const PIECES: usize = 500;

#[test]
fn a_viewer_sees_the_whole_film_while_what_serves_it_dies() {
    if let Some(why) = Group::missing() {
        return eprintln!("skipped: {why}");
    }
    let _alone = crate::alone();
    let size = count_from("REEL_NEMESIS_FILM_MIB", 64) << 20;
    let folder = tempfile::tempdir().unwrap();
    let mut seeded = Seeded::of_test("viewer");
    let film: Arc<[u8]> = Content { seed: seeded.draw(), size }.bytes().into();
    let mut group = Group::start(&bricks_in(folder.path())).unwrap();
    let gateway = group.gateways().address();
    let namespace = group.client().namespace().clone();
    let put = || http::request(gateway, "PUT", "/files/film", &[], Some(&film)).unwrap();
    assert_eq!(namespace.run(put).unwrap().status, 201);

    let position = Arc::new(AtomicU64::new(0));
    let viewer = std::thread::spawn({
        let (namespace, film, position) =
            (namespace.clone(), Arc::clone(&film), Arc::clone(&position));
        move || namespace.run(|| watch(gateway, &film, &position)).unwrap()
    });
    strike(&mut group, &position, size);
    let reconnects = viewer.join().unwrap();
    let [reconnect] = reconnects[..] else { panic!("connected anew {} times", reconnects.len()) };
    let Reconnect { at, took, tries } = reconnect;
    assert!(
        at > size * 3 / 5,
        "the death of a storage node or a tracker is none of the viewer's business"
    );
    println!(
        "the viewer connected anew at byte {at}, and had the next one after {:.1} s, {tries} tries",
        took.as_secs_f64()
    );
}

/// Kills what serves the viewer, one after the other.
fn strike(group: &mut Group, position: &AtomicU64, size: u64) {
    let until = |part: u64| {
        let (begin, at) = (Instant::now(), size / 5 * part);
        while position.load(Ordering::Relaxed) < at {
            assert!(begin.elapsed() < PATIENCE, "the viewer does not come to byte {at}");
            std::thread::sleep(Duration::from_millis(5));
        }
        position.load(Ordering::Relaxed)
    };
    let at = until(1);
    let sender = sending(group);
    println!("storage node {sender}, which sends, is killed with the viewer at byte {at}");
    group.engine(sender).kill().unwrap();
    let at = until(2);
    let gateway = group.gateways().until_held().unwrap();
    let tracker = asked_by(group, gateway);
    println!(
        "tracker {tracker}, which gateway {gateway} asks, is killed with the viewer at byte {at}"
    );
    group.trackers().role(tracker).kill().unwrap();
    let at = until(3);
    println!("the host of gateway {gateway} dies with the viewer at byte {at}");
    let (address, namespace) = (group.gateways().address(), group.client().namespace().clone());
    let host = group.gateways().host(gateway).clone();
    Way::ALL.into_iter().for_each(|way| host.cut(way).unwrap());
    let other = std::thread::spawn(move || {
        // What the viewer could have at best, if it knew at once.
        let rest = || connect(address, at as usize, size as usize, 1);
        namespace.run(rest).unwrap().2.took
    });
    group.gateways().kill_host(gateway).unwrap();
    println!(
        "who asks for the rest at once has it after {:.1} s",
        other.join().unwrap().as_secs_f64()
    );
}

/// The storage node whose count of bytes grows.
fn sending(group: &mut Group) -> usize {
    let begin = Instant::now();
    let mut before = sent(group);
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let now = sent(group);
        if let Some(node) = (0..NODES).find(|node| now[*node] > before[*node]) {
            return node;
        }
        assert!(begin.elapsed() < PATIENCE, "no storage node sends anything");
        before = now;
    }
}

/// What each has sent so far.
fn sent(group: &mut Group) -> Vec<u64> {
    let namespace = group.client().namespace().clone();
    let of = |node: usize| {
        let admin = group.engine(node).address("admin_listen").unwrap();
        let get = || http::request(admin, "GET", "/metrics", &[], None).unwrap();
        let page = String::from_utf8(namespace.run(get).unwrap().body).unwrap();
        let lines = page.lines().filter(|line| line.starts_with("reel_engine_sent_bytes_total"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    (0..NODES).map(of).collect()
}

/// The tracker to which a gateway has most connections.
fn asked_by(group: &mut Group, gateway: usize) -> usize {
    let namespace = group.gateways().host(gateway).namespace().clone();
    let table = || std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let table = namespace.run(table).unwrap();
    let connections = |tracker: &SocketAddr| {
        let SocketAddr::V4(tracker) = tracker else { return 0 };
        let (ip, port) = (u32::from_ne_bytes(tracker.ip().octets()), tracker.port());
        // The peer of an established connection, as the kernel writes it.
        table.matches(&format!(" {ip:08X}:{port:04X} 01 ")).count()
    };
    let trackers = group.trackers().own_addresses();
    let counts: Vec<_> = trackers.iter().map(connections).collect();
    println!("gateway {gateway} has {counts:?} connections to the trackers");
    (0..counts.len()).rev().max_by_key(|tracker| counts[*tracker]).unwrap()
}

/// How a viewer came to the rest of a film.
#[derive(Debug, Clone, Copy)]
struct Reconnect {
    /// The first byte of it.
    at: u64,
    /// From the moment at which the viewer gave the old connection up, until that byte came.
    took: Duration,
    tries: u32,
}

/// Reads all of it, at a player's pace; how often it had to connect anew for that.
fn watch(gateway: SocketAddr, film: &[u8], position: &AtomicU64) -> Vec<Reconnect> {
    let mut reconnects = Vec::new();
    let piece = film.len().div_ceil(PIECES);
    let mut reading = Reading::open(gateway, "/files/film", None, STALL_MAX).unwrap();
    assert_eq!(reading.status, 200);
    let mut at = 0;
    while at < film.len() {
        let came = reading.next(piece).unwrap_or_else(|error| {
            println!("the viewer at byte {at}: {error:#}");
            let (anew, came, reconnect) = connect(gateway, at, film.len(), piece);
            reading = anew;
            reconnects.push(reconnect);
            came
        });
        assert!(came == film[at..at + came.len()], "other bytes after {at}");
        at += came.len();
        position.store(at as u64, Ordering::Relaxed);
        std::thread::sleep(PACE.mul_f64(came.len() as f64 / piece as f64));
    }
    reconnects
}

/// Asks for the rest of the film until its first bytes come.
fn connect(
    gateway: SocketAddr,
    at: usize,
    end: usize,
    piece: usize,
) -> (Reading, Vec<u8>, Reconnect) {
    let begin = Instant::now();
    for tries in 1.. {
        let open = || {
            let range = Some((at as u64, end as u64));
            let mut reading = Reading::open(gateway, "/files/film", range, TRY_MAX)?;
            anyhow::ensure!(reading.status == 206, "{}", reading.status);
            let came = reading.next(piece)?;
            reading.wait_at_most(STALL_MAX)?;
            anyhow::Ok((reading, came))
        };
        match open() {
            Ok((reading, came)) => {
                return (reading, came, Reconnect { at: at as u64, took: begin.elapsed(), tries });
            }
            Err(error) => {
                println!("the viewer tries again: {error:#}");
                assert!(begin.elapsed() < PATIENCE, "there is no rest of the film");
                std::thread::sleep(PACE);
            }
        }
    }
    unreachable!("there are more numbers than tries")
}
