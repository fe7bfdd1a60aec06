//! How an answer begins, in each protocol: where its head ends, how long its body is, whether it is what was asked for.

use anyhow::{Context, Result, bail};
use reel_proto::frame::{HEADER_LEN, Header};

/// The protocol that the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// HTTP/1.1 with Content-Length.
    Http,
    /// Frames of ten bytes and a body.
    Frames,
    /// No head: so many bytes come back.
    Echo {
        /// Bytes of an answer.
        bytes: u64,
    },
}

/// Bytes of a head that we wait for. A longer one is an error: servers under test send some 400.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its bytes.
    pub(crate) used: usize,
    /// Bytes of the body behind it.
    pub(crate) body: u64,
    /// Whether the request succeeded.
    pub(crate) verdict: Verdict,
    /// Whether the server takes no further request on this connection.
    pub(crate) closes: bool,
}

/// What the server made of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Done.
    Done,
    /// Too busy, and it said so (503).
    Refused,
    /// Anything else.
    Failed,
}

impl Dialect {
    /// Reads a head from the start of `bytes`; `None` when more are needed.
    pub(crate) fn head(self, bytes: &[u8]) -> Result<Option<Head>> {
        match self {
            Self::Http => http_head(bytes),
            Self::Frames => frame_head(bytes),
            Self::Echo { bytes } => {
                Ok(Some(Head { used: 0, body: bytes, verdict: Verdict::Done, closes: false }))
            }
        }
    }
}

fn frame_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some((head, _)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
    let header = Header::decode(head)?;
    let verdict = if header.is_error() { Verdict::Failed } else { Verdict::Done };
    Ok(Some(Head { used: HEADER_LEN, body: header.length, verdict, closes: false }))
}

fn http_head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        if bytes.len() > HEAD_BYTES_MAX {
            bail!("a response head of more than {HEAD_BYTES_MAX} bytes");
        }
        return Ok(None);
    };
    let head = &bytes[..end + 2];
    let status = head.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
    let verdict = match status.context("no HTTP/1.1 status line")? {
        b"200" | b"201" | b"204" | b"206" => Verdict::Done,
        b"503" => Verdict::Refused,
        _ => Verdict::Failed,
    };
    let body = field(head, b"content-length:").and_then(|value| value.parse().ok());
    let body = body.context("a response without Content-Length")?;
    let closes = field(head, b"connection:").is_some_and(|value| value == "close");
    Ok(Some(Head { used: end + 4, body, verdict, closes }))
}

/// The value of a field, by its name in small letters with the colon.
fn field<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let mut lines = head.split(|&byte| byte == b'\n');
    let value = lines.find_map(|line| {
        let begin = line.get(..name.len())?;
        begin.eq_ignore_ascii_case(name).then(|| &line[name.len()..])
    })?;
    std::str::from_utf8(value).ok().map(str::trim)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reel_proto::{command, frame};

    use super::*;

    const RESPONSE: &[u8] =
        b"HTTP/1.1 206 Partial Content\r\nServer: x\r\ncontent-LENGTH:  4096\r\n\
        Content-Range: bytes 0-4095/9999\r\n\r\nbody";

    #[test]
    fn a_head_split_anywhere_needs_more_until_it_is_whole() {
        let whole = RESPONSE.len() - 4;
        for end in 0..whole {
            assert_eq!(Dialect::Http.head(&RESPONSE[..end]).unwrap(), None, "{end}");
        }
        for end in whole..=RESPONSE.len() {
            let head = Dialect::Http.head(&RESPONSE[..end]).unwrap().unwrap();
            let expected = Head { used: whole, body: 4096, verdict: Verdict::Done, closes: false };
            assert_eq!(head, expected);
        }
    }

    #[test]
    fn what_is_no_answer_to_count_is_told_apart() {
        let verdict =
            |text: &str| Dialect::Http.head(text.as_bytes()).map(|head| head.unwrap().verdict);
        let busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(verdict(busy).unwrap(), Verdict::Refused);
        assert_eq!(
            verdict("HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n").unwrap(),
            Verdict::Failed
        );
        assert!(verdict("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        let last = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert!(Dialect::Http.head(last).unwrap().unwrap().closes);
        assert!(verdict("220 ready\r\n\r\n").is_err());
        assert!(Dialect::Http.head(&[b'x'; HEAD_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn frames_split_anywhere() {
        let reply = frame::encode(command::REPLY_STORAGE, b"12345");
        for end in 0..frame::HEADER_LEN {
            assert_eq!(Dialect::Frames.head(&reply[..end]).unwrap(), None);
        }
        let head = Dialect::Frames.head(&reply).unwrap().unwrap();
        assert_eq!(head, Head { used: 10, body: 5, verdict: Verdict::Done, closes: false });
        let refused = frame::error_reply(command::REPLY_STORAGE, "host", "no");
        let head = Dialect::Frames.head(&refused).unwrap().unwrap();
        assert_eq!(head.verdict, Verdict::Failed);
    }
}
