//! An ID node that is killed at any moment never gives an id twice.
//!
//! This binary starts itself as the node; the parent asks it for ids on several connections, kills
//! it in the middle, and starts it again, many times.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reel_idgen::Config;
use reel_proto::peer::IdBlockReply;
use support::{Client, Node, config, id_block, id_get, node_config};

const FOLDER: &str = "REEL_IDGEN_KILLED_FOLDER";
const ROUNDS: u64 = 20;
const CLIENTS: usize = 4;

#[test]
#[ignore = "the child of the test below"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    // A small step: many blocks, and so many moments between one and the next.
    let config = Config { step: 5, step_max: 40, ..config() };
    let node = Node::start_with(Path::new(&folder), &config, &node_config());
    println!("\nlistening {}", node.address);
    std::io::stdout().flush().unwrap();
    // Ends when killed, or when the parent is gone.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn start(folder: &Path) -> (Child, SocketAddr) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let address = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some((_, address)) = line.split_once("listening ") {
            break address.parse().unwrap();
        }
    };
    (child, address)
}

/// Asks until the node is gone; every id that came, in blocks of one or more.
fn ask_until_killed(address: SocketAddr, number: usize, killed: &AtomicBool) -> Vec<(u64, u64)> {
    let mut client = Client::new(address);
    let mut got = Vec::new();
    while !killed.load(Ordering::Relaxed) {
        let key = "../data";
        let block = number == 0;
        let request = if block { id_block(None, 0, key, 7, 0) } else { id_get(key).repeat(3) };
        if client.0.write_all(&request).is_err() {
            break;
        }
        for _ in 0..if block { 1 } else { 3 } {
            let Ok(answer) = client.receive() else { return got };
            let body = answer.unwrap();
            got.push(if block {
                let block = IdBlockReply::decode(&body).unwrap();
                (block.start, block.end)
            } else {
                let id = u64::from_be_bytes(body.try_into().unwrap());
                (id, id + 1)
            });
        }
    }
    got
}

#[test]
fn no_id_twice_however_often_the_node_is_killed() {
    let seed = std::env::var("REEL_TEST_SEED").map_or(0x5EED, |seed| seed.parse().unwrap());
    println!("seed {seed} (REEL_TEST_SEED repeats it)");
    let mut random = moments(seed);
    let folder = tempfile::tempdir().unwrap();
    let mut given: HashMap<u64, u64> = HashMap::new();
    for round in 0..ROUNDS {
        let (mut child, address) = start(folder.path());
        let killed = AtomicBool::new(false);
        let pause = Duration::from_micros(random() % 40_000);
        let got: Vec<(u64, u64)> = std::thread::scope(|scope| {
            let killed = &killed;
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| scope.spawn(move || ask_until_killed(address, number, killed)))
                .collect();
            std::thread::sleep(pause);
            child.kill().unwrap();
            child.wait().unwrap();
            killed.store(true, Ordering::Relaxed);
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        for id in got.into_iter().flat_map(|(start, end)| start..end) {
            if let Some(before) = given.insert(id, round) {
                panic!("id {id} was given in round {before} and again in round {round}");
            }
        }
    }
    assert!(given.len() > 100, "the test saw too little: {} ids", given.len());
    println!("{} ids in {ROUNDS} rounds, none twice", given.len());
}

/// xorshift64: moments to kill at, the same for the same seed.
fn moments(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}
