//! Repair: walks whole store paths and brings rows and files together that a crash left apart outside of the blocks
//! that the sweep looks at.
//!
//! It looks only at files older than the longest commit plus clock skew, leaves changes of state to the keeper, which
//! reads record and row again, and unlinks nothing but what its own record calls purging: it adopts, or moves to
//! quarantine what no row names.

use std::{io, ops::ControlFlow, time::Duration};

use crate::{
    metadata::wait,
    store::{
        Stores,
        change::Kind,
        path::StorePath,
        walk::{self, Gap, Leaf},
    },
    sweep::{Cleaner, SweepError, Swept, at},
};

mod schedule;

pub(crate) use schedule::Schedule;

/// Repairs every store path that is `ours` to look after, well and due, until `stop` says so. Logged; a fault on one leaves the others alone.
pub(crate) fn all_due(
    stores: &Stores,
    schedule: &mut Schedule,
    age_min: Duration,
    ours: &dyn Fn(usize) -> bool,
    stop: &dyn Fn() -> bool,
) {
    for store in stores.paths() {
        let now = stores.clock().now();
        let is_well = !store.is_read_only() && !store.is_adopting();
        if !ours(store.index) || !is_well || stop() || !schedule.is_due(store, now) {
            continue;
        }
        match run(stores, store, age_min, stop) {
            // Cut short by the end of the node: the next start begins anew.
            Ok(_) if stop() => {}
            Ok(swept) => {
                tracing::info!(store = store.index, ?swept, "repair pass");
                schedule::note(store, now);
            }
            Err(error) => tracing::warn!(store = store.index, %error, "repair pass cut short"),
        }
    }
}

impl Stores {
    /// Repairs one store path now. Blocks: for a thread of its own. Files younger than `age_min` are left alone; it
    /// must be longer than any upload takes from its first byte to its row.
    ///
    /// # Errors
    /// The disk's or the metadata's; what was done until then is whole.
    pub fn repair(&self, store: usize, age_min: Duration) -> Result<Swept, SweepError> {
        match self.paths().get(store) {
            Some(path) => run(self, path, age_min, &|| false),
            None => Err(at("store path")(io::Error::from(io::ErrorKind::NotFound))),
        }
    }
}

fn run(
    stores: &Stores,
    store: &StorePath,
    age_min: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<Swept, SweepError> {
    let agree = |file| wait(stores.change_at(Kind::Agree, store.index, file));
    let mut cleaner = Cleaner::new(store, stores.metadata(), &agree, false);
    let mut failed = None;
    let before = stores.clock().now().saturating_sub(age_min.as_secs());
    let walked = walk::leaves_and_gaps(store.root(), |found| {
        let outcome = match found {
            Ok(leaf) => folder(&mut cleaner, store, leaf, before),
            Err(Gap { first, folder, error }) => cleaner.pass_over(first, at(&folder)(error)),
        };
        failed = outcome.err();
        let is_over = failed.is_some() || stop();
        Ok(if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    walked.map_err(at("walking the store"))?;
    failed.map_or_else(|| cleaner.finish(), Err)
}

fn folder(
    cleaner: &mut Cleaner<'_>,
    store: &StorePath,
    leaf: Leaf,
    before: u64,
) -> Result<(), SweepError> {
    match leaf.entries(store.root()) {
        Ok(entries) => entries
            .iter()
            .filter(|entry| entry.time <= before)
            .try_for_each(|entry| cleaner.file(entry)),
        Err(error) => cleaner.pass_over(leaf.first(), at(&leaf.folder())(error)),
    }
}
