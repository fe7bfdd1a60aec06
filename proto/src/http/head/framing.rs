//! Where a body ends (RFC 9112 section 6), in one reading only.

use super::{Refusal, Version};
use crate::http::{fields::Fields, syntax};

/// How the body of a message is framed, as its fields say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No length is told. A request has no body then; an answer runs to the end of the connection, where its status
    /// lets it have a body at all.
    None,
    /// So many bytes.
    Length(u64),
    /// The chunked transfer coding.
    Chunked,
}

impl Framing {
    /// Whether a request with this framing has a body of at least one byte, or may have one.
    pub const fn has_body(self) -> bool {
        !matches!(self, Self::None | Self::Length(0))
    }
}

/// Reads the framing of a message.
pub(super) fn framing(fields: &Fields, version: Version) -> Result<Framing, Refusal> {
    let length = length(fields)?;
    if !fields.has("transfer-encoding") {
        return Ok(length.map_or(Framing::None, Framing::Length));
    }
    if length.is_some() {
        return Err(Refusal::LengthAndCoding);
    }
    if version == Version::Http10 {
        return Err(Refusal::CodingInOldVersion);
    }
    coding(fields).map(|()| Framing::Chunked)
}

/// `Content-Length`: one line, digits alone (RFC 9110 section 8.6).
fn length(fields: &Fields) -> Result<Option<u64>, Refusal> {
    let mut lines = fields.all("content-length");
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() || line.contains(&b',') {
        return Err(Refusal::TwoLengths);
    }
    let length = syntax::decimal(line).filter(|&length| i64::try_from(length).is_ok());
    length.map(Some).ok_or(Refusal::Length)
}

/// `Transfer-Encoding`: `chunked` and nothing else (RFC 9112 section 6.1).
fn coding(fields: &Fields) -> Result<(), Refusal> {
    let mut chunked = 0;
    let mut others = 0;
    let mut last_is_chunked = false;
    for line in fields.all("transfer-encoding") {
        // An empty member is legal in a list and hides what another parser sees: refused.
        for member in line.split(|&byte| byte == b',').map(syntax::trim) {
            last_is_chunked = member.eq_ignore_ascii_case(b"chunked");
            if last_is_chunked {
                chunked += 1;
                continue;
            }
            let name = member.split(|&byte| byte == b';').next().unwrap_or_default();
            if !syntax::is_token(syntax::trim(name)) {
                return Err(Refusal::Coding);
            }
            others += 1;
        }
    }
    match (chunked, last_is_chunked, others) {
        (1, true, 0) => Ok(()),
        (1, true, _) => Err(Refusal::CodingNotImplemented),
        _ => Err(Refusal::Coding),
    }
}
