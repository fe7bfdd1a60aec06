//! The GROUPS text: every group and every storage node, for people and for old tools, to the byte.
//!
//! No newline after the last line, one NUL; groups in name order; times as `ctime(3)`.

use std::{fmt::Write as _, net::SocketAddr, str::Lines};

use super::ctime::{self, Ctime};
use crate::{
    body::BodyError,
    limits,
    name::{GroupName, HostName, Version},
    text,
};

/// State of a storage node at a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NodeStatus {
    /// No beat for the check interval.
    Offline,
    /// Joined, not beaten yet.
    Online,
    /// Beating. Only these are handed to clients.
    Active,
}

impl NodeStatus {
    /// As the GROUPS text has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offline => "OFFLINE",
            Self::Online => "ONLINE",
            Self::Active => "ACTIVE",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Offline, Self::Online, Self::Active].into_iter().find(|one| one.as_str() == text)
    }
}

impl std::fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A storage node in the GROUPS text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeEntry {
    /// Of its software.
    pub version: Version,
    /// Its host's name.
    pub host: HostName,
    /// Where it serves the binary protocol.
    pub address: SocketAddr,
    /// When it started, seconds since 1970.
    pub started_at: u64,
    /// When it joined, seconds since 1970.
    pub joined_at: u64,
    /// Its last beat, seconds since 1970; 0 before the first.
    pub beat_at: u64,
    /// Its state.
    pub status: NodeStatus,
}

/// A group in the GROUPS text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupEntry {
    /// Its name.
    pub name: GroupName,
    /// Its nodes, in the order shown.
    pub nodes: Vec<NodeEntry>,
}

/// Renders the reply's body, its NUL included. Groups are put in name order.
pub fn render(groups: &[GroupEntry], utc_offset_s: i32) -> Vec<u8> {
    let mut ordered: Vec<_> = groups.iter().collect();
    ordered.sort_by_key(|group| group.name);
    let mut out = format!("COUNT OF GROUPS: {}", groups.len());
    for group in ordered {
        let active = group.nodes.iter().filter(|node| node.status == NodeStatus::Active).count();
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            out,
            "\nGROUPNAME: {}\nCOUNT OF STORAGES: {}\nCOUNT OF ACTIVE STORAGES: {active}",
            group.name,
            group.nodes.len(),
        );
        for node in &group.nodes {
            let time = |time| Ctime { time, utc_offset_s };
            let _ = write!(
                out,
                "\nVERSION: {}\nHOSTNAME: {}\nADDRESS: {}\nSTARTUP TIME: {}\nJOIN TIME: {}\n\
                 BEAT TIME: {}\nSTATUS: {}",
                node.version,
                node.host,
                node.address,
                time(node.started_at),
                time(node.joined_at),
                time(node.beat_at),
                node.status,
            );
        }
    }
    out.push('\0');
    out.into_bytes()
}

/// Reads the reply's body back.
///
/// A newline after the last line is taken as well. Memory grows with the lines that are there, never with a count that
/// the text states.
///
/// # Errors
/// [`BodyError`] where it is too long, has no NUL, or a line is not as it should be.
pub fn parse(body: &[u8], utc_offset_s: i32) -> Result<Vec<GroupEntry>, BodyError> {
    if body.len() as u64 > limits::GROUPS_BYTES_MAX {
        let want = limits::GROUPS_BYTES_MAX;
        return Err(BodyError::Length { want, got: body.len() as u64 });
    }
    let text = text::read(body).map_err(|fault| BodyError::Text { field: "groups text", fault })?;
    let text = std::str::from_utf8(text).map_err(|_| BodyError::Value { field: "groups text" })?;
    let mut reader = Reader { lines: text.lines(), utc_offset_s };
    let count = reader.count("COUNT OF GROUPS", limits::GROUPS_MAX)?;
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(reader.group()?);
    }
    match reader.lines.next() {
        None => Ok(groups),
        Some(_) => Err(BodyError::Value { field: "COUNT OF GROUPS" }),
    }
}

struct Reader<'a> {
    lines: Lines<'a>,
    utc_offset_s: i32,
}

impl<'a> Reader<'a> {
    fn group(&mut self) -> Result<GroupEntry, BodyError> {
        let name = GroupName::parse(self.value("GROUPNAME")?)?;
        let count = self.count("COUNT OF STORAGES", limits::GROUP_NODES_MAX)?;
        self.count("COUNT OF ACTIVE STORAGES", count)?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(self.node()?);
        }
        Ok(GroupEntry { name, nodes })
    }

    fn node(&mut self) -> Result<NodeEntry, BodyError> {
        Ok(NodeEntry {
            version: Version::parse(self.value("VERSION")?)?,
            host: HostName::parse(self.value("HOSTNAME")?)?,
            address: self.parsed("ADDRESS", |text| text.parse().ok())?,
            started_at: self.time("STARTUP TIME")?,
            joined_at: self.time("JOIN TIME")?,
            beat_at: self.time("BEAT TIME")?,
            status: self.parsed("STATUS", NodeStatus::parse)?,
        })
    }

    fn value(&mut self, label: &'static str) -> Result<&'a str, BodyError> {
        let line = self.lines.next().ok_or(BodyError::Cut { field: label })?;
        line.strip_prefix(label)
            .and_then(|rest| rest.strip_prefix(": "))
            .ok_or(BodyError::Value { field: label })
    }

    fn parsed<T>(
        &mut self,
        label: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, BodyError> {
        parse(self.value(label)?).ok_or(BodyError::Value { field: label })
    }

    fn count(&mut self, label: &'static str, max: usize) -> Result<usize, BodyError> {
        self.parsed(label, |text| text.parse().ok().filter(|&count| count <= max))
    }

    fn time(&mut self, label: &'static str) -> Result<u64, BodyError> {
        let offset = self.utc_offset_s;
        self.parsed(label, |text| ctime::parse(text, offset))
    }
}
