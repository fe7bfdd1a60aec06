//! The ID node over real sockets: the captured request, pipelined and split anywhere, bad input, and
//! blocks for storage nodes.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use reel_idgen::Config;
use reel_node::config::NodeConfig;
use reel_proto::path::PathId;
use reel_proto::refusal::Refusal;

use support::{Client, Node, config, id_block, id_get, node_config};

/// `ID_GET > 00000000000000082800 2e2e2f6461746100`, as captured.
const CAPTURED: [u8; 18] =
    [0, 0, 0, 0, 0, 0, 0, 8, 40, 0, b'.', b'.', b'/', b'd', b'a', b't', b'a', 0];

fn reply(id: u64) -> Vec<u8> {
    [&[0, 0, 0, 0, 0, 0, 0, 8, 101, 0][..], &id.to_be_bytes()].concat()
}

fn read(client: &mut Client, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.0.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_captured_request_and_what_a_restart_throws_away() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let mut client = node.connect();
    for id in 0..7 {
        client.send(&CAPTURED);
        assert_eq!(read(&mut client, 18), reply(id));
    }
    node.stop();
    let node = Node::start(folder.path());
    assert_eq!(node.connect().id("../data").unwrap(), 100, "after ids 0 to 6 the next is 100");
    assert_eq!(node.connect().id("other").unwrap(), 0, "another key is another sequence");
}

#[test]
fn without_each_of_the_kernels_capabilities() {
    for off in ["io_uring", "coop_taskrun", "single_issuer", "defer_taskrun"] {
        let folder = tempfile::tempdir().unwrap();
        let node_config = NodeConfig { capabilities_off: vec![off.to_owned()], ..node_config() };
        let node = Node::start_with(folder.path(), &config(), &node_config);
        let mut client = node.connect();
        client.send(&CAPTURED.repeat(250));
        for id in 0..250 {
            assert_eq!(read(&mut client, 18), reply(id), "{off}");
        }
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let mut client = node.connect();
    let mut sender = client.0.try_clone().unwrap();
    let writer = std::thread::spawn(move || sender.write_all(&CAPTURED.repeat(3000)).unwrap());
    for id in 0..3000 {
        assert_eq!(read(&mut client, 18), reply(id));
    }
    writer.join().unwrap();
}

#[test]
fn a_request_split_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    for cut in 1..CAPTURED.len() {
        let mut client = node.connect();
        client.send(&CAPTURED[..cut]);
        std::thread::sleep(Duration::from_millis(3));
        client.send(&CAPTURED[cut..]);
        assert_eq!(read(&mut client, 18), reply(cut as u64 - 1));
    }
    let mut client = node.connect();
    for byte in CAPTURED {
        client.send(&[byte]);
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(read(&mut client, 18), reply(CAPTURED.len() as u64 - 1));
}

#[test]
fn a_fresh_connection_for_every_id_as_deployed_nodes_do() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    for id in 0..250 {
        assert_eq!(node.connect().id("../data").unwrap(), id);
    }
}

#[test]
fn what_follows_the_nul_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let mut client = node.connect();
    let mut request = vec![0, 0, 0, 0, 0, 0, 0, 65, 40, 0];
    request.extend_from_slice(b"../data\0");
    request.resize(10 + 65, 0xEE);
    assert_eq!(client.ask(&request).unwrap(), 0_u64.to_be_bytes());
    assert_eq!(client.id("../data").unwrap(), 1);
}

#[test]
fn malformed_input_gets_an_error_frame_and_the_connection_closes() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let frame = |length: i64, command: u8, body: &[u8]| {
        [&length.to_be_bytes()[..], &[command, 0], body].concat()
    };
    for (why, bytes) in [
        ("negative length", frame(-1, 40, b"")),
        ("most negative length", frame(i64::MIN, 40, b"")),
        ("no room for a key", frame(1, 40, b"\0")),
        ("one past the limit", frame(66, 40, &[b'k'; 66])),
        ("far past the limit", frame(1 << 40, 40, &[b'k'; 1000])),
        ("unknown command", frame(0, 99, b"")),
        ("another role's command", frame(0, 13, b"")),
        ("no NUL", frame(65, 40, &[b'k'; 65])),
        ("no NUL in a short one", frame(7, 40, b"../data")),
        ("empty key", frame(2, 40, b"\0\0")),
        ("control character", frame(4, 40, b"a\nb\0")),
        ("not UTF-8", frame(3, 40, b"\xFF\xFE\0")),
        ("unsigned garbage", frame(30, 220, &[7; 30])),
    ] {
        let mut client = node.connect();
        assert_eq!(client.id("k"), client.id("k").map(|id| id - 1), "in order before");
        client.send(&bytes);
        client.send(&id_get("k"));
        let error = client.receive().unwrap().unwrap_err();
        assert!(error.number < 0 && error.text.starts_with("[vm] "), "{why}: {error:?}");
        if why == "unsigned garbage" {
            // Its bytes are in order; only who sent them is not known.
            assert!(client.receive().unwrap().is_ok());
        } else {
            assert!(client.is_closed(), "{why}");
        }
    }
    assert!(node.connect().id("k").is_ok(), "others are unharmed");
}

#[test]
fn a_peer_that_stops_in_the_middle_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let mut half: Vec<Client> = (0..50).map(|_| node.connect()).collect();
    for client in &mut half {
        client.send(&CAPTURED[..11]);
    }
    for id in 0..50 {
        assert_eq!(node.connect().id("../data").unwrap(), id);
    }
}

#[test]
fn blocks_are_nobody_elses_and_move_a_sequence_up() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let mut client = node.connect();
    assert_eq!(client.id("k").unwrap(), 0);
    let block = client.block("k", 1024, 0).unwrap();
    assert_eq!((block.start, block.end), (100, 1124), "after the block in hand");
    assert_eq!(client.id("k").unwrap(), 1, "which is still given");
    let block = client.block("k", 10, 5000).unwrap();
    assert_eq!((block.start, block.end), (5000, 5010), "at least");
    let next = client.id("k").unwrap();
    assert!(next >= 5010, "ids below a store's mark may be in use: {next}");
    let block = client.block("k", 10, 5000).unwrap();
    assert!(block.start >= 5010, "never down: {block:?}");
    for (count, why) in [(0, "none"), (u64::MAX, "too many")] {
        let mut client = node.connect();
        let error = client.block("k", count, 0).unwrap_err();
        assert_eq!(Refusal::of(error.number), Refusal::Malformed, "{why}: {error:?}");
    }
}

#[test]
fn the_last_ids_and_the_error_past_them() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    let mut client = node.connect();
    let last = PathId::COUNT;
    let block = client.block("k", 10, last - 13).unwrap();
    assert_eq!((block.start, block.end), (last - 13, last - 3));
    for id in [last - 3, last - 2, last - 1] {
        assert_eq!(client.id("k").unwrap(), id);
    }
    for _ in 0..3 {
        let error = client.id("k").unwrap_err();
        assert_eq!(error.number, -1, "as the deployed system");
        assert!(error.text.contains("used up"), "{error:?}");
        assert!(client.block("k", 1, 0).is_err());
    }
    assert_eq!(client.id("other").unwrap(), 0, "the connection and other keys go on");
    node.stop();
    let node = Node::start(folder.path());
    assert!(node.connect().id("k").is_err(), "nothing wraps after a restart");
}

#[test]
fn node_commands_are_signed_where_there_is_a_secret() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    let secret = b"the secret of this cluster";
    std::fs::write(&file, secret).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let node_config = NodeConfig { cluster_secret_file: Some(file), ..node_config() };
    let node = Node::start_with(folder.path(), &config(), &node_config);
    let mut client = node.connect();
    let signed = id_block(Some(secret), 1, "k", 10, 0);
    assert!(client.ask(&signed).is_ok());
    for (why, request) in [
        ("the very same again", signed),
        ("unsigned", id_block(None, 2, "k", 10, 0)),
        ("another secret", id_block(Some(b"not the secret of this one"), 3, "k", 10, 0)),
    ] {
        assert!(client.ask(&request).is_err(), "{why}");
        assert!(node.connect().ask(&request).is_err(), "{why}, on another connection");
    }
    assert_eq!(client.id("k").unwrap(), 10, "deployed commands need no signature");
}

#[test]
fn keys_are_bounded_and_known_ones_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { keys_max: 3, ..config() };
    let node = Node::start_with(folder.path(), &config, &node_config());
    let mut client = node.connect();
    for key in ["a", "b", "c"] {
        assert_eq!(client.id(key).unwrap(), 0);
    }
    let error = client.id("d").unwrap_err();
    assert!(error.text.contains("3 keys"), "{error:?}");
    assert_eq!(client.id("a").unwrap(), 1);
    node.stop();
    let config = Config { keys_max: 1, ..config };
    let node = Node::start_with(folder.path(), &config, &node_config());
    let mut client = node.connect();
    assert_eq!(client.id("c").unwrap(), 100, "what the database knows is served");
    assert!(client.id("d").is_err());
}

#[test]
fn many_clients_get_every_id_once() {
    const CLIENTS: usize = 8;
    const IDS: usize = 4000;
    let folder = tempfile::tempdir().unwrap();
    let config = Config { step: 10, ..config() };
    let node = Node::start_with(folder.path(), &config, &node_config());
    let address = node.address;
    let ids: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                scope.spawn(move || {
                    let mut client = Client::new(address);
                    let mut ids = Vec::new();
                    while ids.len() < IDS {
                        if number == 0 && ids.len() % 500 == 0 {
                            let block = client.block("k", 30, 0).unwrap();
                            ids.extend(block.start..block.end);
                        }
                        // Eight in flight on one connection.
                        client.send(&id_get("k").repeat(8));
                        for _ in 0..8 {
                            let body = client.receive().unwrap().unwrap();
                            ids.push(u64::from_be_bytes(body.try_into().unwrap()));
                        }
                    }
                    ids
                })
            })
            .collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let unique: HashSet<u64> = ids.iter().copied().collect();
    assert_eq!(unique.len(), ids.len(), "no id twice");
}

fn page(node: &Node, path: &str) -> String {
    let mut stream = TcpStream::connect(node.admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn ids_in_hand_are_given_while_the_database_is_out() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    assert_eq!(node.connect().id("k").unwrap(), 0);
    // Another writer holds the file for longer than the busy timeout.
    let other = rusqlite::Connection::open(folder.path().join("idgen.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Many wait at once: each for one busy timeout, not for those of all before it.
    let mut waiting: Vec<Client> = (0..20).map(|_| node.connect()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(&id_get(&format!("new{number}")));
    }
    let mut client = node.connect();
    for id in 1..100 {
        assert_eq!(client.id("k").unwrap(), id, "nobody waits for the one who waits");
    }
    for client in &mut waiting {
        let error = client.receive().unwrap().unwrap_err();
        assert!(error.text.contains("busy"), "{error:?}");
    }
    assert!(page(&node, "/readyz").starts_with("HTTP/1.1 503"));
    other.execute_batch("ROLLBACK").unwrap();
    for (number, client) in waiting.iter_mut().enumerate() {
        let id = client.id(&format!("new{number}")).unwrap();
        assert_eq!(id, 0, "the connection and the key go on");
    }
    assert!(client.id("k").unwrap() >= 100);
    assert!(page(&node, "/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn the_operator_sees_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(folder.path());
    assert_eq!(node.connect().id("../data").unwrap(), 0);
    let page = |path| page(&node, path);
    assert!(page("/readyz").starts_with("HTTP/1.1 200"));
    let status = page("/status");
    assert!(status.contains("../data") && status.contains("99"), "{status}");
    let metrics = page("/metrics");
    assert!(metrics.contains("reel_idgen_requests_total{"), "{metrics}");
    assert!(metrics.contains("reel_idgen_take_seconds"), "{metrics}");
}
