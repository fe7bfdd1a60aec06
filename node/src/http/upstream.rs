//! Connections of a gateway to storage nodes: kept, bounded, and never used past a doubt.
//!
//! A kept connection may have been closed by the node at any moment. It is looked at before use (a
//! readable idle connection is over), and a request that fails on one before the first byte of
//! the answer may be sent again on a fresh one if the caller knows it to be repeatable; the
//! connection says whether it was [`UpstreamConn::is_reused`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use monoio::net::TcpStream;

use super::socket::{self, SendError};
use super::upstream_conn::UpstreamConn;

/// Bounds of a pool; one pool a thread.
#[derive(Clone, Debug)]
pub struct PoolLimits {
    /// Idle connections kept to one node.
    pub idle_per_node_max: usize,
    /// Idle connections kept in all.
    pub idle_max: usize,
    /// Connections in use and idle. Beyond: [`UpstreamError::Busy`].
    pub open_max: usize,
    /// An idle connection older than this is not used again. Below the nodes' own idle limit.
    pub idle_age_max: Duration,
    /// For a connection to be made.
    pub connect: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle_per_node_max: 64,
            idle_max: 1024,
            open_max: 16_384,
            idle_age_max: Duration::from_secs(30),
            connect: Duration::from_secs(3),
        }
    }
}

/// Why a node gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// As many connections as allowed are in use: nothing was sent.
    #[error("too many connections to storage nodes")]
    Busy,
    /// The request could not be sent whole.
    #[error("cannot send the request: {0}")]
    Send(#[from] SendError),
    /// The connection ended before the answer's head was complete.
    #[error("the node closed the connection without an answer")]
    Closed,
    /// The connection broke before the answer's head was complete.
    #[error("the connection broke: {0}")]
    Broken(#[source] io::Error),
    /// No answer in time.
    #[error("the node does not answer")]
    Timeout,
    /// An answer that cannot be understood.
    #[error("the node's answer is malformed: {0}")]
    Malformed(String),
}

impl UpstreamError {
    /// Whether the request certainly did not reach the node.
    pub const fn nothing_sent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Busy)
    }

    /// Whether a kept connection that the node had closed in the meantime looks like this.
    pub const fn is_stale(&self) -> bool {
        matches!(self, Self::Closed | Self::Broken(_) | Self::Send(SendError::Peer(_)))
    }
}

struct Idle {
    stream: TcpStream,
    since: Instant,
}

/// The connections of one thread.
pub struct UpstreamPool {
    limits: PoolLimits,
    idle: RefCell<HashMap<SocketAddr, VecDeque<Idle>>>,
    idle_count: Cell<usize>,
    open: Cell<usize>,
}

impl std::fmt::Debug for UpstreamPool {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("UpstreamPool")
            .field("idle", &self.idle_count.get())
            .field("open", &self.open.get())
            .finish_non_exhaustive()
    }
}

impl UpstreamPool {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> Rc<Self> {
        Rc::new(Self {
            limits,
            idle: RefCell::default(),
            idle_count: Cell::new(0),
            open: Cell::new(0),
        })
    }

    /// Connections open now, idle ones included.
    pub fn open(&self) -> usize {
        self.open.get()
    }

    /// Connections that wait for use.
    pub fn idle(&self) -> usize {
        self.idle_count.get()
    }

    /// A connection to `node`: a kept one, unless `fresh`, else a new one.
    ///
    /// # Errors
    /// [`UpstreamError::Busy`] or [`UpstreamError::Connect`].
    pub async fn get(
        self: &Rc<Self>,
        node: SocketAddr,
        fresh: bool,
    ) -> Result<UpstreamConn, UpstreamError> {
        if !fresh && let Some(stream) = self.take_idle(node) {
            return Ok(UpstreamConn::new(Rc::clone(self), node, stream, true));
        }
        if self.open.get() >= self.limits.open_max && !self.drop_oldest_idle() {
            return Err(UpstreamError::Busy);
        }
        // Counted before the connection is there, so that many that connect at once are bounded.
        let count = OpenCount::new(Rc::clone(self));
        let stream =
            socket::connect(node, self.limits.connect).await.map_err(UpstreamError::Connect)?;
        count.keep();
        Ok(UpstreamConn::new(Rc::clone(self), node, stream, false))
    }

    fn take_idle(&self, node: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&node)?;
        // The newest first: it is the least likely to have been closed, and the others get old.
        while let Some(Idle { stream, since }) = kept.pop_back() {
            self.idle_count.set(self.idle_count.get() - 1);
            if since.elapsed() < self.limits.idle_age_max && is_quiet(&stream) {
                return Some(stream);
            }
            self.open.set(self.open.get() - 1);
        }
        idle.remove(&node);
        None
    }

    fn drop_oldest_idle(&self) -> bool {
        let mut idle = self.idle.borrow_mut();
        let oldest = idle
            .iter()
            .filter_map(|(node, kept)| Some((kept.front()?.since, *node)))
            .min()
            .map(|(_, node)| node);
        let Some(kept) = oldest.and_then(|node| idle.get_mut(&node)) else { return false };
        if kept.pop_front().is_none() {
            return false;
        }
        self.idle_count.set(self.idle_count.get() - 1);
        self.open.set(self.open.get() - 1);
        true
    }

    pub(super) fn closed(&self) {
        self.open.set(self.open.get() - 1);
    }

    pub(super) fn give_back(&self, node: SocketAddr, stream: TcpStream) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(node).or_default();
        if kept.len() >= self.limits.idle_per_node_max
            || self.idle_count.get() >= self.limits.idle_max
        {
            self.open.set(self.open.get() - 1);
            return;
        }
        kept.push_back(Idle { stream, since: Instant::now() });
        self.idle_count.set(self.idle_count.get() + 1);
    }

    /// Closes what has been idle too long; call it now and then.
    pub fn expire(&self) {
        let mut dropped = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            let before = kept.len();
            kept.retain(|idle| idle.since.elapsed() < self.limits.idle_age_max);
            dropped += before - kept.len();
            !kept.is_empty()
        });
        self.idle_count.set(self.idle_count.get() - dropped);
        self.open.set(self.open.get() - dropped);
    }

    /// Forgets the idle connections to a node that has failed.
    pub fn forget(&self, node: SocketAddr) {
        let Some(kept) = self.idle.borrow_mut().remove(&node) else { return };
        self.idle_count.set(self.idle_count.get() - kept.len());
        self.open.set(self.open.get() - kept.len());
    }
}

/// A connection that waits for use has nothing to say: input or an end means that it is over.
fn is_quiet(stream: &TcpStream) -> bool {
    let mut byte = [0_u8; 1];
    matches!(socket::try_receive(stream, &mut &mut byte[..]), Ok(None))
}

/// Counts an open connection until it is kept or dropped.
struct OpenCount {
    pool: Rc<UpstreamPool>,
    kept: bool,
}

impl OpenCount {
    fn new(pool: Rc<UpstreamPool>) -> Self {
        pool.open.set(pool.open.get() + 1);
        Self { pool, kept: false }
    }

    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        if !self.kept {
            self.pool.open.set(self.pool.open.get() - 1);
        }
    }
}
