//! Which group a file belongs to, where several groups have one database. A row says nothing of it, and the prefix of its
//! place may be the same in all groups, as in a deployed system: its owner's group does.

use std::collections::HashMap;

use reel_meta::{
    FileRow, GroupStore as _, MetaError,
    mysql::{MysqlGroupStore, MysqlOptions},
};
use reel_proto::name::GroupName;
use tokio::runtime::Runtime;

use crate::metadata::RowError;

/// Owners whose group is remembered; more, and all are forgotten.
const KNOWN_MAX: usize = 100_000;

/// What tells the files of a group from those of others. For one thread, which waits for the database.
pub struct Groups {
    own: GroupName,
    runtime: Runtime,
    store: MysqlGroupStore,
    /// Whether the files of an app's user are of another group.
    known: HashMap<(String, String), bool>,
}

impl Groups {
    /// Opens the trackers' database, for the files of the group `own`.
    ///
    /// # Errors
    /// The database's.
    pub fn open(options: &MysqlOptions, own: GroupName) -> Result<Self, RowError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| MetaError::Database { operation: "open", cause: Box::new(error) })?;
        let store = runtime.block_on(MysqlGroupStore::open(options.clone()))?;
        Ok(Self { own, runtime, store, known: HashMap::new() })
    }

    /// Whether a row is of a file of another group. One whose owner has no group is nobody else's.
    ///
    /// # Errors
    /// The database's.
    pub fn is_anothers(&mut self, row: &FileRow) -> Result<bool, RowError> {
        let owner = (row.app.clone(), row.user.clone());
        if let Some(known) = self.known.get(&owner) {
            return Ok(*known);
        }
        let group = self.runtime.block_on(self.store.route(&row.app, &row.user));
        let is_anothers = match group {
            Ok(group) => group.is_some_and(|group| group != self.own.as_str()),
            // Names that no version accepts.
            Err(error) if error.is_callers_fault() => false,
            Err(error) => return Err(error.into()),
        };
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(owner, is_anothers);
        Ok(is_anothers)
    }
}
