//! Where files are, for a short while: a bounded cache of one thread. No clock, no IO.
//!
//! Two generations instead of a list of uses: an entry that is found moves to the young one, and
//! when that is full it becomes the old one and the former old one is dropped. That is bounded,
//! keeps what is used, and costs one map operation a hit.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use reel_proto::name::{AppId, FileId, UserId};

use crate::handler::Question;

/// A storage node that serves HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Its media address.
    pub(crate) address: SocketAddr,
    /// It takes no uploads.
    pub(crate) read_only: bool,
}

/// The nodes of one group, and when that was learnt.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// In the tracker's order; never empty.
    pub(crate) nodes: Rc<[Node]>,
    learnt: Instant,
}

impl Place {
    /// A place learnt now.
    pub(crate) fn new(nodes: Rc<[Node]>, now: Instant) -> Self {
        Self { nodes, learnt: now }
    }
}

/// The cache; its keys are made by [`key`].
#[derive(Debug)]
pub(crate) struct Locations {
    young: HashMap<Box<[u8]>, Place>,
    old: HashMap<Box<[u8]>, Place>,
    /// Entries of one generation.
    generation_max: usize,
    lifetime: Duration,
}

/// The key of a question: app and user (each may be absent) and file. The separator occurs in
/// none of them.
pub(crate) fn key(into: &mut Vec<u8>, question: &Question) {
    into.clear();
    let app = question.app.as_ref().map(AppId::as_bytes);
    let user = question.user.as_ref().map(UserId::as_bytes);
    let file = question.file.as_ref().map(FileId::as_bytes);
    for part in [app, user, file] {
        into.push(u8::from(part.is_some()));
        into.extend_from_slice(part.unwrap_or_default());
        into.push(0);
    }
}

impl Locations {
    /// An empty cache of at most `entries_max`.
    pub(crate) fn new(entries_max: usize, lifetime: Duration) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            generation_max: (entries_max / 2).max(1),
            lifetime,
        }
    }

    /// The place under `key`, if it is young enough to be believed.
    pub(crate) fn get(&mut self, key: &[u8], now: Instant) -> Option<Rc<[Node]>> {
        let fresh = |place: &Place| now.duration_since(place.learnt) < self.lifetime;
        if let Some(place) = self.young.get(key) {
            return fresh(place).then(|| Rc::clone(&place.nodes));
        }
        let (key, place) = self.old.remove_entry(key)?;
        if !fresh(&place) {
            return None;
        }
        let nodes = Rc::clone(&place.nodes);
        self.insert(key, place);
        Some(nodes)
    }

    /// Keeps a place.
    pub(crate) fn put(&mut self, key: &[u8], place: Place) {
        self.insert(Box::from(key), place);
    }

    fn insert(&mut self, key: Box<[u8]>, place: Place) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.young.insert(key, place);
    }

    /// Forgets what is under `key`: its nodes did not answer.
    pub(crate) fn forget(&mut self, key: &[u8]) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// Nodes that did not answer lately. They are tried last, not never: when all are down, one of
/// them may just have come back.
#[derive(Debug, Default)]
pub(crate) struct Health {
    down: HashMap<SocketAddr, Down>,
}

#[derive(Clone, Copy, Debug)]
struct Down {
    until: Instant,
    pause: Duration,
}

/// First time that a silent node is passed over; doubles with each further failure.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Nodes whose failures are remembered; a group has few.
const DOWN_MAX: usize = 4096;

impl Health {
    /// The node did not answer.
    pub(crate) fn failed(&mut self, node: SocketAddr, now: Instant) {
        if self.down.len() >= DOWN_MAX {
            self.down.retain(|_, down| down.until > now);
        }
        let before = self.down.get(&node).map_or(PAUSE_MIN / 2, |down| down.pause);
        let pause = (before * 2).min(PAUSE_MAX);
        if self.down.len() < DOWN_MAX || self.down.contains_key(&node) {
            self.down.insert(node, Down { until: now + pause, pause });
        }
    }

    /// The node answered.
    pub(crate) fn answered(&mut self, node: SocketAddr) {
        if !self.down.is_empty() {
            self.down.remove(&node);
        }
    }

    /// Whether the node is passed over for now.
    pub(crate) fn is_down(&self, node: SocketAddr, now: Instant) -> bool {
        self.down.get(&node).is_some_and(|down| down.until > now)
    }

    /// The order in which nodes are tried: from a random start around, first those that are well,
    /// then those that are down. For a write those that take none come last of all: the tracker's
    /// word may be old.
    pub(crate) fn order(
        &self,
        nodes: &[Node],
        random: u64,
        now: Instant,
        is_write: bool,
    ) -> Vec<SocketAddr> {
        if nodes.is_empty() {
            return Vec::new();
        }
        let start = (random % nodes.len() as u64) as usize;
        let mut order: Vec<_> = nodes[start..].iter().chain(&nodes[..start]).collect();
        // Stable: within one rank the random start decides.
        order.sort_by_key(|node| (is_write && node.read_only, self.is_down(node.address, now)));
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
        Node { address: address(port), read_only: false }
    }

    fn place(port: u16, now: Instant) -> Place {
        Place::new(Rc::from([node(port)]), now)
    }

    #[test]
    fn a_place_is_believed_for_its_lifetime() {
        let now = Instant::now();
        let mut cache = Locations::new(16, Duration::from_secs(5));
        cache.put(b"a", place(1, now));
        assert_eq!(&*cache.get(b"a", now + Duration::from_secs(4)).unwrap(), &[node(1)]);
        assert!(cache.get(b"a", now + Duration::from_secs(5)).is_none());
        cache.forget(b"a");
        assert!(cache.get(b"a", now).is_none());
    }

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let now = Instant::now();
        let mut cache = Locations::new(100, Duration::from_secs(5));
        cache.put(b"used", place(9, now));
        for index in 0..10_000_u32 {
            cache.put(&index.to_be_bytes(), place(1, now));
            assert!(cache.get(b"used", now).is_some(), "{index}");
            assert!(cache.young.len() + cache.old.len() <= 100);
        }
        assert!(cache.get(&0_u32.to_be_bytes(), now).is_none());
    }

    #[test]
    fn keys_tell_absent_from_empty_and_parts_apart() {
        let mut keys = Vec::new();
        let mut add = |app: Option<&str>, user: Option<&str>, file: Option<&str>| {
            let question = Question {
                app: app.map(|app| AppId::parse(app).unwrap()),
                user: user.map(|user| UserId::parse(user).unwrap()),
                file: file.map(|file| FileId::parse(file).unwrap()),
            };
            let mut one = Vec::new();
            key(&mut one, &question);
            assert!(!keys.contains(&one));
            keys.push(one);
        };
        add(None, None, Some("f"));
        add(None, Some(""), Some("f"));
        add(Some("f"), None, None);
        add(Some("a"), Some("b"), None);
        add(Some("ab"), None, None);
        add(None, Some("ab"), None);
    }

    #[test]
    fn silent_nodes_come_last_and_come_back() {
        let now = Instant::now();
        let nodes = [node(1), node(2), node(3)];
        let mut health = Health::default();
        let ports = |health: &Health, random| -> Vec<u16> {
            let order = health.order(&nodes, random, now, false);
            order.iter().map(SocketAddr::port).collect()
        };
        assert_eq!(ports(&health, 1), [2, 3, 1]);
        health.failed(address(2), now);
        assert_eq!(ports(&health, 1), [3, 1, 2]);
        let later = now + PAUSE_MIN;
        assert!(!health.is_down(address(2), later));
        health.failed(address(2), later);
        assert!(health.is_down(address(2), later + PAUSE_MIN));
        health.answered(address(2));
        assert!(!health.is_down(address(2), later));
        assert!(health.order(&[], 7, now, false).is_empty());
    }

    #[test]
    fn writes_go_last_to_nodes_that_take_none() {
        let now = Instant::now();
        let read_only = Node { read_only: true, ..node(2) };
        let nodes = [node(1), read_only, node(3)];
        let mut health = Health::default();
        health.failed(address(3), now);
        let order = |is_write| health.order(&nodes, 1, now, is_write);
        assert_eq!(order(true), [address(1), address(3), address(2)]);
        assert_eq!(order(false), [address(2), address(1), address(3)]);
    }
}
