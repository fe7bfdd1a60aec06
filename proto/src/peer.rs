//! Our own commands between nodes, 220–255: ID_BLOCK, JOIN_EXT, REPORT, DRAIN, GATEWAY.
//!
//! These are what goes into the envelope of [`crate::sign`]: each begins with a layout version, now 1. REPORT and DRAIN
//! belong, like BEAT, to the join made on their own connection. Replies are not in an envelope.

use std::net::SocketAddr;

use crate::{
    body::{
        BodyError, Fields, LAYOUT_VERSION, put_flag, put_optional, put_short, put_socket, put_u64,
    },
    limits,
    name::{GroupName, HostName, IdKey, Version},
    path::PathId,
};

/// ID_BLOCK: a block of path ids of `key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlock {
    /// The sequence: a store's id key.
    pub key: IdKey,
    /// How many ids, 1 to [`limits::ID_BLOCK_COUNT_MAX`].
    pub count: u64,
    /// No id below this one: the store's durable mark. A sequence that is behind is moved up.
    pub at_least: u64,
}

impl IdBlock {
    /// Reads a request.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(payload)?;
        let read = Self {
            key: IdKey::from_bytes(fields.short("key")?)?,
            count: fields.u64("count")?,
            at_least: fields.u64("least id")?,
        };
        fields.finish()?;
        if read.count == 0 || read.count > limits::ID_BLOCK_COUNT_MAX {
            return Err(BodyError::Value { field: "count" });
        }
        Ok(read)
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_short(out, self.key.as_bytes());
        put_u64(out, self.count);
        put_u64(out, self.at_least);
    }
}

/// The reply to [`IdBlock`]: ids from `start` up to but not including `end`, nobody else's for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdBlockReply {
    /// The first id.
    pub start: u64,
    /// The one after the last.
    pub end: u64,
}

impl IdBlockReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`]; a block that is empty or goes past the last path id is [`BodyError::Value`].
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let read = Self { start: fields.u64("first id")?, end: fields.u64("end of ids")? };
        fields.finish()?;
        if read.start >= read.end || read.end > PathId::COUNT {
            return Err(BodyError::Value { field: "end of ids" });
        }
        Ok(read)
    }

    /// Appends the reply's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_u64(out, self.start);
        put_u64(out, self.end);
    }
}

/// What a store path is, beside its place on its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreIdentity {
    /// Its uuid, from its `store.toml`.
    pub uuid: [u8; 16],
    /// Its key at the ID node.
    pub key: IdKey,
}

/// JOIN_EXT: a storage node announces itself, with what JOIN cannot say. The reply's body is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinExt {
    /// Of its software.
    pub version: Version,
    /// The group that it serves.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
    /// When it started, seconds since 1970.
    pub started_at: u64,
    /// When it joined, seconds since 1970.
    pub joined_at: u64,
    /// Where clients reach its binary protocol. An unspecified address (`0.0.0.0`, `::`) stands for that of the
    /// connection.
    pub advertised: SocketAddr,
    /// Where players reach its media HTTP: a port of the advertised address. None: it has none.
    pub media_port: Option<u16>,
    /// Bits of [`crate::ext::node_flag`].
    pub flags: u8,
    /// Its stores, at most [`limits::STORES_MAX`].
    pub stores: Vec<StoreIdentity>,
}

impl JoinExt {
    /// Reads a request.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong. A port of 0 is [`BodyError::Value`].
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(payload)?;
        let mut read = Self {
            version: Version::from_bytes(fields.short("version")?)?,
            group: GroupName::from_bytes(fields.short("group name")?)?,
            host: HostName::from_bytes(fields.short("host name")?)?,
            started_at: fields.u64("start time")?,
            joined_at: fields.u64("join time")?,
            advertised: fields.socket("advertised address")?,
            media_port: fields.optional("media port", |fields| fields.u16("media port"))?,
            flags: fields.u8("node flags")?,
            stores: Vec::new(),
        };
        for _ in 0..fields.count("count of stores", limits::STORES_MAX)? {
            let uuid = fields.array("store uuid")?;
            read.stores.push(StoreIdentity { uuid, key: IdKey::from_bytes(fields.short("key")?)? });
        }
        fields.finish()?;
        if read.advertised.port() == 0 || read.media_port == Some(0) {
            return Err(BodyError::Value { field: "port" });
        }
        Ok(read)
    }

    /// Appends the request: of more than [`limits::STORES_MAX`] stores the first ones.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_short(out, self.version.as_bytes());
        put_short(out, self.group.as_bytes());
        put_short(out, self.host.as_bytes());
        put_u64(out, self.started_at);
        put_u64(out, self.joined_at);
        put_socket(out, self.advertised);
        put_optional(out, self.media_port, |out, port| out.extend_from_slice(&port.to_be_bytes()));
        out.push(self.flags);
        let stores = &self.stores[..self.stores.len().min(limits::STORES_MAX)];
        out.push(stores.len() as u8);
        for store in stores {
            out.extend_from_slice(&store.uuid);
            put_short(out, store.key.as_bytes());
        }
    }
}

/// State of a store path. A reader takes a number that it does not know as [`StoreState::Hung`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StoreState {
    /// Takes uploads.
    Ok = 0,
    /// Takes none until there is space again.
    Full = 1,
    /// Takes none until an operator says so.
    ReadOnly = 2,
    /// Does not answer.
    Hung = 3,
    /// The servers behind a mount take nothing now; it comes back by itself.
    Away = 4,
}

impl StoreState {
    /// The state of a number on the wire.
    pub const fn of(number: u8) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::Full,
            2 => Self::ReadOnly,
            4 => Self::Away,
            _ => Self::Hung,
        }
    }
}

/// A store path in a [`Report`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreReport {
    /// Bytes that its file system has.
    pub capacity: u64,
    /// Bytes that are free for uploads, without the reserve.
    pub free: u64,
    /// Its state.
    pub state: StoreState,
}

/// REPORT: space and load of the node that joined on this connection. The reply's body is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Bits of [`crate::ext::node_flag`], as of now.
    pub flags: u8,
    /// Requests in flight.
    pub load: u32,
    /// Its stores, in the order of its join; at most [`limits::STORES_MAX`].
    pub stores: Vec<StoreReport>,
}

impl Report {
    /// Reads a request.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(payload)?;
        let flags = fields.u8("node flags")?;
        let load = fields.u32("load")?;
        let mut stores = Vec::new();
        for _ in 0..fields.count("count of stores", limits::STORES_MAX)? {
            let (capacity, free) = (fields.u64("capacity")?, fields.u64("free space")?);
            let state = StoreState::of(fields.u8("store state")?);
            stores.push(StoreReport { capacity, free, state });
        }
        fields.finish()?;
        Ok(Self { flags, load, stores })
    }

    /// Appends the request: of more than [`limits::STORES_MAX`] stores the first ones.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[LAYOUT_VERSION, self.flags]);
        out.extend_from_slice(&self.load.to_be_bytes());
        let stores = &self.stores[..self.stores.len().min(limits::STORES_MAX)];
        out.push(stores.len() as u8);
        for store in stores {
            put_u64(out, store.capacity);
            put_u64(out, store.free);
            out.push(store.state as u8);
        }
    }
}

/// DRAIN to a tracker: the node which joined on this connection is about to stop, or no longer. The reply's body is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainNode {
    /// Hand it to no more clients.
    pub on: bool,
}

impl DrainNode {
    /// Reads a request.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(payload)?;
        let on = fields.flag("drain")?;
        fields.finish()?;
        Ok(Self { on })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_flag(out, self.on);
    }
}

/// DRAIN to a storage node: an operator drains it, or no longer. It names its receiver, so that nobody who overhears it can
/// drain another node by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OperatorDrain {
    /// The node's host name, as it joins with.
    pub host: HostName,
    /// Hand it to no more clients.
    pub on: bool,
}

impl OperatorDrain {
    /// Reads a request.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(payload)?;
        let host = HostName::from_bytes(fields.short("host name")?)?;
        let on = fields.flag("drain")?;
        fields.finish()?;
        Ok(Self { host, on })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_short(out, self.host.as_bytes());
        put_flag(out, self.on);
    }
}

/// A storage node's reply to [`OperatorDrain`]: it remembers the state, and tells its trackers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainReply {
    /// Requests under way at the node, without this one.
    pub under_way: u32,
}

impl DrainReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let under_way = fields.u32("requests under way")?;
        fields.finish()?;
        Ok(Self { under_way })
    }

    /// Appends the reply's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        out.extend_from_slice(&self.under_way.to_be_bytes());
    }
}

/// GATEWAY: a gateway announces itself, and beats with it. The reply's body is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayBeat {
    /// Where players reach its media HTTP. An unspecified address stands for that of the connection.
    pub advertised: SocketAddr,
}

impl GatewayBeat {
    /// Reads a request.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong. A port of 0 is [`BodyError::Value`].
    pub fn decode(payload: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(payload)?;
        let advertised = fields.socket("advertised address")?;
        fields.finish()?;
        if advertised.port() == 0 {
            return Err(BodyError::Value { field: "port" });
        }
        Ok(Self { advertised })
    }

    /// Appends the request.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_socket(out, self.advertised);
    }
}
