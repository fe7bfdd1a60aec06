//! The table of HTTP cases that the storage node and the gateway must both pass, over raw sockets.
//!
//! Each case is bytes to send and what must come back, with the section it comes from: a row of
//! the table is what a reader of the RFC would write down. Nothing here knows a library of ours,
//! so a mistake in our parser cannot hide itself. [`run`] works against any address that takes
//! writes from this machine: it uploads its own files under ids of its own.

use std::{net::SocketAddr, time::Duration};

mod framing;
mod limits;
mod methods;
mod preconditions;
mod ranges;
mod uploads;
mod wire;

pub use wire::{Connection, Response};

/// How long a peer may take for any answer: longer than an upload is kept waiting for a database that is away. Nothing is measured by
/// it: it ends a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the file that the cases read.
pub const SIZE: usize = 100_000;

/// One case: a name, its source, and what goes over one connection.
#[derive(Debug)]
pub struct Case {
    /// Unique, for the report.
    pub name: &'static str,
    /// The section that decides, as in "RFC 9110 14.2".
    pub rfc: &'static str,
    /// What is sent and expected, in order, on one connection.
    pub exchanges: Vec<Exchange>,
    /// What the peer does with the connection afterwards.
    pub end: End,
}

/// Bytes, then the responses to them.
#[derive(Debug)]
pub struct Exchange {
    /// Sent at once. Placeholders in braces are filled in; see [`Facts::fill`].
    pub send: Vec<u8>,
    /// The responses, in order.
    pub expect: Vec<Expect>,
}

/// What one response must be.
#[derive(Debug)]
pub struct Expect {
    /// One of these.
    pub statuses: Vec<u16>,
    /// Header fields that must be there with this value, and fields that must not (`None`).
    pub headers: Vec<(&'static str, Option<Value>)>,
    /// The body.
    pub body: Body,
    /// The response answers a HEAD: it has no body whatever its fields say.
    pub to_head: bool,
}

/// What a header field must be. Placeholders are filled in.
#[derive(Debug)]
pub enum Value {
    /// Any value.
    Any,
    /// Exactly this.
    Is(&'static str),
    /// This somewhere in it, in any case.
    Has(&'static str),
}

/// What a body must be.
#[derive(Debug, Clone, Copy)]
pub enum Body {
    /// Nothing is asked of it.
    Any,
    /// No byte.
    Empty,
    /// The file, whole.
    Whole,
    /// These bytes of the file, the last one included.
    Bytes(usize, usize),
    /// `multipart/byteranges` of exactly these ranges of the file, in this order.
    Parts(&'static [(usize, usize)]),
    /// These bytes.
    Is(&'static [u8]),
}

/// What happens to the connection after the last response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It takes another request.
    Open,
    /// The peer closes it.
    Closed,
    /// Either.
    Either,
}

/// What the placeholders stand for in one run.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Id of the file that is read.
    pub id: String,
    /// Its entity tag, in quotes.
    pub etag: String,
    /// Its `Last-Modified`.
    pub modified: String,
    /// `host:port` of the address under test.
    pub host: String,
    /// Makes ids of this run unique: `{run}`.
    pub run: String,
}

/// The verdict on one case.
#[derive(Debug)]
pub struct Verdict {
    /// Name of the case.
    pub name: &'static str,
    /// Its source.
    pub rfc: &'static str,
    /// What was wrong; `None` when it passed.
    pub fault: Option<String>,
}

impl Facts {
    /// Replaces `{id}`, `{etag}`, `{modified}`, `{host}`, `{run}` and `{size}`.
    pub fn fill(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = bytes.to_vec();
        let size = SIZE.to_string();
        for (name, value) in [
            ("{id}", &self.id),
            ("{etag}", &self.etag),
            ("{modified}", &self.modified),
            ("{host}", &self.host),
            ("{run}", &self.run),
            ("{size}", &size),
        ] {
            out = replaced(&out, name.as_bytes(), value.as_bytes());
        }
        out
    }

    fn fill_text(&self, text: &str) -> String {
        String::from_utf8_lossy(&self.fill(text.as_bytes())).into_owned()
    }
}

fn replaced(bytes: &[u8], what: &[u8], with: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = rest.windows(what.len()).position(|window| window == what) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(with);
        rest = &rest[at + what.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// The content of the file that the cases read.
pub fn content() -> Vec<u8> {
    (0..SIZE).map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8).collect()
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut cases = ranges::cases();
    cases.extend(preconditions::cases());
    cases.extend(methods::cases());
    cases.extend(framing::cases());
    cases.extend(limits::cases());
    cases.extend(uploads::cases());
    cases
}

/// Uploads the file that the cases read, and learns its validators. `run` makes the ids unique.
///
/// # Errors
/// A text that says what the address answered instead.
pub fn prepare(address: SocketAddr, run: &str) -> Result<Facts, String> {
    let mut facts = Facts {
        id: format!("case-{run}"),
        etag: String::new(),
        modified: String::new(),
        host: address.to_string(),
        run: run.to_owned(),
    };
    let content = content();
    let mut request = facts.fill(
        b"PUT /files/{id} HTTP/1.1\r\nHost: {host}\r\nContent-Type: video/mp4\r\n\
          Content-Length: {size}\r\n\r\n",
    );
    request.extend_from_slice(&content);
    let mut connection = Connection::open(address)?;
    connection.send(&request)?;
    let put = connection.response(false)?;
    if put.status != 201 {
        return Err(format!("the upload got {}: {}", put.status, put.text()));
    }
    connection.send(&facts.fill(b"HEAD /files/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
    let head = connection.response(true)?;
    facts.etag = head.header("etag").ok_or("no ETag")?.to_owned();
    facts.modified = head.header("last-modified").ok_or("no Last-Modified")?.to_owned();
    Ok(facts)
}

/// Runs the cases one after another, each on a connection of its own.
pub fn run(address: SocketAddr, facts: &Facts, cases: &[Case]) -> Vec<Verdict> {
    cases
        .iter()
        .map(|case| Verdict {
            name: case.name,
            rfc: case.rfc,
            fault: run_case(address, facts, case).err(),
        })
        .collect()
}

fn run_case(address: SocketAddr, facts: &Facts, case: &Case) -> Result<(), String> {
    let mut connection = Connection::open(address)?;
    for exchange in &case.exchanges {
        connection.send(&facts.fill(&exchange.send))?;
        for expect in &exchange.expect {
            let response = connection.response(expect.to_head)?;
            expect.judge(facts, &response)?;
        }
    }
    match case.end {
        End::Either => Ok(()),
        End::Closed => connection.ended(),
        End::Open => {
            connection.send(&facts.fill(b"HEAD /files/{id} HTTP/1.1\r\nHost: {host}\r\n\r\n"))?;
            match connection.response(true)?.status {
                200 => Ok(()),
                status => Err(format!("the next request on the connection got {status}")),
            }
        }
    }
}

impl Expect {
    fn judge(&self, facts: &Facts, response: &Response) -> Result<(), String> {
        if !self.statuses.contains(&response.status) {
            return Err(format!(
                "status {} instead of {:?}: {}",
                response.status,
                self.statuses,
                response.text()
            ));
        }
        for (name, value) in &self.headers {
            let found = response.header(name);
            let right = match (value, found) {
                (None, found) => found.is_none(),
                (Some(_), None) => false,
                (Some(Value::Any), Some(_)) => true,
                (Some(Value::Is(value)), Some(found)) => found == facts.fill_text(value),
                (Some(Value::Has(part)), Some(found)) => {
                    let part = facts.fill_text(part).to_ascii_lowercase();
                    found.to_ascii_lowercase().contains(&part)
                }
            };
            if !right {
                return Err(format!("{name} is {found:?} instead of {value:?}"));
            }
        }
        self.body.judge(response)
    }
}

impl Body {
    fn judge(self, response: &Response) -> Result<(), String> {
        let got = &response.body;
        let wanted = match self {
            Self::Any => return Ok(()),
            Self::Parts(parts) => return wire::judge_parts(response, parts),
            Self::Empty => Vec::new(),
            Self::Whole => content(),
            Self::Bytes(first, last) => content()[first..=last].to_vec(),
            Self::Is(bytes) => bytes.to_vec(),
        };
        if *got == wanted {
            return Ok(());
        }
        let at = got.iter().zip(&wanted).position(|(a, b)| a != b);
        Err(format!("a body of {} instead of {} bytes, differs at {at:?}", got.len(), wanted.len()))
    }
}

// --- builders, so that a case is a few lines

/// A case of one request, after which the connection goes on.
fn case(name: &'static str, rfc: &'static str, send: impl Into<Vec<u8>>, expect: Expect) -> Case {
    let exchange = Exchange { send: send.into(), expect: vec![expect] };
    Case { name, rfc, exchanges: vec![exchange], end: End::Open }
}

/// A case of one request that is refused with the end of the connection.
fn refused(
    name: &'static str,
    rfc: &'static str,
    send: impl Into<Vec<u8>>,
    statuses: &[u16],
) -> Case {
    let mut case = case(name, rfc, send, status(statuses[0]));
    case.exchanges[0].expect[0].statuses = statuses.to_vec();
    case.end = End::Closed;
    case
}

/// `GET` of the file with these further header lines, each without its CRLF.
fn get(lines: &[&str]) -> Vec<u8> {
    request("GET", "/files/{id}", lines)
}

/// A request with `Host` and these further header lines.
fn request(method: &str, target: &str, lines: &[&str]) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: {{host}}\r\n");
    for line in lines {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

fn status(status: u16) -> Expect {
    Expect { statuses: vec![status], headers: Vec::new(), body: Body::Any, to_head: false }
}

impl Expect {
    fn or(mut self, status: u16) -> Self {
        self.statuses.push(status);
        self
    }

    fn is(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, Some(Value::Is(value))));
        self
    }

    fn has(mut self, name: &'static str, part: &'static str) -> Self {
        self.headers.push((name, Some(Value::Has(part))));
        self
    }

    fn any(mut self, name: &'static str) -> Self {
        self.headers.push((name, Some(Value::Any)));
        self
    }

    fn without(mut self, name: &'static str) -> Self {
        self.headers.push((name, None));
        self
    }

    fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    fn head(mut self) -> Self {
        self.to_head = true;
        self.body = Body::Empty;
        self
    }
}

impl Case {
    fn ends(mut self, end: End) -> Self {
        self.end = end;
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_table_has_sixty_cases_with_a_section_each_and_no_name_twice() {
        let cases = cases();
        assert!(cases.len() >= 60, "{}", cases.len());
        let names: HashSet<_> = cases.iter().map(|case| case.name).collect();
        assert_eq!(names.len(), cases.len());
        for case in &cases {
            assert!(case.rfc.starts_with("RFC ") || case.rfc.starts_with("interfaces"), "{case:?}");
        }
    }

    #[test]
    fn a_wrong_response_is_noticed() {
        let facts = Facts {
            id: "i".into(),
            etag: "\"e\"".into(),
            modified: String::new(),
            host: "h".into(),
            run: "r".into(),
        };
        let response = Response {
            status: 206,
            headers: vec![("content-range".into(), "bytes 0-0/100000".into())],
            body: content()[..1].to_vec(),
        };
        let right = || status(206).is("Content-Range", "bytes 0-0/{size}").body(Body::Bytes(0, 0));
        assert_eq!(right().judge(&facts, &response), Ok(()));
        assert!(status(200).judge(&facts, &response).is_err());
        assert!(right().is("Content-Range", "bytes 0-1/{size}").judge(&facts, &response).is_err());
        assert!(right().without("Content-Range").judge(&facts, &response).is_err());
        assert!(right().any("ETag").judge(&facts, &response).is_err());
        assert!(right().body(Body::Bytes(1, 1)).judge(&facts, &response).is_err());
    }
}
