//! An answer whose node died in its middle: what of it is still to come, and whether what another
//! node offers is just that. No IO.
//!
//! Files never change, and a strong ETag names one file for ever, so the rest of an answer may come
//! from any node that has that file. Asked with `If-Match`, a node that has another one says 412.

use reel_proto::http::head::{Framing, ResponseHead};
use reel_proto::http::range::{ByteRange, ContentRange};
use reel_proto::http::response::write_decimal;

/// The part of a file that a client still waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rest<'a> {
    etag: &'a [u8],
    /// Its next byte and its last one, both inclusive.
    first: u64,
    last: u64,
    /// Bytes of the whole file.
    size: u64,
}

impl<'a> Rest<'a> {
    /// What is to come after the head of an answer with `length` bytes of content. `None`: it cannot
    /// go on elsewhere. It is no content of a file (an error), or no single range of one (where the
    /// parts of a multipart answer lie is the node's choice), or nothing names the file for certain.
    pub(crate) fn of(head: &'a ResponseHead, length: u64) -> Option<Self> {
        let etag = head.header("etag").filter(|etag| etag.starts_with(b"\""))?;
        if length == 0 || head.header("content-encoding").is_some() {
            return None;
        }
        let (range, size) = match head.status {
            200 => (ByteRange { first: 0, length }, length),
            206 => {
                let told = ContentRange::parse(head.header("content-range")?)?;
                (told.range.filter(|range| range.length == length)?, told.size)
            }
            _ => return None,
        };
        Some(Self { etag, first: range.first, last: range.last(), size })
    }

    /// The client has got so many bytes more.
    pub(crate) const fn passed(&mut self, bytes: u64) {
        self.first += bytes;
    }

    /// Bytes still to come.
    pub(crate) const fn length(&self) -> u64 {
        (self.last + 1).saturating_sub(self.first)
    }

    /// Writes the fields that ask for it.
    pub(crate) fn write_fields(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Range: bytes=");
        write_decimal(out, self.first);
        out.push(b'-');
        write_decimal(out, self.last);
        out.extend_from_slice(b"\r\nIf-Match: ");
        out.extend_from_slice(self.etag);
        out.extend_from_slice(b"\r\n");
    }

    /// Whether this answer brings it, and nothing else.
    pub(crate) fn is_brought_by(&self, head: &ResponseHead) -> bool {
        let range = ByteRange { first: self.first, length: self.length() };
        let promised = ContentRange { range: Some(range), size: self.size };
        head.status == 206
            && head.header("etag") == Some(self.etag)
            && head.header("content-encoding").is_none()
            && head.header("content-range").and_then(ContentRange::parse) == Some(promised)
            && head.framing == Framing::Length(range.length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reel_proto::http::head::HeadLimits;

    use super::*;

    fn head(text: &str) -> ResponseHead {
        let text = format!("HTTP/1.1 {text}\r\n\r\n");
        ResponseHead::parse(text.as_bytes(), &HeadLimits::default()).unwrap().unwrap().0
    }

    #[test]
    fn what_is_asked_for_again_is_what_has_not_come() {
        let first =
            head("206 X\r\nETag: \"e\"\r\nContent-Length: 10\r\nContent-Range: bytes 5-14/99");
        let mut rest = Rest::of(&first, 10).unwrap();
        rest.passed(3);
        assert_eq!(rest.length(), 7);
        let mut asked = Vec::new();
        rest.write_fields(&mut asked);
        assert_eq!(asked, b"Range: bytes=8-14\r\nIf-Match: \"e\"\r\n");
        let brings = |range, etag, length| {
            rest.is_brought_by(&head(&format!(
                "206 X\r\nContent-Range: bytes {range}\r\nETag: {etag}\r\nContent-Length: {length}"
            )))
        };
        assert!(brings("8-14/99", "\"e\"", 7));
        assert!(!brings("8-14/100", "\"e\"", 7), "a file of another size");
        assert!(!brings("8-14/99", "\"f\"", 7), "another file");
        assert!(!brings("8-14/99", "W/\"e\"", 7), "perhaps another file");
        assert!(!brings("7-13/99", "\"e\"", 7), "another range");
        assert!(!brings("8-14/99", "\"e\"", 6), "cut");
        assert!(!rest.is_brought_by(&head("200 OK\r\nETag: \"e\"\r\nContent-Length: 99")), "whole");
    }

    #[test]
    fn a_whole_file_is_a_range_too() {
        let head = head("200 OK\r\nETag: \"e\"\r\nContent-Length: 10");
        let rest = Rest::of(&head, 10).unwrap();
        assert_eq!((rest.first, rest.last, rest.size), (0, 9, 10));
    }

    #[test]
    fn an_answer_that_nothing_identifies_does_not_go_on() {
        for (text, length) in [
            ("200 OK\r\nContent-Length: 10", 10),
            ("200 OK\r\nETag: W/\"e\"\r\nContent-Length: 10", 10),
            ("200 OK\r\nETag: \"e\"\r\nContent-Length: 0", 0),
            ("200 OK\r\nETag: \"e\"\r\nContent-Encoding: gzip\r\nContent-Length: 10", 10),
            ("404 X\r\nETag: \"e\"\r\nContent-Length: 10", 10),
            ("206 X\r\nETag: \"e\"\r\nContent-Length: 10", 10),
            ("206 X\r\nETag: \"e\"\r\nContent-Range: bytes 5-15/99\r\nContent-Length: 10", 10),
            ("206 X\r\nETag: \"e\"\r\nContent-Range: bytes */99\r\nContent-Length: 10", 10),
            (
                "206 X\r\nETag: \"e\"\r\nContent-Type: multipart/byteranges; boundary=x\r\n\
                 Content-Length: 10",
                10,
            ),
        ] {
            assert_eq!(Rest::of(&head(text), length), None, "{text}");
        }
    }
}
