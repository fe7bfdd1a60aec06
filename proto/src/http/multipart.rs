//! `multipart/byteranges` (RFC 9110 section 14.6): its exact length before a byte is sent, then its pieces in turn.

use super::{
    range::{ContentRange, Parts},
    response::write_field,
};

/// A boundary of 32 hexadecimal digits. It must not occur in the content: make it of 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary(pub u128);

impl Boundary {
    fn write(self, out: &mut Vec<u8>) {
        for place in (0..32).rev() {
            out.push(b"0123456789abcdef"[(self.0 >> (4 * place)) as usize & 0xF]);
        }
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
    /// Appends the answer's own `Content-Type`.
    pub fn write_field(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"Content-Type: multipart/byteranges; boundary=");
        self.boundary.write(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Bytes of the whole content: the answer's `Content-Length`. `scratch` is overwritten.
    pub fn length(&self, scratch: &mut Vec<u8>) -> u64 {
        let mut length = 0;
        for (index, range) in self.parts.iter().enumerate() {
            scratch.clear();
            self.write_head(index, scratch);
            length += scratch.len() as u64 + range.length;
        }
        scratch.clear();
        self.write_end(scratch);
        length + scratch.len() as u64
    }

    /// Appends what comes before the bytes of part `index`. Nothing where there is no such part.
    pub fn write_head(&self, index: usize, out: &mut Vec<u8>) {
        let Some(&range) = self.parts.get(index) else { return };
        if index > 0 {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"--");
        self.boundary.write(out);
        out.extend_from_slice(b"\r\n");
        write_field(out, "Content-Type", self.content_type);
        ContentRange { range: Some(range), size: self.size }.write_field(out);
        out.extend_from_slice(b"\r\n");
    }

    /// Appends what comes after the bytes of the last part.
    pub fn write_end(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"\r\n--");
        self.boundary.write(out);
        out.extend_from_slice(b"--\r\n");
    }
}
