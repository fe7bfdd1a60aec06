//! Heads of answers: read from a node, and written.

use reel_proto::http::{
    head::{AnswerBody, Framing, HeadLimits, Refusal, ResponseHead, Version},
    response::{HeadWriter, reason},
};

use super::heads::head;

fn taken(lines: &[&str]) -> ResponseHead {
    let bytes = head(lines);
    let (head, used) = ResponseHead::parse(&bytes, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!(used, bytes.len());
    head
}

fn refusal(bytes: &[u8]) -> Refusal {
    ResponseHead::parse(bytes, &HeadLimits::default()).unwrap_err().reason
}

#[test]
fn bodies_of_answers() {
    for (section, lines, to_head, body) in [
        ("9112 6.3", &["HTTP/1.1 200 OK", "Content-Length: 5"][..], false, AnswerBody::Length(5)),
        ("9112 6.3", &["HTTP/1.1 200 OK", "Content-Length: 5"], true, AnswerBody::Empty),
        ("9112 6.3", &["HTTP/1.1 200 OK", "Content-Length: 0"], false, AnswerBody::Empty),
        ("9112 6.3", &["HTTP/1.1 304 Not Modified", "Content-Length: 5"], false, AnswerBody::Empty),
        ("9112 6.3", &["HTTP/1.1 204 No Content"], false, AnswerBody::Empty),
        ("9112 6.3", &["HTTP/1.1 100 Continue"], false, AnswerBody::Empty),
        (
            "9112 6.3",
            &["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"],
            false,
            AnswerBody::Chunked,
        ),
        ("9112 6.3", &["HTTP/1.1 200 OK"], false, AnswerBody::UntilClose),
        ("9112 4", &["HTTP/1.1 200 "], false, AnswerBody::UntilClose),
        ("9112 4", &["HTTP/1.1 200"], false, AnswerBody::UntilClose),
        ("9112 4", &["HTTP/1.1 200 Tr\u{e8}s bien"], false, AnswerBody::UntilClose),
    ] {
        assert_eq!(taken(lines).body(to_head), body, "RFC {section}: {lines:?}");
    }
}

#[test]
fn a_plain_answer() {
    let head = taken(&["HTTP/1.1 206 Partial Content", "ETag: \"1-2\"", "Content-Length: 9"]);
    assert_eq!((head.status, head.version), (206, Version::Http11));
    assert_eq!((head.framing, head.keep_alive), (Framing::Length(9), true));
    assert_eq!(head.header("etag"), Some(&b"\"1-2\""[..]));
    assert!(!taken(&["HTTP/1.1 200 OK", "Connection: close"]).keep_alive);
    assert!(!taken(&["HTTP/1.0 200 OK"]).keep_alive);
}

#[test]
fn answers_that_are_refused() {
    for (section, bytes, reason) in [
        ("9112 4", &b"HTTP/1.1 20 OK\r\n\r\n"[..], Refusal::StatusLine),
        ("9112 4", b"HTTP/1.1 2000 OK\r\n\r\n", Refusal::StatusLine),
        ("9112 4", b"HTTP/1.1 099 OK\r\n\r\n", Refusal::StatusLine),
        ("9112 4", b"HTTP/1.1 600 OK\r\n\r\n", Refusal::StatusLine),
        ("9112 4", b"HTTP/1.1  200 OK\r\n\r\n", Refusal::StatusLine),
        ("9112 4", b"HTTP/1.1 200 O\0K\r\n\r\n", Refusal::StatusLine),
        ("9112 4", b"\r\nHTTP/1.1 200 OK\r\n\r\n", Refusal::StatusLine),
        ("9112 2.3", b"ICY 200 OK\r\n\r\n", Refusal::StatusLine),
        ("9110 2.5", b"HTTP/2.0 200 OK\r\n\r\n", Refusal::Version),
        ("9112 2.2", b"HTTP/1.1 200 OK\n\n", Refusal::BareLineFeed),
        (
            "9112 6.3",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            Refusal::TwoLengths,
        ),
        (
            "9112 6.1",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            Refusal::LengthAndCoding,
        ),
        ("9112 5.2", b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", Refusal::FieldLine),
    ] {
        let shown = String::from_utf8_lossy(bytes);
        assert_eq!(refusal(bytes), reason, "RFC {section}: {shown:?}");
    }
}

#[test]
fn what_is_written_is_read() {
    let mut out = Vec::new();
    let mut writer = HeadWriter::new(&mut out, 206);
    writer.field("Content-Type", "video/mp4").number("Content-Length", u64::from(u32::MAX));
    writer.date("Last-Modified", 784_111_777).number("X-Zero", 0);
    writer.end();
    assert_eq!(
        String::from_utf8(out.clone()).unwrap(),
        "HTTP/1.1 206 Partial Content\r\nContent-Type: video/mp4\r\nContent-Length: 4294967295\r\n\
         Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-Zero: 0\r\n\r\n"
    );
    let (head, _) = ResponseHead::parse(&out, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!(head.framing, Framing::Length(u64::from(u32::MAX)));
}

/// RFC 9112 section 11.1: no value splits an answer.
#[test]
fn a_value_cannot_end_its_line() {
    let mut out = Vec::new();
    let mut writer = HeadWriter::new(&mut out, 200);
    writer.field("X", "a\r\nEvil: 1\r\n\r\nHTTP/1.1 200 OK\0\x7f");
    writer.end();
    let (head, used) = ResponseHead::parse(&out, &HeadLimits::default()).unwrap().unwrap();
    assert_eq!((head.headers().count(), used), (1, out.len()));
    assert_eq!(head.header("x"), Some(&b"a  Evil: 1    HTTP/1.1 200 OK"[..]));
}

#[test]
fn every_status_that_is_answered_has_a_reason() {
    for status in [
        100, 200, 201, 204, 206, 304, 307, 400, 401, 403, 404, 405, 408, 409, 411, 412, 413, 414,
        416, 417, 431, 500, 501, 502, 503, 504, 505, 507,
    ] {
        assert!(!reason(status).is_empty(), "{status}");
    }
    assert_eq!(reason(299), "");
}
