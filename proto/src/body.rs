//! Reading and writing the fields of a frame's body, and what can be wrong with one.
//!
//! Bodies of the commands here are small and whole when they are decoded; content streams past and is never in here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    name::NameError,
    text::{self, TextError},
};

/// Why a body was refused. Always the peer's fault; the same bytes will be refused again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is not as long as its command needs.
    #[error("body of {got} bytes where {want} are due")]
    Length {
        /// Bytes that the command needs.
        want: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The body ends inside a field.
    #[error("body ends inside its {field}")]
    Cut {
        /// The field.
        field: &'static str,
    },
    /// Bytes are left after the last field.
    #[error("{extra} bytes after the last field")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A text field is malformed.
    #[error("{field}: {fault}")]
    Text {
        /// The field.
        field: &'static str,
        /// What is wrong.
        fault: TextError,
    },
    /// A name breaks its limits.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A field has a value that means nothing.
    #[error("{field} has no such value")]
    Value {
        /// The field.
        field: &'static str,
    },
    /// A layout of ours in a version that this build does not know.
    #[error("layout version {got} is not known")]
    Version {
        /// The version that came.
        got: u8,
    },
}

/// The version that the layouts of our own commands start with, but for those that say another.
pub const LAYOUT_VERSION: u8 = 1;

/// Walks over a body, field by field.
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Of one of our own layouts: checks the version first.
    pub(crate) fn versioned(body: &'a [u8]) -> Result<Self, BodyError> {
        Self::of_version(body, LAYOUT_VERSION)
    }

    /// As [`Self::versioned`], of a layout that has changed since.
    pub(crate) fn of_version(body: &'a [u8], version: u8) -> Result<Self, BodyError> {
        let mut fields = Self::new(body);
        match fields.u8("layout version")? {
            got if got == version => Ok(fields),
            got => Err(BodyError::Version { got }),
        }
    }

    pub(crate) fn take(
        &mut self,
        length: usize,
        field: &'static str,
    ) -> Result<&'a [u8], BodyError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(BodyError::Cut { field })?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(
        &mut self,
        field: &'static str,
    ) -> Result<[u8; N], BodyError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(BodyError::Cut { field })?;
        self.rest = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self, field: &'static str) -> Result<u8, BodyError> {
        self.array(field).map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self, field: &'static str) -> Result<u16, BodyError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self, field: &'static str) -> Result<u32, BodyError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self, field: &'static str) -> Result<u64, BodyError> {
        self.array(field).map(u64::from_be_bytes)
    }

    /// A count of one byte, checked before anything is reserved for what it counts.
    pub(crate) fn count(&mut self, field: &'static str, max: usize) -> Result<usize, BodyError> {
        let count = usize::from(self.u8(field)?);
        if count > max { Err(BodyError::Value { field }) } else { Ok(count) }
    }

    /// A yes or no: 1 or 0.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, BodyError> {
        match self.u8(field)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BodyError::Value { field }),
        }
    }

    /// A flag, then what it announces.
    pub(crate) fn optional<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, BodyError>,
    ) -> Result<Option<T>, BodyError> {
        if self.flag(field)? { read(self).map(Some) } else { Ok(None) }
    }

    /// A fixed-width text field: the text up to its NUL.
    pub(crate) fn text(
        &mut self,
        width: usize,
        field: &'static str,
    ) -> Result<&'a [u8], BodyError> {
        text::read(self.take(width, field)?).map_err(|fault| BodyError::Text { field, fault })
    }

    /// A length byte, then so many bytes.
    pub(crate) fn short(&mut self, field: &'static str) -> Result<&'a [u8], BodyError> {
        let length = self.u8(field)?;
        self.take(usize::from(length), field)
    }

    /// As [`Self::short`], of UTF-8 without control characters.
    pub(crate) fn short_text(&mut self, field: &'static str) -> Result<&'a str, BodyError> {
        let text =
            std::str::from_utf8(self.short(field)?).map_err(|_| BodyError::Value { field })?;
        if text.contains(char::is_control) { Err(BodyError::Value { field }) } else { Ok(text) }
    }

    /// Family 4 or 6, the address, the port.
    pub(crate) fn socket(&mut self, field: &'static str) -> Result<SocketAddr, BodyError> {
        let ip = match self.u8(field)? {
            4 => IpAddr::V4(Ipv4Addr::from(self.array::<4>(field)?)),
            6 => IpAddr::V6(Ipv6Addr::from(self.array::<16>(field)?)),
            _ => return Err(BodyError::Value { field }),
        };
        Ok(SocketAddr::new(ip, self.u16(field)?))
    }

    /// Bytes not read yet.
    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn finish(self) -> Result<(), BodyError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(BodyError::Trailing { extra }),
        }
    }
}

/// Checks the length of a body of fixed size.
pub(crate) fn exactly(body: &[u8], want: usize) -> Result<(), BodyError> {
    if body.len() == want {
        return Ok(());
    }
    Err(BodyError::Length { want: want as u64, got: body.len() as u64 })
}

pub(crate) fn put_flag(out: &mut Vec<u8>, flag: bool) {
    out.push(u8::from(flag));
}

pub(crate) fn put_optional<T>(
    out: &mut Vec<u8>,
    value: Option<T>,
    write: impl FnOnce(&mut Vec<u8>, T),
) {
    put_flag(out, value.is_some());
    if let Some(value) = value {
        write(out, value);
    }
}

pub(crate) fn put_u64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_be_bytes());
}

/// A length byte and so many bytes, of a text whose type or [`fits_short`] keeps it within 255.
pub(crate) fn put_short(out: &mut Vec<u8>, text: &[u8]) {
    debug_assert!(text.len() <= 255, "a short text is checked before it gets here");
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    out.push(length);
    out.extend_from_slice(&text[..usize::from(length)]);
}

/// As [`put_short`], of a text for people: cut at a character, control characters replaced, so that a reader takes it.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    if fits_short(text) {
        return put_short(out, text.as_bytes());
    }
    let mut fitting = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if fitting.len() + c.len_utf8() > 255 {
            break;
        }
        fitting.push(c);
    }
    put_short(out, fitting.as_bytes());
}

/// Whether a text can be sent as a short one and will be taken by the reader.
pub fn fits_short(text: &str) -> bool {
    text.len() <= 255 && !text.contains(char::is_control)
}

/// Scope and flow label of an IPv6 address do not travel: they mean nothing on another host.
pub(crate) fn put_socket(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
        }
    }
    out.extend_from_slice(&address.port().to_be_bytes());
}
