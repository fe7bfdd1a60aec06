//! Reads all that lies on a brick again and again, past the page cache, so that rot in a file that was checked is found.
//!
//! A pass begins every half of the time in which rot is to be found, and is read at a rate at which it ends within the other:
//! whatever the place of a file in a pass, it was read before that long ago at most. What a file must hold its own record says.

use std::{
    io,
    ops::ControlFlow,
    os::fd::AsFd as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use reel_proto::path::PathId;
use serde::{Deserialize, Serialize};

use super::{Brick, Judged, Opened, Suspect, content, volume};
use crate::{
    record::State,
    store::{
        inspect::{self, Seal},
        path::StorePath,
        sys,
        walk::{self, Entry, Leaf},
    },
    throttle::Throttle,
};

/// The least rate, bytes a second: a small store is read soon, and not through all its time.
const RATE_MIN: u64 = 4 << 20;

/// Of the time for a pass, what its rate is made for.
const SHARE: f64 = 0.8;

/// Between two looks whether something is to be done.
const TURN: Duration = Duration::from_millis(250);

/// How often it is written down how far a pass is.
const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// The file that says so.
const FILE: &str = "scrub.json";

/// How far a pass is, and how the last one went.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// When the pass began, seconds since 1970; 0: none ever did.
    pub begun_at: u64,
    /// Path id that comes next; none: the pass has ended.
    pub next: Option<u64>,
    /// Files that were read in it.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Bad copies that it found.
    pub bad: u64,
    /// When the last pass that came to its end did, seconds since 1970; 0: none ever did.
    pub ended_at: u64,
    /// Within how many seconds rot is found.
    pub within_seconds: u64,
}

impl Progress {
    /// Goes on where the node stopped.
    pub(super) fn resume(&mut self, state: &Path) {
        let known = std::fs::read(state.join(FILE)).ok();
        *self = known.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    }

    fn remember(&self, state: &Path) -> io::Result<()> {
        volume::write_whole(&state.join(FILE), &serde_json::to_vec(self)?)
    }

    /// Makes the next pass due, unless one is under way.
    pub(super) const fn is_wanted_now(&mut self) -> bool {
        let is_at_rest = self.next.is_none();
        if is_at_rest {
            self.begun_at = 0;
        }
        is_at_rest
    }

    /// Whether a pass is under way or due: also one that a clock has begun that was ahead.
    fn is_due(&self, now: u64, period: Duration) -> bool {
        let due_at = self.begun_at.saturating_add(period.as_secs());
        self.next.is_some() || now >= due_at || now < self.begun_at
    }
}

/// The thread that reads one brick.
pub(super) struct Scrubber {
    store: Arc<StorePath>,
    ending: Arc<AtomicBool>,
    remembered: Instant,
}

impl Scrubber {
    pub(super) fn new(store: Arc<StorePath>, ending: Arc<AtomicBool>) -> Self {
        Self { store, ending, remembered: Instant::now() }
    }

    pub(super) fn run(mut self) {
        let store = Arc::clone(&self.store);
        let Some(brick) = &store.brick else { return };
        let within = brick.config.scrub_within;
        brick.lock_scrub().within_seconds = within.as_secs();
        while !self.ending.load(Ordering::Acquire) {
            let is_due = brick.is_there() && !within.is_zero() && {
                let mut progress = brick.lock_scrub();
                progress.within_seconds = within.as_secs();
                progress.is_due(store.clock.now(), within / 2)
            };
            let Some(opened) = brick.opened.load_full().filter(|_| is_due) else {
                std::thread::sleep(TURN);
                continue;
            };
            if let Err(error) = self.pass(brick, &opened, within / 2) {
                tracing::warn!(brick = %brick.config.path.display(), %error,
                    "a brick cannot be read through; it is tried again");
                self.sleep(Duration::from_secs(10));
            }
        }
    }

    /// Reads the brick from where the pass is to its end.
    fn pass(&mut self, brick: &Brick, opened: &Opened, period: Duration) -> io::Result<()> {
        let from = {
            let mut progress = brick.lock_scrub();
            if progress.next.is_none() {
                let (begun_at, ended_at) = (self.store.clock.now(), progress.ended_at);
                let within_seconds = progress.within_seconds;
                *progress = Progress { begun_at, ended_at, within_seconds, ..Default::default() };
            }
            *progress.next.get_or_insert(0)
        };
        let space = sys::space(opened.root.as_fd())?;
        let used = space.total.saturating_sub(space.free) as f64;
        let rate = (used / (period.as_secs_f64() * SHARE)) as u64;
        let mut throttle = Throttle::new(rate.max(RATE_MIN));
        let mut is_stopped = false;
        let unlisted = |folder: &str, error: &io::Error| {
            let path = brick.config.path.display();
            tracing::warn!(brick = %path, folder, %error, "a folder on the brick cannot be listed");
        };
        walk::leaves_and_gaps(opened.root.as_fd(), |found| {
            let leaf = match found {
                Ok(leaf) if leaf < Leaf::of(from) => return Ok(ControlFlow::Continue(())),
                Ok(leaf) => leaf,
                Err(gap) => {
                    unlisted(&gap.folder, &gap.error);
                    return Ok(ControlFlow::Continue(()));
                }
            };
            let entries = leaf.entries(opened.root.as_fd()).unwrap_or_else(|error| {
                unlisted(&leaf.folder(), &error);
                Vec::new()
            });
            for entry in entries {
                if entry.id < from {
                    continue;
                }
                brick.lock_scrub().next = Some(entry.id);
                is_stopped = self.file(brick, opened, &entry, &mut throttle).is_break();
                self.remember(brick, opened, false);
                if is_stopped {
                    return Ok(ControlFlow::Break(()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        if !is_stopped {
            self.ended(brick, period);
        }
        self.remember(brick, opened, true);
        Ok(())
    }

    fn ended(&self, brick: &Brick, period: Duration) {
        let now = self.store.clock.now();
        let mut progress = brick.lock_scrub();
        progress.next = None;
        progress.ended_at = now;
        let Progress { files, bytes, bad, begun_at, .. } = *progress;
        let seconds = now.saturating_sub(begun_at);
        let path = brick.config.path.display();
        tracing::info!(brick = %path, files, bytes, bad, seconds, "a brick was read through");
        if seconds > period.as_secs() {
            tracing::warn!(brick = %path, seconds, wanted = period.as_secs(),
                "reading the brick through took longer than `scrub_within` allows");
        }
    }

    /// Reads one file. `Break`: the node ends.
    fn file(
        &self,
        brick: &Brick,
        opened: &Opened,
        entry: &Entry,
        throttle: &mut Throttle,
    ) -> ControlFlow<()> {
        if self.ending.load(Ordering::Acquire) {
            return ControlFlow::Break(());
        }
        let read = self.judge(opened, entry, throttle);
        let mut progress = brick.lock_scrub();
        match read {
            // It went, or has no record yet.
            Ok(None) => {}
            Ok(Some((_, Judged::Changing))) if self.ending.load(Ordering::Acquire) => {
                return ControlFlow::Break(());
            }
            Ok(Some((file, judged))) => {
                progress.files += 1;
                progress.bytes += file.size;
                progress.bad += u64::from(!matches!(judged, Judged::Good | Judged::Changing));
                drop(progress);
                match judged {
                    Judged::Bad(bound) => brick.found_bad(&self.store, &file, bound),
                    Judged::Unreadable => brick.found_unreadable(&file),
                    Judged::Good | Judged::Changing => {}
                }
            }
            Err(error) => tracing::warn!(
                brick = %brick.config.path.display(), file = entry.relative, %error,
                "a file on the brick cannot be read"
            ),
        }
        ControlFlow::Continue(())
    }

    fn judge(
        &self,
        opened: &Opened,
        entry: &Entry,
        throttle: &mut Throttle,
    ) -> io::Result<Option<(Suspect, Judged)>> {
        let root = opened.root.as_fd();
        let Ok(id) = PathId::new(entry.id) else { return Ok(None) };
        let copy = match sys::open_to_read(root, &entry.relative) {
            Ok(copy) => copy,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Seal::Good(record) = inspect::seal_of(&copy, id)? else { return Ok(None) };
        if record.state == State::Purging {
            return Ok(None);
        }
        let (size, checksum) = (record.size, record.checksum);
        let file = Suspect { id: entry.id, relative: entry.relative.clone(), size, checksum };
        let judged = opened.judge(&file, |_| {
            let go_on = |bytes| throttle.wait(bytes, &self.ending).is_continue();
            content::from_disk(root, &file.relative, go_on)
        })?;
        Ok(Some((file, judged)))
    }

    fn remember(&mut self, brick: &Brick, opened: &Opened, at_once: bool) {
        if !at_once && self.remembered.elapsed() < REMEMBER_EVERY {
            return;
        }
        self.remembered = Instant::now();
        let progress = brick.lock_scrub().clone();
        if let Err(error) = progress.remember(&opened.state) {
            tracing::warn!(brick = %brick.config.path.display(), %error,
                "how far the reading of a brick is cannot be written down");
        }
    }

    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.ending.load(Ordering::Acquire) {
            std::thread::sleep(TURN);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_due_when_its_time_has_come_and_until_it_has_ended() {
        let period = Duration::from_secs(100);
        let mut progress = Progress::default();
        assert!(progress.is_due(1_000_000, period), "the first");
        progress.begun_at = 1000;
        progress.next = Some(5);
        assert!(progress.is_due(1001, period));
        progress.next = None;
        assert!(!progress.is_due(1099, period));
        assert!(progress.is_due(1100, period));
        assert!(progress.is_due(999, period), "the clock was ahead");
        let folder = tempfile::tempdir().unwrap();
        progress.remember(folder.path()).unwrap();
        let mut again = Progress::default();
        again.resume(folder.path());
        assert_eq!(again, progress);
        std::fs::write(folder.path().join(FILE), "{").unwrap();
        again.resume(folder.path());
        assert_eq!(again, Progress::default());
    }
}
