//! The raw socket of the cases: sends bytes, reads responses by RFC 9112 section 6.3.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
};

use super::{PATIENCE, content};

/// A response as it came.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it was chunked.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of the first field of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The begin of the body as text, for reports.
    pub fn text(&self) -> String {
        let end = self.body.len().min(200);
        format!("{:?} {}", self.headers, String::from_utf8_lossy(&self.body[..end]))
    }
}

/// A connection under test.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(address: SocketAddr) -> Result<Self, String> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        };
        let stream = connect().map_err(|error| format!("no connection: {error}"))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Sends bytes. A peer that has closed already is found out at the next read, where its
    /// response may still wait.
    ///
    /// # Errors
    /// None at present: a failed write leaves the verdict to the read.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.stream.write_all(bytes).is_err() {
            // The peer stopped reading; what it said before that is still in our socket.
        }
        Ok(())
    }

    /// Ends our direction.
    pub fn shut(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads one response; `to_head`: it has no body.
    ///
    /// # Errors
    /// The connection ended or stayed silent, or what came is no HTTP response.
    pub fn response(&mut self, to_head: bool) -> Result<Response, String> {
        let end = loop {
            if let Some(at) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at + 4;
            }
            self.more("a response head")?;
        };
        let head: Vec<u8> = self.received.drain(..end).collect();
        let (status, headers) = parse_head(&head)?;
        let mut response = Response { status, headers, body: Vec::new() };
        if to_head || status == 204 || status == 304 || (100..200).contains(&status) {
            return Ok(response);
        }
        let chunked = response
            .header("transfer-encoding")
            .is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        response.body = match response.header("content-length").map(str::parse::<usize>) {
            _ if chunked => self.chunked()?,
            Some(Ok(length)) => self.exactly(length)?,
            Some(Err(_)) => return Err("a Content-Length that is no number".to_owned()),
            None => self.rest(),
        };
        Ok(response)
    }

    /// The peer ends the connection without another byte.
    ///
    /// # Errors
    /// It sends more, or stays.
    pub fn ended(&mut self) -> Result<(), String> {
        if !self.received.is_empty() {
            return Err(format!("{} bytes after the last response", self.received.len()));
        }
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
            Ok(_) => Err("more bytes after the last response".to_owned()),
            Err(error) => Err(format!("the connection was not closed: {error}")),
        }
    }

    /// Every byte up to the end of the connection, as it came.
    pub fn everything(&mut self) -> Vec<u8> {
        self.rest()
    }

    fn more(&mut self, what: &str) -> Result<(), String> {
        let mut buffer = [0; 64 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(format!(
                "the connection ended in place of {what}: {}",
                String::from_utf8_lossy(&self.received)
            )),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(())
            }
            Err(error) => Err(format!("no {what}: {error}")),
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>, String> {
        while self.received.len() < length {
            self.more("a whole body")?;
        }
        Ok(self.received.drain(..length).collect())
    }

    fn rest(&mut self) -> Vec<u8> {
        while self.more("the end").is_ok() {}
        std::mem::take(&mut self.received)
    }

    fn line(&mut self) -> Result<String, String> {
        loop {
            if let Some(at) = self.received.windows(2).position(|bytes| bytes == b"\r\n") {
                let line: Vec<u8> = self.received.drain(..at + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.more("a chunk")?;
        }
    }

    fn chunked(&mut self) -> Result<Vec<u8>, String> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let length = usize::from_str_radix(line.split(';').next().unwrap_or(""), 16)
                .map_err(|_| format!("a bad chunk size {line:?}"))?;
            if length == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(length)?);
            self.line()?;
        }
    }
}

fn parse_head(head: &[u8]) -> Result<(u16, Vec<(String, String)>), String> {
    let text = std::str::from_utf8(head).map_err(|_| "a head that is no text".to_owned())?;
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or("");
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| format!("a bad status line {first:?}"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| format!("a bad line {line:?}"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok((status, headers))
}

/// Takes a `multipart/byteranges` body apart (RFC 9110 section 14.6) and compares its parts.
pub(super) fn judge_parts(response: &Response, parts: &[(usize, usize)]) -> Result<(), String> {
    let content_type = response.header("content-type").unwrap_or("");
    let boundary = content_type
        .strip_prefix("multipart/byteranges")
        .and_then(|rest| rest.split_once("boundary="))
        .map(|(_, boundary)| boundary.trim_matches('"').to_owned())
        .ok_or_else(|| format!("Content-Type {content_type:?} names no boundary"))?;
    let content = content();
    let mut rest = &response.body[..];
    for (index, (first, last)) in parts.iter().enumerate() {
        let delimiter = format!("--{boundary}\r\n");
        let before = if rest.starts_with(b"\r\n") { &rest[2..] } else { rest };
        rest = before
            .strip_prefix(delimiter.as_bytes())
            .ok_or_else(|| format!("no delimiter before part {index}"))?;
        let end = rest
            .windows(4)
            .position(|bytes| bytes == b"\r\n\r\n")
            .ok_or_else(|| format!("part {index} has no head"))?;
        let head = String::from_utf8_lossy(&rest[..end]).to_ascii_lowercase();
        let wanted = format!("content-range: bytes {first}-{last}/{}", content.len());
        if !head.contains(&wanted) || !head.contains("content-type: video/mp4") {
            return Err(format!("part {index} has the head {head:?}"));
        }
        rest = rest[end + 4..]
            .strip_prefix(&content[*first..=*last])
            .ok_or_else(|| format!("part {index} has other bytes"))?;
    }
    let closing = format!("\r\n--{boundary}--");
    match rest.strip_prefix(closing.as_bytes()) {
        Some(b"" | b"\r\n") => Ok(()),
        _ => Err("no closing delimiter after the last part".to_owned()),
    }
}
