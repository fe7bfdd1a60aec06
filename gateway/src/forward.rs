//! Which header fields of a request go on to the node, and which of an answer go back. No IO.
//!
//! Both ways the framing is written anew by us and never copied: what two parsers could read in
//! two ways does not get past the first one.

use reel_proto::http::head::{Framing, RequestHead, ResponseHead};
use reel_proto::http::response::{write_decimal, write_field};

use crate::continuation::Rest;

/// Fields that belong to one connection (RFC 9110 section 7.6.1), or that we write ourselves.
const OWN_REQUEST_FIELDS: [&str; 12] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Likewise of an answer.
const OWN_RESPONSE_FIELDS: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Fields that say which part of a file is wanted, and when: those of a request that asks for the
/// rest of an answer are its own.
const SELECTING_FIELDS: [&str; 6] =
    ["if-match", "if-modified-since", "if-none-match", "if-range", "if-unmodified-since", "range"];

/// What [`request`] needs to know beside the client's head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forward<'a> {
    /// `Host` for a client of HTTP/1.0 that sent none.
    pub(crate) host: &'a str,
    /// The body that will follow.
    pub(crate) framing: Framing,
    /// Whether to say that a proxy passed the request on. A node without tokens takes writes only
    /// from programs that speak to it directly; there the gateway has applied that very rule and
    /// stands in for its client.
    pub(crate) via: bool,
    /// Only this of the file is wanted, whatever the client asked for.
    pub(crate) rest: Option<&'a Rest<'a>>,
}

/// Writes the head of the request to a node.
pub(crate) fn request(out: &mut Vec<u8>, head: &RequestHead, forward: &Forward<'_>) {
    out.clear();
    for part in [head.method(), " ", head.path_and_query(), " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    // The client's own Host: the node applies its rules (Origin against Host) to what the client
    // meant, and the names of nodes stay inside.
    write_field(out, "Host", head.host().unwrap_or(forward.host));
    match forward.rest {
        None => copy_fields(out, head.headers(), &[&OWN_REQUEST_FIELDS]),
        Some(rest) => {
            copy_fields(out, head.headers(), &[&OWN_REQUEST_FIELDS, &SELECTING_FIELDS]);
            rest.write_fields(out);
        }
    }
    match forward.framing {
        Framing::None => {}
        Framing::Length(length) => {
            out.extend_from_slice(b"Content-Length: ");
            write_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
    }
    if !matches!(forward.framing, Framing::None) {
        // Also where the client did not ask: until the node says 100 nothing of the body has been
        // taken from the client, and another node can still be tried.
        out.extend_from_slice(b"Expect: 100-continue\r\n");
    }
    if forward.via {
        out.extend_from_slice(b"Via: 1.1 reel\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the fields of a node's answer for the client.
pub(crate) fn answer(out: &mut Vec<u8>, head: &ResponseHead) {
    copy_fields(out, head.headers(), &[&OWN_RESPONSE_FIELDS]);
}

fn copy_fields<'a>(
    out: &mut Vec<u8>,
    fields: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    own: &[&[&str]],
) {
    let named = |name: &str| {
        fields
            .clone()
            .filter(|(field, _)| field.eq_ignore_ascii_case("connection"))
            .any(|(_, value)| lists(value, name))
    };
    for (name, value) in fields.clone() {
        let is_own = own.iter().copied().flatten().any(|own| own.eq_ignore_ascii_case(name));
        if is_own || named(name) {
            continue;
        }
        write_field(out, name, value);
    }
}

/// Whether a comma-separated list has this token.
fn lists(list: &[u8], token: &str) -> bool {
    list.split(|byte| *byte == b',')
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}
