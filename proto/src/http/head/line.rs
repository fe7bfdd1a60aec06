//! The request line: `method SP target SP version`, and the four forms of a target (RFC 9112 section 3).
//!
//! Ours and not httparse's: that one answers "bad version" for HTTP/2.0 and for garbage alike, and takes LF alone.

use memchr::memchr;

use super::{Refusal, Version};
use crate::http::syntax;

/// Where a part lies in the head: first byte, and the one after its last.
pub(super) type Place = (u16, u16);

/// The parts of a request line.
pub(super) struct RequestLine {
    pub(super) method: Place,
    pub(super) path: Place,
    pub(super) query: Option<Place>,
    /// Of the absolute form, or CONNECT's.
    pub(super) authority: Option<Place>,
    pub(super) version: Version,
    /// Bytes of the line with its CRLF.
    pub(super) end: usize,
}

impl RequestLine {
    /// Reads the first line of a head whose lines end with CRLF and that is at most 64 KiB long.
    pub(super) fn parse(head: &[u8]) -> Result<Self, Refusal> {
        let end = memchr(b'\n', head).ok_or(Refusal::RequestLine)? + 1;
        let line = head[..end].strip_suffix(b"\r\n").ok_or(Refusal::RequestLine)?;
        let mut parts = line.split(|&byte| byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::RequestLine);
        };
        let version = Version::parse(version).ok_or(Refusal::RequestLine)??;
        if !syntax::is_token(method) {
            return Err(Refusal::RequestLine);
        }
        if target.is_empty() || !target.iter().all(|&byte| is_target_byte(byte)) {
            return Err(Refusal::Target);
        }
        let start = method.len() + 1;
        let (authority, path, query) = parts_of(method, target)?;
        let shift = |(from, to): (usize, usize)| ((start + from) as u16, (start + to) as u16);
        Ok(Self {
            method: (0, method.len() as u16),
            path: shift(path),
            query: query.map(shift),
            authority: authority.map(shift),
            version,
            end,
        })
    }
}

/// Visible ASCII but no fragment: it never travels (RFC 9112 section 3.2).
const fn is_target_byte(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E) && byte != b'#'
}

type Span = (usize, usize);

/// Authority, path and query of a target, as places in it.
fn parts_of(method: &[u8], target: &[u8]) -> Result<(Option<Span>, Span, Option<Span>), Refusal> {
    let whole = (0, target.len());
    if method == b"CONNECT" {
        return if is_authority(target) {
            Ok((Some(whole), whole, None))
        } else {
            Err(Refusal::Target)
        };
    }
    if target == b"*" {
        return if method == b"OPTIONS" { Ok((None, whole, None)) } else { Err(Refusal::Target) };
    }
    let (authority, path_start) = if target[0] == b'/' {
        (None, 0)
    } else {
        let start = absolute(target).ok_or(Refusal::Target)?;
        let rest = &target[start..];
        let length = rest.iter().position(|&byte| matches!(byte, b'/' | b'?'));
        let end = start + length.unwrap_or(rest.len());
        if !is_authority(&target[start..end]) {
            return Err(Refusal::Target);
        }
        (Some((start, end)), end)
    };
    let path_end = memchr(b'?', &target[path_start..]).map_or(target.len(), |at| path_start + at);
    let query = (path_end < target.len()).then_some((path_end + 1, target.len()));
    Ok((authority, (path_start, path_end), query))
}

/// Where the authority of an absolute target begins.
fn absolute(target: &[u8]) -> Option<usize> {
    ["http://", "https://"].into_iter().find_map(|scheme| {
        let start = target.get(..scheme.len())?;
        start.eq_ignore_ascii_case(scheme.as_bytes()).then_some(scheme.len())
    })
}

/// `uri-host [ ":" port ]` (RFC 9110 section 7.2). No user information (section 4.2.4), and no comma, which RFC 3986
/// allows in a host: two Host fields may have been joined by it.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let port_of = |rest: &[u8]| match rest {
        [] => true,
        [b':', port @ ..] => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if let [b'[', rest @ ..] = text {
        let Some(end) = memchr(b']', rest) else { return false };
        let address = &rest[..end];
        let is_literal = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        return !address.is_empty() && address.iter().all(is_literal) && port_of(&rest[end + 1..]);
    }
    let end = memchr(b':', text).unwrap_or(text.len());
    let is_name = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b';'
                    | b'='
            )
    };
    end > 0 && text[..end].iter().all(is_name) && port_of(&text[end..])
}
