//! Answers that a gateway and a storage node give alike: methods, CORS, errors in words.

use reel_proto::http::head::Method;
use reel_proto::http::response::write_field;

use super::server::{PLAIN_TEXT, ServerConn};
use super::socket::SendError;

/// CORS fields of every answer. Any page may read: a file that is served needs no credentials
/// (writes take a token that the page must have, never a cookie).
pub const CORS: &[u8] = b"Access-Control-Allow-Origin: *\r\n\
    Access-Control-Expose-Headers: Accept-Ranges, Content-Disposition, Content-Length, \
    Content-Range, ETag, Last-Modified, Location, Retry-After\r\n";

/// What a preflight is told beside [`CORS`].
const PREFLIGHT: &[u8] = b"Access-Control-Allow-Methods: GET, HEAD, PUT, POST, DELETE, OPTIONS\r\n\
    Access-Control-Allow-Headers: Authorization, Content-Type, If-Match, If-Modified-Since, \
    If-None-Match, If-Range, If-Unmodified-Since, Range\r\n\
    Access-Control-Max-Age: 86400\r\n";

/// Answers OPTIONS, a CORS preflight or not, for a target with these methods.
///
/// # Errors
/// The peer is gone.
pub async fn answer_options(conn: &mut ServerConn, methods: &str) -> Result<(), SendError> {
    let fields = |out: &mut Vec<u8>| {
        write_field(out, "Allow", methods);
        out.extend_from_slice(CORS);
        out.extend_from_slice(PREFLIGHT);
    };
    conn.respond(204, fields, b"").await
}

/// Answers a method that the target does not take: 405 with `Allow`, or 501 for one that HTTP does
/// not have either. Returns the status.
///
/// # Errors
/// The peer is gone.
pub async fn answer_other_method(
    conn: &mut ServerConn,
    method: Method,
    methods: &str,
) -> Result<u16, SendError> {
    let fields = |out: &mut Vec<u8>| {
        write_field(out, "Allow", methods);
        out.extend_from_slice(CORS);
        out.extend_from_slice(PLAIN_TEXT);
    };
    let (status, text): (u16, &[u8]) = match method {
        Method::Unknown => (501, b"no such method\n"),
        _ => (405, b"this target does not take the method\n"),
    };
    conn.respond(status, fields, text).await.map(|()| status)
}

/// Answers with an error in words: one line of text for a person.
///
/// # Errors
/// The peer is gone.
pub async fn answer_error(
    conn: &mut ServerConn,
    status: u16,
    text: &str,
    fields: impl FnOnce(&mut Vec<u8>),
) -> Result<(), SendError> {
    let mut content = Vec::with_capacity(text.len() + 1);
    content.extend_from_slice(text.as_bytes());
    content.push(b'\n');
    let all = |out: &mut Vec<u8>| {
        fields(out);
        out.extend_from_slice(CORS);
        out.extend_from_slice(PLAIN_TEXT);
    };
    conn.respond(status, all, &content).await
}
