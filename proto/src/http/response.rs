//! Heads of answers: status lines, fields, and the fields that every answer with a file carries.

use super::date;

/// `Cache-Control` of a file: kept by anyone, validated by its ETag at each use, so that a delete is seen.
pub const CACHE_CONTROL: &str = "no-cache";
/// `Content-Security-Policy` of a file: an uploaded page runs no script and reaches nothing, media still plays.
pub const CONTENT_SECURITY_POLICY: &str =
    "sandbox; default-src 'none'; img-src 'self'; media-src 'self'; style-src 'unsafe-inline'";
/// `Allow` of a file.
pub const ALLOW_FILE: &str = "GET, HEAD, PUT, DELETE, OPTIONS";
/// `Allow` of where the server makes ids.
pub const ALLOW_FILES: &str = "POST, OPTIONS";

/// The reason phrase of a status (RFC 9110 section 15); empty for one that is not used here.
pub const fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

/// Writes a head into a buffer, line by line. Nothing is allocated beyond the buffer.
#[derive(Debug)]
pub struct HeadWriter<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> HeadWriter<'a> {
    /// Appends the status line.
    pub fn new(out: &'a mut Vec<u8>, status: u16) -> Self {
        out.extend_from_slice(b"HTTP/1.1 ");
        write_decimal(out, u64::from(status));
        out.push(b' ');
        out.extend_from_slice(reason(status).as_bytes());
        out.extend_from_slice(b"\r\n");
        Self { out }
    }

    /// Appends a field. A control character in its value becomes a space: no value can end its line.
    pub fn field(&mut self, name: &str, value: impl AsRef<[u8]>) -> &mut Self {
        write_field(self.out, name, value);
        self
    }

    /// Appends a field with a number.
    pub fn number(&mut self, name: &str, value: u64) -> &mut Self {
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b": ");
        write_decimal(self.out, value);
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Appends a field with a date, from seconds since 1970.
    pub fn date(&mut self, name: &str, time: u64) -> &mut Self {
        self.field(name, date::format(time).as_bytes())
    }

    /// Appends the empty line that ends the head.
    pub fn end(self) {
        self.out.extend_from_slice(b"\r\n");
    }
}

/// Appends one field line. A control character in its value becomes a space: no value can end its line.
pub fn write_field(out: &mut Vec<u8>, name: &str, value: impl AsRef<[u8]>) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let visible = |byte: &u8| if byte.is_ascii_control() { b' ' } else { *byte };
    out.extend(value.as_ref().iter().map(visible));
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in decimal. Without a formatter: it runs several times an answer.
pub fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
