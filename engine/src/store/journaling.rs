//! The commit journal and the stores: replayed before the store paths open, recycled while they are at work.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use reel_meta::sqlite::SqliteCheckpointer;

use super::{
    open::{Claim, OpenError},
    path::{READ_ONLY, StorePath},
    sys,
};
use crate::{
    journal::{
        self, Gate, Journal, JournalConfig, Recovered, Recycler, ReplayError, Running, Settle,
    },
    layout::Layout,
    metadata::{Metadata, wait},
    record,
};

/// Pages of the database's log past which the writer is made to begin it anew: 64 MiB. The recycler's own checkpoints
/// cannot, while changes go on.
const LOG_PAGES_MAX: u64 = 16 * 1024;

/// A journal that was replayed and can be written.
pub(super) struct Begun {
    journal: Journal,
    recycler: Recycler,
}

/// Replays the journal of the last run, if there is one, and begins a new one, if it can be.
///
/// `None`: none is configured, the database takes none, or it cannot be begun; the node works without then.
///
/// # Errors
/// What was acknowledged is in the journal, and it cannot be read or carried out.
pub(super) fn begin(
    config: Option<&JournalConfig>,
    metadata: &Metadata,
    layout: &Layout,
    claims: &[Claim<'_>],
    gate: &Arc<Gate>,
) -> Result<Option<Begun>, OpenError> {
    let Some(config) = config else { return Ok(None) };
    let fail = |error: ReplayError| OpenError::Journal { folder: config.folder.clone(), error };
    let position = wait(metadata.journal_position()).map_err(|error| fail(error.into()))?;
    let Some(position) = position else { return Ok(None) };
    if !config.enabled && !config.folder.is_dir() {
        return Ok(None);
    }
    let recovered = match Recovered::open(&config.folder) {
        Ok(recovered) => recovered,
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            tracing::warn!(folder = %config.folder.display(), %error, "no journal can be made");
            return Ok(None);
        }
        Err(error) => return Err(fail(error.into())),
    };
    if !replayed(&recovered, position, metadata, layout, claims).map_err(fail)? {
        return Ok(None);
    }
    if !config.enabled {
        // Replayed, and not to be replayed again over what comes without it.
        recovered.retire(&config.folder, position).map_err(|error| fail(error.into()))?;
        return Ok(None);
    }
    // Again: what the last run was writing when it was killed may have come in while it was read.
    let position = wait(metadata.journal_position()).map_err(|error| fail(error.into()))?;
    match Journal::begin(config, recovered, position.unwrap_or(0), gate) {
        Ok((journal, recycler)) => Ok(Some(Begun { journal, recycler })),
        Err(error) => {
            tracing::warn!(folder = %config.folder.display(), %error,
                "the journal cannot be written: every group is synced where it lies");
            Ok(None)
        }
    }
}

/// Whether everything in the journal is durable in its place now.
fn replayed(
    recovered: &Recovered,
    position: u64,
    metadata: &Metadata,
    layout: &Layout,
    claims: &[Claim<'_>],
) -> Result<bool, ReplayError> {
    let found = &recovered.found;
    // 0: a database that was made anew, and whose rows are made again by who lost it.
    if (1..recovered.recycled()).contains(&position) {
        tracing::error!(
            position,
            recycled = recovered.recycled(),
            "the database is older than the journal, as one from \
            a backup is: files of the time between are without rows until `reel rebuild-index`"
        );
    }
    if !found.lost.is_empty() {
        tracing::error!(entries = ?found.lost, "entries of the journal are damaged; what was acknowledged before and \
            after them is replayed");
    }
    if recovered.is_empty() {
        return Ok(true);
    }
    let roots: Vec<Option<OwnedFd>> =
        claims.iter().map(|claim| writable(&claim.path.path)).collect();
    let done = journal::replay(recovered, position, metadata, layout, &roots)?;
    tracing::info!(
        live = found.live,
        torn = found.torn,
        ?done,
        "replayed the journal of the last run"
    );
    if done.failed > 0 {
        tracing::error!(
            files = done.failed,
            "a disk does not take what the journal holds for it: the journal is kept \
            as it is and replayed at the next start; this node goes on without one"
        );
    }
    Ok(done.failed == 0)
}

/// A store path's folder, unless it waits for an operator.
fn writable(folder: &Path) -> Option<OwnedFd> {
    let marked = folder.join(READ_ONLY).try_exists().unwrap_or(true);
    sys::open_folder(folder).ok().filter(|_| !marked)
}

impl Begun {
    /// From now on changes go through it.
    ///
    /// # Errors
    /// The database, or no thread.
    pub(super) fn run(
        self,
        config: &JournalConfig,
        metadata: &Metadata,
        paths: &[Arc<StorePath>],
    ) -> Result<Running, OpenError> {
        let disk = |doing: &'static str| {
            let path = config.folder.clone();
            move |error: io::Error| OpenError::Disk { path, doing, error }
        };
        let mut stores = Vec::new();
        for store in paths {
            // A descriptor of its own: an error told here must be told to the committer's and the keeper's too.
            let folder = sys::open_folder(&store.folder).map_err(disk("opening a store path"))?;
            stores.push((Arc::clone(store), folder));
        }
        let checkpointer = SqliteCheckpointer::open(&config.database)
            .map_err(|error| disk("opening the database")(io::Error::other(error)))?;
        let places = Places { stores, checkpointer, log_pages: 0 };
        wait(metadata.install(self.journal))
            .map_err(|error| disk("installing the journal")(io::Error::other(error)))?;
        self.recycler.start(places).map_err(disk("starting the recycler"))
    }
}

/// Everything that the journal stands in for.
struct Places {
    stores: Vec<(Arc<StorePath>, OwnedFd)>,
    checkpointer: SqliteCheckpointer,
    /// Pages of the database's log at the last checkpoint.
    log_pages: u64,
}

impl Settle for Places {
    fn settle(&mut self) -> io::Result<bool> {
        for (store, folder) in &self.stores {
            if !store.take_touched() {
                continue;
            }
            let fresh = store.folders.all();
            let synced = sys::syncfs(folder.as_fd())
                .and_then(|()| sys::still_in_service(folder.as_fd(), record::ATTRIBUTE));
            if let Err(error) = synced {
                store.sync_failed("the sync behind the journal", &error);
                return Err(error);
            }
            store.folders.settled(&fresh);
        }
        // Not by the writer: it may be waiting for the very space that this round gives back.
        let done = self.checkpointer.run().map_err(io::Error::other)?;
        self.log_pages = done.log_pages;
        Ok(done.whole)
    }

    fn tidy(&mut self) {
        if self.log_pages > LOG_PAGES_MAX
            && let Err(error) = self.checkpointer.restart_log()
        {
            tracing::warn!(%error, "the database's log cannot be begun anew; it grows until a later round");
        }
    }
}
