//! The head of an answer, as a gateway reads it from a storage node.

use std::fmt;

use super::{Framing, HeadError, HeadLimits, HeadScan, Refusal, Version, framing::framing};
use crate::http::fields::Fields;

/// An answer's head, checked by the same rules as a request's: what two parsers could read in two ways is refused.
#[derive(Clone)]
pub struct ResponseHead {
    /// The status, 100–599.
    pub status: u16,
    /// The version.
    pub version: Version,
    /// Where the body ends, as the fields say. An answer to HEAD, an interim one, 204 and 304 have no body, whatever
    /// this says (RFC 9112 section 6.3): see [`Self::body`].
    pub framing: Framing,
    /// Whether the node lets the connection live on.
    pub keep_alive: bool,
    fields: Fields,
}

/// Where the body of an answer ends (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerBody {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
    /// To the end of the connection.
    UntilClose,
}

impl ResponseHead {
    /// Reads a head at the start of `buffer`: it and the bytes it took, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`HeadError`]: the node's answer cannot be used; its connection is to be closed.
    pub fn parse(buffer: &[u8], limits: &HeadLimits) -> Result<Option<(Self, usize)>, HeadError> {
        Self::parse_more(buffer, &mut HeadScan::default(), limits)
    }

    /// As [`Self::parse`], for a buffer that grows: `scan` remembers what was looked at. Begin with a new one for
    /// each head.
    ///
    /// # Errors
    /// [`HeadError`]: the node's answer cannot be used; its connection is to be closed.
    pub fn parse_more(
        buffer: &[u8],
        scan: &mut HeadScan,
        limits: &HeadLimits,
    ) -> Result<Option<(Self, usize)>, HeadError> {
        let Some(found) = scan.find(buffer, limits)? else { return Ok(None) };
        let head = &buffer[..found.end];
        // Only a server skips an empty line before a message (RFC 9112 section 2.2).
        let (status, version, line_end) = status_line(head).ok_or(Refusal::StatusLine)?;
        let version = version?;
        let fields = Fields::parse(Fields::default(), head, line_end, limits)?;
        let framing = framing(&fields, version)?;
        let keep_alive = match version {
            _ if fields.lists("connection", "close") => false,
            Version::Http11 => true,
            Version::Http10 => fields.lists("connection", "keep-alive"),
        };
        Ok(Some((Self { status, version, framing, keep_alive, fields }, found.end)))
    }

    /// Where the body ends, for an answer to HEAD or to another method.
    pub fn body(&self, to_head: bool) -> AnswerBody {
        if to_head || matches!(self.status, 100..=199 | 204 | 304) {
            return AnswerBody::Empty;
        }
        match self.framing {
            Framing::Length(0) => AnswerBody::Empty,
            Framing::Length(length) => AnswerBody::Length(length),
            Framing::Chunked => AnswerBody::Chunked,
            Framing::None => AnswerBody::UntilClose,
        }
    }

    /// The fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Every field line, name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.fields.iter()
    }

    /// The value of the first field line with this name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }
}

/// `HTTP-version SP 3DIGIT SP [ reason ]` (RFC 9112 section 4): status, version, bytes of the line with its CRLF.
fn status_line(head: &[u8]) -> Option<(u16, Result<Version, Refusal>, usize)> {
    let end = memchr::memchr(b'\n', head)? + 1;
    let line = head[..end].strip_suffix(b"\r\n")?;
    let (version, rest) = line.split_at_checked(8)?;
    let (&[b' ', hundreds @ b'1'..=b'5', tens @ b'0'..=b'9', ones @ b'0'..=b'9'], reason) =
        rest.split_first_chunk()?
    else {
        return None;
    };
    let reason_fits = match reason {
        // Without its last space too: some servers leave it out with the reason.
        [] => true,
        [b' ', reason @ ..] => reason.iter().all(|&byte| crate::http::syntax::is_value_byte(byte)),
        _ => false,
    };
    let digit = |byte: u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    reason_fits.then_some((status, Version::parse(version)?, end))
}

impl fmt::Debug for ResponseHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseHead")
            .field("status", &self.status)
            .field("framing", &self.framing)
            .field("keep_alive", &self.keep_alive)
            .field("fields", &self.fields.len())
            .finish_non_exhaustive()
    }
}
