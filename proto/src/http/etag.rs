//! Entity tags (RFC 9110 section 8.8.3): ours, and those of preconditions.
//!
//! Ours is strong and made of path id and size: the same on every node, never changed by migration or adoption.

use std::fmt;

use crate::path::PathId;

/// Bytes of the longest of ours: quotes, 9 digits of a path id, `-`, 16 of a size.
const BYTES_MAX: usize = 2 + 9 + 1 + 16;

/// The strong entity tag of a file, as `"1a2b-3c4d"`. Inline, `Copy`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ETag {
    length: u8,
    bytes: [u8; BYTES_MAX],
}

impl ETag {
    /// Of a file: path id and size, in lower-case hexadecimal without padding.
    pub fn of_file(path_id: PathId, size: u64) -> Self {
        let mut tag = Self { length: 0, bytes: [0; BYTES_MAX] };
        tag.push(b'"');
        tag.push_hex(path_id.get());
        tag.push(b'-');
        tag.push_hex(size);
        tag.push(b'"');
        tag
    }

    /// With its quotes, as it stands in a field.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// With its quotes, as it stands in a field.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Strong comparison with an entity tag of a field (RFC 9110 section 8.8.3.2): a weak one never matches.
    pub fn matches_strong(&self, other: &[u8]) -> bool {
        self.as_bytes() == other
    }

    /// Weak comparison with an entity tag of a field: a weak one matches if its text does.
    pub fn matches_weak(&self, other: &[u8]) -> bool {
        self.as_bytes() == other.strip_prefix(b"W/").unwrap_or(other)
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length += 1;
    }

    fn push_hex(&mut self, number: u64) {
        let digits = (64 - number.leading_zeros()).div_ceil(4).max(1);
        for place in (0..digits).rev() {
            self.push(b"0123456789abcdef"[(number >> (4 * place)) as usize & 0xF]);
        }
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Takes the next entity tag off a list: the tag as it stands, `W/` and quotes included. `None` at the end, and where
/// what follows is no entity tag. A tag may hold commas (RFC 9110 section 8.8.3), so a list is never just split.
pub(super) fn next_of_list<'a>(list: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut rest = *list;
    while let [b' ' | b'\t' | b',', after @ ..] = rest {
        rest = after;
    }
    let opened = rest.strip_prefix(b"W/").unwrap_or(rest).strip_prefix(b"\"")?;
    let length = opened.iter().position(|&byte| byte == b'"')?;
    let is_tag_byte = |&byte: &u8| matches!(byte, 0x21 | 0x23..=0x7E | 0x80..);
    if !opened[..length].iter().all(is_tag_byte) {
        return None;
    }
    let (tag, after) = rest.split_at(rest.len() - opened.len() + length + 1);
    let after = super::syntax::trim(after);
    if !after.is_empty() && after[0] != b',' {
        return None;
    }
    *list = after;
    Some(tag)
}
