//! The layouts of our own commands, as docs/wire-protocol.md draws them: these bytes never change under their version.

use reel_proto::{
    ext::{
        self, Cursor, FileStat, FileStatus, Get, GetHead, List, ListReply, Listed, Locate, Located,
        NodeAddr, NodeInfo, Nodes, NodesReply, Purge, PurgeReply, PutHead, PutOutcome, PutReply,
        Selection, StatusFilter, Tally, Usage, UsageReply, node_flag,
    },
    name::{AppId, FileId, GroupName, HostName, IdKey, UserId, Version},
    peer::{
        DrainNode, DrainReply, GatewayBeat, IdBlock, IdBlockReply, JoinExt, OperatorDrain, Report,
        StoreIdentity, StoreReport, StoreState,
    },
    storage::FileRef,
    tracker::groups::NodeStatus,
};

use super::captures::hex;

/// `tnvideo`, `tnv001`, `f1` in the fixed-width fields of the old commands.
const FILE_REF: &str = "746e766964656f 9*00 746e76303031 250*00 6631 126*00";

fn file() -> FileRef {
    FileRef {
        app: AppId::parse("tnvideo").unwrap(),
        user: UserId::parse("tnv001").unwrap(),
        file: FileId::parse("f1").unwrap(),
    }
}

fn same(encode: impl FnOnce(&mut Vec<u8>), expected: &str) {
    let mut bytes = Vec::new();
    encode(&mut bytes);
    assert_eq!(bytes, hex(expected));
}

#[test]
fn locate() {
    let FileRef { app, user, file } = file();
    let whole = Locate { app: Some(app), user: Some(user), file: Some(file) };
    same(|out| whole.encode(out), "01 01 07 746e766964656f 01 06 746e76303031 01 02 6631");
    let bare = Locate { app: None, user: None, file: Some(file) };
    same(|out| bare.encode(out), "01 00 00 01 02 6631");
    let located = Located {
        group: GroupName::parse("group001").unwrap(),
        nodes: vec![
            NodeAddr {
                binary: "10.0.0.5:23000".parse().unwrap(),
                media: Some("10.0.0.5:23080".parse().unwrap()),
                flags: node_flag::READ_ONLY,
            },
            NodeAddr {
                binary: "[::1]:23000".parse().unwrap(),
                media: None,
                flags: node_flag::DEPLOYED,
            },
        ],
        gateways: vec!["10.0.0.9:8080".parse().unwrap()],
    };
    same(
        |out| located.encode(out),
        "01 08 67726f7570303031 02 04 0a000005 59d8 01 04 0a000005 5a28 01 \
         06 15*00 01 59d8 00 02 01 04 0a000009 1f90",
    );
}

fn stat() -> FileStat {
    FileStat {
        path_id: 513,
        size: 4096,
        checksum: Some(0xAE8B_1486_0A79_9888),
        created_at: 0x65F1_560C,
        status: FileStatus::Deleted,
        deleted_at: Some(0x65F1_5700),
        expires_at: None,
        name: Some("a.mp4".into()),
        content_type: None,
        store: "../data".into(),
    }
}

const STAT: &str = "0000000000000201 0000000000001000 01 ae8b14860a799888 0000000065f1560c 01 \
     01 0000000065f15700 00 01 05 612e6d7034 00 07 2e2e2f64617461";

#[test]
fn stat_and_restore() {
    same(|out| ext::encode_file(&file(), out), &format!("01 {FILE_REF}"));
    same(|out| stat().encode(out), &format!("01 {STAT}"));
}

/// App, user, states and a cursor.
const OF_LISTING: &str = "07 746e766964656f 01 06 746e76303031 02 01 0000000065f15600 00";
const CURSOR: &str = "01 0000000065f1560c 02 0000000000000201 02 6631";

#[test]
fn list() {
    let FileRef { app, user, file } = file();
    let of = Selection { since: Some(0x65F1_5600), ..Selection::of_user(app, user) };
    let cursor = Some(Cursor { time: 0x65F1_560C, part: 2, order: 513, file: "f1".to_owned() });
    let list = List { of, after: cursor.clone(), limit: 1000 };
    same(|out| list.encode(out), &format!("02 {OF_LISTING} {CURSOR} 03e8"));
    let of = Selection { filter: StatusFilter::Deleted, ..Selection::of_app(app) };
    let list = List { of, after: None, limit: 1 };
    same(|out| list.encode(out), "02 07 746e766964656f 00 01 00 00 00 0001");
    let files = vec![Listed { user, file, stat: stat() }];
    let reply = ListReply { next: cursor, left_out: 3, files };
    let entry = format!("06 746e76303031 02 6631 {STAT}");
    same(|out| reply.encode(out), &format!("02 {CURSOR} 0003 0001 {entry}"));
}

#[test]
fn usage() {
    let FileRef { app, user, .. } = file();
    let of = Selection { since: Some(0x65F1_5600), ..Selection::of_user(app, user) };
    let after = Some(Cursor { time: 0x65F1_560C, part: 2, order: 513, file: "f1".to_owned() });
    let usage = Usage { of, after };
    same(|out| usage.encode(out), &format!("01 {OF_LISTING} {CURSOR}"));
    let normal = Tally { files: 3, bytes: 0x1000 };
    let reply = UsageReply { next: None, normal, deleted: Tally { files: 1, bytes: 5 } };
    same(
        |out| reply.encode(out),
        "01 00 0000000000000003 0000000000001000 0000000000000001 0000000000000005",
    );
}

#[test]
fn purge() {
    same(|out| Purge::File(file()).encode(out), &format!("01 00 {FILE_REF}"));
    let FileRef { app, user, .. } = file();
    let all = Purge::AllDeleted { app, user };
    same(|out| all.encode(out), "01 01 07 746e766964656f 06 746e76303031");
    let reply = PurgeReply { purged: 3, more: false };
    same(|out| reply.encode(out), "01 0000000000000003 00");
}

#[test]
fn put() {
    let head = PutHead {
        file: file(),
        size: 9,
        expires_at: Some(0x65F1_5700),
        name: Some("a.mp4"),
        content_type: None,
    };
    let layout = "0000000000000009 0000000065f15700 05 612e6d7034 00";
    same(|out| head.encode(out), &format!("01 {FILE_REF} {layout}"));
    let reply = PutReply {
        outcome: PutOutcome::Same,
        path_id: 513,
        size: 9,
        checksum: 0xAE8B_1486_0A79_9888,
    };
    same(|out| reply.encode(out), "01 01 0000000000000201 0000000000000009 ae8b14860a799888");
}

#[test]
fn get() {
    let get = Get { file: file(), offset: 5, size: 0 };
    same(|out| get.encode(out), &format!("01 {FILE_REF} 0000000000000005 0000000000000000"));
    let head =
        GetHead { file_size: 9, checksum: Some(0xAE8B_1486_0A79_9888), path_id: 513, length: 4 };
    same(
        |out| head.encode(out),
        "01 0000000000000009 01 ae8b14860a799888 0000000000000201 0000000000000004",
    );
}

#[test]
fn id_block() {
    let block = IdBlock { key: IdKey::parse("../data").unwrap(), count: 1024, at_least: 512 };
    same(|out| block.encode(out), "01 07 2e2e2f64617461 0000000000000400 0000000000000200");
    let reply = IdBlockReply { start: 512, end: 1536 };
    same(|out| reply.encode(out), "01 0000000000000200 0000000000000600");
}

#[test]
fn join_ext() {
    let join = JoinExt {
        version: Version::parse("0.1.0").unwrap(),
        group: GroupName::parse("group001").unwrap(),
        host: HostName::parse("vm").unwrap(),
        started_at: 1,
        joined_at: 2,
        advertised: "10.0.0.5:23000".parse().unwrap(),
        media_port: Some(23080),
        flags: node_flag::READ_ONLY,
        stores: vec![StoreIdentity { uuid: [0xAB; 16], key: IdKey::parse("/d").unwrap() }],
    };
    same(
        |out| join.encode(out),
        "01 05 302e312e30 08 67726f7570303031 02 766d 0000000000000001 0000000000000002 \
         04 0a000005 59d8 01 5a28 01 01 16*ab 02 2f64",
    );
}

#[test]
fn report_drain_gateway() {
    let store = StoreReport { capacity: 256, free: 16, state: StoreState::Full };
    let report = Report { flags: node_flag::READ_ONLY, load: 3, stores: vec![store] };
    same(|out| report.encode(out), "01 01 00000003 01 0000000000000100 0000000000000010 01");
    same(|out| DrainNode { on: true }.encode(out), "01 01");
    let drain = OperatorDrain { host: HostName::parse("vm").unwrap(), on: true };
    same(|out| drain.encode(out), "01 02 766d 01");
    same(|out| DrainReply { under_way: 3 }.encode(out), "01 00000003");
    let gateway = GatewayBeat { advertised: "10.0.0.9:8080".parse().unwrap() };
    same(|out| gateway.encode(out), "01 04 0a000009 1f90");
}

#[test]
fn nodes() {
    same(|out| Nodes { after: 0 }.encode(out), "01 0000000000000000");
    let ours = NodeInfo {
        group: GroupName::parse("group001").unwrap(),
        host: HostName::parse("vm").unwrap(),
        version: Version::parse("0.1.0").unwrap(),
        binary: "10.0.0.5:23000".parse().unwrap(),
        media: Some("10.0.0.5:23080".parse().unwrap()),
        status: NodeStatus::Active,
        flags: node_flag::DRAINING | node_flag::BUSY,
        capacity: 256,
        free: 16,
        in_flight: 3,
        silent_for: 7,
        stores: vec![StoreState::Ok, StoreState::Away],
    };
    let deployed = NodeInfo {
        host: HostName::parse("old").unwrap(),
        version: Version::parse("1.0").unwrap(),
        binary: "[::1]:23000".parse().unwrap(),
        media: None,
        status: NodeStatus::Offline,
        flags: node_flag::DEPLOYED,
        capacity: 0,
        free: 0,
        in_flight: 0,
        silent_for: 121,
        stores: Vec::new(),
        ..ours.clone()
    };
    let reply = NodesReply { next: Some(2), nodes: vec![ours, deployed] };
    same(
        |out| reply.encode(out),
        "01 01 0000000000000002 0002 \
         08 67726f7570303031 02 766d 05 302e312e30 04 0a000005 59d8 01 04 0a000005 5a28 02 0c \
         0000000000000100 0000000000000010 00000003 00000007 02 00 04 \
         08 67726f7570303031 03 6f6c64 03 312e30 06 15*00 01 59d8 00 00 02 \
         0000000000000000 0000000000000000 00000000 00000079 00",
    );
}
