//! When a store path was last repaired. It is written down on the path itself: a node that is restarted more often than
//! its interval would never repair anything if each start began to count anew.

use std::{
    io::{self, Read as _, Write as _},
    time::Duration,
};

use crate::store::{path::StorePath, sys};

/// Where it is written down: seconds since 1970, in decimal digits. Not synced: lost, it costs one pass too many.
const FILE: &str = ".reel/repaired";

/// Longest number and a line feed, and one more byte to know a longer one.
const TEXT_MAX: u64 = 22;

/// Which store paths are due.
#[derive(Debug)]
pub(crate) struct Schedule {
    interval: u64,
    /// When each was begun by this process. A pass that fails is not tried again before its time.
    begun: Vec<Option<u64>>,
}

impl Schedule {
    /// Of so many store paths. No interval: none is ever due.
    pub(crate) fn new(interval: Duration, paths: usize) -> Self {
        Self { interval: interval.as_secs(), begun: vec![None; paths] }
    }

    /// Whether a pass should begin now, in seconds since 1970; it is taken for begun then.
    pub(crate) fn is_due(&mut self, store: &StorePath, now: u64) -> bool {
        let Some(begun) = self.begun.get_mut(store.index) else { return false };
        // Another node that has the store, too, may have done it since.
        let last = last(store).filter(|last| *last <= now).max(*begun);
        // A time to come is of a clock that was wrong.
        let over = last.is_none_or(|last| last > now || now - last >= self.interval);
        let due = self.interval > 0 && over;
        if due {
            *begun = Some(now);
        }
        due
    }
}

/// A pass that began at `now` has seen the whole store path.
pub(super) fn note(store: &StorePath, now: u64) {
    let written = sys::open_at(store.root(), FILE, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)
        .and_then(|mut file| writeln!(file, "{now}"));
    if let Err(error) = written {
        tracing::warn!(store = store.index, %error, "the time of the repair pass could not be written down");
    }
}

fn last(store: &StorePath) -> Option<u64> {
    let mut text = String::new();
    let read = sys::open_at(store.root(), FILE, libc::O_RDONLY)
        .and_then(|file| file.take(TEXT_MAX).read_to_string(&mut text));
    match read {
        Ok(_) => text.trim_end().parse().ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(store = store.index, %error, "the time of the last repair pass could not be read");
            None
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use reel_proto::name::{GroupName, HostName};

    use super::*;
    use crate::{
        metadata::Metadata,
        repair::all_due,
        store::{Clock, StoreConfig, StorePathConfig, Stores},
    };

    struct Now(AtomicU64);

    impl Clock for Now {
        fn now(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    const DAY: Duration = Duration::from_secs(86_400);

    /// Starts, looks what is due, ends: when the last pass was, as the disk says.
    fn run(folder: &std::path::Path, now: u64, stop: bool) -> Option<u64> {
        let path = StorePathConfig::new(folder.join("store"));
        let (node, group) = (HostName::parse("node").unwrap(), GroupName::parse("g").unwrap());
        let mut config = StoreConfig::new(node, group, vec![path]);
        // The housekeeper's own look is not wanted here.
        config.repair_interval = Duration::ZERO;
        let metadata = Metadata::sqlite(&folder.join("storage.db")).unwrap();
        let clock = Arc::new(Now(AtomicU64::new(now)));
        let stores = Stores::open_at(&config, metadata, clock).unwrap();
        let asked = std::cell::Cell::new(0);
        // "No" once, before the pass.
        let stop = || stop && asked.replace(asked.get() + 1) > 0;
        all_due(&stores, &mut Schedule::new(DAY, 1), Duration::ZERO, &|_| true, &stop);
        // The housekeeper may hold them a moment longer than this, and with them the lock.
        stores.close(Duration::ZERO);
        last(&stores.paths()[0])
    }

    #[test]
    fn a_node_that_starts_every_hour_repairs_once_a_day() {
        let folder = tempfile::tempdir().unwrap();
        let at = |hour: u64| 1_000_000 + hour * 3600;
        assert_eq!(run(folder.path(), at(0), true), None, "cut short is not done");
        assert_eq!(
            run(folder.path(), at(1), false),
            Some(at(1)),
            "never before: soon after a start"
        );
        for hour in 2..60 {
            let expected = 1 + (hour - 1) / 24 * 24;
            assert_eq!(run(folder.path(), at(hour), false), Some(at(expected)), "hour {hour}");
        }
        assert_eq!(run(folder.path(), at(10), false), Some(at(10)), "a clock that was wrong");
    }

    #[test]
    fn a_pass_that_failed_waits_for_its_time_and_no_interval_means_never() {
        let folder = tempfile::tempdir().unwrap();
        run(folder.path(), 5, true);
        let path = StorePathConfig::new(folder.path().join("store"));
        let (node, group) = (HostName::parse("node").unwrap(), GroupName::parse("g").unwrap());
        let config = StoreConfig::new(node, group, vec![path]);
        let metadata = Metadata::sqlite(&folder.path().join("storage.db")).unwrap();
        let stores = Stores::open(&config, metadata).unwrap();
        let store = &stores.paths()[0];
        let mut schedule = Schedule::new(DAY, 1);
        assert!(schedule.is_due(store, 100));
        assert!(!schedule.is_due(store, 160));
        assert!(schedule.is_due(store, 100 + 86_400));
        assert!(!Schedule::new(Duration::ZERO, 1).is_due(store, 100));
    }
}
