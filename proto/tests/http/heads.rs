//! Request heads: what is taken and how it is read, what is refused and with which status.

use reel_proto::{
    http::head::{Framing, HeadError, HeadLimits, HeadScan, Method, Refusal, RequestHead, Version},
    limits,
};

/// Lines with CRLF, and the empty line.
pub(crate) fn head(lines: &[&str]) -> Vec<u8> {
    let mut bytes = lines.join("\r\n").into_bytes();
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}

fn parse(bytes: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
    RequestHead::parse(bytes, &HeadLimits::default())
}

fn taken(lines: &[&str]) -> RequestHead {
    let bytes = head(lines);
    let (head, used) = parse(&bytes).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    head
}

fn refusal(bytes: &[u8]) -> Refusal {
    let error = parse(bytes).unwrap_err();
    assert_eq!(error.status, error.reason.status());
    error.reason
}

const HOST: &str = "Host: example.org";

#[test]
fn a_plain_request() {
    let head = taken(&[
        "GET /files/a%20b?user=u&download= HTTP/1.1",
        "Host: example.org:8080",
        "Range:   bytes=0-1\t ",
        "X-Empty:",
        "range: bytes=2-3",
    ]);
    assert_eq!((head.method, head.method()), (Method::Get, "GET"));
    assert_eq!((head.path(), head.query()), ("/files/a%20b", Some("user=u&download=")));
    assert_eq!(head.path_and_query(), "/files/a%20b?user=u&download=");
    assert_eq!(head.host(), Some("example.org:8080"));
    assert_eq!((head.version, head.framing), (Version::Http11, Framing::None));
    assert!(head.keep_alive && !head.expect_continue);
    assert_eq!(head.header("RANGE"), Some(&b"bytes=0-1"[..]));
    assert_eq!(head.header("x-empty"), Some(&b""[..]));
    assert_eq!(head.fields().all("range").count(), 2);
    assert_eq!(head.fields().only("range"), None);
    assert_eq!(head.headers().count(), 4);
    let shown = format!("{head:?}");
    assert!(shown.contains("/files/a%20b") && !shown.contains("bytes=0-1"), "{shown}");
}

/// Each: the section, the lines after `PUT /files/x HTTP/1.1` and Host, the framing.
#[test]
fn framings() {
    for (section, lines, framing) in [
        ("9112 6.3", &[][..], Framing::None),
        ("9110 8.6", &["Content-Length: 0"], Framing::Length(0)),
        ("9110 8.6", &["Content-Length:  42 "], Framing::Length(42)),
        ("9110 8.6", &["Content-Length: 00042"], Framing::Length(42)),
        ("9110 8.6", &["Content-Length: 9223372036854775807"], Framing::Length(i64::MAX as u64)),
        ("9112 6.1", &["Transfer-Encoding: chunked"], Framing::Chunked),
        ("9112 7", &["transfer-encoding: CHUNKED"], Framing::Chunked),
    ] {
        let lines = [&["PUT /files/x HTTP/1.1", HOST], lines].concat();
        assert_eq!(taken(&lines).framing, framing, "RFC {section}: {lines:?}");
    }
}

/// Each: the section, the lines after `PUT /files/x HTTP/1.1` and Host, the refusal and its status.
#[test]
fn framings_that_are_refused() {
    for (section, lines, reason, status) in [
        ("9112 6.3", &["Content-Length: 5", "Content-Length: 5"][..], Refusal::TwoLengths, 400),
        ("9112 6.3", &["Content-Length: 5", "content-length: 6"], Refusal::TwoLengths, 400),
        ("9110 8.6", &["Content-Length: 5, 5"], Refusal::TwoLengths, 400),
        ("9110 8.6", &["Content-Length: +5"], Refusal::Length, 400),
        ("9110 8.6", &["Content-Length: -5"], Refusal::Length, 400),
        ("9110 8.6", &["Content-Length: 0x5"], Refusal::Length, 400),
        ("9110 8.6", &["Content-Length: 5 5"], Refusal::Length, 400),
        ("9110 8.6", &["Content-Length:"], Refusal::Length, 400),
        ("9110 8.6", &["Content-Length: 9223372036854775808"], Refusal::Length, 400),
        ("9110 8.6", &["Content-Length: 18446744073709551621"], Refusal::Length, 400),
        (
            "9112 6.1",
            &["Content-Length: 5", "Transfer-Encoding: chunked"],
            Refusal::LengthAndCoding,
            400,
        ),
        (
            "9112 6.1",
            &["Transfer-Encoding: chunked", "Content-Length: 5"],
            Refusal::LengthAndCoding,
            400,
        ),
        ("9112 6.1", &["Transfer-Encoding: gzip, chunked"], Refusal::CodingNotImplemented, 501),
        ("9112 6.1", &["Transfer-Encoding: gzip"], Refusal::Coding, 400),
        ("9112 6.1", &["Transfer-Encoding: chunked, gzip"], Refusal::Coding, 400),
        ("9112 7.1", &["Transfer-Encoding: chunked, chunked"], Refusal::Coding, 400),
        (
            "9112 7.1",
            &["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
            Refusal::Coding,
            400,
        ),
        ("9112 7", &["Transfer-Encoding: chunked;q=1"], Refusal::Coding, 400),
        ("9112 7", &["Transfer-Encoding: \x0bchunked"], Refusal::FieldLine, 400),
        ("9112 7", &["Transfer-Encoding: xchunked"], Refusal::Coding, 400),
        ("9112 7", &["Transfer-Encoding: identity"], Refusal::Coding, 400),
        ("9112 7", &["Transfer-Encoding: ,chunked"], Refusal::Coding, 400),
        ("9112 7", &["Transfer-Encoding:"], Refusal::Coding, 400),
        ("9112 7", &["Transfer-Encoding: \"chunked\""], Refusal::Coding, 400),
        ("9110 10.1.1", &["Content-Length: 5", "Expect: 42"], Refusal::Expectation, 417),
    ] {
        let bytes = head(&[&["PUT /files/x HTTP/1.1", HOST], lines].concat());
        assert_eq!(refusal(&bytes), reason, "RFC {section}: {lines:?}");
        assert_eq!(reason.status(), status);
    }
    let old = head(&["PUT /files/x HTTP/1.0", "Transfer-Encoding: chunked"]);
    assert_eq!(refusal(&old), Refusal::CodingInOldVersion, "RFC 9112 6.1");
}

/// Each: the section, the whole of what comes, the refusal.
#[test]
fn syntax_that_is_refused() {
    for (section, bytes, reason) in [
        ("9112 2.2", &b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], Refusal::BareLineFeed),
        ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\n\r\n", Refusal::BareLineFeed),
        ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\n\n", Refusal::BareLineFeed),
        ("9112 2.2", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::BareLineFeed),
        ("9112 2.2", b"GET / HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n", Refusal::FieldLine),
        ("9112 2.2", b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::EmptyLines),
        ("9112 2.2", b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Refusal::FieldLine),
        ("9112 3", b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 3", b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 3", b"GET /\tHTTP/1.1\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 3", b"GET /\r\n\r\n", Refusal::RequestLine),
        ("9112 3", b"GET / a HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 3.1", b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 2.3", b"GET / http/1.1\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 2.3", b"GET / HTTP/1.10\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9112 2.3", b"GET / HTTP/11\r\nHost: a\r\n\r\n", Refusal::RequestLine),
        ("9110 2.5", b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", Refusal::Version),
        ("9110 2.5", b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", Refusal::Version),
        ("9112 3.2", b"GET / HTTP/1.1\r\n\r\n", Refusal::Host),
        ("9112 3.2", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Refusal::Host),
        ("9112 3.2", b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Refusal::Host),
        ("9112 3.2", b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", Refusal::Host),
        ("9112 3.2", b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Refusal::Host),
        ("9112 3.2", b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", Refusal::Host),
        ("9112 3.2", b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", Refusal::Host),
        ("9112 3.2.1", b"GET files HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2", b"GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2", b"GET /\xC3\xA4 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2", b"GET /a\rb HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2.4", b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2.3", b"CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9110 4.2.4", b"GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2.2", b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 3.2.2", b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", Refusal::Target),
        ("9112 5", b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", Refusal::FieldLine),
        ("9112 5", b"GET / HTTP/1.1\r\nHost: a\r\n: v\r\n\r\n", Refusal::FieldLine),
        ("9112 5.1", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", Refusal::FieldLine),
        ("9112 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\t: v\r\n\r\n", Refusal::FieldLine),
        ("9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: v\r\n w\r\n\r\n", Refusal::FieldLine),
        ("9112 5.2", b"GET / HTTP/1.1\r\nHost: a\r\nX: v\r\n\tw\r\n\r\n", Refusal::FieldLine),
        ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", Refusal::FieldLine),
        ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n", Refusal::FieldLine),
        ("9110 5.5", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", Refusal::FieldLine),
        ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", Refusal::FieldLine),
        ("9110 5.1", b"GET / HTTP/1.1\r\nHost: a\r\nX\xE4: b\r\n\r\n", Refusal::FieldLine),
        ("9112 2.1", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", Refusal::NotHttp),
        ("9112 2.1", b" GET / HTTP/1.1\r\n", Refusal::NotHttp),
    ] {
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(refusal(bytes), reason, "RFC {section}: {shown:?}");
        assert_eq!(reason.status(), if reason == Refusal::Version { 505 } else { 400 });
    }
}

#[test]
fn targets_of_every_form() {
    for (section, line, path, query, host) in [
        ("9112 3.2.1", "GET /files/x?a=b?c HTTP/1.1", "/files/x", Some("a=b?c"), "example.org"),
        ("9112 3.2.1", "GET /files/x? HTTP/1.1", "/files/x", Some(""), "example.org"),
        ("9112 3.2.1", "GET //x HTTP/1.1", "//x", None, "example.org"),
        ("9112 3.2.2", "GET http://other:80/files/x?q HTTP/1.1", "/files/x", Some("q"), "other:80"),
        ("9112 3.2.2", "GET HTTPS://[::1]:8080/x HTTP/1.1", "/x", None, "[::1]:8080"),
        ("9112 3.2.2", "GET http://other HTTP/1.1", "", None, "other"),
        ("9112 3.2.3", "CONNECT a.b:443 HTTP/1.1", "a.b:443", None, "a.b:443"),
        ("9112 3.2.4", "OPTIONS * HTTP/1.1", "*", None, "example.org"),
        ("9110 2.5", "GET /x HTTP/1.9", "/x", None, "example.org"),
    ] {
        let head = taken(&[line, HOST]);
        assert_eq!((head.path(), head.query()), (path, query), "RFC {section}: {line}");
        assert_eq!(head.host(), Some(host), "RFC {section}: {line}");
    }
    assert_eq!(taken(&["GET http://other HTTP/1.1", HOST]).path_and_query(), "/");
    assert_eq!(taken(&["GET / HTTP/1.1", "Host:"]).host(), Some(""), "RFC 9110 7.2");
    assert_eq!(taken(&["GET / HTTP/1.0"]).host(), None, "RFC 9112 3.2");
}

#[test]
fn methods() {
    for (name, method) in [
        ("GET", Method::Get),
        ("HEAD", Method::Head),
        ("PUT", Method::Put),
        ("POST", Method::Post),
        ("DELETE", Method::Delete),
        ("OPTIONS", Method::Options),
        ("PATCH", Method::Refused),
        ("TRACE", Method::Refused),
        ("BREW", Method::Unknown),
        ("get", Method::Unknown),
        ("G-E.T!", Method::Unknown),
    ] {
        let head = taken(&[&format!("{name} /x HTTP/1.1"), HOST]);
        assert_eq!((head.method, head.method()), (method, name), "RFC 9110 9.1");
    }
}

#[test]
fn whether_the_connection_lives_on() {
    for (section, version, connection, lives) in [
        ("9112 9.3", "1.1", None, true),
        ("9112 9.3", "1.0", None, false),
        ("9112 9.6", "1.1", Some("close"), false),
        ("9112 9.6", "1.1", Some("x, Close ,y"), false),
        ("9112 9.3", "1.1", Some("keep-alive"), true),
        ("9112 9.3", "1.0", Some("Keep-Alive"), true),
        ("9112 9.3", "1.0", Some("keep-alive, close"), false),
        ("9112 9.3", "1.1", Some("closed"), true),
    ] {
        let line = format!("GET / HTTP/{version}");
        let connection = connection.map(|value| format!("Connection: {value}"));
        let mut lines = vec![line.as_str(), HOST];
        lines.extend(connection.as_deref());
        assert_eq!(taken(&lines).keep_alive, lives, "RFC {section}: {lines:?}");
    }
}

#[test]
fn expectations() {
    for (section, version, lines, expects) in [
        ("9110 10.1.1", "1.1", &["Content-Length: 5", "Expect: 100-continue"][..], true),
        ("9110 10.1.1", "1.1", &["Transfer-Encoding: chunked", "expect: 100-Continue"], true),
        ("9110 10.1.1", "1.0", &["Content-Length: 5", "Expect: 100-continue"], false),
        ("9110 10.1.1", "1.1", &["Expect: 100-continue"], false),
        ("9110 10.1.1", "1.1", &["Content-Length: 0", "Expect: 100-continue"], false),
    ] {
        let line = format!("PUT /files/x HTTP/{version}");
        let lines = [&[line.as_str(), HOST], lines].concat();
        assert_eq!(taken(&lines).expect_continue, expects, "RFC {section}: {lines:?}");
    }
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    let mut bytes = b"\r\n".to_vec();
    bytes.extend(head(&["GET /x HTTP/1.1", HOST]));
    let (head, used) = parse(&bytes).unwrap().unwrap();
    assert_eq!((head.path(), used), ("/x", bytes.len()), "RFC 9112 2.2");
}

#[test]
fn what_follows_a_head_is_left() {
    let mut bytes = head(&["PUT /x HTTP/1.1", HOST, "Content-Length: 3"]);
    let whole = bytes.len();
    bytes.extend_from_slice(b"\nno\r\n\r\nGET / HTTP/9.9\n\n");
    let (head, used) = parse(&bytes).unwrap().unwrap();
    assert_eq!((head.framing, used), (Framing::Length(3), whole));
}

#[test]
fn lengths_at_and_past_each_limit() {
    let limits = HeadLimits { bytes_max: 200, request_line_bytes_max: 60, fields_max: 3 };
    let parse = |bytes: &[u8]| match RequestHead::parse(bytes, &limits) {
        Ok(Some(_)) => 200,
        Ok(None) => 0,
        Err(error) => error.status,
    };
    let line = |length: usize| format!("GET /{} HTTP/1.1", "a".repeat(length - 16));
    assert_eq!(parse(&head(&[&line(60), HOST])), 200);
    assert_eq!(parse(&head(&[&line(61), HOST])), 414, "RFC 9112 3");
    assert_eq!(parse(&head(&[&line(5000), HOST])), 414);
    assert_eq!(parse(&[b'a'; 61]), 414, "refused before its end comes");
    assert_eq!(parse(&[b'a'; 60]), 0);
    let long = |length: usize| {
        let mut bytes = head(&["GET / HTTP/1.1", HOST, "X: "]);
        let room = length - bytes.len();
        bytes.splice(bytes.len() - 4..bytes.len() - 4, std::iter::repeat_n(b'a', room));
        assert_eq!(bytes.len(), length);
        bytes
    };
    assert_eq!(parse(&long(200)), 200);
    assert_eq!(parse(&long(201)), 431, "RFC 6585 5");
    assert_eq!(parse(&long(60_000)), 431);
    assert_eq!(parse(&long(300)[..201]), 431, "refused before its end comes");
    assert_eq!(parse(&head(&["GET / HTTP/1.1", HOST, "A: 1", "B: 2"])), 200);
    assert_eq!(parse(&head(&["GET / HTTP/1.1", HOST, "A: 1", "B: 2", "C: 3"])), 431);
}

#[test]
fn the_ceilings_of_any_configuration() {
    let limits = HeadLimits {
        bytes_max: usize::MAX,
        request_line_bytes_max: usize::MAX,
        fields_max: usize::MAX,
    };
    let parse = |bytes: &[u8]| RequestHead::parse(bytes, &limits).map_err(|error| error.status);
    let mut bytes = head(&["GET / HTTP/1.1", HOST, "X: "]);
    let room = limits::HTTP_HEAD_BYTES_CEILING - bytes.len();
    bytes.splice(bytes.len() - 4..bytes.len() - 4, std::iter::repeat_n(b'a', room));
    let (parsed, _) = parse(&bytes).unwrap().unwrap();
    assert_eq!(parsed.header("x").unwrap().len(), room);
    bytes.insert(40, b'a');
    assert_eq!(parse(&bytes).unwrap_err(), 431);
    let many: Vec<String> = (0..limits::HTTP_FIELDS_MAX).map(|at| format!("X-{at}: v")).collect();
    let mut lines = vec!["GET / HTTP/1.1", HOST];
    lines.extend(many[1..].iter().map(String::as_str));
    assert_eq!(parse(&head(&lines)).unwrap().unwrap().0.headers().count(), many.len());
    lines.push("Y: v");
    assert_eq!(parse(&head(&lines)).unwrap_err(), 431);
}

/// A head that comes in pieces is read the same, wherever it is cut, and each piece is looked at once.
#[test]
fn split_at_every_byte() {
    let bytes = head(&["PUT /files/x HTTP/1.1", HOST, "Content-Length: 3", "X: y"]);
    let limits = HeadLimits::default();
    let mut scan = HeadScan::default();
    for end in 0..bytes.len() {
        assert!(parse(&bytes[..end]).unwrap().is_none(), "cut at {end}");
        let grown = RequestHead::parse_more(&bytes[..end], &mut scan, &limits);
        assert!(grown.unwrap().is_none());
    }
    let (head, used) = RequestHead::parse_more(&bytes, &mut scan, &limits).unwrap().unwrap();
    assert_eq!((head.framing, used), (Framing::Length(3), bytes.len()));
}
