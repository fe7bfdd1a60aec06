//! The registry's rules, without sockets.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use reel_proto::ext::node_flag;
use reel_proto::name::{IdKey, Version};
use reel_proto::peer::{StoreIdentity, StoreState};

use super::*;

const CHECK: Duration = Duration::from_secs(120);

fn rules() -> Rules {
    Rules {
        check_interval: CHECK,
        forget_after: Duration::from_secs(3600),
        nodes_max: 4,
        gateways_max: 2,
        embedded: false,
    }
}

fn group(text: &str) -> GroupName {
    GroupName::parse(text).unwrap()
}

fn host(text: &str) -> HostName {
    HostName::parse(text).unwrap()
}

fn registry(rules: Rules) -> Registry {
    let mut registry = Registry::new(rules, vec![group("group002"), group("group001")]);
    registry.take_snapshot().unwrap();
    registry
}

fn at(seconds: u64) -> Now {
    Now { monotonic: Duration::from_secs(seconds), unix: 1_710_188_000 + seconds }
}

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 5));

fn node(name: &str, port: u16) -> Announcement {
    Announcement {
        version: Version::parse("1.0").unwrap(),
        group: group("group001"),
        host: host(name),
        address: SocketAddr::new(PEER, port),
        media: None,
        started_at: 1,
        joined_at: 2,
        stores: Vec::new(),
        deployed: true,
    }
}

fn counts(registry: &Registry) -> (usize, usize, usize) {
    let counts = registry.counts();
    (counts.offline, counts.online, counts.active)
}

fn is_served(registry: &mut Registry) -> bool {
    registry.changed = true;
    registry.take_snapshot().unwrap().active(&group("group001")).is_some()
}

#[test]
fn a_node_is_online_then_active_then_offline() {
    let mut registry = registry(rules());
    let id = registry.join(node("vm", 23000), 0, PEER, at(0)).unwrap();
    assert_eq!(counts(&registry), (0, 1, 0));
    assert!(!is_served(&mut registry), "online is not handed out");
    assert!(registry.beat(id, at(1)), "risen");
    assert!(is_served(&mut registry));
    assert!(!registry.beat(id, at(11)));
    assert!(registry.take_snapshot().is_none(), "a beat alone changes nothing that readers see");
    assert!(registry.expire(at(131)).is_empty(), "at the interval");
    assert_eq!(registry.expire(at(132)), [id], "past it");
    assert!(registry.expire(at(133)).is_empty(), "once");
    assert_eq!(counts(&registry), (1, 0, 0));
    assert!(!is_served(&mut registry));
    assert!(registry.beat(id, at(200)), "a beat brings it back");
    assert_eq!(counts(&registry), (0, 0, 1));
}

#[test]
fn a_node_that_never_beats_goes_offline_too() {
    let mut registry = registry(rules());
    let id = registry.join(node("vm", 23000), 0, PEER, at(0)).unwrap();
    assert_eq!(registry.expire(at(121)), [id]);
    assert_eq!(counts(&registry), (1, 0, 0));
}

#[test]
fn joining_again_is_the_same_node() {
    let mut registry = registry(rules());
    let id = registry.join(node("vm", 23000), 0, PEER, at(0)).unwrap();
    registry.beat(id, at(1));
    let newer = Announcement { version: Version::parse("1.1").unwrap(), ..node("vm", 23000) };
    assert_eq!(registry.join(newer, 0, PEER, at(5)).unwrap(), id);
    assert_eq!(counts(&registry), (0, 1, 0), "until its beat");
    assert!(String::from_utf8(registry.groups_text(0)).unwrap().contains("VERSION: 1.1\n"));
}

#[test]
fn nodes_differ_by_group_host_address_and_port() {
    let mut registry = registry(rules());
    let other_peer: IpAddr = "10.0.0.6".parse().unwrap();
    let first = registry.join(node("vm", 23000), 0, PEER, at(0)).unwrap();
    let port = registry.join(node("vm", 23001), 0, PEER, at(0)).unwrap();
    let address = Announcement { address: SocketAddr::new(other_peer, 23000), ..node("vm", 23000) };
    let address = registry.join(address, 0, other_peer, at(0)).unwrap();
    let elsewhere = Announcement { group: group("group002"), ..node("vm", 23000) };
    let elsewhere = registry.join(elsewhere, 0, PEER, at(0)).unwrap();
    let mut ids = [first, port, address, elsewhere];
    ids.sort_unstable();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn a_beat_belongs_to_the_join_of_its_connection_else_to_the_only_node() {
    let mut registry = registry(rules());
    let (g, h) = (group("group001"), host("vm"));
    let not_joined = registry.resolve(None, g, h, PEER).unwrap_err();
    assert!(matches!(not_joined, UnknownNode::NotJoined { .. }), "{not_joined}");
    let one = registry.join(node("vm", 23000), 0, PEER, at(0)).unwrap();
    assert_eq!(registry.resolve(None, g, h, PEER), Ok(one), "the only one");
    let two = registry.join(node("vm", 23001), 0, PEER, at(0)).unwrap();
    assert_eq!(registry.resolve(Some(one), g, h, PEER), Ok(one));
    assert_eq!(registry.resolve(Some(two), g, h, PEER), Ok(two));
    let ambiguous = registry.resolve(None, g, h, PEER).unwrap_err();
    assert!(matches!(ambiguous, UnknownNode::Ambiguous { .. }), "{ambiguous}");
    let far: IpAddr = "10.0.0.6".parse().unwrap();
    assert!(registry.resolve(None, g, h, far).is_err(), "from another address");
    assert!(registry.resolve(Some(one), g, host("other"), PEER).is_err(), "another name");
    assert!(registry.resolve(Some(one), group("group002"), h, PEER).is_err(), "another group");
}

#[test]
fn unknown_groups_and_addresses_are_refused() {
    let mut registry = registry(rules());
    let stranger = Announcement { group: group("other"), ..node("vm", 23000) };
    let refused = registry.join(stranger, 0, PEER, at(0)).unwrap_err();
    assert_eq!(refused, JoinError::UnknownGroup { group: group("other") });
    let refused = registry.join(node("vm", 0), 0, PEER, at(0)).unwrap_err();
    assert!(matches!(refused, JoinError::BadAddress { .. }), "{refused}");
    let nowhere = Announcement { address: "0.0.0.0:1".parse().unwrap(), ..node("vm", 1) };
    assert!(matches!(registry.join(nowhere, 0, PEER, at(0)), Err(JoinError::BadAddress { .. })));
    assert_eq!(counts(&registry), (0, 0, 0));
    assert!(registry.take_snapshot().is_none());
}

fn store(uuid: u8, key: &str) -> StoreIdentity {
    StoreIdentity { uuid: [uuid; 16], key: IdKey::parse(key).unwrap() }
}

fn with_stores(name: &str, port: u16, stores: &[StoreIdentity]) -> Announcement {
    Announcement { stores: stores.to_vec(), ..node(name, port) }
}

#[test]
fn with_embedded_metadata_a_second_node_is_refused_naming_mysql() {
    let mut registry = registry(Rules { embedded: true, ..rules() });
    let stores = [store(7, "/data")];
    let first = with_stores("vm", 23000, &stores);
    let first = registry.join(first, 0, PEER, at(0)).unwrap();
    registry.beat(first, at(0));
    let second = registry.join(node("vm", 23001), 0, PEER, at(1)).unwrap_err();
    assert!(second.to_string().contains("MySQL"), "{second}");
    let other = with_stores("vm", 23001, &[store(8, "/data")]);
    assert!(registry.join(other.clone(), 0, PEER, at(1)).is_err());
    registry.expire(at(500));
    assert!(registry.join(other, 0, PEER, at(501)).is_err(), "not even while it is away");
    let moved = with_stores("vm2", 23002, &stores);
    let moved = registry.join(moved, 0, PEER, at(502)).unwrap();
    assert_eq!(moved, first, "the same store, moved");
    assert_eq!(registry.nodes.len(), 1);
    assert_eq!(registry.by_identity.len(), 1);
    registry.beat(first, at(503));
    let snapshot = registry.take_snapshot().unwrap();
    assert_eq!(snapshot.only_group(), Some(group("group001")));
}

#[test]
fn nodes_of_a_group_must_have_the_same_stores() {
    let mut registry = registry(Rules { nodes_max: 10, ..rules() });
    let mut join = |name, stores: &[StoreIdentity], now| {
        registry.join(with_stores(name, 23000, stores), 0, PEER, at(now))
    };
    let first = join("a", &[store(1, "one")], 0).unwrap();
    join("b", &[store(1, "one"), store(2, "two")], 0).unwrap();
    join("deployed", &[], 0).unwrap();
    for (why, stores) in [
        ("no store in common", vec![store(3, "three")]),
        ("another store under the same key", vec![store(3, "one")]),
        ("the same store under another key", vec![store(1, "three")]),
        ("one of two is wrong", vec![store(1, "one"), store(3, "two")]),
    ] {
        let refused = join("c", &stores, 0).unwrap_err();
        assert!(matches!(refused, JoinError::OtherStores { .. }), "{why}: {refused}");
    }
    assert!(join("a", &[store(3, "three")], 0).is_err(), "b is still there");
    registry.expire(at(1000));
    let again = with_stores("a", 23000, &[store(3, "three")]);
    let again = registry.join(again, 0, PEER, at(1001)).unwrap();
    assert_eq!(again, first, "when no other is there, the stores may be new ones");
}

#[test]
fn a_store_tells_its_group_where_no_other_has_one_like_it() {
    let mut registry = registry(Rules { nodes_max: 10, ..rules() });
    let mut join = |of: &str, name, stores: &[StoreIdentity]| {
        let announcement = Announcement { group: group(of), ..with_stores(name, 23000, stores) };
        registry.join(announcement, 0, PEER, at(0)).unwrap();
    };
    join("group001", "a", &[store(1, "/srv/a"), store(2, "/srv/both")]);
    join("group001", "b", &[store(1, "/srv/a"), store(2, "/srv/both")]);
    join("group002", "c", &[store(3, "/srv/both")]);
    assert_eq!(registry.group_of_store("/srv/a"), Some(group("group001")));
    assert_eq!(registry.group_of_store("/srv/both"), None);
    assert_eq!(registry.group_of_store("/srv"), None);
}

#[test]
fn the_table_is_bounded_and_forgets() {
    let mut registry = registry(rules());
    for port in 1..=4 {
        registry.join(node("vm", port), 0, PEER, at(u64::from(port))).unwrap();
    }
    let full = registry.join(node("vm", 5), 0, PEER, at(10)).unwrap_err();
    assert_eq!(full, JoinError::TooManyNodes { limit: 4 });
    registry.expire(at(123));
    assert_eq!(counts(&registry), (2, 2, 0));
    registry.join(node("vm", 5), 0, PEER, at(123)).unwrap();
    let text = String::from_utf8(registry.groups_text(0)).unwrap();
    assert!(!text.contains(":1\n") && text.contains(":2\n"), "the longest offline went: {text}");
    registry.expire(at(3800));
    assert_eq!(registry.nodes.len(), 1, "only the last is younger than the time to forget");
    registry.expire(at(40_000));
    assert!(registry.nodes.is_empty() && registry.by_identity.is_empty());
}

#[test]
fn reports_and_drains_reach_readers() {
    let mut registry = registry(rules());
    let id = registry.join(node("vm", 23000), 0, PEER, at(0)).unwrap();
    registry.beat(id, at(0));
    registry.take_snapshot().unwrap();
    registry.report(id, Load { capacity: 100, free: 50, ..Load::default() });
    assert!(registry.take_snapshot().is_none(), "space is not for readers");
    registry.report(id, Load { read_only: true, ..Load::default() });
    assert!(registry.take_snapshot().is_some());
    registry.drain(id, true);
    assert!(registry.take_snapshot().is_some());
    registry.drain(id, true);
    registry.report(id, Load { read_only: true, ..Load::default() });
    assert!(
        registry.take_snapshot().is_none(),
        "a report does not tell a node that stops otherwise"
    );
    let status = registry.status(at(3)).remove(0);
    assert_eq!((&status["draining"], &status["seen_seconds_ago"]), (&true.into(), &3.into()));
}

#[test]
fn an_operators_drain_comes_with_joins_and_reports_and_goes_with_a_report() {
    let mut registry = registry(rules());
    let drained = Load { draining: true, ..Load::default() };
    let id = registry.join(node("vm", 23000), node_flag::DRAINING, PEER, at(0)).unwrap();
    let other = registry.join(node("vm", 23001), 0, PEER, at(0)).unwrap();
    registry.beat(id, at(0));
    registry.beat(other, at(0));
    let named = |registry: &mut Registry| -> Vec<u16> {
        let snapshot = registry.take_snapshot().unwrap();
        let view = snapshot.active(&group("group001")).unwrap();
        let located = snapshot.locate(view, &mut crate::random::Random::new(1));
        let mut ports: Vec<u16> = located.nodes.iter().map(|node| node.binary.port()).collect();
        ports.sort_unstable();
        ports
    };
    assert_eq!(named(&mut registry), [23001], "as its join says");
    registry.report(id, drained.clone());
    assert!(registry.take_snapshot().is_none(), "that was known");
    registry.report(id, Load::default());
    assert_eq!(named(&mut registry), [23000, 23001]);
    registry.report(id, drained);
    assert_eq!(named(&mut registry), [23001]);
    // One that stops and one that an operator drained are two things.
    registry.drain(other, true);
    assert_eq!(named(&mut registry), [23000, 23001], "none is left that is not drained");
    registry.drain(other, false);
    registry.drain(id, true);
    registry.drain(id, false);
    assert_eq!(
        named(&mut registry),
        [23001],
        "an operator's drain outlives a stop that is called off"
    );
}

#[test]
fn a_node_with_much_more_under_way_is_busy_and_readers_hear_of_it_once() {
    let mut registry = registry(rules());
    let ours = |port| Announcement { deployed: false, ..node("vm", port) };
    let ids = [1, 2, 3].map(|port| registry.join(ours(port), 0, PEER, at(0)).unwrap());
    assert!(ids.iter().all(|id| registry.beat(*id, at(0))));
    registry.take_snapshot().unwrap();
    let load = |in_flight| Load { in_flight, ..Load::default() };
    let busy = |registry: &Registry| -> Vec<bool> {
        registry.nodes.values().map(|node| node.busy).collect()
    };
    for (node, in_flight) in [(0, 10), (1, 20), (2, 83)] {
        registry.report(ids[node], load(in_flight));
    }
    assert!(registry.take_snapshot().is_none(), "63 above the median of 20");
    registry.report(ids[2], load(84));
    assert!(registry.take_snapshot().is_some());
    assert_eq!(busy(&registry), [false, false, true]);
    registry.report(ids[2], load(900));
    registry.report(ids[0], load(15));
    assert!(registry.take_snapshot().is_none(), "it was busy before");
    // The others have as much to do now.
    registry.report(ids[0], load(800));
    registry.report(ids[1], load(800));
    assert!(registry.take_snapshot().is_some());
    assert_eq!(busy(&registry), [false; 3]);
    registry.report(ids[2], load(2000));
    assert_eq!(busy(&registry), [false, false, true]);
    registry.expire(at(200));
    assert_eq!(busy(&registry), [false; 3], "who is away is not busy");
}

#[test]
fn pages_of_nodes_tell_what_is_known_of_each() {
    let mut registry = registry(Rules { nodes_max: 3000, ..rules() });
    for port in 1..=1001 {
        let announcement = Announcement { deployed: port > 1, ..node("vm", port) };
        let id = registry.join(announcement, 0, PEER, at(0)).unwrap();
        registry.beat(id, at(1));
    }
    let load = Load {
        capacity: 9,
        free: 4,
        in_flight: 2,
        read_only: true,
        draining: true,
        stores: vec![StoreState::Ok, StoreState::Away],
    };
    registry.report(NodeId(1), load);
    let page = registry.page(Nodes::default(), at(8));
    assert_eq!((page.nodes.len(), page.next), (NODES_PAGE_MAX, Some(1000)));
    let first = &page.nodes[0];
    assert_eq!((first.capacity, first.free, first.in_flight, first.silent_for), (9, 4, 2, 7));
    assert_eq!(first.stores, [StoreState::Ok, StoreState::Away]);
    assert_eq!(first.flags, node_flag::READ_ONLY | node_flag::DRAINING);
    assert_eq!(
        (page.nodes[1].flags, page.nodes[1].status),
        (node_flag::DEPLOYED, NodeStatus::Active)
    );
    let last = registry.page(Nodes { after: 1000 }, at(8));
    assert_eq!((last.nodes.len(), last.next), (1, None));
    assert_eq!(last.nodes[0].binary.port(), 1001);
    assert!(registry.page(Nodes { after: u64::MAX }, at(8)).nodes.is_empty());
}

#[test]
fn gateways_come_beat_and_go() {
    let mut registry = registry(rules());
    let (one, two) = ("10.0.0.1:80".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    registry.gateway(one, at(0)).unwrap();
    assert!(registry.take_snapshot().is_some());
    registry.gateway(one, at(10)).unwrap();
    assert!(registry.take_snapshot().is_none());
    registry.gateway(two, at(100)).unwrap();
    let three = "10.0.0.3:80".parse().unwrap();
    assert_eq!(registry.gateway(three, at(100)), Err(TooManyGateways { limit: 2 }));
    registry.expire(at(131));
    assert_eq!(registry.gateways(), [two]);
}

#[test]
fn groups_text_shows_every_legal_group_in_order() {
    let mut registry = registry(rules());
    let id = registry.join(node("store-a", 23000), 0, PEER, at(0)).unwrap();
    registry.beat(id, at(70));
    let text = String::from_utf8(registry.groups_text(0)).unwrap();
    assert_eq!(
        text,
        "COUNT OF GROUPS: 2\nGROUPNAME: group001\nCOUNT OF STORAGES: 1\n\
         COUNT OF ACTIVE STORAGES: 1\nVERSION: 1.0\nHOSTNAME: store-a\nADDRESS: 10.0.0.5:23000\n\
         STARTUP TIME: Thu Jan  1 00:00:01 1970\nJOIN TIME: Thu Jan  1 00:00:02 1970\n\
         BEAT TIME: Mon Mar 11 20:14:30 2024\nSTATUS: ACTIVE\nGROUPNAME: group002\n\
         COUNT OF STORAGES: 0\nCOUNT OF ACTIVE STORAGES: 0\0"
    );
}

proptest! {
    /// Whatever comes in whatever order: the indexes agree, the bounds hold, and only nodes that
    /// have beaten within the interval are handed out.
    #[test]
    fn any_sequence_of_events(
        events in prop::collection::vec((0..5_u8, 0..3_u16, 1..6_u16, 0..90_u64), 1..150),
    ) {
        let mut registry = registry(rules());
        let mut now = 0;
        for (event, name, port, pause) in events {
            now += pause;
            let name = format!("host{name}");
            match event {
                0 | 1 => {
                    let _ = registry.join(node(&name, port), 0, PEER, at(now));
                }
                2 | 3 => {
                    if let Ok(id) = registry.resolve(None, group("group001"), host(&name), PEER) {
                        registry.beat(id, at(now));
                    }
                }
                _ => {
                    registry.expire(at(now));
                    let fresh = registry
                        .nodes
                        .values()
                        .filter(|node| node.status() == NodeStatus::Active)
                        .all(|node| at(now).monotonic - node.seen <= CHECK);
                    prop_assert!(fresh);
                }
            }
            prop_assert!(registry.nodes.len() <= 4);
            prop_assert_eq!(registry.nodes.len(), registry.by_identity.len());
            for (identity, id) in &registry.by_identity {
                prop_assert_eq!(&registry.nodes[id].identity(), identity);
            }
        }
    }
}
