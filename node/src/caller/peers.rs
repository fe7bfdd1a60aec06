//! What a caller knows of its peers: kept connections, and how long to leave a failing one alone.
//! No clock, no socket, no randomness: they are arguments.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

/// Peers that are remembered; one more makes room by forgetting the one used longest ago.
const PEERS_MAX: usize = 1024;

/// Pooling and backoff.
#[derive(Clone, Copy, Debug)]
pub struct PeersConfig {
    /// Connections kept for each peer while unused.
    pub kept_max: usize,
    /// How long an unused connection is kept: less than a server's idle timeout (5 minutes), so
    /// that it is rarely found closed.
    pub kept_time: Duration,
    /// Pause after a first failure; doubles with each one.
    pub backoff_min: Duration,
    /// Longest pause.
    pub backoff_max: Duration,
}

impl Default for PeersConfig {
    fn default() -> Self {
        Self {
            kept_max: 8,
            kept_time: Duration::from_secs(60),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// What to do for a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission<C> {
    /// Use this kept connection.
    Reuse(C),
    /// Open one.
    Connect,
    /// The peer failed: not before this much time.
    Wait(Duration),
}

#[derive(Debug)]
struct Peer<C> {
    /// The most recently used last.
    kept: Vec<(C, Instant)>,
    failures: u32,
    retry_at: Option<Instant>,
    used_at: Instant,
}

/// Peers by address, with connections of type `C`.
#[derive(Debug)]
pub struct Peers<C> {
    config: PeersConfig,
    peers: HashMap<SocketAddr, Peer<C>>,
}

impl<C> Peers<C> {
    /// Without peers.
    pub fn new(config: PeersConfig) -> Self {
        Self { config, peers: HashMap::new() }
    }

    /// What to do for a call to `address` at `now`.
    pub fn admit(&mut self, address: SocketAddr, now: Instant) -> Admission<C> {
        let kept_time = self.config.kept_time;
        let peer = self.peer(address, now);
        peer.used_at = now;
        peer.kept.retain(|(_, since)| now.saturating_duration_since(*since) < kept_time);
        // The warmest first; the others grow old and are closed when calls are few.
        if let Some((connection, _)) = peer.kept.pop() {
            return Admission::Reuse(connection);
        }
        match peer.retry_at {
            Some(at) if at > now => Admission::Wait(at - now),
            _ => Admission::Connect,
        }
    }

    /// A call went well: the failures are forgotten, the connection is kept.
    pub fn succeeded(&mut self, address: SocketAddr, connection: C, now: Instant) {
        let kept_max = self.config.kept_max;
        let peer = self.peer(address, now);
        (peer.failures, peer.retry_at) = (0, None);
        if peer.kept.len() < kept_max {
            peer.kept.push((connection, now));
        }
    }

    /// The peer refused a request: it is well, its connection is not kept.
    pub fn answered(&mut self, address: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&address) {
            (peer.failures, peer.retry_at) = (0, None);
        }
    }

    /// The peer could not be reached or did not answer. Its kept connections are as dead. It is
    /// left alone for half to all (by `jitter`, in 0..=1) of a pause that doubles each time.
    pub fn failed(&mut self, address: SocketAddr, now: Instant, jitter: f64) {
        let config = self.config;
        let peer = self.peer(address, now);
        peer.kept.clear();
        // Calls in flight together fail together: that is one failure of the peer.
        if peer.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let doublings = peer.failures.min(16);
        let pause = config.backoff_min.saturating_mul(1 << doublings).min(config.backoff_max);
        peer.failures = peer.failures.saturating_add(1);
        peer.retry_at = Some(now + pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0));
    }

    /// Closes the kept connections to a peer.
    pub fn forget_kept(&mut self, address: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.kept.clear();
        }
    }

    fn peer(&mut self, address: SocketAddr, now: Instant) -> &mut Peer<C> {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&address) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| peer.used_at);
            if let Some(oldest) = oldest.map(|(address, _)| *address) {
                self.peers.remove(&oldest);
            }
        }
        self.peers.entry(address).or_insert_with(|| Peer {
            kept: Vec::new(),
            failures: 0,
            retry_at: None,
            used_at: now,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use super::{Admission, PEERS_MAX, Peers, PeersConfig};

    const SECOND: Duration = Duration::from_secs(1);

    fn config() -> PeersConfig {
        PeersConfig {
            kept_max: 2,
            kept_time: 10 * SECOND,
            backoff_min: SECOND,
            backoff_max: 8 * SECOND,
        }
    }

    fn address(port: u16) -> SocketAddr {
        ([10, 0, 0, 1], port).into()
    }

    #[test]
    fn keeps_up_to_the_limit_and_gives_the_warmest() {
        let (mut peers, now) = (Peers::new(config()), Instant::now());
        assert_eq!(peers.admit(address(1), now), Admission::Connect);
        for connection in ["a", "b", "c"] {
            peers.succeeded(address(1), connection, now);
        }
        assert_eq!(peers.admit(address(2), now), Admission::Connect);
        assert_eq!(peers.admit(address(1), now), Admission::Reuse("b"));
        assert_eq!(peers.admit(address(1), now), Admission::Reuse("a"));
        assert_eq!(peers.admit(address(1), now), Admission::Connect);
    }

    #[test]
    fn old_connections_are_not_used() {
        let (mut peers, now) = (Peers::new(config()), Instant::now());
        peers.succeeded(address(1), "a", now);
        peers.succeeded(address(1), "b", now + 5 * SECOND);
        assert_eq!(peers.admit(address(1), now + 10 * SECOND), Admission::Reuse("b"));
        assert_eq!(peers.admit(address(1), now + 10 * SECOND), Admission::Connect);
    }

    #[test]
    fn pauses_double_up_to_the_limit_with_jitter() {
        let mut peers = Peers::<()>::new(config());
        let mut now = Instant::now();
        for pause in [1, 2, 4, 8, 8, 8] {
            peers.failed(address(1), now, 1.0);
            assert_eq!(peers.admit(address(1), now), Admission::Wait(pause * SECOND));
            now += pause * SECOND;
            assert_eq!(peers.admit(address(1), now), Admission::Connect);
        }
        peers.failed(address(1), now, 0.0);
        assert_eq!(peers.admit(address(1), now), Admission::Wait(4 * SECOND));
        peers.succeeded(address(1), (), now);
        assert_eq!(peers.admit(address(1), now), Admission::Reuse(()));
        peers.failed(address(1), now, 1.0);
        assert_eq!(peers.admit(address(1), now), Admission::Wait(SECOND));
        peers.answered(address(1));
        assert_eq!(peers.admit(address(1), now), Admission::Connect);
    }

    #[test]
    fn calls_that_fail_together_count_once_and_close_what_is_kept() {
        let (mut peers, now) = (Peers::new(config()), Instant::now());
        peers.succeeded(address(1), "a", now);
        for _ in 0..10 {
            peers.failed(address(1), now, 1.0);
        }
        assert_eq!(peers.admit(address(1), now), Admission::Wait(SECOND));
    }

    #[test]
    fn peers_are_bounded() {
        let (mut peers, now) = (Peers::new(config()), Instant::now());
        for port in 0..=u16::try_from(PEERS_MAX).unwrap() {
            let now = now + Duration::from_millis(port.into());
            peers.succeeded(address(port), port, now);
        }
        assert_eq!(peers.peers.len(), PEERS_MAX);
        assert_eq!(peers.admit(address(0), now), Admission::Connect);
        assert_eq!(peers.admit(address(2), now), Admission::Reuse(2));
    }
}
