//! The GROUPS text against the sample of the specification.

use proptest::prelude::*;
use reel_proto::{
    body::BodyError,
    name::{GroupName, HostName, Version},
    tracker::groups::{GroupEntry, NodeEntry, NodeStatus, parse, render},
};

const SAMPLE: &str = "COUNT OF GROUPS: 1
GROUPNAME: group001
COUNT OF STORAGES: 1
COUNT OF ACTIVE STORAGES: 1
VERSION: 1.0
HOSTNAME: store-a
ADDRESS: 10.0.0.5:23000
STARTUP TIME: Mon Mar 11 20:14:02 2024
JOIN TIME: Mon Mar 11 20:14:02 2024
BEAT TIME: Mon Mar 11 20:15:12 2024
STATUS: ACTIVE\0";

fn node() -> NodeEntry {
    NodeEntry {
        version: Version::parse("1.0").unwrap(),
        host: HostName::parse("store-a").unwrap(),
        address: "10.0.0.5:23000".parse().unwrap(),
        started_at: 1_710_188_042,
        joined_at: 1_710_188_042,
        beat_at: 1_710_188_112,
        status: NodeStatus::Active,
    }
}

fn group(name: &str, nodes: Vec<NodeEntry>) -> GroupEntry {
    GroupEntry { name: GroupName::parse(name).unwrap(), nodes }
}

#[test]
fn the_sample_to_the_byte() {
    let groups = [group("group001", vec![node()])];
    assert_eq!(String::from_utf8(render(&groups, 0)).unwrap(), SAMPLE);
    assert_eq!(parse(SAMPLE.as_bytes(), 0).unwrap(), groups);
}

#[test]
fn several_groups_in_name_order() {
    let offline = NodeEntry { status: NodeStatus::Offline, ..node() };
    let groups = [group("group002", vec![]), group("group001", vec![offline, node()])];
    let text = String::from_utf8(render(&groups, 8 * 3600)).unwrap();
    assert!(text.starts_with(
        "COUNT OF GROUPS: 2\nGROUPNAME: group001\nCOUNT OF STORAGES: 2\nCOUNT OF ACTIVE STORAGES: 1\nVERSION: 1.0\n"
    ));
    assert!(text.contains("\nJOIN TIME: Tue Mar 12 04:14:02 2024\n"));
    assert!(text.ends_with(
        "STATUS: ACTIVE\nGROUPNAME: group002\nCOUNT OF STORAGES: 0\nCOUNT OF ACTIVE STORAGES: 0\0"
    ));
    let mut back = parse(text.as_bytes(), 8 * 3600).unwrap();
    back.reverse();
    assert_eq!(back, groups);
}

#[test]
fn no_group_at_all() {
    assert_eq!(render(&[], 0), b"COUNT OF GROUPS: 0\0");
    assert_eq!(parse(b"COUNT OF GROUPS: 0\0", 0), Ok(vec![]));
}

#[test]
fn counts_that_lie_are_refused_and_reserve_nothing() {
    let huge = SAMPLE.replace("COUNT OF STORAGES: 1", "COUNT OF STORAGES: 65536");
    assert!(parse(huge.as_bytes(), 0).is_err());
    let past = SAMPLE.replace("COUNT OF STORAGES: 1", "COUNT OF STORAGES: 65537");
    let refused = Err(BodyError::Value { field: "COUNT OF STORAGES" });
    assert_eq!(parse(past.as_bytes(), 0), refused);
    let more_active = SAMPLE.replace("ACTIVE STORAGES: 1", "ACTIVE STORAGES: 2");
    assert!(parse(more_active.as_bytes(), 0).is_err());
    assert!(parse(SAMPLE.replace("GROUPS: 1", "GROUPS: 0").as_bytes(), 0).is_err());
    assert!(parse(SAMPLE.trim_end_matches('\0').as_bytes(), 0).is_err());
}

#[test]
fn truncated_and_flipped_texts_do_not_panic() {
    let bytes = SAMPLE.as_bytes();
    for end in 0..bytes.len() {
        assert!(parse(&bytes[..end], 0).is_err(), "cut after {end} bytes");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let _ = parse(&flipped, 0);
    }
}

proptest! {
    #[test]
    fn any_bytes_do_not_panic(mut bytes in any::<Vec<u8>>()) {
        bytes.push(0);
        let _ = parse(&bytes, 0);
    }

    #[test]
    fn round_trip(
        nodes in proptest::collection::vec((0u64..100_000_000_000, any::<u16>(), 0usize..3), 0..5),
    ) {
        let nodes = nodes.into_iter().map(|(time, port, status)| NodeEntry {
            started_at: time,
            address: ([0, 0, 0, 0, 0, 0, 0, 1], port).into(),
            status: [NodeStatus::Offline, NodeStatus::Online, NodeStatus::Active][status],
            beat_at: 0,
            ..node()
        });
        let groups = [group("a", nodes.collect()), group("b", vec![])];
        prop_assert_eq!(parse(&render(&groups, 3600), 3600).unwrap(), groups);
    }
}
