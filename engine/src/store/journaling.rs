//! The commit journal and the stores: replayed before the store paths open, recycled while they are at work.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use reel_meta::sqlite::SqliteCheckpointer;

use super::{
    open::{Claim, OpenError},
    path::{READ_ONLY, StorePath},
    salvage::{self, Memory, Salvage},
    sharing::Sharing,
    sys,
};
use crate::{
    journal::{
        self, Gate, Journal, JournalConfig, Recovered, Recycler, ReplayError, Replayed, Running,
        Salvaged, Settle, SettleError,
    },
    layout::Layout,
    metadata::{Metadata, wait},
};

/// Pages of the database's log past which the writer is made to begin it anew: 64 MiB. The recycler's own checkpoints
/// cannot, while changes go on.
const LOG_PAGES_MAX: u64 = 16 * 1024;

/// A journal after its replay.
pub(super) enum Begun {
    /// It can be written.
    Sound { journal: Box<Journal>, recycler: Recycler },
    /// These store paths did not take what it holds for them: nothing more is written to it.
    Kept { recycler: Recycler, doubt: BTreeSet<usize> },
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
    let done = replayed(&recovered, position, metadata, layout, claims).map_err(fail)?;
    if done.failed > 0 {
        let recycler = Recycler::kept(config.clone(), gate);
        return Ok(Some(Begun::Kept { recycler, doubt: done.failed_stores }));
    }
    if !config.enabled {
        // Replayed, and not to be replayed again over what comes without it.
        recovered.retire(&config.folder, position).map_err(|error| fail(error.into()))?;
        return Ok(None);
    }
    // Again: what the last run was writing when it was killed may have come in while it was read.
    let position = wait(metadata.journal_position()).map_err(|error| fail(error.into()))?;
    match Journal::begin(config, recovered, position.unwrap_or(0), gate) {
        Ok((journal, recycler)) => Ok(Some(Begun::Sound { journal: Box::new(journal), recycler })),
        Err(error) => {
            tracing::warn!(folder = %config.folder.display(), %error,
                "the journal cannot be written: every group is synced where it lies");
            Ok(None)
        }
    }
}

/// Puts everything in the journal in its place, durably, as far as the disks take it.
fn replayed(
    recovered: &Recovered,
    position: u64,
    metadata: &Metadata,
    layout: &Layout,
    claims: &[Claim<'_>],
) -> Result<Replayed, ReplayError> {
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
        return Ok(Replayed::default());
    }
    let roots: Vec<Option<OwnedFd>> =
        claims.iter().map(|claim| writable(&claim.path.path, &claim.sharing)).collect();
    let done = journal::replay(recovered, position, metadata, layout, &roots)?;
    tracing::info!(
        live = found.live,
        torn = found.torn,
        rows = done.rows,
        written = done.written,
        records = done.records,
        unlinked = done.unlinked,
        failed = done.failed,
        "replayed the journal of the last run"
    );
    if done.failed > 0 {
        tracing::error!(
            files = done.failed,
            "a disk does not take what the journal holds for it: that is brought to other store paths, \
            and this node goes on without a journal until it is started again"
        );
    }
    Ok(done)
}

/// A store path's folder, unless it waits for an operator.
fn writable(folder: &Path, sharing: &Sharing) -> Option<OwnedFd> {
    let marked = folder.join(sharing.own_file(READ_ONLY)).try_exists().unwrap_or(true);
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
        layout: &Arc<Layout>,
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
        let (recycler, memory) = match self {
            Self::Sound { journal, recycler } => {
                wait(metadata.install(journal))
                    .map_err(|error| disk("installing the journal")(io::Error::other(error)))?;
                (recycler, Memory::default())
            }
            Self::Kept { recycler, doubt } => (recycler, Memory::of(doubt)),
        };
        let mut places = Places {
            stores,
            database: Database { checkpointer, log_pages: 0, is_sound: true },
            memory,
            folder: config.folder.clone(),
            metadata: metadata.clone(),
            layout: Arc::clone(layout),
        };
        // Before anything is served.
        places.salvage().doubt_all().map_err(disk("reading the journal"))?;
        recycler.start(places).map_err(disk("starting the recycler"))
    }
}

/// Everything that the journal stands in for.
struct Places {
    stores: Vec<(Arc<StorePath>, OwnedFd)>,
    database: Database,
    memory: Memory,
    folder: PathBuf,
    metadata: Metadata,
    layout: Arc<Layout>,
}

/// The database, to be made durable.
pub(super) struct Database {
    checkpointer: SqliteCheckpointer,
    /// Pages of its log at the last checkpoint.
    log_pages: u64,
    /// No sync of it has failed.
    is_sound: bool,
}

impl Database {
    pub(super) fn is_sound(&self) -> bool {
        self.is_sound
    }

    /// On `true` everything that was committed before is durable in it. Not by the writer: it may be waiting for the
    /// very space that this gives back.
    pub(super) fn settle(&mut self) -> Result<bool, SettleError> {
        if !self.is_sound {
            return Err(SettleError::Database(io::Error::other("a sync of it has failed before")));
        }
        match self.checkpointer.run() {
            Ok(done) => {
                self.log_pages = done.log_pages;
                tracing::debug!(whole = done.whole, "the database is checkpointed");
                Ok(done.whole)
            }
            Err(error) if error.retryable() => Ok(false),
            Err(error) => {
                self.is_sound = false;
                Err(SettleError::Database(io::Error::other(error)))
            }
        }
    }
}

impl Places {
    fn salvage(&mut self) -> Salvage<'_> {
        Salvage {
            folder: &self.folder,
            stores: &self.stores,
            database: &mut self.database,
            memory: &mut self.memory,
            metadata: &self.metadata,
            layout: &self.layout,
        }
    }
}

impl Settle for Places {
    fn settle(&mut self) -> Result<bool, SettleError> {
        for (index, (store, folder)) in self.stores.iter().enumerate() {
            if store.take_touched()
                && let Err(error) = salvage::sync(store, folder)
            {
                self.memory.doubt(index);
                return Err(SettleError::Store(error));
            }
        }
        tracing::debug!("the store paths are synced");
        self.database.settle()
    }

    fn salvage(&mut self, stopped: &dyn Fn() -> bool) -> Salvaged {
        Self::salvage(self).round(stopped)
    }

    fn tidy(&mut self) {
        if self.database.log_pages > LOG_PAGES_MAX
            && let Err(error) = self.database.checkpointer.restart_log()
        {
            tracing::warn!(%error, "the database's log cannot be begun anew; it grows until a later round");
        }
    }
}
