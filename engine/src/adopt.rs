//! `reel adopt`: takes over a store whose files and rows a deployed system has written.
//!
//! A pass reads all rows, and for each that names a place of the store path looks at its file: is it there, of the size
//! that the row says, with a record. A file without one is read to its end, at no more than the configured rate; the
//! keeper then gives it its record and its row the checksum. Afterwards every folder is looked through for files that no
//! row names; they are told, and nothing more.
//!
//! A pass goes on where it was after a restart: rows that were done are only counted in again, their files not looked at.
//! It may run any number of times, and beside an old node, which writes files without records and changes rows alone.
//!
//! Invariant: nothing is removed, and no row changes but for what it lacks.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use self::pass::Worker;
use crate::store::{
    Stores,
    adoption::{Adoption, AdoptionMode, AdoptionState, Pass},
    path::StorePath,
};

mod pass;

/// Why a pass is not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// There is no store path of this number.
    #[error("there is no such store path")]
    Unknown,
    /// Its files are its own, or were taken over already.
    #[error("nothing is to be taken over there")]
    Needless,
    /// A pass is under way.
    #[error("a pass is under way")]
    Running,
    /// No pass is.
    #[error("no pass is under way")]
    NotRunning,
    /// The node ends, or has no thread for it.
    #[error("the node cannot begin it now")]
    Busy,
}

/// The passes of a node.
#[derive(Default)]
pub(crate) struct Passes {
    running: BTreeMap<usize, Running>,
    ended: bool,
}

/// A pass at work.
struct Running {
    /// Tells it to end as soon as it can.
    stop: Arc<AtomicBool>,
    /// It is to be gone on with only when somebody says so.
    paused: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stores {
    /// Begins a pass on a store path, or goes on with the one that was begun in the same mode.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub fn adopt(&self, store: usize, mode: AdoptionMode) -> Result<(), AdoptError> {
        let path = self.paths().get(store).ok_or(AdoptError::Unknown)?;
        let adoption = path.adoption().filter(|adoption| adoption.state == AdoptionState::Open);
        let mut adoption = adoption.ok_or(AdoptError::Needless)?;
        let mut passes = self.passes();
        if passes.ended {
            return Err(AdoptError::Busy);
        }
        if passes.running.get(&store).is_some_and(|running| !running.thread.is_finished()) {
            return Err(AdoptError::Running);
        }
        match &mut adoption.pass {
            Some(pass) if pass.mode == mode && pass.ended_at.is_none() => {
                (pass.paused, pass.error) = (false, None);
            }
            pass => *pass = Some(Pass::new(mode, self.clock().now())),
        }
        let before = path.adoption();
        // Whoever asks from now on sees this pass, and not the end of another.
        path.show_adoption(adoption.clone());
        let running = self.start_pass(path, adoption).map_err(|error| {
            tracing::error!(store, %error, "no thread for taking over a store");
            if let Some(before) = before {
                path.show_adoption(before);
            }
            AdoptError::Busy
        })?;
        passes.running.insert(store, running);
        Ok(())
    }

    /// Lets the pass of a store path wait until it is begun again.
    ///
    /// # Errors
    /// See [`AdoptError`].
    pub fn pause_adoption(&self, store: usize) -> Result<(), AdoptError> {
        let passes = self.passes();
        let running = passes.running.get(&store).filter(|running| !running.thread.is_finished());
        let running = running.ok_or(AdoptError::NotRunning)?;
        running.paused.store(true, Ordering::Release);
        running.stop.store(true, Ordering::Release);
        Ok(())
    }

    /// Goes on with what was under way when the node last ended.
    pub(crate) fn resume_adoptions(&self) {
        for path in self.paths() {
            let pass = path.adoption().and_then(|adoption| adoption.pass);
            if let Some(pass) = pass.filter(Pass::is_under_way)
                && let Err(error) = self.adopt(path.index, pass.mode)
            {
                tracing::warn!(store = path.index, %error, "taking over the store does not go on");
            }
        }
    }

    /// Ends all passes where they are; the next start goes on with them.
    pub(crate) fn end_adoptions(&self) {
        let running = {
            let mut passes = self.passes();
            passes.ended = true;
            std::mem::take(&mut passes.running)
        };
        running.values().for_each(|running| running.stop.store(true, Ordering::Release));
        for running in running.into_values() {
            if running.thread.join().is_err() {
                tracing::error!("a thread that took over a store had panicked");
            }
        }
    }

    fn start_pass(&self, path: &Arc<StorePath>, adoption: Adoption) -> io::Result<Running> {
        let (stop, paused) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let worker = Worker {
            store: Arc::clone(path),
            layout: self.layout_of_rows(),
            metadata: self.metadata().clone(),
            rate: self.adoption_rate,
            age_min: self.adoption_age_min,
            groups: self.groups.clone(),
            stop: Arc::clone(&stop),
            paused: Arc::clone(&paused),
        };
        let name = format!("reel-adopt-{}", path.index);
        let thread = std::thread::Builder::new().name(name).spawn(move || worker.run(adoption))?;
        Ok(Running { stop, paused, thread })
    }
}
