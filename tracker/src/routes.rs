//! One thread's memory of which group serves a user: bounded, and it never has to be right for long
//! because a route, once recorded, does not change.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use reel_proto::name::{AppId, GroupName, UserId};

/// Routes in two generations. When the young one is full it becomes the old one, and the old one is
/// forgotten; a route found in the old one comes back to the young one. So at most `limit` routes
/// are held, those in use stay, and no list is kept in order.
#[derive(Debug)]
pub struct Routes {
    young: HashTable<Route>,
    old: HashTable<Route>,
    hasher: DefaultHashBuilder,
    generation_max: usize,
}

/// The texts lie in one allocation of their own size: a user id may have 255 bytes, but has 6.
#[derive(Debug, Clone)]
struct Route {
    /// App, a NUL (which no app id holds), user.
    key: Box<[u8]>,
    group: GroupName,
}

impl Routes {
    /// Holds at most `limit` routes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            young: HashTable::new(),
            old: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            generation_max: limit / 2,
        }
    }

    /// The group of a user, if it is remembered.
    pub fn get(&mut self, app: &AppId, user: &UserId) -> Option<GroupName> {
        let hash = self.hash(app, user);
        if let Some(route) = self.young.find(hash, |route| is_of(&route.key, app, user)) {
            return Some(route.group);
        }
        let entry = self.old.find_entry(hash, |route| is_of(&route.key, app, user)).ok()?;
        let (route, _) = entry.remove();
        let group = route.group;
        self.keep(hash, route);
        Some(group)
    }

    /// Remembers the group of a user.
    pub fn insert(&mut self, app: &AppId, user: &UserId, group: GroupName) {
        let hash = self.hash(app, user);
        if let Some(route) = self.young.find_mut(hash, |route| is_of(&route.key, app, user)) {
            route.group = group;
            return;
        }
        if let Ok(entry) = self.old.find_entry(hash, |route| is_of(&route.key, app, user)) {
            entry.remove();
        }
        let key = [app.as_bytes(), &[0], user.as_bytes()].concat().into_boxed_slice();
        self.keep(hash, Route { key, group });
    }

    fn keep(&mut self, hash: u64, route: Route) {
        if self.generation_max == 0 {
            return;
        }
        if self.young.len() >= self.generation_max {
            self.old = std::mem::take(&mut self.young);
        }
        let hasher = &self.hasher;
        self.young.insert_unique(hash, route, |route| hasher.hash_one(&*route.key));
    }

    fn hash(&self, app: &AppId, user: &UserId) -> u64 {
        // The same bytes as the key's, without making one.
        let (app, user) = (app.as_bytes(), user.as_bytes());
        let mut bytes = [0; AppId::BYTES_MAX + 1 + UserId::BYTES_MAX];
        bytes[..app.len()].copy_from_slice(app);
        bytes[app.len() + 1..][..user.len()].copy_from_slice(user);
        self.hasher.hash_one(&bytes[..app.len() + 1 + user.len()])
    }

    /// Routes held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_of(key: &[u8], app: &AppId, user: &UserId) -> bool {
    let (app, user) = (app.as_bytes(), user.as_bytes());
    key.len() == app.len() + 1 + user.len()
        && key.starts_with(app)
        && key[app.len()] == 0
        && key.ends_with(user)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn app(text: &str) -> AppId {
        AppId::parse(text).unwrap()
    }

    fn user(number: usize) -> UserId {
        UserId::parse(&format!("user{number}")).unwrap()
    }

    fn group(text: &str) -> GroupName {
        GroupName::parse(text).unwrap()
    }

    #[test]
    fn remembers_by_app_and_user() {
        let mut routes = Routes::new(100);
        routes.insert(&app("a"), &UserId::EMPTY, group("one"));
        routes.insert(&app("ab"), &UserId::EMPTY, group("two"));
        routes.insert(&app("a"), &UserId::parse("b").unwrap(), group("three"));
        assert_eq!(routes.get(&app("a"), &UserId::EMPTY), Some(group("one")));
        assert_eq!(routes.get(&app("ab"), &UserId::EMPTY), Some(group("two")));
        assert_eq!(routes.get(&app("a"), &UserId::parse("b").unwrap()), Some(group("three")));
        assert_eq!(routes.get(&app("A"), &UserId::EMPTY), None);
        routes.insert(&app("a"), &UserId::EMPTY, group("four"));
        assert_eq!(routes.get(&app("a"), &UserId::EMPTY), Some(group("four")));
        assert_eq!(routes.len(), 3);
    }

    #[test]
    fn is_bounded_and_keeps_what_is_used() {
        let mut routes = Routes::new(100);
        for number in 0..10_000 {
            routes.insert(&app("a"), &user(number), group("g"));
            assert!(routes.get(&app("a"), &user(0)).is_some(), "used all the time: {number}");
            assert!(routes.len() <= 100);
        }
        assert!(routes.get(&app("a"), &user(5)).is_none());
        assert!(routes.get(&app("a"), &user(9_999)).is_some());
    }

    #[test]
    fn without_room_nothing_is_remembered() {
        let mut routes = Routes::new(1);
        routes.insert(&app("a"), &user(1), group("g"));
        assert!(routes.is_empty());
        assert_eq!(routes.get(&app("a"), &user(1)), None);
    }
}
