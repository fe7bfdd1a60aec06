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
    /// It has much more under way than the others of its group.
    pub(crate) busy: bool,
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
}
