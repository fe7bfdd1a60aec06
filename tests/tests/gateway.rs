//! The gateway in front of a real storage node, tracker and ID node, all in this process: the
//! table of HTTP cases that the storage node passes, passed again through the gateway.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use std::time::{Duration, Instant};

use reel_meta::Role;
use reel_node::config::{HumanTime, NodeConfig};
use reel_node::{Process, Running};
use reel_tests::database;
use reel_tests::http_cases::{self, Connection};

const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Every role once; drained and joined in the order of their need when dropped.
struct Cluster {
    roles: Vec<Running>,
    gateway: SocketAddr,
    engine: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Cluster {
    fn start(off: &[&str], mode: reel_gateway::Mode) -> Self {
        Self::start_behind(off, mode, None)
    }

    fn start_behind(off: &[&str], mode: reel_gateway::Mode, relay: Option<&Relay>) -> Self {
        let off: Vec<String> = off.iter().map(|name| (*name).to_owned()).collect();
        // In the build folder: a temporary folder may be a tmpfs without attributes.
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let meta: PathBuf = folder.path().join("meta");
        let process = Process::new(&off).unwrap();
        let node = NodeConfig { data_threads: Some(1), ..NodeConfig::default() };
        let beat = HumanTime(Duration::from_millis(200));

        let location = |role| database::location(&meta, role).unwrap();
        let files = location(Role::Storage);
        let config = reel_tracker::Config {
            listen: LOOPBACK,
            admin_listen: LOOPBACK,
            beat_interval: beat,
            ..reel_tracker::Config::default()
        };
        let tracker =
            reel_tracker::start(&config, &node, &location(Role::Tracker), Some(&files), &process)
                .unwrap();
        let tracker_address = tracker.addresses()[0].addr;
        let config = reel_idgen::Config {
            listen: LOOPBACK,
            admin_listen: LOOPBACK,
            ..reel_idgen::Config::default()
        };
        let idgen = reel_idgen::start(&config, &node, &location(Role::Ids), &process).unwrap();
        let config = reel_engine::Config {
            listen: LOOPBACK,
            http_listen: LOOPBACK,
            admin_listen: LOOPBACK,
            trackers: vec![tracker_address.to_string()],
            idgens: vec![idgen.addresses()[0].addr.to_string()],
            http_advertise_port: relay.map(|relay| relay.port),
            beat_interval: beat,
            ..reel_engine::Config::default()
        };
        let setup = reel_engine::Setup {
            config: &config,
            node: &node,
            tokens: &[],
            store_paths: &[reel_engine::StorePath::new(folder.path().join("store"))],
            database: &files,
            groups: &location(Role::Tracker),
        };
        let engine = reel_engine::start(&setup, &process).unwrap();
        let http = engine.addresses().iter().find(|it| it.name.contains("http")).unwrap().addr;
        if let Some(relay) = relay {
            relay.engine.set(http).unwrap();
        }
        let config = reel_gateway::Config {
            listen: LOOPBACK,
            admin_listen: LOOPBACK,
            trackers: vec![tracker_address.to_string()],
            mode,
            beat_interval: beat,
            ..reel_gateway::Config::default()
        };
        let gateway = reel_gateway::start(&config, &node, &[], &process).unwrap();
        let address = gateway.addresses()[0].addr;
        let roles = vec![gateway, engine, idgen, tracker];
        for role in &roles {
            wait(|| role.readiness().check().is_ok());
        }
        let cluster = Self { roles, gateway: address, engine: http, _folder: folder };
        // The tracker hands nodes out once they have beaten.
        wait(|| cluster.get("/files/nothing-there").is_ok_and(|answer| answer.status != 503));
        cluster
    }

    fn get(&self, target: &str) -> Result<http_cases::Response, String> {
        let mut connection = Connection::open(self.gateway)?;
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())?;
        connection.response(false)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for role in self.roles.drain(..) {
            role.drain();
            let ended = role.join();
            if !std::thread::panicking() {
                ended.unwrap();
            }
        }
    }
}

fn wait(what: impl Fn() -> bool) {
    let since = Instant::now();
    while !what() {
        assert!(since.elapsed() < Duration::from_secs(20), "never");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run_table(off: &[&str]) {
    let cluster = Cluster::start(off, reel_gateway::Mode::Proxy);
    let facts = http_cases::prepare(cluster.gateway, "g").unwrap();
    let cases = http_cases::cases();
    let verdicts = http_cases::run(cluster.gateway, &facts, &cases);
    let faults: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| {
            let fault = verdict.fault.as_ref()?;
            Some(format!("{} ({}): {fault}", verdict.name, verdict.rfc))
        })
        .collect();
    assert!(verdicts.len() >= 60);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), verdicts.len(), faults.join("\n"));
}

#[test]
fn the_table_of_http_cases() {
    run_table(&[]);
}

#[test]
fn the_table_of_http_cases_without_a_ring() {
    run_table(&["io_uring"]);
}

#[test]
fn a_redirect_leads_to_the_file() {
    let cluster = Cluster::start(&[], reel_gateway::Mode::Redirect);
    let facts = http_cases::prepare(cluster.engine, "r").unwrap();
    let answer = cluster.get(&format!("/files/{}", facts.id)).unwrap();
    let location = format!("http://{}/files/{}", cluster.engine, facts.id);
    assert_eq!((answer.status, answer.header("location")), (307, Some(location.as_str())));
    // Nobody asked a tracker when it was uploaded, and its user is new to all of them.
    let named = format!("/files/{}?app=tnvideo&user=tnv001", facts.id);
    assert_eq!(cluster.get(&named).unwrap().status, 307);
}

/// A relay in front of the engine, as the tracker sees it, that cuts each answer after so many
/// bytes: what a node that dies looks like to the gateway.
struct Relay {
    port: u16,
    engine: Arc<OnceLock<SocketAddr>>,
    bytes_max: Arc<AtomicU64>,
}

impl Relay {
    fn start() -> Self {
        let listener = TcpListener::bind(LOOPBACK).unwrap();
        let relay = Self {
            port: listener.local_addr().unwrap().port(),
            engine: Arc::default(),
            bytes_max: Arc::new(AtomicU64::new(u64::MAX)),
        };
        let (engine, bytes_max) = (Arc::clone(&relay.engine), Arc::clone(&relay.bytes_max));
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let (engine, bytes_max) = (Arc::clone(&engine), Arc::clone(&bytes_max));
                std::thread::spawn(move || {
                    let Some(engine) = engine.get() else { return };
                    pass(&near, &TcpStream::connect(engine).unwrap(), &bytes_max);
                });
            }
        });
        relay
    }
}

fn pass(near: &TcpStream, far: &TcpStream, bytes_max: &AtomicU64) {
    let (near_in, far_out) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut &near_in, &mut &far_out);
        let _ = far_out.shutdown(Shutdown::Write);
    });
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    while let Ok(count @ 1..) = (&mut &*far).read(&mut buffer) {
        passed += count as u64;
        if (&mut &*near).write_all(&buffer[..count]).is_err()
            || passed > bytes_max.load(Ordering::Relaxed)
        {
            break;
        }
    }
    let _ = near.shutdown(Shutdown::Both);
    let _ = far.shutdown(Shutdown::Both);
}

#[test]
fn a_node_whose_connections_die_under_an_answer_is_asked_for_the_rest() {
    for off in [&[][..], &["io_uring"][..]] {
        let relay = Relay::start();
        let mode = reel_gateway::Mode::Proxy;
        let cluster = Cluster::start_behind(off, mode, Some(&relay));
        let content: Vec<u8> = (0..8_000_000_u32).map(|at| (at ^ (at >> 9)) as u8).collect();
        let mut connection = Connection::open(cluster.gateway).unwrap();
        let host = cluster.gateway;
        let mut request = format!(
            "PUT /files/large HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
            content.len()
        )
        .into_bytes();
        request.extend_from_slice(&content);
        connection.send(&request).unwrap();
        assert_eq!(connection.response(false).unwrap().status, 201);

        // Each connection to the node ends after so many bytes: the answer takes three of them.
        relay.bytes_max.store(3_000_000, Ordering::Relaxed);
        assert!(cluster.get("/files/large").unwrap().body == content);
        relay.bytes_max.store(u64::MAX, Ordering::Relaxed);
        assert!(cluster.get("/files/large").unwrap().body == content);
    }
}
