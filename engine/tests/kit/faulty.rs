//! A metadata store that goes wrong on purpose, around a real one.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use reel_engine::metadata::Metadata;
use reel_meta::{
    Adoption, Change, ExpectedStore, FileRow, FileStatus, FileStore, InsertOutcome, ListCursor,
    MetaError, NewFile, Page, Relocation, Removal, ScanCursor, Selection, StatusChange, TableCount,
    TimeCursor, TotalCursor, Totals, sqlite::SqliteFileStore,
};

/// What goes wrong with the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing.
    Nothing,
    /// It is refused; nothing is changed.
    Refused,
    /// The answer is lost; it was committed.
    LostDone,
    /// The answer is lost; it was not committed.
    LostUndone,
    /// It comes a second time, after somebody else did the same a moment before.
    Twice,
}

/// What goes wrong with the next writes, and with the next reads of the writer.
#[derive(Debug, Default)]
pub struct Script {
    pub writes: VecDeque<Wrong>,
    pub reads_refused: usize,
    /// Reads that come just before the row they ask for: it is not there yet.
    pub reads_early: usize,
    /// Another node gives rows this state just before the next removal of them.
    pub before_removal: Option<FileStatus>,
    /// Removals that were asked for.
    pub removals: usize,
    /// A file that is unlinked while the next row is removed.
    pub vanishes: Option<PathBuf>,
}

/// The script, to be written while the store runs.
pub type Shared = Arc<Mutex<Script>>;

struct Faulty {
    real: SqliteFileStore,
    script: Shared,
    /// What the next commit's answer is to be instead.
    at_commit: Option<Wrong>,
    is_open: bool,
}

/// Metadata whose writer follows a script; the reader is sound.
pub fn metadata(database: &Path) -> (Metadata, Shared) {
    let script = Shared::default();
    let (write, read) = (database.to_owned(), database.to_owned());
    let faults = Arc::clone(&script);
    let metadata = Metadata::start(
        move || {
            let real = SqliteFileStore::open(&write)?;
            Ok(Faulty { real, script: faults, at_commit: None, is_open: false })
        },
        move || SqliteFileStore::open_reader(&read),
    );
    (metadata.unwrap(), script)
}

impl Faulty {
    fn next(&self) -> Wrong {
        self.script.lock().unwrap().writes.pop_front().unwrap_or(Wrong::Nothing)
    }

    fn refused() -> MetaError {
        MetaError::Database { operation: "test", cause: "refused on purpose".into() }
    }

    fn lost() -> MetaError {
        MetaError::CommitUnknown { operation: "test", cause: "lost on purpose".into() }
    }
}

macro_rules! scripted {
    ($self:ident, $call:expr) => {
        match $self.next() {
            Wrong::Nothing => $call.await,
            Wrong::Refused => Err(Faulty::refused()),
            // What is lost is the answer to a commit.
            wrong @ (Wrong::LostUndone | Wrong::LostDone) if $self.is_open => {
                $self.at_commit = Some(wrong);
                $call.await
            }
            Wrong::LostUndone => Err(Faulty::lost()),
            Wrong::Twice => {
                $call.await?;
                $call.await
            }
            Wrong::LostDone => {
                $call.await?;
                Err(Faulty::lost())
            }
        }
    };
}

impl FileStore for Faulty {
    async fn begin(&mut self, position: Option<u64>) -> Result<(), MetaError> {
        (self.is_open, self.at_commit) = (true, None);
        self.real.begin(position).await
    }

    async fn commit(&mut self) -> Result<(), MetaError> {
        self.is_open = false;
        match self.at_commit.take() {
            Some(Wrong::LostUndone) => {
                self.real.roll_back().await;
                Err(Self::lost())
            }
            Some(_) => {
                self.real.commit().await?;
                Err(Self::lost())
            }
            None => self.real.commit().await,
        }
    }

    async fn roll_back(&mut self) {
        self.is_open = false;
        self.real.roll_back().await;
    }

    async fn insert(&mut self, rows: &[NewFile]) -> Result<Vec<InsertOutcome>, MetaError> {
        scripted!(self, self.real.insert(rows))
    }

    async fn get(&mut self, table: Option<u8>, file: &str) -> Result<Option<FileRow>, MetaError> {
        self.real.get(table, file).await
    }

    async fn get_owned(
        &mut self,
        app: &str,
        user: &str,
        file: &str,
    ) -> Result<Option<FileRow>, MetaError> {
        {
            let mut script = self.script.lock().unwrap();
            if script.reads_refused > 0 {
                script.reads_refused -= 1;
                return Err(Self::refused());
            }
            if script.reads_early > 0 {
                script.reads_early -= 1;
                return Ok(None);
            }
        }
        self.real.get_owned(app, user, file).await
    }

    async fn set_status(&mut self, changes: &[StatusChange]) -> Result<Vec<Change>, MetaError> {
        scripted!(self, self.real.set_status(changes))
    }

    async fn remove(&mut self, removals: &[Removal]) -> Result<Vec<Change>, MetaError> {
        let before = {
            let mut script = self.script.lock().unwrap();
            script.removals += 1;
            if let Some(file) = script.vanishes.take() {
                std::fs::remove_file(file).unwrap();
            }
            script.before_removal.take()
        };
        if let Some(status) = before {
            let change = |removal: &Removal| StatusChange {
                row: removal.row.clone(),
                status,
                deleted_at: (status == FileStatus::Deleted).then_some(1 << 40),
                changed_at: None,
            };
            let changes: Vec<_> = removals.iter().map(change).collect();
            self.real.set_status(&changes).await?;
        }
        scripted!(self, self.real.remove(removals))
    }

    async fn relocate(&mut self, relocations: &[Relocation]) -> Result<Vec<Change>, MetaError> {
        scripted!(self, self.real.relocate(relocations))
    }

    async fn was_left(&mut self, file_path: &str) -> Result<bool, MetaError> {
        self.real.was_left(file_path).await
    }

    async fn list(
        &mut self,
        of: &Selection,
        after: Option<&ListCursor>,
        limit: usize,
    ) -> Result<(Vec<FileRow>, Option<ListCursor>), MetaError> {
        self.real.list(of, after, limit).await
    }

    async fn total(
        &mut self,
        of: &Selection,
        after: Option<&TotalCursor>,
        limit: usize,
    ) -> Result<(Totals, Option<TotalCursor>), MetaError> {
        self.real.total(of, after, limit).await
    }

    async fn adopt(&mut self, adoptions: &[Adoption]) -> Result<Vec<Change>, MetaError> {
        scripted!(self, self.real.adopt(adoptions))
    }

    async fn expired_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        self.real.expired_before(time, after, limit).await
    }

    async fn deleted_before(
        &mut self,
        time: u64,
        after: Option<&TimeCursor>,
        limit: usize,
    ) -> Result<Page, MetaError> {
        self.real.deleted_before(time, after, limit).await
    }

    async fn scan(&mut self, after: Option<&ScanCursor>, limit: usize) -> Result<Page, MetaError> {
        self.real.scan(after, limit).await
    }

    async fn upsert(&mut self, rows: &[FileRow]) -> Result<(), MetaError> {
        self.real.upsert(rows).await
    }

    async fn count(&mut self) -> Result<[TableCount; 3], MetaError> {
        self.real.count().await
    }

    async fn expected_store(
        &mut self,
        node: &str,
        path: &str,
    ) -> Result<Option<ExpectedStore>, MetaError> {
        self.real.expected_store(node, path).await
    }

    async fn expect_store(
        &mut self,
        node: &str,
        path: &str,
        uuid: &str,
        now: u64,
    ) -> Result<(), MetaError> {
        scripted!(self, self.real.expect_store(node, path, uuid, now))
    }
}
