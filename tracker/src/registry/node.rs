//! One storage node as the tracker sees it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reel_proto::ext::{NodeInfo, node_flag};
use reel_proto::name::{GroupName, HostName, Version};
use reel_proto::peer::{StoreIdentity, StoreState};
use reel_proto::tracker::groups::{NodeEntry, NodeStatus};
use serde_json::json;

use super::{Identity, Now};

/// Names a node for as long as this tracker knows it; never used for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u64);

/// What a node says of itself when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Of its software.
    pub version: Version,
    /// The group whose files it serves.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
    /// Where clients reach its binary protocol.
    pub address: SocketAddr,
    /// Where players reach its media HTTP; deployed nodes have none.
    pub media: Option<SocketAddr>,
    /// Seconds since 1970, by its own clock.
    pub started_at: u64,
    /// Seconds since 1970, by its own clock.
    pub joined_at: u64,
    /// Its stores; deployed nodes do not say.
    pub stores: Vec<StoreIdentity>,
    /// It joined as a deployed node does, and knows none of our commands.
    pub deployed: bool,
}

/// How full and busy a node is, as it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of its store paths.
    pub capacity: u64,
    /// Bytes free for uploads.
    pub free: u64,
    /// Requests in progress.
    pub in_flight: u32,
    /// It takes no uploads.
    pub read_only: bool,
    /// An operator has drained it.
    pub draining: bool,
    /// State of each store path.
    pub stores: Vec<StoreState>,
}

impl Load {
    /// What the flags of a join say, before the first report.
    #[must_use]
    pub fn of_flags(flags: u8) -> Self {
        Self {
            read_only: flags & node_flag::READ_ONLY != 0,
            draining: flags & node_flag::DRAINING != 0,
            ..Self::default()
        }
    }
}

/// An active node as it is handed to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeView {
    /// Where its binary protocol is spoken.
    pub address: SocketAddr,
    /// Where its media HTTP is spoken.
    pub media: Option<SocketAddr>,
    /// It takes no uploads.
    pub read_only: bool,
    /// It is about to stop, or an operator has drained it.
    pub draining: bool,
    /// It has much more under way than the others of its group.
    pub busy: bool,
    /// It knows none of our commands.
    pub deployed: bool,
}

impl NodeView {
    /// Bits of [`node_flag`].
    #[must_use]
    pub fn flags(&self) -> u8 {
        let flag = |set, flag| if set { flag } else { 0 };
        flag(self.read_only, node_flag::READ_ONLY)
            | flag(self.deployed, node_flag::DEPLOYED)
            | flag(self.draining, node_flag::DRAINING)
            | flag(self.busy, node_flag::BUSY)
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) announcement: Announcement,
    /// Address of the connection on which it joined.
    pub(super) peer: IpAddr,
    /// Its last join or beat, by the monotonic clock.
    pub(super) seen: Duration,
    /// Its last beat, seconds since 1970; none since its join.
    beat_at: Option<u64>,
    pub(super) offline: bool,
    pub(super) load: Load,
    /// It has said that it is about to stop.
    pub(super) stopping: bool,
    /// See [`super::weight`].
    pub(super) busy: bool,
}

impl Node {
    pub(super) fn new(announcement: Announcement, load: Load, peer: IpAddr, now: Now) -> Self {
        Self {
            announcement,
            peer,
            seen: now.monotonic,
            beat_at: None,
            offline: false,
            load,
            stopping: false,
            busy: false,
        }
    }

    pub(super) fn identity(&self) -> Identity {
        let Announcement { group, host, address, .. } = &self.announcement;
        (*group, *host, *address)
    }

    pub(super) fn is_named(&self, group: GroupName, host: HostName) -> bool {
        self.announcement.group == group && self.announcement.host == host
    }

    /// Whether a node that announces itself has a store of this one: it is this one, moved.
    pub(super) fn shares_a_store(&self, other: &Announcement) -> bool {
        self.announcement.group == other.group
            && self.announcement.stores.iter().any(|store| other.stores.contains(store))
    }

    /// Whether two nodes cannot serve the same files: they have no store in common, or one store
    /// under two keys, or two under one. A store that one node has and the other has not yet is no
    /// contradiction, or a store path could never be added to a group that runs.
    pub(super) fn contradicts(&self, other: &Announcement) -> bool {
        let (ours, theirs) = (&self.announcement.stores, &other.stores);
        if ours.is_empty() || theirs.is_empty() {
            return false;
        }
        let mixed_up = ours.iter().any(|our| {
            theirs.iter().any(|their| (our.uuid == their.uuid) != (our.key == their.key))
        });
        mixed_up || !self.shares_a_store(other)
    }

    pub(super) fn beat(&mut self, now: Now) {
        self.seen = now.monotonic;
        self.beat_at = Some(now.unix);
        self.offline = false;
    }

    pub(super) fn status(&self) -> NodeStatus {
        match (self.offline, self.beat_at) {
            (true, _) => NodeStatus::Offline,
            (false, None) => NodeStatus::Online,
            (false, Some(_)) => NodeStatus::Active,
        }
    }

    pub(super) fn view(&self) -> NodeView {
        NodeView {
            address: self.announcement.address,
            media: self.announcement.media,
            read_only: self.load.read_only,
            draining: self.load.draining || self.stopping,
            busy: self.busy,
            deployed: self.announcement.deployed,
        }
    }

    pub(super) fn entry(&self) -> NodeEntry {
        let announcement = &self.announcement;
        NodeEntry {
            version: announcement.version,
            host: announcement.host,
            address: announcement.address,
            started_at: announcement.started_at,
            joined_at: announcement.joined_at,
            beat_at: self.beat_at.unwrap_or(0),
            status: self.status(),
        }
    }

    pub(super) fn info(&self, now: Now) -> NodeInfo {
        let Announcement { version, group, host, address, media, .. } = self.announcement;
        let silent = now.monotonic.saturating_sub(self.seen).as_secs();
        NodeInfo {
            group,
            host,
            version,
            binary: address,
            media,
            status: self.status(),
            flags: self.view().flags(),
            capacity: self.load.capacity,
            free: self.load.free,
            in_flight: self.load.in_flight,
            silent_for: u32::try_from(silent).unwrap_or(u32::MAX),
            stores: self.load.stores.clone(),
        }
    }

    pub(super) fn status_json(&self, now: Now) -> serde_json::Value {
        let Announcement { version, group, host, address, media, .. } = &self.announcement;
        json!({
            "group": group.as_str(),
            "host": host.as_str(),
            "address": address,
            "media": media,
            "version": version.as_str(),
            "state": self.status().as_str(),
            "seen_seconds_ago": now.monotonic.saturating_sub(self.seen).as_secs(),
            "capacity_bytes": self.load.capacity,
            "free_bytes": self.load.free,
            "in_flight": self.load.in_flight,
            "read_only": self.load.read_only,
            "draining": self.view().draining,
            "busy": self.busy,
        })
    }
}
