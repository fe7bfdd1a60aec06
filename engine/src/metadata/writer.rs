//! The writer: every change of rows, in the order in which it was asked.
//!
//! Changes that are waiting already go together: one group of the journal where there is one, and one transaction for
//! each run of inserts. With a journal a change is durable there before the database hears of it; without, the
//! database's own commit makes it so.

use std::ops::Range;

use flume::Receiver;
use reel_meta::{FileStore, MetaError};

use super::{Insert, Mutation, Owned, Records, RowError, StorePlace, Write, reply};
use crate::journal::{AppendError, Entry, GROUP_BYTES_MAX, Journal};

/// Rows of one group and of one transaction.
const ROWS_MAX: usize = 1024;

/// Writes until [`Write::Stop`], or until nobody can ask any more.
pub(super) async fn run(store: &mut impl FileStore, queue: Receiver<Write>) {
    let mut writer = Writer { store, journal: None };
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
}

impl<S: FileStore> Writer<'_, S> {
    async fn change(&mut self, batch: Vec<Mutation>) {
        let mut entries = None;
        if let Some(journal) = &mut self.journal {
            batch.iter().for_each(|mutation| mutation.enter(journal));
            match journal.commit() {
                Ok(numbers) => entries = Some(numbers.start),
                Err(AppendError::Frozen) => {
                    if let Err(error) = self.uninstall().await {
                        return refuse(batch, &RowError::from(error));
                    }
                }
                Err(error) => return refuse(batch, &RowError::from(error)),
            }
        }
        let mut batch = batch.into_iter().peekable();
        while let Some(mut mutation) = batch.next() {
            if let Mutation::Insert(rows) = &mut mutation {
                while let Some(Mutation::Insert(more)) =
                    batch.next_if(|next| matches!(next, Mutation::Insert(_)))
                {
                    rows.extend(more);
                }
            }
            let count = mutation.rows() as u64;
            let numbers = entries.map(|first| first..first + count);
            entries = numbers.as_ref().map(|numbers| numbers.end);
            self.apply(mutation, numbers).await;
        }
    }

    /// The database makes its commits durable by itself again, beginning with one that says that it has had every
    /// entry: those that it refused must not be replayed over what comes from now on.
    async fn uninstall(&mut self) -> Result<(), MetaError> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let last = journal.last();
        let synced = async {
            self.store.sync_commits(true).await?;
            self.store.set_journal_position(last);
            self.store.set_status(&[]).await
        };
        match synced.await {
            Ok(_) => {
                self.journal = None;
                Ok(())
            }
            Err(error) => {
                journal.give_up();
                Err(error)
            }
        }
    }

    /// Changes the database. `entries`: the change's own in the journal.
    async fn apply(&mut self, mutation: Mutation, entries: Option<Range<u64>>) {
        if let Some(entries) = &entries {
            self.store.set_journal_position(entries.end - 1);
        }
        match mutation {
            Mutation::Insert(inserts) => self.insert(inserts, entries).await,
            Mutation::Status { records: Records::ByJournal, answer, .. }
            | Mutation::Remove { records: Records::ByJournal, answer, .. }
                if self.journal.is_none() =>
            {
                let _ = answer.try_send(Err(RowError::frozen()));
            }
            Mutation::Status { changes, answer, .. } => {
                let result = self.store.set_status(&changes).await;
                let _ = answer.try_send(self.ended(result, entries));
            }
            Mutation::Remove { removals, answer, .. } => {
                let result = self.store.remove(&removals).await;
                let _ = answer.try_send(self.ended(result, entries));
            }
        }
    }

    async fn insert(&mut self, inserts: Vec<Insert>, entries: Option<Range<u64>>) {
        if self.journal.is_none() && inserts.iter().any(|insert| insert.content.is_some()) {
            // Nothing has made the content durable.
            return refuse(vec![Mutation::Insert(inserts)], &RowError::frozen());
        }
        let (rows, dones): (Vec<_>, Vec<_>) =
            inserts.into_iter().map(|insert| (insert.row, insert.done)).unzip();
        let result = self.store.insert(&rows).await;
        match self.ended(result, entries) {
            Ok(outcomes) => {
                for (done, outcome) in dones.into_iter().zip(outcomes) {
                    done(Ok(outcome));
                }
            }
            Err(error) => {
                for done in dones {
                    done(Err(error.clone()));
                }
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
                    // Frozen: whoever uninstalls it makes the database say that it has had them.
                    Err(AppendError::Frozen) => {}
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

    async fn other(&mut self, command: Write) {
        match command {
            Write::Stop | Write::Mutation(_) => {}
            Write::Upsert(rows, answer) => {
                let result = match self.sync_commits(true).await {
                    Ok(()) => self.store.upsert(&rows).await,
                    Err(error) => Err(error),
                };
                reply(&answer, self.resumed(result).await);
            }
            Write::ReadBack(Owned { app, user, file }, answer) => {
                reply(&answer, self.store.get_owned(&app, &user, &file).await);
            }
            Write::Expect(StorePlace { node, path }, uuid, now, answer) => {
                let result = match self.sync_commits(true).await {
                    Ok(()) => self.store.expect_store(&node, &path, &uuid, now).await,
                    Err(error) => Err(error),
                };
                reply(&answer, self.resumed(result).await);
            }
            Write::Find(table, file, answer) => {
                reply(&answer, self.store.get(Some(table), &file).await);
            }
            Write::Position(answer) => reply(&answer, self.store.journal_position().await),
            Write::Replay(entries, answer) => reply(&answer, self.replay(entries).await),
            Write::Install(journal, answer) => {
                let result = self.store.sync_commits(false).await;
                if result.is_ok() {
                    journal.open();
                    self.journal = Some(journal);
                }
                reply(&answer, result);
            }
            Write::Checkpoint(answer) => reply(&answer, self.store.checkpoint().await),
        }
    }

    /// What is not journaled must be durable by the database's own commit.
    async fn sync_commits(&mut self, on: bool) -> Result<(), MetaError> {
        if self.journal.is_none() {
            return Ok(());
        }
        self.store.sync_commits(on).await
    }

    /// Back to commits that the journal makes durable.
    async fn resumed<T>(&mut self, result: Result<T, MetaError>) -> Result<T, MetaError> {
        let resumed = self.sync_commits(false).await;
        result.and_then(|value| resumed.map(|()| value))
    }

    /// In order, each with its number, so that a replay that is cut short goes on where it stopped.
    async fn replay(&mut self, entries: Vec<(u64, Entry)>) -> Result<(), MetaError> {
        self.store.sync_commits(false).await?;
        let mut rows = Vec::new();
        for (number, entry) in entries {
            if let Entry::Put { row, .. } = entry {
                rows.push(*row);
                self.store.set_journal_position(number);
                continue;
            }
            if !rows.is_empty() {
                self.store.insert(&std::mem::take(&mut rows)).await?;
            }
            self.store.set_journal_position(number);
            match entry {
                Entry::Status(change) => drop(self.store.set_status(&[change]).await?),
                Entry::Remove { removal, .. } => drop(self.store.remove(&[removal]).await?),
                Entry::Put { .. } | Entry::Abort(_) => {}
            }
        }
        if !rows.is_empty() {
            self.store.insert(&rows).await?;
        }
        self.store.sync_commits(true).await
    }
}

impl Mutation {
    fn rows(&self) -> usize {
        match self {
            Self::Insert(inserts) => inserts.len(),
            Self::Status { changes, .. } => changes.len(),
            Self::Remove { removals, .. } => removals.len(),
        }
    }

    fn content_bytes(&self) -> u64 {
        let Self::Insert(inserts) = self else { return 0 };
        inserts
            .iter()
            .filter_map(|insert| insert.content.as_ref())
            .flatten()
            .map(|piece| piece.len() as u64)
            .sum()
    }

    /// Adds its entries, one for each row, to the journal's group.
    fn enter(&self, journal: &mut Journal) {
        match self {
            Self::Insert(inserts) => {
                for insert in inserts {
                    journal.put(&insert.row, insert.content.clone());
                }
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

/// Answers everybody with the same error.
fn refuse(batch: Vec<Mutation>, error: &RowError) {
    for mutation in batch {
        match mutation {
            Mutation::Insert(inserts) => {
                for insert in inserts {
                    (insert.done)(Err(error.clone()));
                }
            }
            Mutation::Status { answer, .. } | Mutation::Remove { answer, .. } => {
                let _ = answer.try_send(Err(error.clone()));
            }
        }
    }
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
