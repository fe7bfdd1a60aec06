//! Requests that could be read two ways: each is refused, and the connection ends.
//!
//! Two servers in a row that read such a request differently let one client's bytes become
//! another's request. So none of them is repaired, also where an RFC would allow it.

use super::{Case, End, case, get, refused, request, status};

pub(super) fn cases() -> Vec<Case> {
    let mut cases = lengths();
    cases.extend(codings());
    cases.extend(lines());
    cases.extend(hosts());
    cases.extend(chunks());
    cases
}

fn put(lines: &[&str], body: &str) -> Vec<u8> {
    let mut bytes = request("PUT", "/files/framing-{run}", lines);
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn lengths() -> Vec<Case> {
    let bad = |name, rfc, lines: &[&str]| refused(name, rfc, put(lines, "hello"), &[400]);
    vec![
        bad("two-lengths", "RFC 9112 6.3", &["Content-Length: 5", "Content-Length: 6"]),
        bad("two-equal-lengths", "RFC 9112 6.3", &["Content-Length: 5", "Content-Length: 5"]),
        bad("a-list-of-lengths", "RFC 9112 6.3", &["Content-Length: 5, 5"]),
        bad("length-with-a-sign", "RFC 9110 8.6", &["Content-Length: +5"]),
        bad("negative-length", "RFC 9110 8.6", &["Content-Length: -5"]),
        bad("length-in-hex", "RFC 9110 8.6", &["Content-Length: 0x5"]),
        bad("empty-length", "RFC 9110 8.6", &["Content-Length:"]),
        bad("length-of-letters", "RFC 9110 8.6", &["Content-Length: five"]),
        refused(
            "length-past-64-bits",
            "RFC 9110 8.6",
            put(&["Content-Length: 99999999999999999999999"], ""),
            &[400, 413],
        ),
        bad(
            "length-with-chunked",
            "RFC 9112 6.1",
            &["Content-Length: 5", "Transfer-Encoding: chunked"],
        ),
        bad(
            "chunked-with-length",
            "RFC 9112 6.1",
            &["Transfer-Encoding: chunked", "Content-Length: 5"],
        ),
    ]
}

fn codings() -> Vec<Case> {
    let coded = |name, rfc, coding: &str, statuses: &[u16]| {
        refused(name, rfc, put(&[&format!("Transfer-Encoding: {coding}")], "0\r\n\r\n"), statuses)
    };
    vec![
        coded("unknown-coding", "RFC 9112 6.1", "gzip, chunked", &[501, 400]),
        coded("chunked-not-last", "RFC 9112 6.3", "chunked, gzip", &[400, 501]),
        coded("chunked-twice", "RFC 9112 7.1", "chunked, chunked", &[400, 501]),
        coded("identity", "RFC 9112 6.1", "identity", &[400, 501]),
        coded("chunked-with-a-tail", "RFC 9112 6.1", "chunked;q=1", &[400, 501]),
        coded("xchunked", "RFC 9112 6.1", "xchunked", &[400, 501]),
        refused(
            "two-codings",
            "RFC 9112 6.1",
            put(&["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], "0\r\n\r\n"),
            &[400, 501],
        ),
        refused(
            "chunked-in-http-1.0",
            "RFC 9112 6.1",
            "PUT /files/framing-{run} HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400, 411],
        ),
    ]
}

fn lines() -> Vec<Case> {
    let bad = |name, rfc, bytes: &str| refused(name, rfc, bytes, &[400]);
    let within = |name, rfc, line: &str| refused(name, rfc, get(&[line]), &[400]);
    vec![
        bad("bare-lf", "RFC 9112 2.2", "GET /files/{id} HTTP/1.1\nHost: {host}\n\n"),
        bad(
            "bare-lf-in-the-fields",
            "RFC 9112 2.2",
            "GET /files/{id} HTTP/1.1\r\nHost: {host}\nX: 1\r\n\r\n",
        ),
        within("folded-field", "RFC 9112 5.2", "X-Long: a\r\n b"),
        within("bare-cr-in-a-value", "RFC 9112 2.2", "X: a\rb"),
        within("nul-in-a-value", "RFC 9110 5.5", "X: a\0b"),
        within("nul-in-a-name", "RFC 9110 5.1", "X\0: a"),
        within("space-before-the-colon", "RFC 9112 5.1", "Content-Length : 5"),
        within("no-colon", "RFC 9112 5", "nonsense"),
        within("empty-name", "RFC 9112 5", ": value"),
        within("space-in-a-name", "RFC 9110 5.1", "X Y: 1"),
        bad(
            "space-before-the-first-field",
            "RFC 9112 2.2",
            "GET /files/{id} HTTP/1.1\r\n Host: {host}\r\n\r\n",
        ),
        bad("no-version", "RFC 9112 3", "GET /files/{id}\r\n\r\n"),
        bad("two-spaces", "RFC 9112 3", "GET  /files/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        bad("space-in-the-target", "RFC 9112 3", {
            "GET /files/{id} x HTTP/1.1\r\nHost: {host}\r\n\r\n"
        }),
        bad("bad-method", "RFC 9110 9.1", "G(T /files/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        bad("no-slash", "RFC 9112 3.2", "GET files/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        refused("tls", "RFC 9112 3", &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[400])
            .ends(End::Either),
    ]
}

fn hosts() -> Vec<Case> {
    let bad = |name, rfc, bytes: &str| refused(name, rfc, bytes, &[400]);
    vec![
        bad("no-host", "RFC 9112 3.2", "GET /files/{id} HTTP/1.1\r\n\r\n"),
        bad(
            "two-hosts",
            "RFC 9112 3.2",
            "GET /files/{id} HTTP/1.1\r\nHost: {host}\r\nHost: other\r\n\r\n",
        ),
        bad("host-that-is-none", "RFC 9112 3.2", "GET /files/{id} HTTP/1.1\r\nHost: a b/c\r\n\r\n"),
    ]
}

fn chunks() -> Vec<Case> {
    let chunked = |name, rfc, body: &str| {
        refused(name, rfc, put(&["Transfer-Encoding: chunked"], body), &[400])
    };
    let good = |name: &'static str, id: &str, body: &str| {
        let mut bytes =
            request("PUT", &format!("/files/{id}-{{run}}"), &["Transfer-Encoding: chunked"]);
        bytes.extend_from_slice(body.as_bytes());
        case(name, "RFC 9112 7.1", bytes, status(201))
    };
    vec![
        chunked("chunk-size-of-letters", "RFC 9112 7.1", "zz\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk-size-empty", "RFC 9112 7.1", "\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk-size-with-a-sign", "RFC 9112 7.1", "+5\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk-size-in-0x", "RFC 9112 7.1", "0x5\r\nhello\r\n0\r\n\r\n"),
        chunked("chunk-size-past-64-bits", "RFC 9112 7.1", "fffffffffffffffff\r\nhello\r\n"),
        chunked("chunk-longer-than-its-size", "RFC 9112 7.1", "5\r\nhello!\r\n0\r\n\r\n"),
        chunked("chunk-line-with-bare-lf", "RFC 9112 2.2", "5\nhello\r\n0\r\n\r\n"),
        chunked("chunk-end-with-bare-lf", "RFC 9112 2.2", "5\r\nhello\n0\r\n\r\n"),
        chunked("folded-trailer", "RFC 9112 7.1.2", "0\r\nX: a\r\n b\r\n\r\n"),
        good("chunk-extension", "ext", "5;name=value\r\nhello\r\n0\r\n\r\n"),
        good(
            "chunk-sizes-in-both-cases",
            "digits",
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
        ),
        good("trailer", "trailer", "5\r\nhello\r\n0\r\nX-Checksum: 1\r\n\r\n"),
    ]
}
