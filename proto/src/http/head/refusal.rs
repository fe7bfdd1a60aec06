//! Why a head is refused, and with which status. After any of them the connection closes: where the next request
//! would begin is not known.

/// A refused head: answer with `status`, then close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct HeadError {
    /// Status of the answer.
    pub status: u16,
    /// Why.
    pub reason: Refusal,
}

impl From<Refusal> for HeadError {
    fn from(reason: Refusal) -> Self {
        Self { status: reason.status(), reason }
    }
}

/// Why a head is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The first byte begins no method.
    #[error("this is not HTTP")]
    NotHttp,
    /// LF without CR (RFC 9112 section 2.2 would let a server take it; proxies differ).
    #[error("a line ends without CR")]
    BareLineFeed,
    /// More than one empty line before the request.
    #[error("empty lines in place of a request")]
    EmptyLines,
    /// Not `method SP target SP version` (RFC 9112 section 3).
    #[error("malformed request line")]
    RequestLine,
    /// Not `version SP status SP reason` (RFC 9112 section 4).
    #[error("malformed status line")]
    StatusLine,
    /// A target in none of the four forms, or with a character that needs an escape (RFC 9112 section 3.2).
    #[error("malformed request target")]
    Target,
    /// A field line with a bad name, white space before its colon, a control character, or folded
    /// (RFC 9112 sections 5.1, 5.2; RFC 9110 section 5.5).
    #[error("malformed or folded field line")]
    FieldLine,
    /// HTTP/1.1 without Host, Host twice, or a malformed one (RFC 9112 section 3.2).
    #[error("exactly one valid Host field is needed")]
    Host,
    /// Not digits alone, or past 63 bits (RFC 9110 section 8.6).
    #[error("malformed Content-Length")]
    Length,
    /// Two lengths, even equal ones (RFC 9112 section 6.3 would let a server take equal ones).
    #[error("more than one Content-Length")]
    TwoLengths,
    /// `Content-Length` and `Transfer-Encoding` (RFC 9112 section 6.1).
    #[error("Content-Length beside Transfer-Encoding")]
    LengthAndCoding,
    /// `chunked` twice or not last, or no coding named (RFC 9112 sections 6.1, 7.1).
    #[error("malformed Transfer-Encoding")]
    Coding,
    /// `Transfer-Encoding` in HTTP/1.0, whose proxies do not know it (RFC 9112 section 6.1).
    #[error("Transfer-Encoding in HTTP/1.0")]
    CodingInOldVersion,
    /// The request line is longer than the limit (RFC 9112 section 3).
    #[error("the request line is too long")]
    LongRequestLine,
    /// The head is longer than the limit (RFC 6585 section 5).
    #[error("the head is too long")]
    LongHead,
    /// More field lines than the limit (RFC 6585 section 5).
    #[error("too many header fields")]
    ManyFields,
    /// An expectation other than `100-continue` (RFC 9110 section 10.1.1).
    #[error("this expectation cannot be met")]
    Expectation,
    /// A coding before `chunked` (RFC 9112 section 6.1).
    #[error("only the chunked transfer coding is implemented")]
    CodingNotImplemented,
    /// Not HTTP/1 (RFC 9110 section 2.5).
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    Version,
}

impl Refusal {
    /// The status of the answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::LongRequestLine => 414,
            Self::Expectation => 417,
            Self::LongHead | Self::ManyFields => 431,
            Self::CodingNotImplemented => 501,
            Self::Version => 505,
            _ => 400,
        }
    }
}
