//! `reel rebuild-index`: makes the rows again from the records on the disks, which need nothing else.
//!
//! For a store whose database is lost; no engine may have the store open. It can be cut short and run again. Nothing
//! on the disks is changed, and rows that are there already are left as they are unless their file is worse than
//! the one just found and belongs to the same owner.
//!
//! A file that lost its id to another before a crash looks as good as the one that won. It lies in a block of ids that
//! was held then, so those blocks come last, when the winner has its row.

use std::{
    collections::HashMap,
    io,
    ops::{ControlFlow, Range},
    os::fd::AsFd as _,
    path::PathBuf,
};

use reel_meta::{FileRow, FileStatus};
use reel_node::lock::FolderLock;
use reel_proto::{path::PathId, table::table_of_user};

use crate::{
    metadata::{Metadata, wait},
    record::{Record, State},
    store::{
        Clock as _, SystemClock, identity,
        inspect::{self, Seal},
        mark, sys, walk,
    },
    verify::{Opened, PassError, at, open},
};

/// Rows of one transaction.
const BATCH: usize = 500;

/// What a rebuild has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Rebuilt {
    /// Files looked at.
    pub files: u64,
    /// Bytes of content read.
    pub bytes: u64,
    /// Rows written.
    pub rows: u64,
    /// Of them, rows of deleted files.
    pub deleted: u64,
    /// Files whose row was right already.
    pub already: u64,
    /// Files of which another copy has the row: reported, left where they are.
    pub duplicates: u64,
    /// Files without a record: uploads that never ended, or files taken over and not adopted.
    pub unsealed: u64,
    /// Files being purged: they get no row.
    pub purging: u64,
    /// Files whose record or content is damaged: they get no row.
    pub damaged: u64,
}

/// Makes the rows of all files in `stores` again. `content`: read every file against its checksum first (else
/// sizes only, and content where two files claim one id). `tell` hears of progress after each folder.
///
/// # Errors
/// [`PassError`]; rows written until then are right, and the next run goes on from the start.
pub fn rebuild_index(
    stores: &[PathBuf],
    content: bool,
    metadata: &Metadata,
    tell: &mut dyn FnMut(&Rebuilt),
) -> Result<Rebuilt, PassError> {
    let mut locks = Vec::new();
    let mut opened = Vec::new();
    for folder in stores {
        opened.push(open(folder)?);
        locks.push(FolderLock::take(&folder.join(identity::FOLDER))?);
    }
    let mut rebuild = Rebuild {
        stores: &opened,
        content,
        metadata,
        done: Rebuilt::default(),
        batch: HashMap::new(),
    };
    let mut held = Vec::new();
    for store in &opened {
        held.push(held_blocks(store)?);
    }
    for (store, held) in opened.iter().zip(&held) {
        rebuild.settled_files(store, held, tell)?;
    }
    for (store, held) in opened.iter().zip(&held) {
        rebuild.held_files(store, held)?;
        tell(&rebuild.done);
    }
    rebuild.flush()?;
    tell(&rebuild.done);
    Ok(rebuild.done)
}

struct Rebuild<'a> {
    stores: &'a [Opened],
    content: bool,
    metadata: &'a Metadata,
    done: Rebuilt,
    /// By table and file id: what makes a row the only one.
    batch: HashMap<(u8, String), FileRow>,
}

/// The blocks that engines held here: what is not settled lies in them.
fn held_blocks(store: &Opened) -> Result<Vec<Range<u64>>, PassError> {
    match mark::read_all(store.root.as_fd()) {
        Ok(marks) => Ok(marks.held()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(&store.folder)(error)),
    }
}

impl Rebuild<'_> {
    /// Every file outside of the held blocks.
    fn settled_files(
        &mut self,
        store: &Opened,
        held: &[Range<u64>],
        tell: &mut dyn FnMut(&Rebuilt),
    ) -> Result<(), PassError> {
        let mut failed = None;
        let walked = walk::leaves(store.root.as_fd(), |leaf| {
            let entries = leaf.entries(store.root.as_fd())?;
            let is_held = |entry: &walk::Entry| held.iter().any(|block| block.contains(&entry.id));
            for entry in entries.into_iter().filter(|entry| !is_held(entry)) {
                if let Err(error) = self.file(store, &entry) {
                    failed = Some(error);
                    return Ok(ControlFlow::Break(()));
                }
            }
            tell(&self.done);
            Ok(ControlFlow::Continue(()))
        });
        walked.map_err(at(&store.folder))?;
        failed.map_or(Ok(()), Err)
    }

    /// Every file in them.
    fn held_files(&mut self, store: &Opened, held: &[Range<u64>]) -> Result<(), PassError> {
        for block in held {
            for leaf in walk::Leaf::covering(block) {
                let entries = leaf.entries(store.root.as_fd()).map_err(at(&store.folder))?;
                for entry in entries.into_iter().filter(|entry| block.contains(&entry.id)) {
                    self.file(store, &entry)?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, store: &Opened, entry: &walk::Entry) -> Result<(), PassError> {
        self.done.files += 1;
        let record = match self.record(store, entry) {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::error!(file = %entry.relative, %error, "cannot be read; it gets no row");
                self.done.damaged += 1;
                return Ok(());
            }
        };
        let path = format!("{}/{}", store.id_key, entry.relative);
        let row = row_of(&record, path);
        let key = (row.table, row.file.clone());
        if let Some(other) = self.row(&key)? {
            if same_row(&other, &row) {
                self.done.already += 1;
                return Ok(());
            }
            // Another owner's row is not ours to judge, whatever became of its file.
            let other_owner = (&other.app, &other.user) != (&row.app, &row.user);
            if other_owner || (other.file_path != row.file_path && self.is_whole(&other)?) {
                tracing::warn!(file = %row.file_path, kept = %other.file_path, other_owner,
                    "a second file of one id; left where it is");
                self.done.duplicates += 1;
                return Ok(());
            }
        }
        self.batch.insert(key, row);
        if self.batch.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// A record to make a row of.
    fn record(&mut self, store: &Opened, entry: &walk::Entry) -> io::Result<Option<Record>> {
        let file = sys::open_to_read(store.root.as_fd(), &entry.relative)?;
        let id = PathId::new(entry.id).map_err(io::Error::other)?;
        let record = match inspect::seal_of(&file, id)? {
            Seal::Good(record) => *record,
            Seal::None => {
                self.done.unsealed += 1;
                return Ok(None);
            }
            Seal::Doubtful(text) => {
                tracing::error!(file = %entry.relative, text, "a damaged record; the file gets no row");
                self.done.damaged += 1;
                return Ok(None);
            }
        };
        if record.state == State::Purging {
            self.done.purging += 1;
            return Ok(None);
        }
        let mut whole = file.metadata()?.len() == record.size;
        if whole && self.content {
            let done = &mut self.done;
            whole = inspect::checksum(&file, |bytes| done.bytes += bytes)?.1 == record.checksum;
            sys::drop_cached(&file);
        }
        if !whole {
            tracing::error!(file = %entry.relative, "the content is not what its record says; the file gets no row");
            self.done.damaged += 1;
            return Ok(None);
        }
        Ok(Some(record))
    }

    fn row(&self, key: &(u8, String)) -> Result<Option<FileRow>, PassError> {
        match self.batch.get(key) {
            Some(row) => Ok(Some(row.clone())),
            None => Ok(wait(self.metadata.get_in(key.0, &key.1))?),
        }
    }

    /// Whether the file of a row holds what the row says, to its last byte.
    fn is_whole(&self, row: &FileRow) -> Result<bool, PassError> {
        let Ok((prefix, id, time)) = PathId::parse_file_path(&row.file_path) else {
            return Ok(false);
        };
        let Some(store) = self.stores.iter().find(|store| store.id_key == prefix) else {
            // A row of a store that is not here: not ours to judge, so it stays.
            return Ok(true);
        };
        let read = sys::open_at(store.root.as_fd(), id.relative(time).as_str(), libc::O_RDONLY)
            .and_then(|file| inspect::checksum(&file, |_| {}));
        Ok(match read {
            Ok((size, checksum)) => {
                size == row.size && row.checksum.is_none_or(|known| known == checksum)
            }
            Err(_) => false,
        })
    }

    fn flush(&mut self) -> Result<(), PassError> {
        let rows: Vec<FileRow> = self.batch.drain().map(|(_, row)| row).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let deleted = rows.iter().filter(|row| row.status == FileStatus::Deleted).count();
        self.done.rows += rows.len() as u64;
        self.done.deleted += deleted as u64;
        Ok(wait(self.metadata.upsert(rows))?)
    }
}

fn same_row(one: &FileRow, other: &FileRow) -> bool {
    one.file_path == other.file_path
        && one.size == other.size
        && one.status == other.status
        && one.checksum == other.checksum
}

fn row_of(record: &Record, file_path: String) -> FileRow {
    let deleted = record.state == State::Deleted;
    FileRow {
        table: table_of_user(record.user.as_str().as_bytes()),
        file: record.file.as_str().to_owned(),
        app: record.app.as_str().to_owned(),
        user: record.user.as_str().to_owned(),
        status: if deleted { FileStatus::Deleted } else { FileStatus::Normal },
        file_path,
        size: record.size,
        created_at: record.created_at,
        updated_at: record.deleted_at.unwrap_or(record.created_at),
        checksum: Some(record.checksum),
        name: record.name.clone(),
        content_type: record.content_type.clone(),
        // Without a time of its deletion a row is never purged: from now on, then.
        deleted_at: deleted.then(|| record.deleted_at.unwrap_or_else(|| SystemClock.now())),
        expires_at: record.expires_at,
    }
}
