//! One storage node as the tracker sees it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reel_proto::name::{GroupName, HostName, Version};
use reel_proto::tracker::groups::{NodeEntry, NodeStatus};
use serde_json::json;

use super::{Identity, Now};

/// Names a node for as long as this tracker knows it; never used for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u64);

/// What a node says of itself when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    /// A number that is the same for nodes with the same stores, and different for others. Deployed
    /// nodes have none.
    pub stores: Option<u128>,
    /// It joined as a deployed node does, and knows none of our commands.
    pub deployed: bool,
}

/// How full and busy a node is, as it says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of its store paths.
    pub capacity: u64,
    /// Bytes free for uploads.
    pub free: u64,
    /// Requests in progress.
    pub in_flight: u64,
    /// It takes no uploads.
    pub read_only: bool,
    /// It is about to stop.
    pub draining: bool,
}

impl Load {
    /// The part that clients are told.
    pub(super) fn flags(&self) -> (bool, bool) {
        (self.read_only, self.draining)
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
    /// It is about to stop.
    pub draining: bool,
    /// It knows none of our commands.
    pub deployed: bool,
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
}

impl Node {
    pub(super) fn new(announcement: Announcement, peer: IpAddr, now: Now) -> Self {
        Self {
            announcement,
            peer,
            seen: now.monotonic,
            beat_at: None,
            offline: false,
            load: Load::default(),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        let Announcement { group, host, address, .. } = self.announcement;
        (group, host, address)
    }

    pub(super) fn is_named(&self, group: GroupName, host: HostName) -> bool {
        self.announcement.group == group && self.announcement.host == host
    }

    /// Whether a node that announces itself has the very stores of this one.
    pub(super) fn has_stores_of(&self, other: &Announcement) -> bool {
        self.announcement.group == other.group
            && self.announcement.stores.is_some()
            && self.announcement.stores == other.stores
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
            draining: self.load.draining,
            deployed: self.announcement.deployed,
        }
    }

    pub(super) fn entry(&self) -> NodeEntry {
        let Announcement { version, host, address, started_at, joined_at, .. } = self.announcement;
        NodeEntry {
            version,
            host,
            address,
            started_at,
            joined_at,
            beat_at: self.beat_at.unwrap_or(0),
            status: self.status(),
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
            "draining": self.load.draining,
        })
    }
}
