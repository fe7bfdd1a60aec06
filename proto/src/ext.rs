//! Our own commands for clients, 200–219: where a file is, what is known of it, uploads and downloads with checksums.
//!
//! Every body, request or reply, begins with its layout's version (1, of LIST 2). Widths, in bytes: a *short* text is its length
//! in one byte and then so many bytes of UTF-8 without control characters; an *optional* is a byte 0, or a byte 1 and
//! the value; a *socket* is a byte 4 or 6, the address, the port in two. A refusal is an error reply with a number of
//! [`crate::refusal`].

mod listing;
mod locate;
mod nodes;
mod stored;
mod transfer;

pub use listing::{
    CURSOR_FILE_BYTES_MAX, Cursor, LIST_ENTRIES_MAX, List, ListReply, Listed, Selection,
    StatusFilter, Tally, Usage, UsageReply,
};
pub use locate::{Locate, Located, NODES_MAX, NodeAddr, node_flag};
pub use nodes::{NODES_PAGE_MAX, NodeInfo, Nodes, NodesReply};
pub use stored::{FileStat, FileStatus, Purge, PurgeReply, decode_file, encode_file};
pub use transfer::{
    GET_HEAD_LEN, Get, GetHead, PUT_FIXED_LEN, PUT_HEAD_BYTES_MAX, PUT_TRAILER_LEN, PutHead,
    PutOutcome, PutReply,
};

pub use crate::limits::{
    EXT_REPLY_BYTES_MAX as REPLY_BYTES_MAX, EXT_REQUEST_BYTES_MAX as REQUEST_BYTES_MAX,
};

#[cfg(test)]
mod tests {
    use crate::body::BodyError;
    use crate::ext::{FileStat, FileStatus};

    /// What every decoder must stand: any prefix is an error, any flipped bit anything but a panic.
    pub(super) fn harden<T>(bytes: &[u8], decode: impl Fn(&[u8]) -> Result<T, BodyError>) {
        assert!(decode(bytes).is_ok());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut after {end} bytes");
        }
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert!(decode(&longer).is_err(), "a byte after the last field");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let _ = decode(&flipped);
        }
        let mut other = bytes.to_vec();
        other[0] = 9;
        assert!(matches!(decode(&other), Err(BodyError::Version { got: 9 })));
    }

    /// With every text at its longest, or with none.
    pub(super) fn stat(full: bool) -> FileStat {
        FileStat {
            path_id: 262_144,
            size: 1 << 40,
            checksum: full.then_some(0xAE8B_1486_0A79_9888),
            created_at: 1_710_188_042,
            status: if full { FileStatus::Deleted } else { FileStatus::Normal },
            deleted_at: full.then_some(7),
            expires_at: full.then_some(8),
            name: full.then(|| "片".repeat(85)),
            content_type: full.then(|| "t".repeat(255)),
            store: "s".repeat(if full { 255 } else { 64 }),
        }
    }
}
