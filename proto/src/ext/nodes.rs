//! NODES (208): the storage nodes as a tracker sees them, for operators: what GROUPS says, with space, load and state.

use std::net::SocketAddr;

use crate::{
    body::{BodyError, Fields, LAYOUT_VERSION, put_optional, put_short, put_socket, put_u64},
    limits,
    name::{GroupName, HostName, Version},
    peer::StoreState,
    tracker::groups::NodeStatus,
};

pub use crate::limits::NODES_PAGE_MAX;

/// The question: nodes in the order in which the tracker got to know them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Nodes {
    /// [`NodesReply::next`] of the page before; 0: from the first one on.
    pub after: u64,
}

impl Nodes {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let after = fields.u64("node to go on after")?;
        fields.finish()?;
        Ok(Self { after })
    }

    /// Appends the request's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_u64(out, self.after);
    }
}

/// A storage node of a [`NodesReply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// The group that it serves.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
    /// Of its software.
    pub version: Version,
    /// Where it serves the binary protocol.
    pub binary: SocketAddr,
    /// Where it serves media over HTTP; a deployed node does not.
    pub media: Option<SocketAddr>,
    /// Its state.
    pub status: NodeStatus,
    /// Bits of [`super::node_flag`].
    pub flags: u8,
    /// Bytes of its store paths, together. 0 until its first report, as the next two.
    pub capacity: u64,
    /// Bytes free for uploads there.
    pub free: u64,
    /// Requests under way at its last report.
    pub in_flight: u32,
    /// Seconds since its last join or beat.
    pub silent_for: u32,
    /// Its store paths, in the order of its join, [`limits::STORES_MAX`] at most; none until its first report.
    pub stores: Vec<StoreState>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodesReply {
    /// Where to go on; none: these are the last ones.
    pub next: Option<u64>,
    /// [`NODES_PAGE_MAX`] at most.
    pub nodes: Vec<NodeInfo>,
}

impl NodesReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong; a count past its limit before anything is kept.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let next = fields.optional("node to go on after", |f| f.u64("node to go on after"))?;
        let count = usize::from(fields.u16("count of nodes")?);
        if count > NODES_PAGE_MAX {
            return Err(BodyError::Value { field: "count of nodes" });
        }
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(NodeInfo::read(&mut fields)?);
        }
        fields.finish()?;
        Ok(Self { next, nodes })
    }

    /// Appends the reply's body: of more than [`NODES_PAGE_MAX`] nodes the first ones.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_optional(out, self.next, put_u64);
        let count = self.nodes.len().min(NODES_PAGE_MAX);
        out.extend_from_slice(&(count as u16).to_be_bytes());
        self.nodes[..count].iter().for_each(|node| node.write(out));
    }
}

impl NodeInfo {
    fn read(fields: &mut Fields<'_>) -> Result<Self, BodyError> {
        let mut read = Self {
            group: GroupName::from_bytes(fields.short("group name")?)?,
            host: HostName::from_bytes(fields.short("host name")?)?,
            version: Version::from_bytes(fields.short("version")?)?,
            binary: fields.socket("node's address")?,
            media: fields.optional("node's media address", |f| f.socket("node's media address"))?,
            status: match fields.u8("node's state")? {
                0 => NodeStatus::Offline,
                1 => NodeStatus::Online,
                2 => NodeStatus::Active,
                _ => return Err(BodyError::Value { field: "node's state" }),
            },
            flags: fields.u8("node's flags")?,
            capacity: fields.u64("capacity")?,
            free: fields.u64("free space")?,
            in_flight: fields.u32("load")?,
            silent_for: fields.u32("silence")?,
            stores: Vec::new(),
        };
        for _ in 0..fields.count("count of stores", limits::STORES_MAX)? {
            read.stores.push(StoreState::of(fields.u8("store state")?));
        }
        Ok(read)
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_short(out, self.group.as_bytes());
        put_short(out, self.host.as_bytes());
        put_short(out, self.version.as_bytes());
        put_socket(out, self.binary);
        put_optional(out, self.media, put_socket);
        out.push(match self.status {
            NodeStatus::Offline => 0,
            NodeStatus::Online => 1,
            NodeStatus::Active => 2,
        });
        out.push(self.flags);
        put_u64(out, self.capacity);
        put_u64(out, self.free);
        out.extend_from_slice(&self.in_flight.to_be_bytes());
        out.extend_from_slice(&self.silent_for.to_be_bytes());
        let stores = &self.stores[..self.stores.len().min(limits::STORES_MAX)];
        out.push(stores.len() as u8);
        out.extend(stores.iter().map(|store| *store as u8));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ext::{REPLY_BYTES_MAX, node_flag, tests::harden};

    fn node() -> NodeInfo {
        NodeInfo {
            group: GroupName::parse(&"g".repeat(16)).unwrap(),
            host: HostName::parse(&"h".repeat(128)).unwrap(),
            version: Version::parse("123456").unwrap(),
            binary: "[fe80::1]:23000".parse().unwrap(),
            media: Some("[fe80::1]:23080".parse().unwrap()),
            status: NodeStatus::Active,
            flags: node_flag::DRAINING,
            capacity: 1,
            free: 2,
            in_flight: 3,
            silent_for: 4,
            stores: vec![StoreState::Away; limits::STORES_MAX],
        }
    }

    #[test]
    fn a_question_and_its_answer_come_back() {
        let mut bytes = Vec::new();
        Nodes { after: 7 }.encode(&mut bytes);
        assert_eq!(Nodes::decode(&bytes), Ok(Nodes { after: 7 }));
        harden(&bytes, Nodes::decode);
        let bare = NodeInfo { media: None, stores: Vec::new(), ..node() };
        let reply = NodesReply { next: Some(9), nodes: vec![node(), bare] };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(NodesReply::decode(&bytes), Ok(reply));
        harden(&bytes, NodesReply::decode);
    }

    #[test]
    fn the_longest_answer_fits_and_a_longer_one_is_refused() {
        let many = NodesReply { next: Some(9), nodes: vec![node(); NODES_PAGE_MAX + 1] };
        let mut bytes = Vec::new();
        many.encode(&mut bytes);
        assert!((bytes.len() as u64) < REPLY_BYTES_MAX);
        assert_eq!(NodesReply::decode(&bytes).unwrap().nodes.len(), NODES_PAGE_MAX);
        bytes[10..12].copy_from_slice(&(NODES_PAGE_MAX as u16 + 1).to_be_bytes());
        assert_eq!(NodesReply::decode(&bytes), Err(BodyError::Value { field: "count of nodes" }));
    }

    #[test]
    fn an_unknown_state_of_a_store_is_one_that_does_not_answer() {
        let reply = NodesReply { next: None, nodes: vec![node()] };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        *bytes.last_mut().unwrap() = 5;
        let read = NodesReply::decode(&bytes).unwrap();
        assert_eq!(read.nodes[0].stores.last(), Some(&StoreState::Hung));
    }
}
