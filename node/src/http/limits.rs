//! What one HTTP connection may cost. Every value has its unit and says what happens beyond it.

use std::time::Duration;

use reel_proto::http::head::HeadLimits;

use super::pace::Pace;

/// Limits of a server's connections; shared by all connections of a role.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// Size of a request's head. Beyond: 414 or 431, closed.
    pub request_head: HeadLimits,
    /// Wait for the first byte of the next request. Beyond: closed without a word.
    pub idle: Duration,
    /// From a request's first byte to the end of its head. Beyond: 408, closed.
    pub head: Duration,
    /// Least progress of a peer that sends a body. Below: 408, closed.
    pub body: Pace,
    /// Least progress of a peer that takes an answer. Below: closed.
    pub answer: Pace,
    /// Requests on one connection; the last one's answer announces the close.
    pub requests_max: u32,
    /// Bytes of a request body that are read at once and handed on as one piece.
    pub piece_bytes_max: usize,
    /// Bytes of a body nobody wanted that are read and thrown away to keep a connection. Beyond:
    /// closed after the answer.
    pub unread_bytes_max: u64,
    /// After an answer that closes: time for which the peer's input is still read, so that the
    /// answer is not lost to a reset.
    pub linger: Duration,
    /// Likewise, bytes.
    pub linger_bytes_max: u64,
}

impl Default for HttpLimits {
    fn default() -> Self {
        let progress = Pace { window: Duration::from_secs(30), bytes_min: 1024 };
        Self {
            request_head: HeadLimits::default(),
            idle: Duration::from_secs(75),
            head: Duration::from_secs(10),
            body: progress,
            answer: progress,
            requests_max: 100_000,
            piece_bytes_max: 256 * 1024,
            unread_bytes_max: 64 * 1024,
            linger: Duration::from_secs(2),
            linger_bytes_max: 1024 * 1024,
        }
    }
}
