//! Byte ranges (RFC 9110 section 14): which bytes of a file a request gets.
//!
//! A `Range` field that is malformed, in another unit, or abusive is ignored, as section 14.2 allows: the whole file is
//! sent. Abusive is more than [`limits::HTTP_RANGES_MAX`] ranges, or ranges that overlap so much that together they
//! are larger than the file (section 17.15). So an answer's content is never larger than the file, but for the heads
//! of at most 16 parts.

use std::{fmt, ops::Deref};

use super::{response::write_decimal, syntax};
use crate::limits;

/// Name of the only unit here (RFC 9110 section 14.1.2).
pub const UNIT: &str = "bytes";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// `first-last`, `first-` (then to 2^64 − 1).
    Span { first: u64, last: u64 },
    /// `-length`: the last bytes.
    Suffix { length: u64 },
}

/// A well-formed `Range` field in bytes. Inline: no allocation.
#[derive(Debug, Clone, Copy)]
pub struct RangeSet {
    count: usize,
    specs: [Spec; limits::HTTP_RANGES_MAX],
}

/// Bytes of a file: at least one, all within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ByteRange {
    /// The first byte.
    pub first: u64,
    /// How many.
    pub length: u64,
}

impl ByteRange {
    /// The last byte.
    pub const fn last(self) -> u64 {
        self.first + (self.length - 1)
    }
}

/// Ranges to send, at least one, in the order asked for.
#[derive(Clone, Copy)]
pub struct Parts {
    count: usize,
    ranges: [ByteRange; limits::HTTP_RANGES_MAX],
}

impl Deref for Parts {
    type Target = [ByteRange];

    fn deref(&self) -> &[ByteRange] {
        &self.ranges[..self.count]
    }
}

impl PartialEq for Parts {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl Eq for Parts {}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self[..].fmt(f)
    }
}

/// What a request gets.
// A box would make the common case, one range, allocate.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranges {
    /// The whole file, with 200.
    Whole,
    /// One range: 206 with `Content-Range`. More: 206 as `multipart/byteranges`.
    Parts(Parts),
    /// None of the ranges has a byte: 416 with `Content-Range: bytes */size`.
    Unsatisfiable,
}

impl RangeSet {
    /// Reads the value of a `Range` field. `None`: it is to be ignored.
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() > limits::HTTP_RANGE_BYTES_MAX {
            return None;
        }
        let (unit, set) = value.split_at_checked(UNIT.len())?;
        let set = set.strip_prefix(b"=")?;
        if !unit.eq_ignore_ascii_case(UNIT.as_bytes()) {
            return None;
        }
        let mut ranges =
            Self { count: 0, specs: [Spec::Suffix { length: 0 }; limits::HTTP_RANGES_MAX] };
        for member in syntax::list(set) {
            let spec = Spec::parse(member)?;
            *ranges.specs.get_mut(ranges.count)? = spec;
            ranges.count += 1;
        }
        (ranges.count > 0).then_some(ranges)
    }

    /// The ranges within a file of `size` bytes.
    pub fn resolve(&self, size: u64) -> Ranges {
        let mut parts = Parts {
            count: 0,
            ranges: [ByteRange { first: 0, length: 0 }; limits::HTTP_RANGES_MAX],
        };
        let mut total: u64 = 0;
        for spec in &self.specs[..self.count] {
            // A suffix of an empty file is satisfiable (RFC 9110 section 14.1.2), but no Content-Range could tell of
            // zero bytes: the whole, empty file.
            if size == 0 && matches!(spec, Spec::Suffix { length } if *length > 0) {
                return Ranges::Whole;
            }
            let Some(range) = spec.within(size) else { continue };
            total = total.saturating_add(range.length);
            parts.ranges[parts.count] = range;
            parts.count += 1;
        }
        match parts.count {
            0 => Ranges::Unsatisfiable,
            _ if total > size => Ranges::Whole,
            _ => Ranges::Parts(parts),
        }
    }
}

/// What a request with these values of its `Range` lines gets of a file of `size` bytes. Call it only for GET
/// (RFC 9110 section 14.2) and after the preconditions, which may switch ranges off. Two lines are ignored like a
/// malformed one: the field may stand once.
pub fn resolve<'a>(mut lines: impl Iterator<Item = &'a [u8]>, size: u64) -> Ranges {
    match (lines.next().and_then(RangeSet::parse), lines.next()) {
        (Some(set), None) => set.resolve(size),
        _ => Ranges::Whole,
    }
}

impl Spec {
    /// `int-range` or `suffix-range` (RFC 9110 section 14.1.1).
    fn parse(member: &[u8]) -> Option<Self> {
        let dash = member.iter().position(|&byte| byte == b'-')?;
        let (first, last) = (&member[..dash], &member[dash + 1..]);
        match (first, last) {
            ([], last) => Some(Self::Suffix { length: position(last)? }),
            (first, []) => Some(Self::Span { first: position(first)?, last: u64::MAX }),
            (first, last) => {
                let (first, last) = (position(first)?, position(last)?);
                // Both may be past 64 bits, where they cannot be told apart: then it is past any file all the same.
                (first <= last).then_some(Self::Span { first, last })
            }
        }
    }

    fn within(self, size: u64) -> Option<ByteRange> {
        let (first, length) = match self {
            Self::Span { first, .. } if first >= size => return None,
            Self::Span { first, last } => (first, last.min(size - 1) - first + 1),
            Self::Suffix { length } => {
                let length = length.min(size);
                (size - length, length)
            }
        };
        (length > 0).then_some(ByteRange { first, length })
    }
}

/// Digits; a number past 64 bits is well-formed and becomes the largest one.
fn position(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(syntax::decimal(digits).unwrap_or(u64::MAX))
}

/// A `Content-Range` field (RFC 9110 section 14.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentRange {
    /// The bytes sent; `None` in a 416.
    pub range: Option<ByteRange>,
    /// Bytes of the file.
    pub size: u64,
}

impl ContentRange {
    /// Reads a field's value: one range of a file whose size is told, or `*` and the size. Anything
    /// else is `None`, also what the RFC calls invalid.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let rest = value.strip_prefix(b"bytes ")?;
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        let (range, size) = (&rest[..slash], syntax::decimal(&rest[slash + 1..])?);
        if range == b"*" {
            return Some(Self { range: None, size });
        }
        let dash = range.iter().position(|byte| *byte == b'-')?;
        let first = syntax::decimal(&range[..dash])?;
        let last = syntax::decimal(&range[dash + 1..])?;
        if last < first || last >= size {
            return None;
        }
        Some(Self { range: Some(ByteRange { first, length: last - first + 1 }), size })
    }

    /// Appends the field line. As its text, without a formatter: it stands in most answers.
    pub fn write_field(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Content-Range: bytes ");
        match self.range {
            Some(range) => {
                write_decimal(out, range.first);
                out.push(b'-');
                write_decimal(out, range.last());
            }
            None => out.push(b'*'),
        }
        out.push(b'/');
        write_decimal(out, self.size);
        out.extend_from_slice(b"\r\n");
    }
}
