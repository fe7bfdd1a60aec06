//! Heads of requests and of a storage node's answers: syntax, framing, and refusal of what could be read in two ways.
//!
//! A proxy and the server behind it that disagree on where a request ends let a client smuggle one inside another
//! (RFC 9112 section 11.2). So there is one strict reading here, for node and gateway alike, and no repair: every line
//! ends with CRLF, no line is folded, one `Content-Length`, or `chunked` alone, never both.

mod answer;
mod framing;
mod line;
mod refusal;
mod request;

pub use answer::{AnswerBody, ResponseHead};
pub use framing::Framing;
pub use refusal::{HeadError, Refusal};
pub use request::{HeadMemory, Method, RequestHead, Version};

pub use super::lines::HeadScan;
use crate::limits;

/// How large a head may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes of the head, its last empty line included; at most [`limits::HTTP_HEAD_BYTES_CEILING`]. More: 431.
    pub bytes_max: usize,
    /// Bytes of the request line with its CRLF. More: 414.
    pub request_line_bytes_max: usize,
    /// Field lines; at most [`limits::HTTP_FIELDS_MAX`]. More: 431.
    pub fields_max: usize,
}

impl HeadLimits {
    pub(super) fn bytes(&self) -> usize {
        self.bytes_max.min(limits::HTTP_HEAD_BYTES_CEILING)
    }

    pub(super) fn fields(&self) -> usize {
        self.fields_max.min(limits::HTTP_FIELDS_MAX)
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            bytes_max: limits::HTTP_HEAD_BYTES_MAX,
            request_line_bytes_max: limits::HTTP_REQUEST_LINE_BYTES_MAX,
            fields_max: limits::HTTP_FIELDS_MAX,
        }
    }
}
