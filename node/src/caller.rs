//! Calls to other nodes over the binary protocol: pooled connections, a deadline for each call,
//! backoff for a peer that fails. One caller for data threads (monoio) and one for control
//! threads (tokio); what they decide is shared and knows neither ([`peers`]).

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reel_proto::frame::{self, FrameError, HEADER_LEN, Header, RemoteError};

pub mod peers;
mod wire;

use peers::{Admission, Peers, PeersConfig};
pub use wire::{Monoio, Tokio, Wire};

/// The caller of data threads; one for each thread.
pub type MonoioCaller = Caller<Monoio>;
/// The caller of control threads.
pub type TokioCaller = Caller<Tokio>;

/// A call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The peer failed a moment ago and is left alone for now. Nothing was sent.
    #[error("{address} failed before: next try in {wait:?}")]
    BackingOff {
        /// The peer.
        address: SocketAddr,
        /// Time until it is tried again.
        wait: Duration,
    },
    /// No connection. Nothing was sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The peer.
        address: SocketAddr,
        /// What the system said; `TimedOut` when the deadline passed.
        source: io::Error,
    },
    /// The connection broke, or the deadline passed, after something was sent: the request may
    /// have been done or not.
    #[error("no answer from {address}: {source}")]
    NoAnswer {
        /// The peer.
        address: SocketAddr,
        /// What the system said; `TimedOut` when the deadline passed.
        source: io::Error,
    },
    /// The answer is no frame, or longer than we take.
    #[error("{address} answered what is no reply: {reason}")]
    Malformed {
        /// The peer.
        address: SocketAddr,
        /// What is wrong with it.
        reason: Malformed,
    },
    /// The peer refused the request.
    #[error("{address}: {error}")]
    Remote {
        /// The peer.
        address: SocketAddr,
        /// Its error reply.
        error: RemoteError,
    },
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Not a header.
    #[error(transparent)]
    Header(#[from] FrameError),
    /// Longer than the caller takes.
    #[error("a body of {length} bytes, at most {limit} are taken")]
    TooLong {
        /// Length that the header announced.
        length: u64,
        /// The limit.
        limit: usize,
    },
}

impl CallError {
    /// Whether the request may have been done although no success came back.
    pub fn outcome_unknown(&self) -> bool {
        matches!(self, Self::NoAnswer { .. } | Self::Malformed { .. })
    }

    /// Whether the same call may succeed later or elsewhere. A refusal stays one.
    pub fn retryable(&self) -> bool {
        !matches!(self, Self::Remote { .. })
    }
}

/// How a caller behaves.
#[derive(Clone, Copy, Debug)]
pub struct CallerConfig {
    /// Pooling and backoff.
    pub peers: PeersConfig,
    /// Longest body of a reply, in bytes. Longer: the call fails, the connection is closed.
    pub reply_bytes_max: usize,
}

impl Default for CallerConfig {
    fn default() -> Self {
        Self { peers: PeersConfig::default(), reply_bytes_max: 1024 * 1024 }
    }
}

/// Calls peers over connections that it keeps.
#[derive(Debug)]
pub struct Caller<W: Wire> {
    config: CallerConfig,
    // Held for a look at a map, never while waiting; a data thread's caller is its own, so
    // nobody contends for it there.
    peers: Mutex<Peers<Connection<W>>>,
}

impl<W: Wire> Default for Caller<W> {
    fn default() -> Self {
        Self::new(CallerConfig::default())
    }
}

impl<W: Wire> Caller<W> {
    /// A caller without connections.
    pub fn new(config: CallerConfig) -> Self {
        Self { config, peers: Mutex::new(Peers::new(config.peers)) }
    }

    fn peers(&self) -> MutexGuard<'_, Peers<Connection<W>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and gives the body of its success reply.
    ///
    /// `deadline` bounds all of it, connecting included. A kept connection that turns out to be
    /// closed before any byte of the reply is replaced once, so requests should be such that
    /// being done twice does no harm; a connection-bound conversation uses [`Connection`].
    /// Dropping the future closes the connection in use.
    ///
    /// # Errors
    /// See [`CallError`]; only [`CallError::outcome_unknown`] may have had an effect.
    pub async fn call(
        &self,
        address: SocketAddr,
        command: u8,
        body: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let until = Instant::now() + deadline;
        let mut fresh_only = false;
        loop {
            let (mut connection, kept) = self.connection(address, until, fresh_only).await?;
            let left = until.saturating_duration_since(Instant::now());
            let result = connection.call(command, body, left).await;
            if kept && !fresh_only && connection.went_stale(&result) {
                fresh_only = true;
                continue;
            }
            self.settle(address, connection, &result);
            return result;
        }
    }

    /// A kept connection or a new one, and which of them.
    async fn connection(
        &self,
        address: SocketAddr,
        until: Instant,
        fresh_only: bool,
    ) -> Result<(Connection<W>, bool), CallError> {
        let now = Instant::now();
        if fresh_only {
            // The others are as old: the peer has restarted, or closes idle connections.
            self.peers().forget_kept(address);
        }
        let admission = self.peers().admit(address, now);
        match admission {
            Admission::Reuse(connection) => return Ok((connection, true)),
            Admission::Wait(wait) => return Err(CallError::BackingOff { address, wait }),
            Admission::Connect => {}
        }
        let left = until.saturating_duration_since(now);
        match Connection::open(address, self.config.reply_bytes_max, left).await {
            Ok(connection) => Ok((connection, false)),
            Err(error) => {
                self.peers().failed(address, Instant::now(), jitter());
                Err(error)
            }
        }
    }

    fn settle(
        &self,
        address: SocketAddr,
        connection: Connection<W>,
        result: &Result<Vec<u8>, CallError>,
    ) {
        let now = Instant::now();
        match result {
            Ok(_) => self.peers().succeeded(address, connection, now),
            // The peer is well; but it may close the connection after an error.
            Err(CallError::Remote { .. }) => self.peers().answered(address),
            Err(_) => self.peers().failed(address, now, jitter()),
        }
    }
}

/// One connection to a node, for a conversation that is bound to it, as a tracker's join and
/// beats are. Not usable after an error: open another.
#[derive(Debug)]
pub struct Connection<W: Wire> {
    stream: W::Stream,
    address: SocketAddr,
    reply_bytes_max: usize,
    /// Whether any byte of the present reply has come.
    answering: bool,
}

impl<W: Wire> Connection<W> {
    /// Connects.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub async fn open(
        address: SocketAddr,
        reply_bytes_max: usize,
        deadline: Duration,
    ) -> Result<Self, CallError> {
        let failed = |source| CallError::Connect { address, source };
        let stream = within::<W, _>(deadline, W::connect(address)).await.map_err(failed)?;
        Ok(Self { stream, address, reply_bytes_max, answering: false })
    }

    /// The peer.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The stream below.
    pub fn stream(&self) -> &W::Stream {
        &self.stream
    }

    /// Sends a request and gives the body of its success reply.
    ///
    /// # Errors
    /// All of [`CallError`] but `BackingOff` and `Connect`.
    pub async fn call(
        &mut self,
        command: u8,
        body: &[u8],
        deadline: Duration,
    ) -> Result<Vec<u8>, CallError> {
        let address = self.address;
        match W::within(deadline, self.exchange(command, body)).await {
            Some(result) => result,
            None => {
                let source = io::ErrorKind::TimedOut.into();
                Err(CallError::NoAnswer { address, source })
            }
        }
    }

    async fn exchange(&mut self, command: u8, body: &[u8]) -> Result<Vec<u8>, CallError> {
        let address = self.address;
        let no_answer = |source| CallError::NoAnswer { address, source };
        let malformed = |reason| CallError::Malformed { address, reason };
        self.answering = false;
        W::send(&mut self.stream, &frame::encode(command, body)).await.map_err(no_answer)?;
        let mut head = [0; HEADER_LEN];
        self.receive(&mut head).await.map_err(no_answer)?;
        let header = Header::decode(&head).map_err(|error| malformed(error.into()))?;
        let limit = self.reply_bytes_max;
        let length = match usize::try_from(header.length) {
            Ok(length) if length <= limit => length,
            _ => return Err(malformed(Malformed::TooLong { length: header.length, limit })),
        };
        let mut body = vec![0; length];
        self.receive(&mut body).await.map_err(no_answer)?;
        if header.is_error() {
            return Err(CallError::Remote { address, error: frame::decode_error(&body) });
        }
        Ok(body)
    }

    async fn receive(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            match W::receive(&mut self.stream, into).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => into = &mut into[count..],
            }
            self.answering = true;
        }
        Ok(())
    }

    /// Whether a call on a kept connection failed because the peer had closed it meanwhile.
    fn went_stale(&self, result: &Result<Vec<u8>, CallError>) -> bool {
        match result {
            Err(CallError::NoAnswer { source, .. }) => {
                !self.answering && source.kind() != io::ErrorKind::TimedOut
            }
            _ => false,
        }
    }
}

async fn within<W: Wire, T>(
    deadline: Duration,
    work: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match W::within(deadline, work).await {
        Some(result) => result,
        None => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// A number in 0..=1, so that nodes that lost the same peer do not come back to it together.
fn jitter() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX / 2)) / f64::from(u32::MAX)
}
