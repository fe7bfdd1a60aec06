//! The keeper of a store path: gives back places that uploads did not earn, settles unknown outcomes, carries out
//! deletes, restores and purges in their durable order, and looks at the free space.
//!
//! One thread per store path; everything here may wait for its disk or for the metadata. Changes of one file meet
//! here one after the other, so a delete and a restore at the same time end with record and row that agree.

use std::{
    collections::VecDeque,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use flume::{Receiver, RecvTimeoutError, Sender};

pub(crate) use self::{
    adoption::{Adopt, Adopted, Adoptions},
    changes::{Change, Changer, Target, is_of},
};
use super::{api::FileKey, path::StorePath, place::NewPlace};
use crate::metadata::{Metadata, Owned, wait};

mod adoption;
mod changes;

/// Jobs that may wait for a keeper; past it, changes are refused as busy and places are left to the sweep.
pub(crate) const QUEUE_MAX: usize = 8192;

/// Changes that share one sync and one transaction.
const BATCH_MAX: usize = 256;

/// Files whose row's state could not be read yet. Past it they are left to the sweep of the next start.
const DOUBTFUL_MAX: usize = 8192;

/// How often the free space is looked at.
const SPACE_EVERY: Duration = Duration::from_secs(1);

/// Pause before an unknown outcome is asked about again.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a keeper is asked.
pub(crate) enum KeeperJob {
    /// A place whose upload is over: removed, or, where its row may exist, kept until that is known.
    Settle(NewPlace, Option<Sender<Settled>>),
    /// A delete, restore or purge of a file.
    Change(Box<Change>),
    /// Files of a store that is taken over.
    Adopt(Adoptions),
    /// Finish what came before, and end.
    Stop,
}

/// What became of a place whose row's state was unknown.
#[derive(Debug)]
pub(crate) enum Settled {
    /// The row is there and names this place: the file stays.
    Kept,
    /// There is no such row: the file is removed.
    NoRow,
    /// The file id's row names another place: this file is removed.
    Other,
    /// The metadata does not answer. The file stays, and the keeper goes on asking.
    Unknown,
}

/// What a keeper works with.
pub(crate) struct Keeper {
    pub(crate) store: Arc<StorePath>,
    pub(crate) metadata: Metadata,
    /// For syncfs: this thread's own descriptor, so that it takes no error away from the committer's.
    pub(crate) folder: OwnedFd,
}

impl Keeper {
    /// The keeper's thread, until [`KeeperJob::Stop`].
    pub(crate) fn run(&self, queue: &Receiver<KeeperJob>) {
        let mut doubtful: VecDeque<NewPlace> = VecDeque::new();
        let mut look = Instant::now();
        loop {
            let pause = if doubtful.is_empty() { SPACE_EVERY } else { ASK_AGAIN };
            let first = match queue.recv_timeout(pause) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut changes = Vec::new();
            let mut stop = false;
            for job in first.into_iter().chain(queue.try_iter()).take(BATCH_MAX) {
                match job {
                    KeeperJob::Settle(place, reply) => self.settle(place, reply, &mut doubtful),
                    KeeperJob::Change(change) => changes.push(*change),
                    KeeperJob::Adopt(Adoptions { files, reply }) => {
                        // Changes that were asked before come before.
                        self.changer().all(std::mem::take(&mut changes));
                        let _ = reply.try_send(self.changer().adopt(files));
                    }
                    KeeperJob::Stop => stop = true,
                }
            }
            self.changer().all(changes);
            for _ in 0..doubtful.len().min(BATCH_MAX) {
                let Some(place) = doubtful.pop_front() else { break };
                self.settle(place, None, &mut doubtful);
            }
            if look.elapsed() >= SPACE_EVERY {
                self.store.look_at_workers();
                self.store.look_at_space();
                self.store.look_whether_back();
                look = Instant::now();
            }
            if stop {
                return;
            }
        }
    }

    fn changer(&self) -> Changer<'_> {
        Changer {
            store: &self.store,
            metadata: &self.metadata,
            folder: self.folder.as_fd(),
            read_only: self.store.is_read_only(),
        }
    }

    fn settle(
        &self,
        place: NewPlace,
        reply: Option<Sender<Settled>>,
        doubtful: &mut VecDeque<NewPlace>,
    ) {
        let answer = |settled| {
            if let Some(reply) = reply {
                let _ = reply.try_send(settled);
            }
        };
        if !place.is_sent() {
            self.remove(place);
            return answer(Settled::NoRow);
        }
        match wait(self.metadata.read_back(place.owner().clone())) {
            Ok(Some(row)) if self.store.is_named_by(&row, place.relative().as_str()) => {
                place.keep();
                answer(Settled::Kept);
            }
            Ok(row) => {
                self.remove(place);
                answer(if row.is_some() { Settled::Other } else { Settled::NoRow });
            }
            Err(error) => {
                tracing::warn!(store = self.store.index, file = %place.relative(), %error,
                    "the outcome of a commit is still unknown; its file stays");
                if doubtful.len() < DOUBTFUL_MAX {
                    doubtful.push_back(place);
                }
                answer(Settled::Unknown);
            }
        }
    }

    fn remove(&self, place: NewPlace) {
        let _watch = self.store.keeper_watch.begin(self.store.elapsed_ms());
        place.remove();
    }
}

/// The text form of a key, for the metadata.
pub(crate) fn owned(key: &FileKey) -> Owned {
    Owned {
        app: key.app.as_str().to_owned(),
        user: key.user.as_str().to_owned(),
        file: key.file.as_str().to_owned(),
    }
}
