//! Where a role's metadata lies.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::mysql::MysqlOptions;
use crate::sqlite::{IDGEN_FILE, STORAGE_FILE, TRACKER_FILE};

/// Whose database it is: the deployed system has three.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The tracker's: legal groups, and which group serves a user.
    Tracker,
    /// The ID node's: sequences.
    Ids,
    /// The storage nodes': one row for each file.
    Storage,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tracker, Self::Ids, Self::Storage];

    /// The name of the shared database where the deployed system put it.
    #[must_use]
    pub fn database(self) -> &'static str {
        match self {
            Self::Tracker => "tnv_trackerdb",
            Self::Ids => "tnv_idsdb",
            Self::Storage => "tnv_storagedb",
        }
    }

    /// The name of the embedded database's file.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Tracker => TRACKER_FILE,
            Self::Ids => IDGEN_FILE,
            Self::Storage => STORAGE_FILE,
        }
    }
}

/// The database of one role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// A SQLite file on this machine, for one process.
    Embedded(PathBuf),
    /// A database that nodes share.
    Shared(MysqlOptions),
}

impl Location {
    /// A role's embedded database in the folder of all of them.
    #[must_use]
    pub fn embedded(folder: &Path, role: Role) -> Self {
        Self::Embedded(folder.join(role.file()))
    }

    /// Whether other nodes can have it, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Shared(_))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded(path) => path.display().fmt(f),
            Self::Shared(options) => {
                write!(f, "{} at ", options.database)?;
                for (index, (host, port)) in options.servers.iter().enumerate() {
                    let between = if index == 0 { "" } else { ", " };
                    write!(f, "{between}{host}:{port}")?;
                }
                Ok(())
            }
        }
    }
}
