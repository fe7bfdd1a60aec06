//! Files of which was just seen that they may be served, while this node does not hear what others change.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use reel_proto::path::PathId;

/// How long a look holds. With the time that the store takes for it, a delete of another node is known within two seconds.
const HOLDS: Duration = Duration::from_secs(1);

/// Files remembered. Those beyond are looked at each time.
const FILES_MAX: usize = 65_536;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Confirmed {
    /// When each look began.
    files: HashMap<(u16, PathId), Instant>,
}

impl Confirmed {
    /// Whether a look at this file of this store path holds.
    pub(crate) fn has(&self, store: u16, id: PathId, now: Instant) -> bool {
        self.files.get(&(store, id)).is_some_and(|began| now < *began + HOLDS)
    }

    /// A look that began then found that it may be served.
    pub(crate) fn note(&mut self, store: u16, id: PathId, began: Instant) {
        if self.files.len() >= FILES_MAX {
            self.files.retain(|_, other| began < *other + HOLDS);
        }
        if self.files.len() < FILES_MAX {
            self.files.insert((store, id), began);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_look_holds_for_a_moment_and_for_its_own_file() {
        let mut confirmed = Confirmed::default();
        let (id, began) = (PathId::MAX, Instant::now());
        confirmed.note(0, id, began);
        assert!(confirmed.has(0, id, began) && !confirmed.has(1, id, began));
        assert!(!confirmed.has(0, id, began + HOLDS));
    }

    #[test]
    fn there_are_not_more_than_so_many() {
        let mut confirmed = Confirmed::default();
        let began = Instant::now();
        let many = 0..=u16::MAX;
        many.for_each(|store| confirmed.note(store, PathId::MAX, began));
        let next = PathId::new(0).unwrap();
        confirmed.note(0, next, began);
        assert!(!confirmed.has(0, next, began), "there is no room while all hold");
        confirmed.note(0, next, began + HOLDS);
        assert!(confirmed.has(0, next, began + HOLDS));
        assert_eq!(confirmed.files.len(), 1);
    }
}
