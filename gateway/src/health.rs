//! Nodes that do not answer: passed over until a look at them finds them well. No clock, no IO.
//!
//! Nobody's request is spent on finding out: whoever meets a silent node starts a watch over it,
//! and the watch asks it again and again, with growing pauses, until it answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::locations::Node;

/// Pause before the first look at a silent node; doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// Longest: a node that is back is used after so long at most.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A node that is silent for so long is nobody's any more: the trackers have long ceased to name
/// it, and should one name it again, it gets its chance.
const WATCH_MAX: Duration = Duration::from_secs(600);
/// Nodes that are watched; a group has few. Those beyond are tried like any other.
const WATCHED_MAX: usize = 4096;

/// What is known of the nodes' health: only of those that are down, or were a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Health {
    watched: HashMap<SocketAddr, Watched>,
}

/// A node with a watch over it. It stays here until its watch has seen that it answers, so that a node that fails and
/// answers in turn never has a second one.
#[derive(Clone, Copy, Debug)]
struct Watched {
    is_down: bool,
    since: Instant,
    pause: Duration,
}

impl Health {
    /// The node did not answer. `true`: that is news, and a watch over it is to be started.
    pub(crate) fn failed(&mut self, node: SocketAddr, now: Instant) -> bool {
        if let Some(watched) = self.watched.get_mut(&node) {
            if !watched.is_down {
                (watched.is_down, watched.since) = (true, now);
            }
            return false;
        }
        if self.watched.len() >= WATCHED_MAX {
            return false;
        }
        self.watched.insert(node, Watched { is_down: true, since: now, pause: PAUSE_MIN });
        true
    }

    /// The node answered.
    pub(crate) fn answered(&mut self, node: SocketAddr) {
        if !self.watched.is_empty()
            && let Some(watched) = self.watched.get_mut(&node)
        {
            watched.is_down = false;
        }
    }

    /// How long the node's watch waits before it looks again; none: the watch is over.
    pub(crate) fn next_look(&mut self, node: SocketAddr, now: Instant) -> Option<Duration> {
        let watched = self.watched.get_mut(&node)?;
        if !watched.is_down || now.duration_since(watched.since) > WATCH_MAX {
            self.watched.remove(&node);
            return None;
        }
        let pause = watched.pause;
        watched.pause = (pause * 2).min(PAUSE_MAX);
        Some(pause)
    }

    /// Whether the node is passed over for now.
    pub(crate) fn is_down(&self, node: SocketAddr) -> bool {
        self.watched.get(&node).is_some_and(|watched| watched.is_down)
    }

    /// The order in which nodes are tried: from a random start around, first those that are well,
    /// among them the busy ones last, then those that are down, because all of them may be and one
    /// may just have come back. For a write those that take none come last of all: the tracker's
    /// word may be old.
    pub(crate) fn order(&self, nodes: &[Node], random: u64, is_write: bool) -> Vec<SocketAddr> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let start = (random % nodes.len() as u64) as usize;
        let mut order: Vec<_> = nodes[start..].iter().chain(&nodes[..start]).collect();
        // Stable: within one rank the random start decides.
        order.sort_by_key(|node| {
            (is_write && node.read_only, self.is_down(node.address), node.busy)
        });
        order.into_iter().map(|node| node.address).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn node(port: u16) -> Node {
        Node { address: address(port), read_only: false, busy: false }
    }

    #[test]
    fn silent_nodes_come_last_until_they_answer() {
        let now = Instant::now();
        let nodes = [node(1), node(2), node(3)];
        let mut health = Health::default();
        let ports = |health: &Health, random| -> Vec<u16> {
            health.order(&nodes, random, false).iter().map(SocketAddr::port).collect()
        };
        assert_eq!(ports(&health, 1), [2, 3, 1]);
        assert!(health.failed(address(2), now), "news");
        assert!(!health.failed(address(2), now), "no second watch");
        assert_eq!(ports(&health, 1), [3, 1, 2]);
        health.answered(address(2));
        assert!(!health.is_down(address(2)));
        assert!(!health.failed(address(2), now), "its watch has not looked yet");
        assert!(health.is_down(address(2)));
        health.answered(address(2));
        assert!(health.next_look(address(2), now).is_none(), "the watch is over");
        assert!(health.failed(address(2), now), "and the next one begins");
        health.answered(address(2));
        assert!(health.order(&[], 7, false).is_empty());
    }

    #[test]
    fn a_watch_looks_less_and_less_often_and_ends() {
        let start = Instant::now();
        let mut health = Health::default();
        assert!(health.failed(address(1), start));
        let mut now = start;
        let mut pauses = Vec::new();
        while let Some(pause) = health.next_look(address(1), now) {
            pauses.push(pause);
            now += pause;
        }
        assert_eq!(pauses[..4].iter().map(Duration::as_millis).sum::<u128>(), 3750);
        assert!(pauses[4..].iter().all(|pause| *pause == PAUSE_MAX));
        assert!((WATCH_MAX..WATCH_MAX + PAUSE_MAX * 2).contains(&(now - start)));
        assert!(!health.is_down(address(1)));
        // One that answered is watched no more.
        health.failed(address(1), now);
        health.answered(address(1));
        assert!(health.next_look(address(1), now).is_none());
    }

    #[test]
    fn writes_go_last_to_nodes_that_take_none() {
        let read_only = Node { read_only: true, ..node(2) };
        let nodes = [node(1), read_only, node(3)];
        let mut health = Health::default();
        health.failed(address(3), Instant::now());
        let order = |is_write| health.order(&nodes, 1, is_write);
        assert_eq!(order(true), [address(1), address(3), address(2)]);
        assert_eq!(order(false), [address(2), address(1), address(3)]);
    }

    #[test]
    fn busy_nodes_come_after_the_others_and_before_those_that_are_silent() {
        let busy = Node { busy: true, ..node(2) };
        let nodes = [node(1), busy, node(3)];
        let mut health = Health::default();
        for is_write in [false, true] {
            let order = health.order(&nodes, 1, is_write);
            assert_eq!(order, [address(3), address(1), address(2)]);
        }
        health.failed(address(3), Instant::now());
        assert_eq!(health.order(&nodes, 1, false), [address(1), address(2), address(3)]);
        let read_only = [Node { read_only: true, ..node(1) }, busy];
        assert_eq!(health.order(&read_only, 0, true), [address(2), address(1)]);
        assert_eq!(health.order(&read_only, 0, false), [address(1), address(2)]);
    }
}
