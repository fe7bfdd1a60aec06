//! Who is there: the storage nodes and gateways that have announced themselves, and how fresh their
//! beats are. Without IO, clock or locks: times are arguments, what changed comes out as a
//! [`Snapshot`].
//!
//! A node is named by group, host name, address and port, so several on one host are several nodes.
//! Nothing is stored: a tracker that restarts refuses beats until their senders have joined again.

mod gateways;
mod node;
#[cfg(test)]
mod tests;
mod weight;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hashbrown::HashMap;
use reel_proto::ext::{NODES_PAGE_MAX, Nodes, NodesReply};
use reel_proto::name::{GroupName, HostName};
use reel_proto::tracker::groups::{self, GroupEntry, NodeStatus};

use self::gateways::Gateways;
use self::node::Node;
pub use self::node::{Announcement, Load, NodeId, NodeView};
use crate::snapshot::{GroupView, Snapshot};

/// The time of an event, as the caller's clocks tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back, from any start: what intervals are measured with.
    pub monotonic: Duration,
    /// Seconds since 1970: what people are shown.
    pub unix: u64,
}

/// What a registry may hold, and when a node counts as gone.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Without a beat for this long a node is offline.
    pub check_interval: Duration,
    /// A node that has been offline for this long is forgotten.
    pub forget_after: Duration,
    /// Nodes that are known at once. One more takes the place of the one offline for longest, or is
    /// refused if none is offline.
    pub nodes_max: usize,
    /// Gateways that are known at once; one more is refused.
    pub gateways_max: usize,
    /// The storage node keeps its metadata in its own SQLite file: no second one may join.
    pub embedded: bool,
}

/// A join is refused. The texts go to the node and to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// Not in `t_groups_info`.
    #[error("unknown group {group}")]
    UnknownGroup {
        /// As it came.
        group: GroupName,
    },
    /// Embedded metadata knows the files of one storage node only.
    #[error(
        "storage node {host} at {address} has joined already, and the metadata is embedded \
         (SQLite): several storage nodes need MySQL or MariaDB (tracker.embedded = false); \
         restart the tracker to let another node take its place"
    )]
    SecondNode {
        /// Of the node that has joined.
        host: Box<str>,
        /// Of the node that has joined.
        address: SocketAddr,
    },
    /// The group's other nodes serve other stores.
    #[error("the stores of this node are not those of group {group}: node {host} has others")]
    OtherStores {
        /// The group.
        group: GroupName,
        /// A node of the group.
        host: Box<str>,
    },
    /// The registry is full of nodes that are there.
    #[error("this tracker knows {limit} storage nodes already (tracker.nodes_max)")]
    TooManyNodes {
        /// The limit.
        limit: usize,
    },
    /// No node can be reached at port 0 or at an unspecified address.
    #[error("{address} is no address to reach a node at")]
    BadAddress {
        /// As it came.
        address: SocketAddr,
    },
}

/// A beat, report or drain of a node that is not known: it must join (again).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownNode {
    /// No such node has joined since this tracker started.
    #[error("no node {host} of group {group} has joined from {peer}: join first")]
    NotJoined {
        /// As it came.
        group: GroupName,
        /// As it came.
        host: Box<str>,
        /// Address of the connection.
        peer: IpAddr,
    },
    /// Several nodes of this host are known, and a beat carries no port.
    #[error(
        "several nodes {host} of group {group} have joined from {peer}: join on this connection"
    )]
    Ambiguous {
        /// As it came.
        group: GroupName,
        /// As it came.
        host: Box<str>,
        /// Address of the connection.
        peer: IpAddr,
    },
}

/// One gateway more than may be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this tracker knows {limit} gateways already")]
pub struct TooManyGateways {
    /// The limit.
    pub limit: usize,
}

/// What names a node for as long as it is known.
type Identity = (GroupName, HostName, SocketAddr);

/// Nodes by state, for `/status` and metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// No beat for the check interval.
    pub offline: usize,
    /// Joined, not beaten yet.
    pub online: usize,
    /// Beating.
    pub active: usize,
    /// Gateways.
    pub gateways: usize,
}

/// The nodes and gateways of one tracker.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    legal: Vec<GroupName>,
    /// In order of their first join, which is the order that GROUPS shows.
    nodes: BTreeMap<NodeId, Node>,
    by_identity: HashMap<Identity, NodeId>,
    gateways: Gateways,
    next_id: u64,
    /// What a snapshot shows has changed since the last one.
    changed: bool,
}

impl Registry {
    /// An empty registry with these legal groups.
    #[must_use]
    pub fn new(rules: Rules, groups: Vec<GroupName>) -> Self {
        let mut registry = Self {
            rules,
            legal: Vec::new(),
            nodes: BTreeMap::new(),
            by_identity: HashMap::new(),
            gateways: Gateways::default(),
            next_id: 1,
            changed: true,
        };
        registry.set_groups(groups);
        registry
    }

    /// Sets the legal groups. Nodes of a group that is no longer legal stay until they are gone.
    pub fn set_groups(&mut self, mut groups: Vec<GroupName>) {
        groups.sort_unstable();
        groups.dedup();
        self.legal = groups;
        self.changed = true;
    }

    /// A node announces itself; it is online until its first beat. `flags` are those of its join,
    /// bits of `node_flag`, `peer` is the address of its connection. Joining again is the same node,
    /// with what it says now.
    ///
    /// # Errors
    /// [`JoinError`]; nothing has changed then.
    pub fn join(
        &mut self,
        announcement: Announcement,
        flags: u8,
        peer: IpAddr,
        now: Now,
    ) -> Result<NodeId, JoinError> {
        let Announcement { group, host, address, .. } = announcement;
        if address.port() == 0 || address.ip().is_unspecified() {
            return Err(JoinError::BadAddress { address });
        }
        if self.legal.binary_search(&group).is_err() {
            return Err(JoinError::UnknownGroup { group });
        }
        self.check_stores(&announcement)?;
        let identity = (group, host, address);
        let id = match self.by_identity.get(&identity) {
            Some(&id) => id,
            None => self.admit(&announcement)?,
        };
        let load = Load::of_flags(flags);
        let before = self.nodes.insert(id, Node::new(announcement, load, peer, now));
        if let Some(before) = before {
            self.by_identity.remove(&before.identity());
            // It is online again; clients saw it if it was active. A new node they do not see yet.
            self.changed |= before.status() == NodeStatus::Active;
        }
        self.by_identity.insert(identity, id);
        self.weigh(group);
        Ok(id)
    }

    /// A place for a node that is not known, or the place of the one that it replaces.
    fn admit(&mut self, announcement: &Announcement) -> Result<NodeId, JoinError> {
        if self.rules.embedded
            && let Some((&id, first)) = self.nodes.first_key_value()
        {
            // The same store at another address is the same node, moved.
            return if first.shares_a_store(announcement) {
                Ok(id)
            } else {
                let (_, host, address) = first.identity();
                Err(JoinError::SecondNode { host: host.as_str().into(), address })
            };
        }
        if self.nodes.len() >= self.rules.nodes_max {
            let limit = self.rules.nodes_max;
            let oldest = self
                .nodes
                .iter()
                .filter(|(_, node)| node.status() == NodeStatus::Offline)
                .min_by_key(|(_, node)| node.seen)
                .map(|(&id, _)| id)
                .ok_or(JoinError::TooManyNodes { limit })?;
            self.forget(oldest);
        }
        let id = NodeId(self.next_id);
        self.next_id += 1;
        Ok(id)
    }

    /// Nodes of a group hold the same files, so they must have the same stores.
    fn check_stores(&self, announcement: &Announcement) -> Result<(), JoinError> {
        // Embedded metadata has a plainer reason to refuse a second node.
        if self.rules.embedded {
            return Ok(());
        }
        let identity = (announcement.group, announcement.host, announcement.address);
        let other = self.nodes.values().find(|node| {
            node.announcement.group == announcement.group
                && node.status() != NodeStatus::Offline
                && node.identity() != identity
                && node.contradicts(announcement)
        });
        match other {
            None => Ok(()),
            Some(node) => {
                let (group, host, _) = node.identity();
                Err(JoinError::OtherStores { group, host: host.as_str().into() })
            }
        }
    }

    /// The group whose nodes have a store with this id key, if that is one group.
    #[must_use]
    pub fn group_of_store(&self, key: &str) -> Option<GroupName> {
        let has =
            |node: &&Node| node.announcement.stores.iter().any(|store| store.key.as_str() == key);
        let mut groups = self.nodes.values().filter(has).map(|node| node.announcement.group);
        let first = groups.next()?;
        groups.all(|group| group == first).then_some(first)
    }

    /// The node that a beat, report or drain belongs to: the one that joined on the same connection
    /// (`bound`), else the only one of that group, host name and connection address.
    ///
    /// # Errors
    /// [`UnknownNode`]: the sender must join.
    pub fn resolve(
        &self,
        bound: Option<NodeId>,
        group: GroupName,
        host: HostName,
        peer: IpAddr,
    ) -> Result<NodeId, UnknownNode> {
        if let Some(id) = bound
            && self.nodes.get(&id).is_some_and(|node| node.is_named(group, host))
        {
            return Ok(id);
        }
        let mut found = self
            .nodes
            .iter()
            .filter(|(_, node)| node.is_named(group, host) && node.peer == peer)
            .map(|(&id, _)| id);
        let named = || host.as_str().into();
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id),
            (Some(_), Some(_)) => Err(UnknownNode::Ambiguous { group, host: named(), peer }),
            (None, _) => Err(UnknownNode::NotJoined { group, host: named(), peer }),
        }
    }

    /// A node is alive. `true` if it was not active before.
    pub fn beat(&mut self, id: NodeId, now: Now) -> bool {
        let Some(node) = self.nodes.get_mut(&id) else { return false };
        let before = node.status();
        node.beat(now);
        let risen = before != NodeStatus::Active;
        if risen {
            let group = node.announcement.group;
            self.changed = true;
            self.weigh(group);
        }
        risen
    }

    /// A node says how full and how busy it is, and whether an operator has drained it.
    pub fn report(&mut self, id: NodeId, load: Load) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let before = node.view();
        node.load = load;
        self.changed |= node.view() != before;
        let group = node.announcement.group;
        self.weigh(group);
    }

    /// A node is about to stop, or no longer. What an operator has drained stays so.
    pub fn drain(&mut self, id: NodeId, stopping: bool) {
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let before = node.view();
        node.stopping = stopping;
        self.changed |= node.view() != before;
        let group = node.announcement.group;
        self.weigh(group);
    }

    /// A gateway announces itself and beats with the same message.
    ///
    /// # Errors
    /// The limit is reached.
    pub fn gateway(&mut self, media: SocketAddr, now: Now) -> Result<(), TooManyGateways> {
        let limit = self.rules.gateways_max;
        self.changed |= self.gateways.beat(media, now.monotonic, limit)?;
        Ok(())
    }

    /// Marks nodes without a beat as offline, forgets those that have been so for long, and
    /// gateways that are silent. Gives the nodes that went offline now.
    pub fn expire(&mut self, now: Now) -> Vec<NodeId> {
        let mut gone = Vec::new();
        for (&id, node) in &mut self.nodes {
            let silent = now.monotonic.saturating_sub(node.seen);
            if silent > self.rules.check_interval && node.status() != NodeStatus::Offline {
                node.offline = true;
                gone.push(id);
            }
        }
        let forget_after = self.rules.check_interval.saturating_add(self.rules.forget_after);
        let forgotten: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, node)| now.monotonic.saturating_sub(node.seen) > forget_after)
            .map(|(&id, _)| id)
            .collect();
        for &id in &forgotten {
            self.forget(id);
        }
        let silent = self.gateways.expire(now.monotonic, self.rules.check_interval);
        self.changed |= silent || !gone.is_empty() || !forgotten.is_empty();
        let groups = gone.iter().filter_map(|id| Some(self.nodes.get(id)?.announcement.group));
        for group in groups.collect::<Vec<_>>() {
            self.weigh(group);
        }
        gone
    }

    fn forget(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.by_identity.remove(&node.identity());
            self.changed = true;
        }
    }

    /// What readers see now, if it is not what the last snapshot showed.
    pub fn take_snapshot(&mut self) -> Option<Snapshot> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let groups = self.groups_with_nodes().map(|(name, nodes)| {
            let nodes = nodes
                .iter()
                .filter(|node| node.status() == NodeStatus::Active)
                .map(|node| node.view())
                .collect();
            (name, GroupView::new(name, nodes))
        });
        let only = match self.nodes.first_key_value() {
            Some((_, node)) if self.rules.embedded => Some(node.announcement.group),
            _ => None,
        };
        Some(Snapshot::new(groups.collect(), only, self.gateways.addresses()))
    }

    /// The reply to GROUPS.
    #[must_use]
    pub fn groups_text(&self, utc_offset_s: i32) -> Vec<u8> {
        let groups: Vec<GroupEntry> = self
            .groups_with_nodes()
            .map(|(name, nodes)| GroupEntry {
                name,
                nodes: nodes.iter().map(|node| node.entry()).collect(),
            })
            .collect();
        groups::render(&groups, utc_offset_s)
    }

    /// The reply to NODES: a page of nodes in the order of their first join.
    #[must_use]
    pub fn page(&self, question: Nodes, now: Now) -> NodesReply {
        let mut rest = self.nodes.range(NodeId(question.after.saturating_add(1))..);
        let page: Vec<_> = rest.by_ref().take(NODES_PAGE_MAX).collect();
        let last = page.last().map(|(id, _)| id.0);
        NodesReply {
            next: last.filter(|_| rest.next().is_some()),
            nodes: page.into_iter().map(|(_, node)| node.info(now)).collect(),
        }
    }

    /// Legal groups and those that have nodes, in name order, each with its nodes in join order.
    fn groups_with_nodes(&self) -> impl Iterator<Item = (GroupName, Vec<&Node>)> {
        let mut groups: BTreeMap<GroupName, Vec<&Node>> =
            self.legal.iter().map(|&name| (name, Vec::new())).collect();
        for node in self.nodes.values() {
            groups.entry(node.announcement.group).or_default().push(node);
        }
        groups.into_iter()
    }

    /// Whether a node has joined and is not forgotten.
    #[must_use]
    pub fn knows(&self, id: NodeId) -> bool {
        self.nodes.contains_key(&id)
    }

    /// One node as people see it.
    #[must_use]
    pub fn describe(&self, id: NodeId) -> Option<String> {
        let node = self.nodes.get(&id)?;
        let (group, host, address) = node.identity();
        Some(format!("{host} at {address} of group {group}"))
    }

    /// Nodes by state.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts { gateways: self.gateways.len(), ..Counts::default() };
        for node in self.nodes.values() {
            match node.status() {
                NodeStatus::Offline => counts.offline += 1,
                NodeStatus::Online => counts.online += 1,
                NodeStatus::Active => counts.active += 1,
            }
        }
        counts
    }

    /// The nodes for `/status`, with how long ago each was seen.
    #[must_use]
    pub fn status(&self, now: Now) -> Vec<serde_json::Value> {
        self.nodes.values().map(|node| node.status_json(now)).collect()
    }

    /// The gateways that are there.
    #[must_use]
    pub fn gateways(&self) -> Vec<SocketAddr> {
        self.gateways.addresses()
    }
}
