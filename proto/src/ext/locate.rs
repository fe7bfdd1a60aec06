//! LOCATE (200): who serves a file or a user, with media addresses and gateways.

use std::net::SocketAddr;

use crate::{
    body::{BodyError, Fields, LAYOUT_VERSION, put_optional, put_short, put_socket},
    name::{AppId, FileId, GroupName, UserId},
};

pub use crate::limits::LOCATED_NODES_MAX as NODES_MAX;

/// What a tracker knows of a node beyond its addresses: bits of [`NodeAddr::flags`]. Unknown bits are ignored.
pub mod node_flag {
    /// It takes no uploads.
    pub const READ_ONLY: u8 = 1;
    /// It joined as a deployed node does, and knows none of our commands.
    pub const DEPLOYED: u8 = 2;
    /// An operator has drained it, or it is about to stop: named only where all active ones of its group are.
    pub const DRAINING: u8 = 4;
    /// It has much more under way than the others of its group. Only a tracker can tell.
    pub const BUSY: u8 = 8;
}

/// The question. Without a file it routes the user; without a user, the file decides (the only group, with embedded
/// metadata).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Locate {
    /// The application; a tracker takes its default where there is none.
    pub app: Option<AppId>,
    /// The user.
    pub user: Option<UserId>,
    /// The file.
    pub file: Option<FileId>,
}

impl Locate {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let located = Self {
            app: fields.optional("app id", |f| Ok(AppId::from_bytes(f.short("app id")?)?))?,
            user: fields.optional("user id", |f| Ok(UserId::from_bytes(f.short("user id")?)?))?,
            file: fields.optional("file id", |f| Ok(FileId::from_bytes(f.short("file id")?)?))?,
        };
        fields.finish()?;
        Ok(located)
    }

    /// Appends the request's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_optional(out, self.app.as_ref(), |out, app| put_short(out, app.as_bytes()));
        put_optional(out, self.user.as_ref(), |out, user| put_short(out, user.as_bytes()));
        put_optional(out, self.file.as_ref(), |out, file| put_short(out, file.as_bytes()));
    }
}

/// A storage node of a [`Located`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddr {
    /// Where it serves the binary protocol.
    pub binary: SocketAddr,
    /// Where it serves media over HTTP; a deployed node does not.
    pub media: Option<SocketAddr>,
    /// Bits of [`node_flag`].
    pub flags: u8,
}

/// The answer: active nodes only, starting at a random one; those that take no uploads or are busy come after the
/// others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The group.
    pub group: GroupName,
    /// Its active nodes, [`NODES_MAX`] at most.
    pub nodes: Vec<NodeAddr>,
    /// Media addresses of the gateways that the tracker knows, [`NODES_MAX`] at most.
    pub gateways: Vec<SocketAddr>,
}

impl Located {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong; a count past [`NODES_MAX`] before anything is kept.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let group = GroupName::from_bytes(fields.short("group name")?)?;
        let nodes = list(&mut fields, "nodes", |fields| {
            Ok(NodeAddr {
                binary: fields.socket("node's address")?,
                media: fields
                    .optional("node's media address", |f| f.socket("node's media address"))?,
                flags: fields.u8("node's flags")?,
            })
        })?;
        let gateways = list(&mut fields, "gateways", |fields| fields.socket("gateway"))?;
        fields.finish()?;
        Ok(Self { group, nodes, gateways })
    }

    /// Appends the reply's body: of more than [`NODES_MAX`] nodes or gateways, the first ones.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_short(out, self.group.as_bytes());
        out.push(self.nodes.len().min(NODES_MAX) as u8);
        for node in self.nodes.iter().take(NODES_MAX) {
            put_socket(out, node.binary);
            put_optional(out, node.media, put_socket);
            out.push(node.flags);
        }
        out.push(self.gateways.len().min(NODES_MAX) as u8);
        for gateway in self.gateways.iter().take(NODES_MAX) {
            put_socket(out, *gateway);
        }
    }
}

fn list<T>(
    fields: &mut Fields<'_>,
    what: &'static str,
    mut read: impl FnMut(&mut Fields<'_>) -> Result<T, BodyError>,
) -> Result<Vec<T>, BodyError> {
    let count = usize::from(fields.u8(what)?);
    if count > NODES_MAX {
        return Err(BodyError::Value { field: what });
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(read(fields)?);
    }
    Ok(items)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ext::tests::harden;

    #[test]
    fn a_question_comes_back() {
        for (app, user, file) in [
            (None, None, None),
            (Some("tnvideo"), Some(""), None),
            (Some("a"), Some("用户"), Some("f\"1")),
        ] {
            let locate = Locate {
                app: app.map(|app| AppId::parse(app).unwrap()),
                user: user.map(|user| UserId::parse(user).unwrap()),
                file: file.map(|file| FileId::parse(file).unwrap()),
            };
            let mut bytes = Vec::new();
            locate.encode(&mut bytes);
            assert_eq!(Locate::decode(&bytes).unwrap(), locate);
            harden(&bytes, Locate::decode);
        }
    }

    #[test]
    fn the_bytes_of_a_question_are_fixed() {
        let locate = Locate { app: Some(AppId::parse("tnvideo").unwrap()), user: None, file: None };
        let mut bytes = Vec::new();
        locate.encode(&mut bytes);
        assert_eq!(bytes, b"\x01\x01\x07tnvideo\x00\x00");
    }

    #[test]
    fn an_answer_comes_back_and_is_bounded() {
        let node = NodeAddr {
            binary: "10.0.0.5:23000".parse().unwrap(),
            media: Some("[fe80::1]:23080".parse().unwrap()),
            flags: node_flag::READ_ONLY,
        };
        let deployed = NodeAddr { media: None, flags: node_flag::DEPLOYED, ..node };
        let located = Located {
            group: GroupName::parse("group001").unwrap(),
            nodes: vec![node, deployed],
            gateways: vec!["127.0.0.1:8080".parse().unwrap()],
        };
        let mut bytes = Vec::new();
        located.encode(&mut bytes);
        assert_eq!(Located::decode(&bytes).unwrap(), located);
        harden(&bytes, Located::decode);
        let many = Located { nodes: vec![deployed; 300], ..located };
        let mut bytes = Vec::new();
        many.encode(&mut bytes);
        assert_eq!(Located::decode(&bytes).unwrap().nodes.len(), NODES_MAX);
        bytes[10] = NODES_MAX as u8 + 1;
        assert_eq!(Located::decode(&bytes), Err(BodyError::Value { field: "nodes" }));
    }
}
