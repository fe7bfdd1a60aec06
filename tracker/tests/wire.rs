//! The tracker over real sockets with the deployed system's requests: as captured, pipelined, split
//! at every byte, and malformed.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::Read;
use std::time::Duration;

use reel_node::config::NodeConfig;
use support::{Client, Tracker, beat, config, join, node_config, saddrs};

/// Builds a captured frame: the bytes that are shown, fields padded to their width with `fill`.
fn captured(command: u8, fields: &[(&[u8], usize)], fill: u8) -> Vec<u8> {
    let mut body = Vec::new();
    for (bytes, width) in fields {
        let start = body.len();
        body.extend_from_slice(bytes);
        body.resize(start + width, fill);
    }
    let mut frame = (body.len() as u64).to_be_bytes().to_vec();
    frame.extend_from_slice(&[command, 0]);
    frame.extend_from_slice(&body);
    frame
}

fn captured_join(fill: u8) -> Vec<u8> {
    captured(
        10,
        &[
            (b"1.0\0", 7),
            (b"group001\0", 17),
            (b"vm\0", 129),
            (&[0x5a, 0x3c], 2),
            (&[0, 0, 0, 0, 0x6b, 0, 0xfa, 0x7c], 8),
            (&[0, 0, 0, 0, 0x6b, 0, 0xfa, 0x7c], 8),
        ],
        fill,
    )
}

fn captured_beat(fill: u8) -> Vec<u8> {
    captured(11, &[(b"group001\0", 17), (b"vm\0", 129)], fill)
}

fn captured_saddrs(fill: u8) -> Vec<u8> {
    captured(12, &[(b"tnvideo\0", 16), (b"tnv001\0", 256), (b"a file id without a NUL", 128)], fill)
}

const EMPTY_REPLY: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0, 100, 0];
const SADDRS_REPLY: &[u8] =
    b"\0\0\0\0\0\0\0\x22\x64\0group001\0\0\0\0\0\0\0\0\x00127.0.0.1:23100;\0";

fn read(client: &mut Client, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    client.0.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn the_captured_conversation_to_the_byte() {
    assert_eq!(captured_join(0)[..10], [0, 0, 0, 0, 0, 0, 0, 0xab, 10, 0]);
    assert_eq!(captured_beat(0)[..10], [0, 0, 0, 0, 0, 0, 0, 0x92, 11, 0]);
    assert_eq!(captured_saddrs(0)[..10], [0, 0, 0, 0, 0, 0, 1, 0x90, 12, 0]);
    for fill in [0, 0xEE] {
        let folder = tempfile::tempdir().unwrap();
        let tracker = Tracker::start(folder.path());
        let mut node = tracker.connect();
        node.send(&captured_join(fill));
        assert_eq!(read(&mut node, 10), EMPTY_REPLY);
        node.send(&captured_beat(fill));
        assert_eq!(read(&mut node, 10), EMPTY_REPLY);
        let mut client = tracker.connect();
        client.send(&captured_saddrs(fill));
        assert_eq!(read(&mut client, SADDRS_REPLY.len()), SADDRS_REPLY);
    }
}

#[test]
fn without_each_of_the_kernels_capabilities() {
    for off in ["io_uring", "coop_taskrun", "single_issuer", "defer_taskrun"] {
        let folder = tempfile::tempdir().unwrap();
        let node_config = NodeConfig { capabilities_off: vec![off.to_owned()], ..node_config() };
        let tracker = Tracker::start_with(folder.path(), &config(), &node_config);
        let mut client = tracker.connect();
        client.send(&[captured_join(0), captured_beat(0), captured_saddrs(0)].concat());
        assert_eq!(read(&mut client, 20), [EMPTY_REPLY, EMPTY_REPLY].concat(), "{off}");
        assert_eq!(read(&mut client, SADDRS_REPLY.len()), SADDRS_REPLY, "{off}");
    }
}

#[test]
fn an_unknown_app_gets_the_captured_form_of_error() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    tracker.connect().appear("group001", "vm", 23100);
    let mut client = tracker.connect();
    client.send(&saddrs("other", "tnv001"));
    let text = b"[vm] unknown app id: other\0";
    let mut expected = (2 + text.len() as u64).to_be_bytes().to_vec();
    expected.extend_from_slice(&[100, 0xFD, 0xFF, 0xFF]);
    expected.extend_from_slice(text);
    assert_eq!(read(&mut client, expected.len()), expected);
    assert!(client.saddrs("tnvideo", "tnv001").is_ok(), "the connection goes on");
    assert!(client.saddrs("tnvide", "tnv001").is_err());
    assert!(client.saddrs("TNVIDEO", "tnv001").is_err());
}

#[test]
fn a_whole_conversation_in_one_write_and_split_at_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let groups = [0, 0, 0, 0, 0, 0, 0, 0, 13, 0];
    let all =
        [captured_join(0xEE), captured_beat(0xEE), captured_saddrs(0xEE), groups.to_vec()].concat();
    let talk = |cut: usize| {
        let mut client = tracker.connect();
        client.send(&all[..cut]);
        if cut < all.len() {
            // Long enough for the tracker to see the first part alone, most of the time.
            std::thread::sleep(Duration::from_micros(500));
            client.send(&all[cut..]);
        }
        assert_eq!(read(&mut client, 20), [EMPTY_REPLY, EMPTY_REPLY].concat(), "cut at {cut}");
        assert_eq!(read(&mut client, SADDRS_REPLY.len()), SADDRS_REPLY, "cut at {cut}");
        let text = client.receive().unwrap().unwrap();
        assert!(text.starts_with(b"COUNT OF GROUPS: 1\n"), "cut at {cut}");
        assert!(text.ends_with(b"STATUS: ACTIVE\0"), "cut at {cut}");
    };
    talk(all.len());
    for cut in 1..all.len() {
        talk(cut);
    }
}

#[test]
fn two_hundred_requests_at_once_are_answered_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    tracker.connect().appear("group001", "vm", 23100);
    let mut client = tracker.connect();
    // New and known users, good and bad apps, in turn: some answers wait for the database.
    let requests: Vec<u8> = (0..200)
        .flat_map(|number| {
            let app = if number % 5 == 4 { "other" } else { "tnvideo" };
            saddrs(app, &format!("user{}", number % 50))
        })
        .collect();
    client.send(&requests);
    for number in 0..200 {
        let answer = client.receive().unwrap();
        assert_eq!(answer.is_err(), number % 5 == 4, "{number}: {answer:?}");
    }
}

#[test]
fn the_groups_text_has_the_samples_form() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    assert_eq!(
        tracker.connect().groups(),
        "COUNT OF GROUPS: 1\nGROUPNAME: group001\nCOUNT OF STORAGES: 0\nCOUNT OF ACTIVE STORAGES: 0"
    );
    let mut node = tracker.connect();
    node.join("group001", "store-a", 23000).unwrap();
    assert!(node.groups().ends_with("\nSTATUS: ONLINE"));
    node.beat("group001", "store-a").unwrap();
    let text = tracker.connect().groups();
    let sample = "COUNT OF GROUPS: 1\nGROUPNAME: group001\nCOUNT OF STORAGES: 1\n\
        COUNT OF ACTIVE STORAGES: 1\nVERSION: 1.0\nHOSTNAME: store-a\nADDRESS: 127.0.0.1:23000\n\
        STARTUP TIME: Mon Mar 11 20:14:02 2024\nJOIN TIME: Mon Mar 11 20:14:02 2024\n\
        BEAT TIME: Mon Mar 11 20:15:12 2024\nSTATUS: ACTIVE";
    assert_eq!(text.lines().count(), sample.lines().count());
    for (line, sample) in text.lines().zip(sample.lines()) {
        if sample.contains(" TIME: ") {
            let (name, time) = line.split_once(": ").unwrap();
            let (sample_name, sample_time) = sample.split_once(": ").unwrap();
            assert_eq!((name, time.len()), (sample_name, sample_time.len()));
        } else {
            assert_eq!(line, sample);
        }
    }
}

#[test]
fn malformed_input_gets_an_error_frame_and_the_connection_closes() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    tracker.connect().appear("group001", "vm", 23100);
    let header = |length: i64, command: u8| [&length.to_be_bytes()[..], &[command, 0]].concat();
    let filled =
        |command, length: usize| [header(length as i64, command), vec![b'x'; length]].concat();
    for (why, bytes) in [
        ("negative length", header(-1, 12)),
        ("most negative length", header(i64::MIN, 10)),
        ("unknown command", header(0, 99)),
        ("another role's command", header(400, 71)),
        ("a command of ours that nobody knows", header(0, 255)),
        ("GROUPS with a body", filled(13, 1)),
        ("JOIN one short", filled(10, 170)),
        ("JOIN one long", filled(10, 172)),
        ("JOIN far too long", filled(10, 100_000)),
        ("BEAT one short", filled(11, 145)),
        ("SADDRS one long", filled(12, 401)),
        ("JOIN without a NUL", filled(10, 171)),
        ("BEAT without a NUL", filled(11, 146)),
        ("SADDRS without a NUL", filled(12, 400)),
        ("SADDRS: user without a NUL", {
            captured(12, &[(b"tnvideo\0", 16), (b"u", 256), (b"f\0", 128)], b'x')
        }),
        ("SADDRS: app with other characters", {
            captured(12, &[(b"tn video\0", 16), (b"u\0", 256), (b"f\0", 128)], 0)
        }),
        ("SADDRS: user not UTF-8", {
            captured(12, &[(b"tnvideo\0", 16), (b"\xFF\xFE\0", 256), (b"f\0", 128)], 0)
        }),
        ("JOIN: group with other characters", {
            captured(10, &[(b"1.0\0", 7), (b"../etc\0", 17), (b"vm\0", 129), (b"", 18)], 0)
        }),
        ("LOCATE of a layout to come", [header(4, 200), vec![2, 0, 0, 0]].concat()),
    ] {
        let mut client = tracker.connect();
        client.saddrs("tnvideo", "tnv001").unwrap();
        client.send(&bytes);
        client.send(&saddrs("tnvideo", "tnv001"));
        let error = client.receive().unwrap().unwrap_err();
        assert!(error.number < 0 && error.text.starts_with("[vm] "), "{why}: {error:?}");
        assert!(client.is_closed(), "{why}");
    }
    assert!(tracker.connect().saddrs("tnvideo", "tnv001").is_ok(), "others are unharmed");
    assert_eq!(tracker.connect().groups().matches("HOSTNAME").count(), 1, "nothing was taken in");
}

#[test]
fn refused_requests_whose_bytes_are_in_order_keep_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let mut client = tracker.connect();
    assert!(client.ask(&beat("group001", "vm")).is_err(), "not joined");
    assert!(client.ask(&join("other", "vm", 23100)).is_err(), "unknown group");
    assert!(client.ask(&join("group001", "vm", 0)).is_err(), "no port");
    let none = client.saddrs("tnvideo", "tnv001").unwrap_err();
    assert!(none.text.contains("no storage node is active"), "{none:?}");
    client.appear("group001", "vm", 23100);
    assert_eq!(client.saddrs("tnvideo", "tnv001").unwrap().nodes.len(), 1);
}

#[test]
fn users_of_every_form_are_routed() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    tracker.connect().appear("group001", "vm", 23100);
    let mut client = tracker.connect();
    let longest = "u".repeat(128);
    let widest = "\u{7528}".repeat(85);
    for user in
        ["", "it's", "100%", "a_b", "back\\", "\u{1F600}", "a ", "new\nline", &longest, &widest]
    {
        for _ in 0..2 {
            assert_eq!(client.saddrs("tnvideo", user).unwrap().group.as_str(), "group001");
        }
    }
}
