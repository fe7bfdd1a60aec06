//! Lengths at each limit of a frame, one past it, and far past it; layouts that must not change.

use reel_proto::{
    body::BodyError,
    command::{self, BodyRule},
    ext::{PUT_FIXED_LEN, PUT_HEAD_BYTES_MAX},
    frame::{FrameError, Header},
    idgen::IdGet,
    limits,
    name::{GroupName, HostName, IdKey, Version},
    peer::{IdBlock, IdBlockReply, JoinExt, Report, StoreIdentity, StoreReport, StoreState},
    sign,
    tracker::SaddrsReply,
};

use super::captures::hex;

#[test]
fn body_lengths_at_and_past_each_commands_limits() {
    const ANY: u64 = i64::MAX as u64;
    let envelope = sign::OVERHEAD as u64;
    for (command, min, max) in [
        (command::JOIN, 171, 171),
        (command::BEAT, 146, 146),
        (command::SADDRS, 400, 400),
        (command::GROUPS, 0, 0),
        (command::ID_GET, 2, 65),
        (command::UPLOAD, 408, ANY),
        (command::FILE_SIZE, 400, 400),
        (command::DOWNLOAD, 416, 416),
        (command::DELETE, 400, 400),
        (command::LOCATE, 2, 1024),
        (command::STAT, 2, 1024),
        (command::LIST, 2, 1024),
        (command::RESTORE, 2, 1024),
        (command::PURGE, 2, 1024),
        (command::PUT, PUT_FIXED_LEN as u64, ANY),
        (command::GET, 2, 1024),
        (command::USAGE, 2, 1024),
        (command::ID_BLOCK, 2, 8192 + envelope),
        (command::JOIN_EXT, 2, 8192 + envelope),
        (command::REPORT, 2, 8192 + envelope),
        (command::DRAIN, 2, 8192 + envelope),
        (command::GATEWAY, 2, 8192 + envelope),
    ] {
        let fits = |length| command::check_request(&Header::request(command, length)).is_ok();
        assert!(fits(min) && fits(max), "{command}");
        assert!(min == 0 || !fits(min - 1), "{command}");
        assert!(max == ANY || !(fits(max + 1) || fits(ANY)), "{command}");
    }
}

#[test]
fn every_other_command_is_unknown() {
    let known = (0..=255u8).filter(|&command| command::body_rule(command).is_some());
    let known: Vec<u8> = known.collect();
    let table = [
        10, 11, 12, 13, 40, 70, 71, 72, 73, 200, 201, 202, 203, 204, 205, 206, 207, 208, 220, 221,
        222, 223, 224,
    ];
    assert_eq!(known, table);
    let refused = command::check_request(&Header::request(100, 0));
    assert_eq!(refused, Err(FrameError::UnknownCommand { command: 100 }));
}

#[test]
fn only_content_streams() {
    for command in 0..=255 {
        let streams = matches!(command::body_rule(command), Some(BodyRule::Streamed { .. }));
        assert_eq!(streams, matches!(command, command::UPLOAD | command::PUT), "{command}");
    }
    assert_eq!(PUT_HEAD_BYTES_MAX, 929);
}

#[test]
fn keys_at_the_id_node() {
    let key = |length| [vec![b'k'; length], vec![0]].concat();
    assert!(IdGet::decode(&key(1)).is_ok());
    assert!(IdGet::decode(&key(64)).is_ok());
    assert_eq!(IdGet::decode(&key(65)), Err(BodyError::Length { want: 65, got: 66 }));
    assert!(IdGet::decode(&[b'k'; 65]).is_err(), "no NUL");
    assert!(IdGet::decode(b"\0").is_err(), "no key");
    // Padded to the whole width, garbage in the tail.
    let mut padded = vec![0xA5; 65];
    padded[..8].copy_from_slice(b"../data\0");
    assert_eq!(IdGet::decode(&padded).unwrap().key.as_str(), "../data");
}

#[test]
fn addresses_in_a_saddrs_reply() {
    let reply = |list: &str| {
        let mut body = hex("67726f7570303031 9*00");
        body.extend_from_slice(list.as_bytes());
        body.push(0);
        SaddrsReply::decode(&body).map(|reply| reply.nodes.len())
    };
    assert_eq!(reply(""), Ok(0));
    assert_eq!(reply("10.0.0.1:1;10.0.0.2:2;10.0.0.3:3;"), Ok(3));
    assert_eq!(reply("[::1]:23000;"), Ok(1));
    assert!(reply("10.0.0.1:1;10.0.0.2:2;10.0.0.3:3;10.0.0.4:4;").is_err());
    assert!(reply("10.0.0.1;").is_err());
    assert!(reply("10.0.0.1:1;;10.0.0.2:2;").is_err());
    assert!(reply("10.0.0.1:65536;").is_err());
    assert!(reply(&"10.0.0.1:1;".repeat(10_000)).is_err());
    // A writer never sends more than three.
    let many = SaddrsReply {
        group: GroupName::parse("g").unwrap(),
        nodes: vec!["[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]:65535".parse().unwrap(); 9],
    };
    let mut body = Vec::new();
    many.encode(&mut body);
    assert!(body.len() as u64 <= limits::SADDRS_REPLY_BYTES_MAX);
    assert_eq!(SaddrsReply::decode(&body).unwrap().nodes.len(), 3);
}

#[test]
fn blocks_of_ids() {
    let block = |count| {
        let mut bytes = Vec::new();
        IdBlock { key: IdKey::parse("k").unwrap(), count, at_least: 0 }.encode(&mut bytes);
        IdBlock::decode(&bytes).is_ok()
    };
    assert!(block(1) && block(limits::ID_BLOCK_COUNT_MAX));
    assert!(!block(0) && !block(limits::ID_BLOCK_COUNT_MAX + 1) && !block(u64::MAX));
    const PAST: u64 = 512 * 512 * 512 * 512;
    for (start, end, legal) in [
        (0, 1, true),
        (PAST - 1, PAST, true),
        (PAST, PAST + 1, false),
        (5, 5, false),
        (6, 5, false),
        (0, u64::MAX, false),
    ] {
        let mut bytes = Vec::new();
        IdBlockReply { start, end }.encode(&mut bytes);
        assert_eq!(IdBlockReply::decode(&bytes).is_ok(), legal, "{start}..{end}");
    }
}

#[test]
fn the_longest_messages_between_nodes_fit() {
    let store = StoreIdentity { uuid: [7; 16], key: IdKey::parse(&"k".repeat(64)).unwrap() };
    let join = JoinExt {
        version: Version::parse("123456").unwrap(),
        group: GroupName::parse(&"g".repeat(16)).unwrap(),
        host: HostName::parse(&"h".repeat(128)).unwrap(),
        started_at: 0,
        joined_at: 0,
        advertised: "[::]:1".parse().unwrap(),
        media_port: Some(1),
        flags: 0,
        stores: vec![store; limits::STORES_MAX + 1],
    };
    let mut bytes = Vec::new();
    join.encode(&mut bytes);
    assert!(bytes.len() as u64 <= limits::PEER_REQUEST_BYTES_MAX);
    assert_eq!(JoinExt::decode(&bytes).unwrap().stores.len(), limits::STORES_MAX);
    let report = StoreReport { capacity: 1, free: 1, state: StoreState::Ok };
    let mut bytes = Vec::new();
    Report { flags: 0, load: 0, stores: vec![report; limits::STORES_MAX] }.encode(&mut bytes);
    assert_eq!(Report::decode(&bytes).unwrap().stores.len(), limits::STORES_MAX);
    // One store more than the limit: refused before anything of it is read.
    bytes[6] = limits::STORES_MAX as u8 + 1;
    assert_eq!(Report::decode(&bytes), Err(BodyError::Value { field: "count of stores" }));
}

#[test]
fn ports_of_zero_are_refused() {
    let join = |port, media_port| {
        let mut bytes = Vec::new();
        let join = JoinExt {
            version: Version::parse("1").unwrap(),
            group: GroupName::parse("g").unwrap(),
            host: HostName::parse("h").unwrap(),
            started_at: 0,
            joined_at: 0,
            advertised: ([127, 0, 0, 1], port).into(),
            media_port,
            flags: 0,
            stores: vec![],
        };
        join.encode(&mut bytes);
        JoinExt::decode(&bytes).is_ok()
    };
    assert!(join(1, None) && join(1, Some(1)));
    assert!(!join(0, None) && !join(1, Some(0)));
}
