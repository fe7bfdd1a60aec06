//! Checks large copies that are new on a brick before somebody waits for that.
//!
//! The first reader of a file waits until the whole of its copy was read. Of a film that is long, and it is so just when the node that
//! sent it has died and its viewers come here. Path ids are given in order, by the block, and a folder that got a file has another
//! time of change: the folders of the newest blocks are looked at every two seconds, and of what is new there the large copies are
//! read. Whoever comes for one meanwhile waits for the same reading. What comes to older folders, as to a disk that was
//! replaced, the scrub checks.

use std::{
    collections::{BTreeMap, HashSet},
    io,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use reel_proto::path::PathId;

use super::{Brick, Opened, Suspect, checks::Bound, content};
use crate::{
    record::State,
    store::{
        inspect::{self, Seal},
        path::StorePath,
        sys,
        walk::{self, Entry, Leaf},
    },
};

/// The smallest copy that is worth it: of a smaller one the first reader waits a tenth of a second.
const BYTES_MIN: u64 = 16 << 20;

/// Folders of 512 folders that are looked at, from the newest on. The blocks that nodes have in hand come from several ID nodes, and
/// those are 32,768 ids apart, 64 folders.
const FOLDERS: usize = 2;

/// A folder that was not changed for so long has nothing new, also for a node that has just started. What is still not whole there,
/// or has no record, as in a store that was taken over, is not waited for any longer.
const NEW: Duration = Duration::from_secs(3600);

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(2);

/// A copy to which nothing was done for so long is neither being uploaded nor under heal, as far as one can tell.
const REST: Duration = Duration::from_secs(2);

/// Longest sleep before it is looked whether the node ends.
const TURN: Duration = Duration::from_millis(250);

/// The thread that does so for one brick.
pub(super) struct Ahead {
    store: Arc<StorePath>,
    ending: Arc<AtomicBool>,
    folders: BTreeMap<Leaf, Folder>,
    /// The last look failed, and that was said.
    is_told: bool,
}

/// A folder, as it was at the last look.
#[derive(Default)]
struct Folder {
    /// When it was changed, where nothing can have come to it since without another time.
    changed: Option<SystemTime>,
    /// Files whose copies are not yet what they will be.
    waiting: Vec<Entry>,
    /// Files that need no further look.
    done: HashSet<u64>,
}

impl Folder {
    /// What is to be looked at in it.
    fn entries(&mut self, leaf: Leaf, opened: &Opened) -> io::Result<Vec<Entry>> {
        let root = opened.root.as_fd();
        let Some(changed) = leaf.changed(root)? else { return Ok(Vec::new()) };
        let age = changed.elapsed().unwrap_or_default();
        let waiting = std::mem::take(&mut self.waiting);
        if age >= NEW {
            return Ok(Vec::new());
        }
        if self.changed == Some(changed) {
            return Ok(waiting);
        }
        let mut entries = leaf.entries(root)?;
        entries.retain(|entry| !self.done.contains(&entry.id));
        // What came in the same tick of the clock after the list was made shows in no time of change.
        self.changed = (age >= REST).then_some(changed);
        Ok(entries)
    }
}

/// What is to be done with a copy.
enum Next {
    Nothing,
    /// It is being written.
    Wait,
    Check(Suspect),
}

impl Ahead {
    pub(super) fn new(store: Arc<StorePath>, ending: Arc<AtomicBool>) -> Self {
        Self { store, ending, folders: BTreeMap::new(), is_told: false }
    }

    pub(super) fn run(mut self) {
        let store = Arc::clone(&self.store);
        let Some(brick) = &store.brick else { return };
        while !self.is_ending() {
            if let Some(opened) = brick.opened.load_full() {
                let looked = self.look(brick, &opened);
                if let Err(error) = &looked
                    && !self.is_told
                {
                    tracing::warn!(brick = %brick.config.path.display(), %error,
                        "what is new on a brick is checked when it is asked for");
                }
                self.is_told = looked.is_err();
            }
            self.sleep();
        }
    }

    /// Looks at the newest folders once. One that cannot be looked at ends none of the others; the last such error is given.
    fn look(&mut self, brick: &Brick, opened: &Opened) -> io::Result<()> {
        let leaves = walk::newest(opened.root.as_fd(), FOLDERS)?;
        self.folders.retain(|leaf, _| leaves.last().is_some_and(|oldest| leaf >= oldest));
        let mut looked = Ok(());
        for leaf in leaves {
            let folder = self.folders.entry(leaf).or_default();
            let entries = match folder.entries(leaf, opened) {
                Ok(entries) => entries,
                Err(error) => {
                    looked = Err(error);
                    continue;
                }
            };
            for entry in entries {
                if self.ending.load(Ordering::Acquire) {
                    return Ok(());
                }
                let next = next(opened, &entry).unwrap_or_else(|error| {
                    tracing::debug!(file = entry.relative, %error, "a copy cannot be looked at");
                    Next::Nothing
                });
                let is_done = match next {
                    Next::Nothing => true,
                    Next::Wait => false,
                    Next::Check(file) => brick.check_ahead(&self.store, &file, &self.ending),
                };
                if is_done {
                    folder.done.insert(entry.id);
                } else {
                    folder.waiting.push(entry);
                }
            }
        }
        looked
    }

    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    fn sleep(&self) {
        let until = Instant::now() + PAUSE;
        while Instant::now() < until && !self.is_ending() {
            std::thread::sleep(TURN);
        }
    }
}

fn next(opened: &Opened, entry: &Entry) -> io::Result<Next> {
    let Ok(id) = PathId::new(entry.id) else { return Ok(Next::Nothing) };
    let copy = match sys::open_to_read(opened.root.as_fd(), &entry.relative) {
        Ok(copy) => copy,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Next::Nothing),
        Err(error) => return Err(error),
    };
    let bound = Bound::of(&copy)?;
    if opened.checks.get(entry.id) == Some(bound) {
        return Ok(Next::Nothing);
    }
    if !content::is_at_rest(&copy, REST)? {
        return Ok(Next::Wait);
    }
    let (size, checksum) = match inspect::seal_of(&copy, id)? {
        Seal::Good(record) if record.state == State::Normal => (record.size, record.checksum),
        // An upload whose client takes its time.
        Seal::None => return Ok(Next::Wait),
        Seal::Good(_) | Seal::Doubtful(_) => return Ok(Next::Nothing),
    };
    if size < BYTES_MIN {
        return Ok(Next::Nothing);
    }
    if bound.size != size {
        return Ok(Next::Wait);
    }
    Ok(Next::Check(Suspect { id: entry.id, relative: entry.relative.clone(), size, checksum }))
}
