//! One HTTP request at a time, over the raw connection of the cases, for tests that only need an answer.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

pub use crate::http_cases::{Connection, Response};

/// One request on a connection of its own: these header lines, and a body of known length where there is one.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[&str],
    body: Option<&[u8]>,
) -> Result<Response> {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {address}\r\n");
    for line in headers {
        head.push_str(line);
        head.push_str("\r\n");
    }
    if let Some(body) = body {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("Connection: close\r\n\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body.unwrap_or_default());
    let exchange = || {
        let mut connection = Connection::open(address)?;
        connection.send(&bytes)?;
        connection.response(method == "HEAD")
    };
    exchange().map_err(anyhow::Error::msg).with_context(|| format!("{method} {address}{target}"))
}

/// The status that a GET is answered with.
pub fn status(address: SocketAddr, target: &str) -> Result<u16> {
    Ok(request(address, "GET", target, &[], None)?.status)
}

/// How long it takes until a GET is answered with this status. The end of the wait ends a test that hangs; nothing is measured by it.
pub fn until_status(address: SocketAddr, target: &str, wanted: u16) -> Result<Duration> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let begin = Instant::now();
    loop {
        let found = status(address, target)?;
        if found == wanted {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > PATIENCE {
            bail!("{target}: {found}, not {wanted}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// GET of a JSON document, for admin pages.
pub fn json(address: SocketAddr, target: &str) -> Result<serde_json::Value> {
    let response = request(address, "GET", target, &[], None)?;
    if response.status != 200 {
        bail!("{target}: {} {}", response.status, response.text());
    }
    Ok(serde_json::from_slice(&response.body)?)
}
