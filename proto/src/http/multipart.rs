//! `multipart/byteranges` (RFC 9110 section 14.6): its exact length before a byte is sent, then its pieces in turn.

use std::fmt::Write as _;

use super::range::{ContentRange, Parts};

/// A boundary of 32 hexadecimal digits. It must not occur in the content: make it of 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary(pub u128);

impl std::fmt::Display for Boundary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The layout of one answer: before each range its head, after the last the closing delimiter.
#[derive(Debug, Clone, Copy)]
pub struct Multipart<'a> {
    /// The delimiter between parts.
    pub boundary: Boundary,
    /// `Content-Type` of each part: the file's own.
    pub content_type: &'a str,
    /// Bytes of the file.
    pub size: u64,
    /// What to send.
    pub parts: &'a Parts,
}

impl Multipart<'_> {
    /// The value of the answer's own `Content-Type`.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// Bytes of the whole content: the answer's `Content-Length`.
    pub fn length(&self) -> u64 {
        let mut head = String::new();
        let mut length = 0;
        for (index, range) in self.parts.iter().enumerate() {
            head.clear();
            self.write_head(index, &mut head);
            length += head.len() as u64 + range.length;
        }
        head.clear();
        self.write_end(&mut head);
        length + head.len() as u64
    }

    /// Appends what comes before the bytes of part `index`. Nothing where there is no such part.
    pub fn write_head(&self, index: usize, out: &mut String) {
        let Some(&range) = self.parts.get(index) else { return };
        let line_end = if index == 0 { "" } else { "\r\n" };
        let range = ContentRange { range: Some(range), size: self.size };
        // Writing to a String cannot fail, here and below.
        let _ = write!(
            out,
            "{line_end}--{}\r\nContent-Type: {}\r\nContent-Range: {range}\r\n\r\n",
            self.boundary, self.content_type,
        );
    }

    /// Appends what comes after the bytes of the last part.
    pub fn write_end(&self, out: &mut String) {
        let _ = write!(out, "\r\n--{}--\r\n", self.boundary);
    }
}
