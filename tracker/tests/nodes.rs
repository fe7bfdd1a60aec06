//! Storage nodes and gateways as the tracker keeps them, over real sockets: who is handed out, who
//! is refused, and what a restart forgets.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use reel_node::config::{HumanTime, NodeConfig};
use reel_proto::command;
use reel_proto::ext::{Locate, NodesReply, node_flag};
use reel_proto::name::{FileId, IdKey, UserId};
use reel_proto::peer::{
    DrainNode, GatewayBeat, JoinExt, Report, StoreIdentity, StoreReport, StoreState,
};
use reel_proto::refusal::Refusal;
use reel_proto::tracker::groups::NodeStatus;
use reel_tracker::Config;
use support::{Client, Tracker, config, eventually, node_config, peer};

fn ports(client: &mut Client) -> Vec<u16> {
    let reply = client.saddrs("tnvideo", "tnv001").unwrap();
    reply.nodes.iter().map(SocketAddr::port).collect()
}

fn page(tracker: &Tracker, path: &str) -> String {
    let mut stream = TcpStream::connect(tracker.admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn rich(host: &str, port: u16, store: u8) -> JoinExt {
    JoinExt {
        version: "2.0".parse().unwrap(),
        group: "group001".parse().unwrap(),
        host: host.parse().unwrap(),
        started_at: 1,
        joined_at: 2,
        advertised: SocketAddr::from(([0, 0, 0, 0], port)),
        media_port: Some(port + 80),
        flags: 0,
        stores: vec![StoreIdentity { uuid: [store; 16], key: IdKey::parse("/data").unwrap() }],
    }
}

#[test]
fn at_most_three_active_nodes_from_a_random_start() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let mut nodes: Vec<Client> = (0..5).map(|_| tracker.connect()).collect();
    for (node, port) in nodes.iter_mut().zip(1..) {
        node.appear("group001", "vm", port);
    }
    tracker.connect().join("group001", "vm", 6).unwrap(); // online only
    let mut client = tracker.connect();
    let mut starts = HashSet::new();
    for _ in 0..100 {
        let ports = ports(&mut client);
        assert_eq!(ports.len(), 3);
        assert!(ports.iter().all(|port| (1..=5).contains(port)), "{ports:?}");
        starts.insert(ports[0]);
    }
    assert_eq!(starts.len(), 5, "each is first at times");
}

#[test]
fn a_silent_node_goes_offline_and_a_beat_brings_it_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        check_interval: HumanTime(Duration::from_millis(300)),
        beat_interval: HumanTime(Duration::from_millis(50)),
        ..config()
    };
    let tracker = Tracker::start_with(folder.path(), &config, &node_config());
    let (mut silent, mut alive) = (tracker.connect(), tracker.connect());
    silent.appear("group001", "vm", 1);
    alive.appear("group001", "vm", 2);
    let mut client = tracker.connect();
    eventually("only the beating node is left", || {
        alive.beat("group001", "vm").unwrap();
        let reply = client.saddrs("tnvideo", "tnv001");
        reply.is_ok_and(|reply| reply.nodes.len() == 1 && reply.nodes[0].port() == 2)
    });
    assert!(client.groups().contains("STATUS: OFFLINE"));
    eventually("a beat brings it back", || {
        silent.beat("group001", "vm").unwrap();
        alive.beat("group001", "vm").unwrap();
        client.saddrs("tnvideo", "tnv001").is_ok_and(|reply| reply.nodes.len() == 2)
    });
    eventually("no node is left", || client.saddrs("tnvideo", "tnv001").is_err());
}

#[test]
fn a_beat_belongs_to_the_join_of_its_connection() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let (mut one, mut two) = (tracker.connect(), tracker.connect());
    one.join("group001", "vm", 1).unwrap();
    // The only node of that name and address: a beat on another connection finds it.
    assert!(tracker.connect().beat("group001", "vm").is_ok());
    two.join("group001", "vm", 2).unwrap();
    let mut client = tracker.connect();
    assert_eq!(ports(&mut client), [1], "two has not beaten");
    let ambiguous = tracker.connect().beat("group001", "vm").unwrap_err();
    assert!(ambiguous.text.contains("several nodes"), "{ambiguous:?}");
    two.beat("group001", "vm").unwrap();
    assert_eq!(ports(&mut client).len(), 2);
    assert!(two.beat("group001", "other").is_err(), "another name than it joined with");
    assert!(two.beat("group002", "vm").is_err(), "another group");
}

#[test]
fn a_restarted_tracker_refuses_beats_until_nodes_join_again_and_keeps_routes() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { groups: vec!["a".to_owned(), "b".to_owned()], ..config() };
    let tracker = Tracker::start_with(folder.path(), &config, &node_config());
    tracker.connect().appear("a", "vm", 1);
    let mut client = tracker.connect();
    for user in ["u1", "u2", "u3"] {
        assert_eq!(client.saddrs("tnvideo", user).unwrap().group.as_str(), "a", "only a is active");
    }
    tracker.stop();
    let tracker = Tracker::start_with(folder.path(), &config, &node_config());
    let mut node = tracker.connect();
    assert!(node.beat("a", "vm").is_err(), "join first");
    node.appear("a", "vm", 1);
    tracker.connect().appear("b", "vm", 2);
    let mut client = tracker.connect();
    for user in ["u1", "u2", "u3"] {
        assert_eq!(client.saddrs("tnvideo", user).unwrap().group.as_str(), "a", "as recorded");
    }
    let given: HashSet<String> = (0..40)
        .map(|user| client.saddrs("tnvideo", &format!("new{user}")).unwrap().group.to_string())
        .collect();
    assert_eq!(given.len(), 2, "new users are spread over both");
}

#[test]
fn a_user_of_a_group_without_active_nodes_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config {
        groups: vec!["a".to_owned(), "b".to_owned()],
        check_interval: HumanTime(Duration::from_millis(200)),
        beat_interval: HumanTime(Duration::from_millis(50)),
        ..config()
    };
    let tracker = Tracker::start_with(folder.path(), &config, &node_config());
    tracker.connect().appear("a", "vm", 1);
    let mut client = tracker.connect();
    client.saddrs("tnvideo", "old").unwrap();
    let mut other = tracker.connect();
    other.appear("b", "vm", 2);
    eventually("the group of the old user is silent", || {
        other.beat("b", "vm").unwrap();
        client.saddrs("tnvideo", "old").is_err()
    });
    let error = client.saddrs("tnvideo", "old").unwrap_err();
    assert!(error.text.contains("no storage node of a"), "{error:?}");
    eventually("a new user gets the other group", || {
        other.beat("b", "vm").unwrap();
        client.saddrs("tnvideo", "new").is_ok_and(|reply| reply.group.as_str() == "b")
    });
}

#[test]
fn many_trackers_meet_the_same_new_users_and_agree() {
    const TRACKERS: usize = 4;
    const CLIENTS: usize = 4;
    const USERS: usize = 30;
    let folder = tempfile::tempdir().unwrap();
    let groups = ["a", "b", "c"].map(str::to_owned).to_vec();
    let config = Config { groups, ..config() };
    let trackers: Vec<Tracker> = (0..TRACKERS)
        .map(|_| Tracker::start_with(folder.path(), &config, &node_config()))
        .collect();
    for tracker in &trackers {
        tracker.connect().appear("a", "vm", 1);
        tracker.connect().appear("b", "vm", 2);
    }
    let answers: Vec<Vec<String>> = std::thread::scope(|scope| {
        let clients: Vec<_> = trackers
            .iter()
            .cycle()
            .take(TRACKERS * CLIENTS)
            .map(|tracker| {
                scope.spawn(move || {
                    let mut client = tracker.connect();
                    (0..USERS)
                        .map(|user| {
                            let reply = client.saddrs("tnvideo", &format!("user{user}")).unwrap();
                            reply.group.to_string()
                        })
                        .collect()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "one group for each user");
    assert!(answers[0].iter().all(|group| group != "c"), "only groups with an active node");
}

#[test]
fn with_embedded_metadata_there_is_one_node_and_one_group() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config { embedded: true, ..config() };
    let tracker = Tracker::start_with(folder.path(), &config, &node_config());
    let file = Some(FileId::parse("f1").unwrap());
    let mut client = tracker.connect();
    let early = client.locate(&Locate { file, ..Locate::default() }).unwrap_err();
    assert_eq!(Refusal::of(early.number), Refusal::NoActiveNode);

    let mut node = tracker.connect();
    node.peer(command::JOIN_EXT, |out| rich("vm", 1, 7).encode(out)).unwrap();
    node.beat("group001", "vm").unwrap();
    let second = tracker.connect().join("group001", "vm2", 2).unwrap_err();
    assert!(second.text.contains("MySQL"), "{second:?}");
    let second =
        tracker.connect().peer(command::JOIN_EXT, |out| rich("vm2", 2, 8).encode(out)).unwrap_err();
    assert!(second.text.contains("MySQL"), "{second:?}");
    assert!(node.beat("group001", "vm").is_ok(), "the first one goes on");

    let located = client.locate(&Locate { file, ..Locate::default() }).unwrap();
    assert_eq!(located.group.as_str(), "group001");
    assert_eq!(located.nodes[0].binary, "127.0.0.1:1".parse().unwrap());
    assert_eq!(located.nodes[0].media, Some("127.0.0.1:81".parse().unwrap()));
    assert_eq!(located.nodes[0].flags, 0);

    let mut moved = tracker.connect();
    moved.peer(command::JOIN_EXT, |out| rich("vm", 3, 7).encode(out)).unwrap();
    moved.beat("group001", "vm").unwrap();
    assert_eq!(ports(&mut client), [3], "the same store at another port");
}

#[test]
fn locate_routes_users_and_leaves_strangers_alone() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    tracker.connect().appear("group001", "vm", 1);
    let mut client = tracker.connect();
    let user = |name| Some(UserId::parse(name).unwrap());
    let file = Some(FileId::parse("f1").unwrap());
    let unknown = Locate { user: user("stranger"), file, app: None };
    let refused = client.locate(&unknown).unwrap_err();
    assert_eq!(Refusal::of(refused.number), Refusal::NoSuchFile, "no group, so no files");
    let routed = client.locate(&Locate { user: user("u1"), ..Locate::default() }).unwrap();
    assert_eq!(routed.group.as_str(), "group001");
    assert_eq!((routed.nodes[0].media, routed.nodes[0].flags), (None, node_flag::DEPLOYED));
    assert!(client.locate(&Locate { user: user("u1"), file, app: None }).is_ok(), "now known");
    let app = Some("other".parse().unwrap());
    let refused = client.locate(&Locate { app, user: user("u1"), file }).unwrap_err();
    assert_eq!(Refusal::of(refused.number), Refusal::UnknownApp);
    let refused = client.locate(&Locate { file, ..Locate::default() }).unwrap_err();
    assert_eq!(Refusal::of(refused.number), Refusal::NoActiveNode, "several groups: needs a user");
}

#[test]
fn reports_drains_and_gateways() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let report = Report {
        flags: node_flag::READ_ONLY,
        load: 3,
        stores: vec![StoreReport { capacity: 1000, free: 400, state: StoreState::Full }],
    };
    let (mut one, mut two) = (tracker.connect(), tracker.connect());
    let early = one.peer(command::REPORT, |out| report.encode(out)).unwrap_err();
    assert!(early.text.contains("join first"), "{early:?}");
    for (node, port) in [(&mut one, 1), (&mut two, 2)] {
        node.peer(command::JOIN_EXT, |out| rich("vm", port, 7).encode(out)).unwrap();
        node.beat("group001", "vm").unwrap();
    }
    one.peer(command::REPORT, |out| report.encode(out)).unwrap();
    two.peer(command::DRAIN, |out| DrainNode { on: true }.encode(out)).unwrap();
    let mut client = tracker.connect();
    for _ in 0..20 {
        assert_eq!(ports(&mut client), [1], "who is about to stop is not handed out");
    }
    two.peer(command::DRAIN, |out| DrainNode { on: false }.encode(out)).unwrap();
    assert_eq!(ports(&mut client).len(), 2);

    let advertised = "0.0.0.0:8080".parse().unwrap();
    tracker.connect().peer(command::GATEWAY, |out| GatewayBeat { advertised }.encode(out)).unwrap();
    let user = Some(UserId::parse("tnv001").unwrap());
    let located = client.locate(&Locate { user, ..Locate::default() }).unwrap();
    assert_eq!(located.gateways, ["127.0.0.1:8080".parse().unwrap()], "of the connection");
    let read_only: Vec<u16> = located
        .nodes
        .iter()
        .filter(|node| node.flags & node_flag::READ_ONLY != 0)
        .map(|node| node.binary.port())
        .collect();
    assert_eq!(read_only, [1]);

    let page = |path| page(&tracker, path);
    assert!(page("/readyz").starts_with("HTTP/1.1 200"));
    let status = page("/status");
    assert!(status.contains("free_bytes") && status.contains("400"), "{status}");
    assert!(page("/metrics").contains("reel_tracker_requests_total{"));
}

#[test]
fn nodes_are_listed_with_space_load_and_state() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let mut client = tracker.connect();
    assert_eq!(client.nodes(0), NodesReply { next: None, nodes: Vec::new() });
    let (mut ours, mut old) = (tracker.connect(), tracker.connect());
    let join = JoinExt { flags: node_flag::DRAINING, ..rich("ours", 1, 7) };
    ours.peer(command::JOIN_EXT, |out| join.encode(out)).unwrap();
    old.appear("group001", "old", 2);
    let listed = client.nodes(0).nodes;
    let [first, second] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((first.host.as_str(), first.status), ("ours", NodeStatus::Online));
    assert_eq!((first.flags, &first.stores[..]), (node_flag::DRAINING, &[][..]));
    assert_eq!(first.media.map(|media| media.port()), Some(81));
    assert_eq!((second.host.as_str(), second.status), ("old", NodeStatus::Active));
    assert_eq!((second.flags, second.media), (node_flag::DEPLOYED, None));

    let store = StoreReport { capacity: 1000, free: 400, state: StoreState::Away };
    let report = Report { flags: 0, load: 3, stores: vec![store] };
    ours.beat("group001", "ours").unwrap();
    ours.peer(command::REPORT, |out| report.encode(out)).unwrap();
    let listed = client.nodes(0).nodes;
    let first = &listed[0];
    assert_eq!((first.capacity, first.free, first.in_flight), (1000, 400, 3));
    assert_eq!((first.flags, &first.stores[..]), (0, &[StoreState::Away][..]));
    assert_eq!(client.nodes(1).nodes, listed[1..]);
    assert!(page(&tracker, "/metrics").contains("kind=\"nodes\",result=\"ok\"} 4"));
}

#[test]
fn a_node_with_much_more_under_way_is_named_after_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let mut nodes = [tracker.connect(), tracker.connect(), tracker.connect()];
    for (node, (port, load)) in nodes.iter_mut().zip([(1, 5), (2, 500), (3, 5)]) {
        node.peer(command::JOIN_EXT, |out| rich("vm", port, 7).encode(out)).unwrap();
        node.beat("group001", "vm").unwrap();
        let report = Report { flags: 0, load, stores: Vec::new() };
        node.peer(command::REPORT, |out| report.encode(out)).unwrap();
    }
    let mut client = tracker.connect();
    let mut firsts = HashSet::new();
    for _ in 0..100 {
        let ports = ports(&mut client);
        assert_eq!(ports[2], 2, "{ports:?}");
        firsts.insert(ports[0]);
    }
    assert_eq!(firsts, HashSet::from([1, 3]));
    let user = Some(UserId::parse("tnv001").unwrap());
    let located = client.locate(&Locate { user, ..Locate::default() }).unwrap();
    let flags: Vec<u8> = located.nodes.iter().map(|node| node.flags).collect();
    assert_eq!(flags, [0, 0, node_flag::BUSY]);
}

#[test]
fn nodes_of_one_group_with_other_stores_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    let mut node = tracker.connect();
    node.peer(command::JOIN_EXT, |out| rich("a", 1, 7).encode(out)).unwrap();
    node.beat("group001", "a").unwrap();
    let refused =
        tracker.connect().peer(command::JOIN_EXT, |out| rich("b", 2, 8).encode(out)).unwrap_err();
    assert!(refused.text.contains("stores"), "{refused:?}");
    assert!(tracker.connect().peer(command::JOIN_EXT, |out| rich("b", 2, 7).encode(out)).is_ok());
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
    let tracker = Tracker::start_with(folder.path(), &config(), &node_config);
    let join =
        |secret, nonce| peer(secret, nonce, command::JOIN_EXT, |out| rich("vm", 1, 7).encode(out));
    let signed = join(Some(&secret[..]), 1);
    let mut node = tracker.connect();
    for (why, request) in [
        ("unsigned", join(None, 2)),
        ("another secret", join(Some(b"not the secret of this one"), 3)),
    ] {
        assert!(node.ask(&request).is_err(), "{why}");
    }
    assert!(node.ask(&signed).is_ok());
    assert!(tracker.connect().ask(&signed).is_err(), "the very same again");
    assert!(node.beat("group001", "vm").is_ok(), "deployed commands need no signature");
}

#[test]
fn known_users_are_served_while_the_database_is_out() {
    let folder = tempfile::tempdir().unwrap();
    let tracker = Tracker::start(folder.path());
    tracker.connect().appear("group001", "vm", 1);
    let mut client = tracker.connect();
    client.saddrs("tnvideo", "known").unwrap();
    // Another writer holds the file for longer than the busy timeout.
    let other = rusqlite::Connection::open(folder.path().join("tracker.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    // Many wait at once: each for one busy timeout, not for those of all before it.
    let mut waiting: Vec<Client> = (0..20).map(|_| tracker.connect()).collect();
    for (number, client) in waiting.iter_mut().enumerate() {
        client.send(&support::saddrs("tnvideo", &format!("new{number}")));
    }
    for _ in 0..50 {
        client.saddrs("tnvideo", "known").unwrap();
    }
    for client in &mut waiting {
        let error = client.receive().unwrap().unwrap_err();
        assert!(error.text.contains("busy"), "{error:?}");
    }
    assert!(page(&tracker, "/readyz").starts_with("HTTP/1.1 503"));
    other.execute_batch("ROLLBACK").unwrap();
    for (number, client) in waiting.iter_mut().enumerate() {
        assert!(client.saddrs("tnvideo", &format!("new{number}")).is_ok());
    }
    assert!(page(&tracker, "/readyz").starts_with("HTTP/1.1 200"));
}
