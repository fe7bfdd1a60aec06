//! The writer: every change of rows, in the order in which it was asked.
//!
//! Changes that are waiting already go together: one transaction, and one group of the journal where there is one. The
//! transaction is made while the journal's disk is at work, and committed when the group is durable. Without a journal the
//! database's own commit makes it so.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use flume::Receiver;
use reel_meta::{Change, FileRow, FileStore, InsertOutcome, MetaError};

use super::{Lease, Mutation, Owned, Records, Replacement, RowError, StorePlace, Write, reply};
use crate::journal::{AppendError, Entry, GROUP_BYTES_MAX, Journal};

/// Rows of one group and of one transaction.
const ROWS_MAX: usize = 1024;

/// Pause before a change is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Writes until [`Write::Stop`], or until nobody can ask any more.
pub(super) async fn run(store: &mut impl FileStore, queue: Receiver<Write>) {
    let mut writer = Writer { store, journal: None, failing_since: None };
    let mut next = None;
    loop {
        let command = match next.take() {
            Some(command) => command,
            None => match queue.recv_async().await {
                Ok(command) => command,
                Err(_) => return,
            },
        };
        match command {
            Write::Stop => return,
            Write::Mutation(first) => {
                let (batch, other) = gather(first, &queue);
                next = other;
                writer.change(batch).await;
            }
            other => writer.other(other).await,
        }
    }
}

/// More changes that are waiting already join the first; the first other command is given back.
fn gather(first: Mutation, queue: &Receiver<Write>) -> (Vec<Mutation>, Option<Write>) {
    let (mut rows, mut bytes) = (first.rows(), first.content_bytes());
    let mut batch = vec![first];
    while rows < ROWS_MAX && bytes < GROUP_BYTES_MAX {
        match queue.try_recv() {
            Ok(Write::Mutation(more)) => {
                rows += more.rows();
                bytes += more.content_bytes();
                batch.push(more);
            }
            Ok(other) => return (batch, Some(other)),
            Err(_) => break,
        }
    }
    (batch, None)
}

struct Writer<'a, S> {
    store: &'a mut S,
    journal: Option<Box<Journal>>,
    /// Since when the database has not taken a change that it may take later.
    failing_since: Option<Instant>,
}

/// What became of a change in the open transaction.
enum Done {
    Insert(Vec<InsertOutcome>),
    Rows(Vec<Change>),
}

impl<S: FileStore> Writer<'_, S> {
    /// Carries out a batch: all of it or nothing.
    async fn change(&mut self, batch: Vec<Mutation>) {
        let entries = match self.send(&batch) {
            Ok(entries) => entries,
            Err(AppendError::Frozen) => match self.uninstall().await {
                Ok(()) => None,
                Err(error) => return refuse(batch, &RowError::from(error)),
            },
            Err(error) => return refuse(batch, &RowError::from(error)),
        };
        let batch = if self.journal.is_none() { without_unjournaled(batch) } else { batch };
        if batch.is_empty() {
            return;
        }
        let committed = match self.journal {
            None => match self.patiently(&batch).await {
                Err(error) if are_several(&batch) && is_refused(&error) => {
                    return self.one_by_one(batch).await;
                }
                ended => ended,
            },
            Some(_) => {
                // While the journal's disk is at work.
                let prepared = self.prepare(&batch, entries.as_ref()).await;
                if let Some(journal) = &mut self.journal
                    && let Err(error) = journal.settled()
                {
                    self.store.roll_back().await;
                    return refuse(batch, &RowError::from(error));
                }
                self.finish(prepared).await
            }
        };
        match self.ended(committed, entries) {
            Ok(done) => {
                batch.into_iter().zip(done).for_each(|(mutation, done)| mutation.answer(done))
            }
            Err(error) => refuse(batch, &error),
        }
    }

    /// Changes the database, durably on return: again where nothing was changed and that may help. It is waited for by
    /// whoever comes first; when it has failed for long, nobody else waits.
    async fn patiently(&mut self, batch: &[Mutation]) -> Result<Vec<Done>, MetaError> {
        loop {
            let prepared = self.prepare(batch, None).await;
            let ended = self.finish(prepared).await;
            let wait = ended.as_ref().err().map_or(Duration::ZERO, patience);
            if wait.is_zero() {
                self.failing_since = None;
                return ended;
            }
            if self.failing_since.get_or_insert_with(Instant::now).elapsed() >= wait {
                return ended;
            }
            thread::sleep(AGAIN_AFTER);
        }
    }

    /// Each change in a transaction of its own, where something about one of them is refused: the others are not at fault,
    /// nor are the rows of files that were made durable together.
    async fn one_by_one(&mut self, batch: Vec<Mutation>) {
        for mutation in batch.into_iter().flat_map(Mutation::apart) {
            match self.patiently(std::slice::from_ref(&mutation)).await {
                Ok(mut done) if done.len() == 1 => mutation.answer(done.remove(0)),
                Ok(_) => mutation.refuse(&RowError::gone()),
                Err(error) => mutation.refuse(&RowError::from(error)),
            }
        }
    }

    /// Ends the transaction that is open: with what was prepared, or without.
    async fn finish(
        &mut self,
        prepared: Result<Vec<Done>, MetaError>,
    ) -> Result<Vec<Done>, MetaError> {
        match prepared {
            Ok(done) => self.store.commit().await.map(|()| done),
            Err(error) => {
                self.store.roll_back().await;
                Err(error)
            }
        }
    }

    /// Sends a batch to the journal: the numbers of its entries. `None` where there is no journal.
    fn send(&mut self, batch: &[Mutation]) -> Result<Option<Range<u64>>, AppendError> {
        let Some(journal) = &mut self.journal else { return Ok(None) };
        batch.iter().for_each(|mutation| mutation.enter(journal));
        journal.send().map(Some)
    }

    /// Changes the database in a transaction, which is left open.
    async fn prepare(
        &mut self,
        batch: &[Mutation],
        entries: Option<&Range<u64>>,
    ) -> Result<Vec<Done>, MetaError> {
        self.store.begin(entries.map(|entries| entries.end - 1)).await?;
        let mut all = Vec::with_capacity(batch.len());
        for mutation in batch {
            all.push(match mutation {
                Mutation::Insert { rows, .. } => Done::Insert(self.store.insert(rows).await?),
                Mutation::Replace(replacement) => {
                    let Replacement { removal, insert } = &**replacement;
                    self.store.remove(std::slice::from_ref(removal)).await?;
                    Done::Insert(self.store.insert(std::slice::from_ref(&insert.row)).await?)
                }
                Mutation::Status { changes, .. } => {
                    Done::Rows(self.store.set_status(changes).await?)
                }
                Mutation::Remove { removals, .. } => Done::Rows(self.store.remove(removals).await?),
            });
        }
        Ok(all)
    }

    /// The database makes its commits durable by itself again, beginning with one that says that it has had every
    /// entry: those that it refused must not be replayed over what comes from now on.
    async fn uninstall(&mut self) -> Result<(), MetaError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let last = journal.last();
        let synced = async {
            self.store.sync_commits(true).await?;
            self.store.begin(Some(last)).await?;
            self.store.commit().await
        };
        match synced.await {
            Ok(()) => {
                self.journal = None;
                Ok(())
            }
            Err(error) => {
                // Unless it is not known whether the database says so, it stays frozen, and this is tried again.
                if error.outcome_unknown() {
                    journal.give_up();
                }
                Err(error)
            }
        }
    }

    /// How a change of the database ended. What it refused is taken back in the journal before anybody is told, or a
    /// replay would carry it out after all.
    fn ended<T>(
        &mut self,
        result: Result<T, MetaError>,
        entries: Option<Range<u64>>,
    ) -> Result<T, RowError> {
        let (Some(journal), Some(entries)) = (&mut self.journal, entries) else {
            return result.map_err(RowError::from);
        };
        match result {
            Ok(value) => {
                journal.applied(entries.end - 1);
                Ok(value)
            }
            Err(error) => {
                let mut error = RowError::from(error);
                let last = entries.end - 1;
                match journal.abort(entries) {
                    Ok(()) => journal.applied(last),
                    // Frozen: whoever uninstalls it makes the database say that it has had them. Until then a start would
                    // carry them out.
                    Err(AppendError::Frozen) => error.unknown = true,
                    Err(aborting) => {
                        tracing::error!(%aborting, refused = %error, "a change that was refused may be replayed");
                        journal.give_up();
                        error.unknown = true;
                    }
                }
                Err(error)
            }
        }
    }

    /// The row of a file as it is, also after a start: what a replay may bring about yet is not known before.
    async fn read_back(&mut self, owned: Owned) -> Result<Option<FileRow>, RowError> {
        self.settle_journal().await?;
        let Owned { app, user, file } = owned;
        Ok(self.store.get_owned(&app, &user, &file).await?)
    }

    /// Lets go of a journal that is frozen, so that no entry of it is carried out over what the database has.
    async fn settle_journal(&mut self) -> Result<(), RowError> {
        match &self.journal {
            Some(journal) if journal.is_broken() => Err(AppendError::Broken.into()),
            Some(journal) if journal.is_frozen() => Ok(self.uninstall().await?),
            _ => Ok(()),
        }
    }

    async fn other(&mut self, command: Write) {
        match command {
            Write::Stop | Write::Mutation(_) => {}
            Write::Upsert(rows, answer) => {
                reply(&answer, self.synced(async |store| store.upsert(&rows).await).await);
            }
            Write::Relocate(relocations, answer) => {
                reply(&answer, self.synced(async |store| store.relocate(&relocations).await).await);
            }
            Write::Adopt(adoptions, answer) => {
                reply(&answer, self.synced(async |store| store.adopt(&adoptions).await).await);
            }
            Write::WasLeft(file_path, answer) => {
                reply(&answer, self.store.was_left(&file_path).await);
            }
            Write::Uninstall(answer) => {
                let _ = answer.try_send(self.settle_journal().await);
            }
            Write::ReadBack(owned, answer) => {
                let _ = answer.try_send(self.read_back(owned).await);
            }
            Write::Expect(StorePlace { node, path }, uuid, now, answer) => {
                let expect =
                    async |store: &mut S| store.expect_store(&node, &path, &uuid, now).await;
                reply(&answer, self.synced(expect).await);
            }
            Write::Find(table, file, answer) => {
                reply(&answer, self.store.get(Some(table), &file).await);
            }
            Write::Position(answer) => reply(&answer, self.store.journal_position().await),
            Write::Replay(entries, answer) => reply(&answer, self.replay(entries).await),
            Write::Install(mut journal, answer) => {
                let result = self.store.sync_commits(false).await;
                if result.is_ok() {
                    journal.open();
                    self.journal = Some(journal);
                }
                reply(&answer, result);
            }
            Write::Lease(lease, answer) => {
                let Lease { name, holder, seconds } = lease;
                reply(&answer, self.store.lease(&name, &holder, seconds).await);
            }
            Write::Checkpoint(answer) => reply(&answer, self.store.checkpoint().await),
        }
    }

    /// What is not journaled must be durable by the database's own commit.
    async fn synced<T>(
        &mut self,
        change: impl AsyncFnOnce(&mut S) -> Result<T, MetaError>,
    ) -> Result<T, MetaError> {
        if self.journal.is_none() {
            return change(self.store).await;
        }
        self.store.sync_commits(true).await?;
        let result = change(self.store).await;
        if let Err(error) = self.store.sync_commits(false).await {
            tracing::warn!(%error, "the database goes on to sync each commit, which the journal has made needless");
        }
        result
    }

    /// In order and in one transaction with the last one's number, so that a replay that is cut short goes on where it
    /// stopped.
    async fn replay(&mut self, entries: Vec<(u64, Entry)>) -> Result<(), MetaError> {
        self.store.sync_commits(false).await?;
        self.store.begin(entries.last().map(|(number, _)| *number)).await?;
        match self.carry_out(entries).await {
            Ok(()) => self.store.commit().await?,
            Err(error) => {
                self.store.roll_back().await;
                return Err(error);
            }
        }
        self.store.sync_commits(true).await
    }

    async fn carry_out(&mut self, entries: Vec<(u64, Entry)>) -> Result<(), MetaError> {
        let mut rows = Vec::new();
        for (_, entry) in entries {
            if let Entry::Put { row, .. } = entry {
                rows.push(*row);
                continue;
            }
            if !rows.is_empty() {
                self.store.insert(&std::mem::take(&mut rows)).await?;
            }
            match entry {
                Entry::Status(change) => drop(self.store.set_status(&[change]).await?),
                Entry::Remove { removal, .. } => drop(self.store.remove(&[removal]).await?),
                Entry::Put { .. } | Entry::Abort(_) => {}
            }
        }
        if !rows.is_empty() {
            self.store.insert(&rows).await?;
        }
        Ok(())
    }
}

impl Mutation {
    fn rows(&self) -> usize {
        match self {
            Self::Insert { rows, .. } => rows.len(),
            Self::Replace(_) => 1,
            Self::Status { changes, .. } => changes.len(),
            Self::Remove { removals, .. } => removals.len(),
        }
    }

    fn content_bytes(&self) -> u64 {
        let Self::Insert { files, .. } = self else { return 0 };
        let pieces = files.iter().filter_map(|file| file.content.as_ref()).flatten();
        pieces.map(|piece| piece.len() as u64).sum()
    }

    /// Whether only the journal makes durable what it stands on.
    fn needs_journal(&self) -> bool {
        match self {
            Self::Insert { files, .. } => files.iter().any(|file| file.content.is_some()),
            // Its file is durable.
            Self::Replace(_) => false,
            Self::Status { records, .. } | Self::Remove { records, .. } => {
                *records == Records::ByJournal
            }
        }
    }

    /// Each row that somebody waits for by itself.
    fn apart(self) -> Vec<Self> {
        let one = |(row, file)| Self::Insert { rows: vec![row], files: vec![file] };
        match self {
            Self::Insert { rows, files } => rows.into_iter().zip(files).map(one).collect(),
            whole => vec![whole],
        }
    }

    fn answer(self, done: Done) {
        match (self, done) {
            (Self::Insert { files, .. }, Done::Insert(outcomes)) => {
                for (file, outcome) in files.into_iter().zip(outcomes) {
                    (file.done)(Ok(outcome));
                }
            }
            (Self::Replace(replacement), Done::Insert(mut outcomes)) if outcomes.len() == 1 => {
                (replacement.insert.file.done)(Ok(outcomes.remove(0)));
            }
            (Self::Status { answer, .. } | Self::Remove { answer, .. }, Done::Rows(changes)) => {
                // Whoever asked may be gone: a client that went away.
                let _ = answer.try_send(Ok(changes));
            }
            (mutation, _) => mutation.refuse(&RowError::gone()),
        }
    }

    fn refuse(self, error: &RowError) {
        match self {
            Self::Insert { files, .. } => {
                for file in files {
                    (file.done)(Err(error.clone()));
                }
            }
            Self::Replace(replacement) => (replacement.insert.file.done)(Err(error.clone())),
            Self::Status { answer, .. } | Self::Remove { answer, .. } => {
                let _ = answer.try_send(Err(error.clone()));
            }
        }
    }

    /// Adds its entries, one for each row, to the journal's group.
    fn enter(&self, journal: &mut Journal) {
        match self {
            Self::Insert { rows, files } => {
                for (row, file) in rows.iter().zip(files) {
                    journal.put(row, file.content.as_deref());
                }
            }
            Self::Replace(replacement) => {
                journal.remove(&replacement.removal, false);
                journal.put(&replacement.insert.row, None);
            }
            Self::Status { changes, .. } => {
                changes.iter().for_each(|change| journal.status(change));
            }
            Self::Remove { removals, unlink, .. } => {
                removals.iter().for_each(|removal| journal.remove(removal, *unlink));
            }
        }
    }
}

/// For how long changes are tried again that this error has kept from being made. A cluster that loses a server needs
/// seconds to agree that it is gone; a lock is waited for by the database itself.
fn patience(error: &MetaError) -> Duration {
    match error {
        MetaError::Unavailable { .. } => Duration::from_secs(10),
        MetaError::Busy { .. } => Duration::from_secs(2),
        _ => Duration::ZERO,
    }
}

/// Whether the database has said no: nothing was changed, and the same again would end the same.
fn is_refused(error: &MetaError) -> bool {
    !error.outcome_unknown() && !error.retryable()
}

fn are_several(batch: &[Mutation]) -> bool {
    batch.iter().map(Mutation::rows).sum::<usize>() > 1
}

/// Answers everybody with the same error.
fn refuse(batch: Vec<Mutation>, error: &RowError) {
    batch.into_iter().for_each(|mutation| mutation.refuse(error));
}

/// Refuses what nothing has made durable: the journal that it was meant for is gone.
fn without_unjournaled(batch: Vec<Mutation>) -> Vec<Mutation> {
    let (lost, rest) = batch.into_iter().partition(Mutation::needs_journal);
    refuse(lost, &RowError::frozen());
    rest
}

impl From<AppendError> for RowError {
    fn from(error: AppendError) -> Self {
        Self {
            unknown: matches!(error, AppendError::Unknown(_)),
            retryable: matches!(error, AppendError::Frozen),
            text: error.to_string().into(),
        }
    }
}
