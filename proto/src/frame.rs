//! The frame: ten bytes of header, then a body. And the error reply, which every role sends in the same form.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | body length, signed, big-endian |
//! | 8 | 1 | command |
//! | 9 | 1 | status: 0 = success, 0xFD = failure |

use crate::{limits, text};

/// Bytes of a header.
pub const HEADER_LEN: usize = 10;
/// Status of a request and of a reply that succeeded.
pub const STATUS_OK: u8 = 0;
/// Status of an error reply: −3.
pub const STATUS_FAILED: u8 = 0xFD;
/// The error number that the deployed system always sends.
pub const ERROR_NUMBER: i16 = -1;

/// Why a frame was refused. The peer's fault; it gets an error reply, then the connection closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The body length is below zero.
    #[error("negative body length {length}")]
    NegativeLength {
        /// The length.
        length: i64,
    },
    /// The body length does not fit the command.
    #[error("body length {length} does not fit command {command}")]
    Length {
        /// The command.
        command: u8,
        /// The length.
        length: u64,
    },
    /// Nobody knows the command.
    #[error("unknown command {command}")]
    UnknownCommand {
        /// The command.
        command: u8,
    },
}

/// The first ten bytes of every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of the body: at most `i64::MAX`.
    pub length: u64,
    /// See [`crate::command`].
    pub command: u8,
    /// [`STATUS_OK`], [`STATUS_FAILED`]; in a request nobody reads it.
    pub status: u8,
}

impl Header {
    /// The header of a request with a body of `length` bytes.
    pub const fn request(command: u8, length: u64) -> Self {
        Self { length, command, status: STATUS_OK }
    }

    /// The header of a successful reply with a body of `length` bytes.
    pub const fn reply(reply_command: u8, length: u64) -> Self {
        Self { length, command: reply_command, status: STATUS_OK }
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`FrameError::NegativeLength`]. Whether the length fits the command is [`crate::command::check_request`]'s.
    pub const fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let &[a, b, c, d, e, f, g, h, command, status] = bytes;
        let length = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
        if length < 0 {
            return Err(FrameError::NegativeLength { length });
        }
        Ok(Self { length: length as u64, command, status })
    }

    /// Writes a header.
    ///
    /// # Panics
    /// With a length past `i64::MAX`: lengths that we send come from files and limits far below it.
    pub const fn encode(&self) -> [u8; HEADER_LEN] {
        assert!(self.length <= i64::MAX as u64, "a body length fits a signed 64-bit number");
        let [a, b, c, d, e, f, g, h] = self.length.to_be_bytes();
        [a, b, c, d, e, f, g, h, self.command, self.status]
    }

    /// Whether this is the header of an error reply.
    pub const fn is_error(&self) -> bool {
        self.status != STATUS_OK
    }
}

/// A whole frame at the start of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Its body, whole.
    pub body: &'a [u8],
    /// Bytes of the buffer that it took.
    pub used: usize,
}

/// Takes a whole small frame from the start of `buffer`; `None` when more bytes are needed.
///
/// `check` sees the header as soon as it is there and refuses before any body is waited for.
///
/// # Errors
/// [`FrameError`] of the header or of `check`.
pub fn take(
    buffer: &[u8],
    check: impl FnOnce(&Header) -> Result<(), FrameError>,
) -> Result<Option<Frame<'_>>, FrameError> {
    let Some((head, rest)) = buffer.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let header = Header::decode(head)?;
    check(&header)?;
    let body = usize::try_from(header.length).ok().and_then(|length| rest.get(..length));
    Ok(body.map(|body| Frame { header, body, used: HEADER_LEN + body.len() }))
}

/// A request or successful reply as one buffer: for bodies that are small.
pub fn encode(command: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_LEN + body.len());
    frame.extend_from_slice(&Header::request(command, body.len() as u64).encode());
    frame.extend_from_slice(body);
    frame
}

/// A whole error reply: number −1, then `[host] text` and a NUL; nothing but the number where `text` is empty.
///
/// Control characters become spaces (a peer's text may be quoted in it), and a long text is cut at a character so that
/// the description is at most [`limits::ERROR_TEXT_BYTES_MAX`] bytes with its NUL.
pub fn error_reply(reply_command: u8, host: &str, text: &str) -> Vec<u8> {
    let mut description = String::new();
    if !text.is_empty() {
        let room = limits::ERROR_TEXT_BYTES_MAX - 1;
        let framed = ["[", host, "] ", text];
        for c in framed.iter().flat_map(|part| part.chars()) {
            if description.len() + c.len_utf8() > room {
                break;
            }
            description.push(if c.is_control() { ' ' } else { c });
        }
        description.push('\0');
    }
    let length = (2 + description.len()) as u64;
    let header = Header { length, command: reply_command, status: STATUS_FAILED };
    let mut frame = Vec::with_capacity(HEADER_LEN + 2 + description.len());
    frame.extend_from_slice(&header.encode());
    frame.extend_from_slice(&ERROR_NUMBER.to_be_bytes());
    frame.extend_from_slice(description.as_bytes());
    frame
}

/// What another node answered instead of success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer refused ({number}): {}", text.escape_debug())]
pub struct RemoteError {
    /// Its error number; the deployed system always sends −1.
    pub number: i16,
    /// Its description, `[host] text`, for people. May be empty.
    pub text: String,
}

/// Reads the body of an error reply. Never fails: a malformed one is an error all the same.
///
/// At most [`limits::ERROR_TEXT_BYTES_MAX`] bytes are kept; what is not UTF-8 is replaced.
pub fn decode_error(body: &[u8]) -> RemoteError {
    let (number, rest) = match body.split_first_chunk::<2>() {
        Some((number, rest)) => (i16::from_be_bytes(*number), rest),
        None => (ERROR_NUMBER, &[][..]),
    };
    let rest = &rest[..rest.len().min(limits::ERROR_TEXT_BYTES_MAX)];
    let text = text::read(rest).unwrap_or(rest);
    RemoteError { number, text: String::from_utf8_lossy(text).into_owned() }
}
