//! Repair: walks whole store paths and brings rows and files together that a crash left apart outside of the blocks
//! that the sweep looks at.
//!
//! It looks only at files older than the longest commit plus clock skew, reads the row again right before it acts,
//! and unlinks nothing but what its own record calls purging: it adopts, or moves to quarantine.

use std::{io, ops::ControlFlow, time::Duration};

use crate::{
    store::{Stores, path::StorePath, walk},
    sweep::{Action, Cleaner, SweepError, Swept, at},
};

/// Repairs every store path that is well, until `stop` says so. Logged; a fault on one leaves the others alone.
pub(crate) fn all(stores: &Stores, age_min: Duration, stop: &dyn Fn() -> bool) {
    for store in stores.paths() {
        if store.is_read_only() || stop() {
            continue;
        }
        match run(stores, store, age_min, stop) {
            Ok(swept) => tracing::info!(store = store.index, ?swept, "repair pass"),
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
    let metadata = stores.metadata();
    let mut cleaner = Cleaner { store, metadata, swept: Swept::default() };
    let mut failed = None;
    let before = stores.clock().now().saturating_sub(age_min.as_secs());
    let walked = walk::leaves(store.root(), |leaf| {
        for entry in leaf.entries(store.root())? {
            if entry.time > before {
                continue;
            }
            if let Err(error) = one(stores, &mut cleaner, &entry) {
                failed = Some(error);
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(if stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    });
    walked.map_err(at("walking the store"))?;
    failed.map_or(Ok(cleaner.swept), Err)
}

fn one(stores: &Stores, cleaner: &mut Cleaner<'_>, entry: &walk::Entry) -> Result<(), SweepError> {
    let action = cleaner.look(entry, false)?;
    if action == Action::Leave {
        return Ok(());
    }
    // Again: between the first look and now an upload may have got its row, a delete its state.
    cleaner.swept.looked_at -= 1;
    let again = cleaner.look(entry, false)?;
    if again != action {
        return Ok(());
    }
    cleaner.act(entry, action)?;
    if let Some(file) = cleaner.file_id(entry) {
        stores.epochs().bump(&file);
    }
    Ok(())
}
