//! Which sequences this node serves: one table for all threads, and a copy of what it has seen in
//! each, so that a known key is found without a lock.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use reel_proto::name::IdKey;

use crate::sequence::Sequence;

/// The table of the process.
#[derive(Debug)]
pub(crate) struct Keys {
    known: Mutex<HashMap<IdKey, Arc<Sequence>>>,
    limit: usize,
}

/// One key more than the node may serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this ID node serves {limit} keys already")]
pub(crate) struct TooManyKeys {
    limit: usize,
}

impl Keys {
    /// A table of at most `limit` keys.
    pub(crate) fn new(limit: usize) -> Self {
        Self { known: Mutex::new(HashMap::new()), limit }
    }

    /// The sequence of a key, made if it is not there.
    pub(crate) fn find(&self, key: &IdKey) -> Result<Arc<Sequence>, TooManyKeys> {
        let mut known = self.known();
        if let Some(sequence) = known.get(key) {
            return Ok(Arc::clone(sequence));
        }
        if known.len() >= self.limit {
            return Err(TooManyKeys { limit: self.limit });
        }
        let sequence = Arc::new(Sequence::new(*key));
        known.insert(*key, Arc::clone(&sequence));
        Ok(sequence)
    }

    /// All sequences, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Sequence>> {
        self.known().values().cloned().collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<IdKey, Arc<Sequence>>> {
        // Every change is one insert: a panic elsewhere leaves the table whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One thread's view of the table.
#[derive(Debug)]
pub(crate) struct SeenKeys {
    table: Arc<Keys>,
    /// Never larger than the table: a key is never taken out of it.
    seen: RefCell<HashMap<IdKey, Arc<Sequence>>>,
}

impl SeenKeys {
    pub(crate) fn new(table: Arc<Keys>) -> Self {
        Self { table, seen: RefCell::default() }
    }

    /// As [`Keys::find`].
    pub(crate) fn find(&self, key: &IdKey) -> Result<Arc<Sequence>, TooManyKeys> {
        if let Some(sequence) = self.seen.borrow().get(key) {
            return Ok(Arc::clone(sequence));
        }
        let sequence = self.table.find(key)?;
        self.seen.borrow_mut().insert(*key, Arc::clone(&sequence));
        Ok(sequence)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_a_key_and_the_limit() {
        let table = Arc::new(Keys::new(2));
        let (one, two) = (SeenKeys::new(Arc::clone(&table)), SeenKeys::new(Arc::clone(&table)));
        let key = |text| IdKey::parse(text).unwrap();
        let a = one.find(&key("a")).unwrap();
        assert!(Arc::ptr_eq(&a, &two.find(&key("a")).unwrap()));
        assert!(!Arc::ptr_eq(&a, &two.find(&key("A")).unwrap()));
        assert_eq!(one.find(&key("b")).unwrap_err(), TooManyKeys { limit: 2 });
        assert!(one.find(&key("A")).is_ok(), "known ones are still served");
        assert_eq!(table.all().len(), 2);
    }
}
