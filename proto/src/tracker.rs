//! The deployed system's requests to a tracker: JOIN, BEAT, SADDRS, GROUPS.

mod ctime;
pub mod groups;

use std::{fmt::Write as _, net::SocketAddr};

use crate::{
    body::{BodyError, Fields, exactly},
    limits,
    name::{AppId, GroupName, HostName, UserId, Version},
    storage::{APP_WIDTH, FILE_WIDTH, USER_WIDTH},
    text,
};

/// Bytes of the version's field.
pub const VERSION_WIDTH: usize = limits::VERSION_BYTES_MAX + 1;
/// Bytes of the group name's field.
pub const GROUP_WIDTH: usize = limits::GROUP_BYTES_MAX + 1;
/// Bytes of the host name's field.
pub const HOST_WIDTH: usize = limits::HOST_BYTES_MAX + 1;
/// Bytes of a JOIN's body.
pub const JOIN_LEN: usize = VERSION_WIDTH + GROUP_WIDTH + HOST_WIDTH + 2 + 8 + 8;
/// Bytes of a BEAT's body.
pub const BEAT_LEN: usize = GROUP_WIDTH + HOST_WIDTH;
/// Bytes of a SADDRS request's body.
pub const SADDRS_LEN: usize = APP_WIDTH + USER_WIDTH + FILE_WIDTH;

/// JOIN: a storage node announces itself. Its address is that of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Join {
    /// Of its software.
    pub version: Version,
    /// The group that it serves.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
    /// Port of its binary protocol.
    pub port: u16,
    /// When it started, seconds since 1970.
    pub started_at: u64,
    /// When it joined, seconds since 1970.
    pub joined_at: u64,
}

impl Join {
    /// Reads a body of exactly 171 bytes.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        exactly(body, JOIN_LEN)?;
        let mut fields = Fields::new(body);
        Ok(Self {
            version: Version::from_bytes(fields.text(VERSION_WIDTH, "version")?)?,
            group: GroupName::from_bytes(fields.text(GROUP_WIDTH, "group name")?)?,
            host: HostName::from_bytes(fields.text(HOST_WIDTH, "host name")?)?,
            port: fields.u16("port")?,
            started_at: fields.u64("start time")?,
            joined_at: fields.u64("join time")?,
        })
    }

    /// Appends the 171 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        text::pad(out, self.version.as_bytes(), VERSION_WIDTH);
        text::pad(out, self.group.as_bytes(), GROUP_WIDTH);
        text::pad(out, self.host.as_bytes(), HOST_WIDTH);
        out.extend_from_slice(&self.port.to_be_bytes());
        out.extend_from_slice(&self.started_at.to_be_bytes());
        out.extend_from_slice(&self.joined_at.to_be_bytes());
    }
}

/// BEAT: a storage node is alive. It belongs to the join of its own connection; without one to the only node of that
/// group, host name and address; else it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// The group that it serves.
    pub group: GroupName,
    /// Its host's name.
    pub host: HostName,
}

impl Beat {
    /// Reads a body of exactly 146 bytes.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        exactly(body, BEAT_LEN)?;
        let mut fields = Fields::new(body);
        Ok(Self {
            group: GroupName::from_bytes(fields.text(GROUP_WIDTH, "group name")?)?,
            host: HostName::from_bytes(fields.text(HOST_WIDTH, "host name")?)?,
        })
    }

    /// Appends the 146 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        text::pad(out, self.group.as_bytes(), GROUP_WIDTH);
        text::pad(out, self.host.as_bytes(), HOST_WIDTH);
    }
}

/// SADDRS: which storage nodes serve a user. Its file id's field is not read, not even when it lacks a NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saddrs {
    /// The application.
    pub app: AppId,
    /// The user.
    pub user: UserId,
}

impl Saddrs {
    /// Reads a body of exactly 400 bytes.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        exactly(body, SADDRS_LEN)?;
        let mut fields = Fields::new(body);
        Ok(Self {
            app: AppId::from_bytes(fields.text(APP_WIDTH, "app id")?)?,
            user: UserId::from_bytes(fields.text(USER_WIDTH, "user id")?)?,
        })
    }

    /// Appends the 400 bytes, the file id's field empty.
    pub fn encode(&self, out: &mut Vec<u8>) {
        text::pad(out, self.app.as_bytes(), APP_WIDTH);
        text::pad(out, self.user.as_bytes(), USER_WIDTH);
        text::pad(out, b"", FILE_WIDTH);
    }
}

/// The reply to SADDRS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaddrsReply {
    /// The user's group.
    pub group: GroupName,
    /// Active nodes of it, [`limits::SADDRS_NODES_MAX`] at most.
    pub nodes: Vec<SocketAddr>,
}

impl SaddrsReply {
    /// Reads a reply's body. An empty list of nodes is legal on the wire.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong, before more than three addresses are kept.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        const FIELD: &str = "addresses";
        if body.len() as u64 > limits::SADDRS_REPLY_BYTES_MAX {
            let want = limits::SADDRS_REPLY_BYTES_MAX;
            return Err(BodyError::Length { want, got: body.len() as u64 });
        }
        let mut fields = Fields::new(body);
        let group = GroupName::from_bytes(fields.text(GROUP_WIDTH, "group name")?)?;
        let list = fields.text(fields.left(), FIELD)?;
        let list = std::str::from_utf8(list).map_err(|_| BodyError::Value { field: FIELD })?;
        let mut nodes = Vec::new();
        for address in list.split_terminator(';') {
            if nodes.len() == limits::SADDRS_NODES_MAX {
                return Err(BodyError::Value { field: FIELD });
            }
            nodes.push(address.parse().map_err(|_| BodyError::Value { field: FIELD })?);
        }
        Ok(Self { group, nodes })
    }

    /// Appends the reply's body: of more than three nodes, the first three.
    pub fn encode(&self, out: &mut Vec<u8>) {
        text::pad(out, self.group.as_bytes(), GROUP_WIDTH);
        let mut list = String::new();
        for node in self.nodes.iter().take(limits::SADDRS_NODES_MAX) {
            // Writing to a String cannot fail.
            let _ = write!(list, "{node};");
        }
        out.extend_from_slice(list.as_bytes());
        out.push(0);
    }
}
