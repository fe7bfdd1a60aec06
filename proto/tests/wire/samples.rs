//! Arbitrary values of every type that goes over the wire.

use std::net::{IpAddr, SocketAddr};

use proptest::{collection::vec, option, prelude::*};
use reel_proto::{
    ext::{
        Cursor, FileStat, FileStatus, Get, GetHead, List, ListReply, Listed, Locate, Located,
        NodeAddr, NodeInfo, Nodes, NodesReply, Purge, PurgeReply, PutOutcome, PutReply, Selection,
        StatusFilter, Tally, Usage, UsageReply,
    },
    idgen::IdGet,
    name::{AppId, FileId, GroupName, HostName, IdKey, UserId, Version},
    peer::{
        DrainNode, DrainReply, GatewayBeat, IdBlock, IdBlockReply, JoinExt, OperatorDrain, Report,
        StoreIdentity, StoreReport, StoreState,
    },
    storage::{Download, FileRef},
    tracker::{Beat, Join, Saddrs, SaddrsReply, groups::NodeStatus},
};

pub(crate) fn app() -> impl Strategy<Value = AppId> {
    "[A-Za-z0-9]{1,15}".prop_map(|text| AppId::parse(&text).unwrap())
}

pub(crate) fn user() -> impl Strategy<Value = UserId> {
    "[^\\x00]{0,128}".prop_filter_map("more than 255 bytes", |text| UserId::parse(&text).ok())
}

pub(crate) fn file() -> impl Strategy<Value = FileId> {
    "[^/\\pC]{1,40}".prop_filter_map("a control character", |text| FileId::parse(&text).ok())
}

pub(crate) fn group() -> impl Strategy<Value = GroupName> {
    "[A-Za-z0-9]{1,16}".prop_map(|text| GroupName::parse(&text).unwrap())
}

pub(crate) fn host() -> impl Strategy<Value = HostName> {
    "[!-~]{1,128}".prop_map(|text| HostName::parse(&text).unwrap())
}

fn version() -> impl Strategy<Value = Version> {
    "[!-~]{0,6}".prop_map(|text| Version::parse(&text).unwrap())
}

fn key() -> impl Strategy<Value = IdKey> {
    "[ -~]{1,64}".prop_map(|text| IdKey::parse(&text).unwrap())
}

fn short_text() -> impl Strategy<Value = String> {
    "[^\\pC]{0,60}"
}

fn socket() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), 1..=u16::MAX).prop_map(SocketAddr::from)
}

pub(crate) fn file_ref() -> impl Strategy<Value = FileRef> {
    (app(), user(), file()).prop_map(|(app, user, file)| FileRef { app, user, file })
}

pub(crate) fn download() -> impl Strategy<Value = Download> {
    (file_ref(), any::<u64>(), any::<u64>()).prop_map(|(file, offset, size)| Download {
        file,
        offset,
        size,
    })
}

pub(crate) fn join() -> impl Strategy<Value = Join> {
    (version(), group(), host(), any::<(u16, u64, u64)>()).prop_map(
        |(version, group, host, rest)| Join {
            version,
            group,
            host,
            port: rest.0,
            started_at: rest.1,
            joined_at: rest.2,
        },
    )
}

pub(crate) fn beat() -> impl Strategy<Value = Beat> {
    (group(), host()).prop_map(|(group, host)| Beat { group, host })
}

pub(crate) fn saddrs() -> impl Strategy<Value = Saddrs> {
    (app(), user()).prop_map(|(app, user)| Saddrs { app, user })
}

pub(crate) fn saddrs_reply() -> impl Strategy<Value = SaddrsReply> {
    (group(), vec(socket(), 0..=3)).prop_map(|(group, nodes)| SaddrsReply { group, nodes })
}

pub(crate) fn id_get() -> impl Strategy<Value = IdGet> {
    key().prop_map(|key| IdGet { key })
}

pub(crate) fn locate() -> impl Strategy<Value = Locate> {
    (option::of(app()), option::of(user()), option::of(file()))
        .prop_map(|(app, user, file)| Locate { app, user, file })
}

pub(crate) fn located() -> impl Strategy<Value = Located> {
    let node = (socket(), option::of(socket()), any::<u8>())
        .prop_map(|(binary, media, flags)| NodeAddr { binary, media, flags });
    (group(), vec(node, 0..=16), vec(socket(), 0..=16))
        .prop_map(|(group, nodes, gateways)| Located { group, nodes, gateways })
}

pub(crate) fn file_stat() -> impl Strategy<Value = FileStat> {
    let numbers = any::<(u64, u64, Option<u64>, u64, bool, Option<u64>, Option<u64>)>();
    (numbers, option::of(short_text()), option::of(short_text()), short_text()).prop_map(
        |(numbers, name, content_type, store)| FileStat {
            path_id: numbers.0,
            size: numbers.1,
            checksum: numbers.2,
            created_at: numbers.3,
            status: if numbers.4 { FileStatus::Deleted } else { FileStatus::Normal },
            deleted_at: numbers.5,
            expires_at: numbers.6,
            name,
            content_type,
            store,
        },
    )
}

fn selection() -> impl Strategy<Value = Selection> {
    let filter = prop_oneof![
        Just(StatusFilter::Normal),
        Just(StatusFilter::Deleted),
        Just(StatusFilter::All)
    ];
    (app(), option::of(user()), filter, any::<(Option<u64>, Option<u64>)>()).prop_map(
        |(app, user, filter, (since, until))| Selection { app, user, filter, since, until },
    )
}

fn cursor() -> impl Strategy<Value = Option<Cursor>> {
    let cursor = (any::<(u64, u8, u64)>(), ".{0,60}")
        .prop_map(|((time, part, order), file)| Cursor { time, part, order, file });
    option::of(cursor)
}

pub(crate) fn list() -> impl Strategy<Value = List> {
    (selection(), cursor(), 1u16..=1000).prop_map(|(of, after, limit)| List { of, after, limit })
}

pub(crate) fn list_reply() -> impl Strategy<Value = ListReply> {
    let entry =
        (user(), file(), file_stat()).prop_map(|(user, file, stat)| Listed { user, file, stat });
    (cursor(), any::<u16>(), vec(entry, 0..4)).prop_map(|(next, left_out, files)| ListReply {
        next,
        left_out,
        files,
    })
}

pub(crate) fn usage() -> impl Strategy<Value = Usage> {
    (selection(), cursor()).prop_map(|(of, after)| Usage { of, after })
}

pub(crate) fn usage_reply() -> impl Strategy<Value = UsageReply> {
    let tally = || any::<(u64, u64)>().prop_map(|(files, bytes)| Tally { files, bytes });
    (cursor(), tally(), tally()).prop_map(|(next, normal, deleted)| UsageReply {
        next,
        normal,
        deleted,
    })
}

pub(crate) fn purge() -> impl Strategy<Value = Purge> {
    prop_oneof![
        file_ref().prop_map(Purge::File),
        (app(), user()).prop_map(|(app, user)| Purge::AllDeleted { app, user }),
    ]
}

pub(crate) fn purge_reply() -> impl Strategy<Value = PurgeReply> {
    any::<(u64, bool)>().prop_map(|(purged, more)| PurgeReply { purged, more })
}

/// A PUT's head, its texts apart: the head borrows them.
pub(crate) fn put()
-> impl Strategy<Value = (FileRef, u64, Option<u64>, Option<String>, Option<String>)> {
    // Zero stands for "never" and an empty text for none.
    let text = || option::of("[^\\pC]{1,60}");
    (file_ref(), 0..=1u64 << 62, option::of(1..=u64::MAX), text(), text())
}

pub(crate) fn put_reply() -> impl Strategy<Value = PutReply> {
    any::<(bool, u64, u64, u64)>().prop_map(|(same, path_id, size, checksum)| PutReply {
        outcome: if same { PutOutcome::Same } else { PutOutcome::New },
        path_id,
        size,
        checksum,
    })
}

pub(crate) fn get() -> impl Strategy<Value = Get> {
    (file_ref(), any::<u64>(), any::<u64>()).prop_map(|(file, offset, size)| Get {
        file,
        offset,
        size,
    })
}

pub(crate) fn get_head() -> impl Strategy<Value = GetHead> {
    (any::<(u64, Option<u64>, u64)>(), 0..=1u64 << 62).prop_map(
        |((file_size, checksum, path_id), length)| GetHead { file_size, checksum, path_id, length },
    )
}

pub(crate) fn id_block() -> impl Strategy<Value = IdBlock> {
    (key(), 1..=1u64 << 20, any::<u64>()).prop_map(|(key, count, at_least)| IdBlock {
        key,
        count,
        at_least,
    })
}

pub(crate) fn id_block_reply() -> impl Strategy<Value = IdBlockReply> {
    (0u64..1 << 35, 1..=1u64 << 35)
        .prop_map(|(start, count)| IdBlockReply { start, end: start + count })
}

pub(crate) fn join_ext() -> impl Strategy<Value = JoinExt> {
    let store = (any::<[u8; 16]>(), key()).prop_map(|(uuid, key)| StoreIdentity { uuid, key });
    let names = (version(), group(), host());
    let numbers = any::<(u64, u64, u8)>();
    (names, numbers, socket(), option::of(1..=u16::MAX), vec(store, 0..=3)).prop_map(
        |((version, group, host), numbers, advertised, media_port, stores)| JoinExt {
            version,
            group,
            host,
            started_at: numbers.0,
            joined_at: numbers.1,
            advertised,
            media_port,
            flags: numbers.2,
            stores,
        },
    )
}

fn store_state() -> impl Strategy<Value = StoreState> {
    prop_oneof![
        Just(StoreState::Ok),
        Just(StoreState::Full),
        Just(StoreState::ReadOnly),
        Just(StoreState::Hung),
        Just(StoreState::Away),
    ]
}

pub(crate) fn report() -> impl Strategy<Value = Report> {
    let store = (any::<u64>(), any::<u64>(), store_state())
        .prop_map(|(capacity, free, state)| StoreReport { capacity, free, state });
    (any::<u8>(), any::<u32>(), vec(store, 0..=5)).prop_map(|(flags, load, stores)| Report {
        flags,
        load,
        stores,
    })
}

pub(crate) fn drain() -> impl Strategy<Value = DrainNode> {
    any::<bool>().prop_map(|on| DrainNode { on })
}

pub(crate) fn operator_drain() -> impl Strategy<Value = OperatorDrain> {
    (host(), any::<bool>()).prop_map(|(host, on)| OperatorDrain { host, on })
}

pub(crate) fn drain_reply() -> impl Strategy<Value = DrainReply> {
    any::<u32>().prop_map(|under_way| DrainReply { under_way })
}

pub(crate) fn nodes() -> impl Strategy<Value = Nodes> {
    any::<u64>().prop_map(|after| Nodes { after })
}

pub(crate) fn nodes_reply() -> impl Strategy<Value = NodesReply> {
    let status =
        prop_oneof![Just(NodeStatus::Offline), Just(NodeStatus::Online), Just(NodeStatus::Active)];
    let names = (group(), host(), version());
    let addresses = (socket(), option::of(socket()));
    let numbers = any::<(u8, u64, u64, u32, u32)>();
    let node = (names, addresses, status, numbers, vec(store_state(), 0..=5)).prop_map(
        |((group, host, version), (binary, media), status, numbers, stores)| NodeInfo {
            group,
            host,
            version,
            binary,
            media,
            status,
            flags: numbers.0,
            capacity: numbers.1,
            free: numbers.2,
            in_flight: numbers.3,
            silent_for: numbers.4,
            stores,
        },
    );
    (any::<Option<u64>>(), vec(node, 0..4)).prop_map(|(next, nodes)| NodesReply { next, nodes })
}

pub(crate) fn gateway() -> impl Strategy<Value = GatewayBeat> {
    socket().prop_map(|advertised| GatewayBeat { advertised })
}
