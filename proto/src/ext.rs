//! Our own commands for clients, 200–219: where a file is, what is known of it, uploads and downloads with checksums.
//!
//! Every body, request or reply, begins with its layout's version (1). Widths, in bytes: a *short* text is its length
//! in one byte and then so many bytes of UTF-8 without control characters; an *optional* is a byte 0, or a byte 1 and
//! the value; a *socket* is a byte 4 or 6, the address, the port in two. A refusal is an error reply with a number of
//! [`crate::refusal`].

mod locate;
mod stored;
mod transfer;

pub use locate::{Locate, Located, NODES_MAX, NodeAddr, node_flag};
pub use stored::{
    FileStat, FileStatus, LIST_ENTRIES_MAX, List, ListReply, Listed, Purge, PurgeReply,
    StatusFilter, decode_file, encode_file,
};
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
        other[0] = 2;
        assert!(matches!(decode(&other), Err(BodyError::Version { got: 2 })));
    }
}
