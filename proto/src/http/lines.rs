//! Finds the end of a head in bytes that arrive in pieces, each byte looked at once, every line ended by CRLF.

use memchr::memchr;

use super::head::{HeadError, HeadLimits, Refusal};

/// How far a head has been looked at. Keep it beside the buffer while more bytes come: without it a peer that sends
/// one byte at a time makes us read the head as often as it has bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct HeadScan {
    /// Bytes looked at.
    looked: usize,
    /// Where the line now being read begins.
    line: usize,
    /// Lines seen; 0 while in the first.
    lines: usize,
}

/// What [`HeadScan::find`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes of an empty line before the first line: 0 or 2.
    pub(super) skip: usize,
    /// Bytes of the head, its last empty line included, and what is to be skipped before it.
    pub(super) end: usize,
}

impl HeadScan {
    /// Looks at what is new in `buffer`. `None`: more bytes are needed.
    ///
    /// One empty line before the first is skipped (RFC 9112 section 2.2).
    pub(super) fn find(
        &mut self,
        buffer: &[u8],
        limits: &HeadLimits,
    ) -> Result<Option<Found>, HeadError> {
        if self.looked == 0 && buffer.first().is_some_and(|&byte| !may_begin(byte)) {
            // Another protocol (TLS begins with 0x16): its bytes may never bring the end of a line.
            return Err(Refusal::NotHttp.into());
        }
        let skip = if buffer.starts_with(b"\r\n") { 2 } else { 0 };
        let limit = limits.bytes().saturating_add(skip);
        while let Some(at) = buffer.get(self.looked..).and_then(|rest| memchr(b'\n', rest)) {
            let end = self.looked + at + 1;
            if end - self.line < 2 || buffer[end - 2] != b'\r' {
                return Err(Refusal::BareLineFeed.into());
            }
            let empty = end - self.line == 2;
            let leading = empty && self.line == 0;
            if empty && self.lines == 0 && !leading {
                return Err(Refusal::EmptyLines.into());
            }
            if self.lines == 0 && end - self.line > limits.request_line_bytes_max {
                return Err(Refusal::LongRequestLine.into());
            }
            if end > limit {
                return Err(Refusal::LongHead.into());
            }
            (self.looked, self.line) = (end, end);
            if leading {
                continue;
            }
            self.lines += 1;
            if empty {
                return Ok(Some(Found { skip, end }));
            }
            // The request line and the empty line at the end are no fields.
            if self.lines - 1 > limits.fields() {
                return Err(Refusal::ManyFields.into());
            }
        }
        self.looked = buffer.len().max(self.looked);
        if self.lines == 0 && self.looked - self.line > limits.request_line_bytes_max {
            return Err(Refusal::LongRequestLine.into());
        }
        if self.looked > limit {
            return Err(Refusal::LongHead.into());
        }
        Ok(None)
    }
}

/// Whether a head, or an empty line before it, may begin with this byte.
const fn may_begin(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n' || super::syntax::is_token_byte(byte)
}
