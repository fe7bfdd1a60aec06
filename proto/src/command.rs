//! Command numbers, and how long the body of each request may be.
//!
//! Below 200 every byte is the deployed system's and never changes. 200–219 are our commands for clients, 220–255 ours
//! between nodes, signed. An unknown command gets an error frame, so that a newer peer falls back to an older command.

use crate::{
    ext,
    frame::{FrameError, Header},
    limits, sign,
    storage::{FILE_REF_LEN, UPLOAD_HEAD_LEN},
    tracker,
};

/// Storage → tracker: a storage node announces itself.
pub const JOIN: u8 = 10;
/// Storage → tracker: it is alive.
pub const BEAT: u8 = 11;
/// Client → tracker: which storage nodes serve a user.
pub const SADDRS: u8 = 12;
/// Client → tracker: all groups and nodes, as text.
pub const GROUPS: u8 = 13;
/// Client → ID node: the next number of a key.
pub const ID_GET: u8 = 40;
/// Client → storage: a file.
pub const UPLOAD: u8 = 70;
/// Client → storage: a file's size.
pub const FILE_SIZE: u8 = 71;
/// Client → storage: a range of a file.
pub const DOWNLOAD: u8 = 72;
/// Client → storage: soft deletion.
pub const DELETE: u8 = 73;
/// Reply of a tracker.
pub const REPLY_TRACKER: u8 = 100;
/// Reply of an ID node.
pub const REPLY_IDGEN: u8 = 101;
/// Reply of a storage node.
pub const REPLY_STORAGE: u8 = 102;

/// Client → tracker: where a file or a user lives, with media addresses and gateways.
pub const LOCATE: u8 = 200;
/// Client → storage: everything known of a file.
pub const STAT: u8 = 201;
/// Client → storage: files of a user or of an app, a page at a time.
pub const LIST: u8 = 202;
/// Client → storage: takes a soft deletion back.
pub const RESTORE: u8 = 203;
/// Client → storage: removes deleted files for good.
pub const PURGE: u8 = 204;
/// Client → storage: an upload with name, type and checksum.
pub const PUT: u8 = 205;
/// Client → storage: a range of a file, with its size and checksum.
pub const GET: u8 = 206;
/// Client → storage: how many files and bytes a user or an app has.
pub const USAGE: u8 = 207;

/// Client → tracker: the storage nodes, with space, load and state.
pub const NODES: u8 = 208;

/// Storage → ID node: a block of path ids.
pub const ID_BLOCK: u8 = 220;
/// Storage → tracker: a join with advertised address, media port and store identity.
pub const JOIN_EXT: u8 = 221;
/// Storage → tracker: space, load and state of its store paths.
pub const REPORT: u8 = 222;
/// Storage → tracker: it is about to stop, or no longer. Operator → storage: be drained, or no longer.
pub const DRAIN: u8 = 223;
/// Gateway → tracker: it is there, and alive.
pub const GATEWAY: u8 = 224;

/// How long the body of a request may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRule {
    /// So many bytes, all of them at once: small enough to hold.
    Whole {
        /// Fewest bytes.
        min: u64,
        /// Most bytes.
        max: u64,
    },
    /// A head that is held, then content that streams.
    Streamed {
        /// Fewest bytes of the body.
        min: u64,
        /// Bytes that are enough to decode the head.
        head_max: u64,
        /// Most bytes of the body.
        max: u64,
    },
}

impl BodyRule {
    const fn exactly(length: u64) -> Self {
        Self::Whole { min: length, max: length }
    }

    /// Fewest and most bytes of the body.
    pub const fn bounds(&self) -> (u64, u64) {
        match *self {
            Self::Whole { min, max } | Self::Streamed { min, max, .. } => (min, max),
        }
    }
}

/// The rule of a request's body; `None` for a command that is not known.
pub const fn body_rule(command: u8) -> Option<BodyRule> {
    const ANY: u64 = i64::MAX as u64;
    Some(match command {
        JOIN => BodyRule::exactly(tracker::JOIN_LEN as u64),
        BEAT => BodyRule::exactly(tracker::BEAT_LEN as u64),
        SADDRS => BodyRule::exactly(tracker::SADDRS_LEN as u64),
        GROUPS => BodyRule::exactly(0),
        ID_GET => BodyRule::Whole { min: 2, max: limits::ID_KEY_BYTES_MAX as u64 + 1 },
        UPLOAD => BodyRule::Streamed {
            min: UPLOAD_HEAD_LEN as u64,
            head_max: UPLOAD_HEAD_LEN as u64,
            max: ANY,
        },
        FILE_SIZE | DELETE => BodyRule::exactly(FILE_REF_LEN as u64),
        DOWNLOAD => BodyRule::exactly(crate::storage::DOWNLOAD_LEN as u64),
        LOCATE | STAT | LIST | RESTORE | PURGE | GET | USAGE | NODES => {
            BodyRule::Whole { min: 2, max: limits::EXT_REQUEST_BYTES_MAX }
        }
        PUT => BodyRule::Streamed {
            min: ext::PUT_FIXED_LEN as u64,
            head_max: ext::PUT_HEAD_BYTES_MAX as u64,
            max: ANY,
        },
        ID_BLOCK | JOIN_EXT | REPORT | DRAIN | GATEWAY => {
            let envelope = sign::OVERHEAD as u64;
            BodyRule::Whole { min: 2, max: limits::PEER_REQUEST_BYTES_MAX + envelope }
        }
        _ => return None,
    })
}

/// Checks a request's header before any of its body is read.
///
/// # Errors
/// [`FrameError::UnknownCommand`] or [`FrameError::Length`]; both get an error reply, then the connection closes.
pub const fn check_request(header: &Header) -> Result<BodyRule, FrameError> {
    let Some(rule) = body_rule(header.command) else {
        return Err(FrameError::UnknownCommand { command: header.command });
    };
    let (min, max) = rule.bounds();
    if header.length < min || header.length > max {
        return Err(FrameError::Length { command: header.command, length: header.length });
    }
    Ok(rule)
}
