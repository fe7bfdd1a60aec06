//! What a client is told: trackers, and how long it waits for what. Every wait has an end.

use std::time::Duration;

/// How a failed attempt is repeated: exponential, with full jitter, within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Upper end of the first pause. A pause is drawn evenly from half of its upper end up to it, so that clients
    /// which failed together do not come back together.
    pub first_pause: Duration,
    /// The upper end doubles from failure to failure up to this.
    pub pause_max: Duration,
    /// Gives up when nothing has got further for this long, counted from the first failure after the last progress.
    /// Zero: never repeat.
    pub window: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(50),
            pause_max: Duration::from_secs(2),
            // Longer than a storage node takes to drain and start again.
            window: Duration::from_secs(30),
        }
    }
}

/// Everything a [`Client`](crate::Client) is configured by.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Trackers as `host:port`, asked in this order; the next one on failure.
    pub trackers: Vec<String>,
    /// Longest wait for a TCP connection to one address.
    pub connect_timeout: Duration,
    /// Longest time without a byte moved, and for the reply after the last byte of an upload (a commit may wait for a
    /// slow disk). Then the attempt has failed.
    pub stall_timeout: Duration,
    /// Deadline of a small request (locate, stat, list, delete, …) with all its attempts.
    pub request_deadline: Duration,
    /// Deadline of a whole upload or download with all its attempts. None: it may take as long as bytes move.
    pub transfer_deadline: Option<Duration>,
    /// How a failed attempt is repeated.
    pub retry: RetryPolicy,
    /// Idle connections kept to one address. One more is closed instead of kept.
    pub idle_connections_max: usize,
    /// An idle connection older than this is not used again: the server may be about to close it.
    pub idle_max: Duration,
    /// How long a tracker's answer for a user is used without asking again; it is dropped at the first failure of a
    /// node that it names. Zero: ask every time.
    pub location_ttl: Duration,
}

impl ClientConfig {
    /// The defaults, with these trackers.
    #[must_use]
    pub fn new(trackers: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            trackers: trackers.into_iter().map(Into::into).collect(),
            connect_timeout: Duration::from_secs(3),
            stall_timeout: Duration::from_secs(30),
            request_deadline: Duration::from_secs(30),
            transfer_deadline: None,
            retry: RetryPolicy::default(),
            idle_connections_max: 8,
            idle_max: Duration::from_secs(20),
            location_ttl: Duration::from_secs(5),
        }
    }
}
