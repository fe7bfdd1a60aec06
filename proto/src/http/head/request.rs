//! The head of a request.

use std::fmt;

use super::{
    Framing, HeadError, HeadLimits, HeadScan, Refusal,
    framing::framing,
    line::{Place, RequestLine, is_authority},
};
use crate::http::fields::Fields;

/// A method that we know by name (RFC 9110 section 9.3, RFC 5789). Names are case-sensitive (section 9.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `DELETE`
    Delete,
    /// `OPTIONS`
    Options,
    /// `PATCH`, `TRACE`, `CONNECT`: known, and allowed nowhere here: 405.
    Refused,
    /// Any other: 501.
    Unknown,
}

impl Method {
    fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"PUT" => Self::Put,
            b"POST" => Self::Post,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"PATCH" | b"TRACE" | b"CONNECT" => Self::Refused,
            _ => Self::Unknown,
        }
    }

    /// GET and HEAD: what preconditions treat as one (RFC 9110 section 13.2).
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Get | Self::Head)
    }
}

/// The version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1, and any later HTTP/1 (RFC 9110 section 2.5).
    Http11,
}

impl Version {
    pub(super) fn parse(text: &[u8]) -> Option<Result<Self, Refusal>> {
        let &[b'H', b'T', b'T', b'P', b'/', major @ b'0'..=b'9', b'.', minor @ b'0'..=b'9'] = text
        else {
            return None;
        };
        Some(match (major, minor) {
            (b'1', b'0') => Ok(Self::Http10),
            (b'1', _) => Ok(Self::Http11),
            _ => Err(Refusal::Version),
        })
    }
}

/// Memory for a head: what a server that answers one request after another does not ask the allocator for each time.
#[derive(Debug, Default)]
pub struct HeadMemory(Fields);

impl HeadMemory {
    /// Bytes it has.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

/// A request's head, checked.
#[derive(Clone)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// The version.
    pub version: Version,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client lets the connection live on (RFC 9112 section 9.3).
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends its body (RFC 9110 section 10.1.1). Only where
    /// there is a body.
    pub expect_continue: bool,
    method_place: Place,
    path_place: Place,
    query_place: Option<Place>,
    host_place: Option<Place>,
    fields: Fields,
}

impl RequestHead {
    /// Reads a head at the start of `buffer`: it and the bytes it took, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`HeadError`]: answer with its status, then close.
    pub fn parse(buffer: &[u8], limits: &HeadLimits) -> Result<Option<(Self, usize)>, HeadError> {
        Self::parse_more(buffer, &mut HeadScan::default(), limits)
    }

    /// As [`Self::parse`], for a buffer that grows: `scan` remembers what was looked at. Begin with a new one for
    /// each head.
    ///
    /// # Errors
    /// [`HeadError`]: answer with its status, then close.
    pub fn parse_more(
        buffer: &[u8],
        scan: &mut HeadScan,
        limits: &HeadLimits,
    ) -> Result<Option<(Self, usize)>, HeadError> {
        Self::parse_in(HeadMemory::default, buffer, scan, limits)
    }

    /// As [`Self::parse_more`], into the memory of an earlier head: asked for once the head is whole.
    ///
    /// # Errors
    /// [`HeadError`]: answer with its status, then close.
    pub fn parse_in(
        memory: impl FnOnce() -> HeadMemory,
        buffer: &[u8],
        scan: &mut HeadScan,
        limits: &HeadLimits,
    ) -> Result<Option<(Self, usize)>, HeadError> {
        let Some(found) = scan.find(buffer, limits)? else { return Ok(None) };
        let head = Self::parse_whole(memory(), &buffer[found.skip..found.end], limits)?;
        Ok(Some((head, found.end)))
    }

    /// The memory of a head that is needed no more.
    pub fn into_memory(self) -> HeadMemory {
        HeadMemory(self.fields)
    }

    fn parse_whole(
        memory: HeadMemory,
        head: &[u8],
        limits: &HeadLimits,
    ) -> Result<Self, HeadError> {
        let line = RequestLine::parse(head)?;
        let fields = Fields::parse(memory.0, head, line.end, limits)?;
        let host = host(&fields, line.version)?;
        let framing = framing(&fields, line.version)?;
        let expect_continue = expectation(&fields, line.version)? && framing.has_body();
        let keep_alive = match line.version {
            _ if fields.lists("connection", "close") => false,
            Version::Http11 => true,
            Version::Http10 => fields.lists("connection", "keep-alive"),
        };
        // A target in absolute form overrides the Host field (RFC 9112 section 3.2.2).
        let host_place = line.authority.or_else(|| host.map(|host| fields.place(host)));
        Ok(Self {
            method: Method::of(&head[..usize::from(line.method.1)]),
            version: line.version,
            framing,
            keep_alive,
            expect_continue,
            method_place: line.method,
            path_place: line.path,
            query_place: line.query,
            host_place,
            fields,
        })
    }

    /// The method as it came.
    pub fn method(&self) -> &str {
        self.text(self.method_place)
    }

    /// The path of the target, still escaped; `*` for the asterisk form, the authority for CONNECT.
    pub fn path(&self) -> &str {
        self.text(self.path_place)
    }

    /// The query of the target, still escaped, without its `?`.
    pub fn query(&self) -> Option<&str> {
        self.query_place.map(|place| self.text(place))
    }

    /// Path and query as they came: the target in origin form. A target in absolute form with no path is `/`.
    pub fn path_and_query(&self) -> &str {
        let end = self.query_place.map_or(self.path_place.1, |query| query.1);
        match self.text((self.path_place.0, end)) {
            "" => "/",
            text => text,
        }
    }

    /// Host and port that the client meant: of an absolute target, else of the Host field. May be empty.
    pub fn host(&self) -> Option<&str> {
        self.host_place.map(|place| self.text(place))
    }

    /// Whether the version is 1.1.
    pub fn is_http11(&self) -> bool {
        self.version == Version::Http11
    }

    /// The fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Every field line, name and value.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.fields.iter()
    }

    /// The value of the first field line with this name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.fields.get(name)
    }

    fn text(&self, (start, end): Place) -> &str {
        let bytes = &self.fields.raw()[usize::from(start)..usize::from(end)];
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

/// The Host field: needed once in HTTP/1.1, never twice, always well-formed (RFC 9112 section 3.2).
fn host(fields: &Fields, version: Version) -> Result<Option<&[u8]>, Refusal> {
    let mut lines = fields.all("host");
    let first = lines.next();
    let malformed = first.is_some_and(|host| !host.is_empty() && !is_authority(host));
    if malformed || lines.next().is_some() || (first.is_none() && version == Version::Http11) {
        return Err(Refusal::Host);
    }
    Ok(first)
}

/// Whether the client waits for 100. HTTP/1.0 has no interim answers: ignored there (RFC 9110 section 10.1.1).
fn expectation(fields: &Fields, version: Version) -> Result<bool, Refusal> {
    let mut expects = false;
    for line in fields.all("expect") {
        if !line.eq_ignore_ascii_case(b"100-continue") {
            return Err(Refusal::Expectation);
        }
        expects = version == Version::Http11;
    }
    Ok(expects)
}

impl fmt::Debug for RequestHead {
    // Values of fields stay out: Authorization would end up in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method())
            .field("target", &self.path_and_query())
            .field("framing", &self.framing)
            .field("fields", &self.fields.len())
            .finish_non_exhaustive()
    }
}
