//! The tables of the three databases: as the deployed system made them, and what is added to them.
//!
//! Added are columns that an old node need not know (they may be NULL), keys, tables of our own, and the triggers that write
//! the change log. Every text column has a collation that compares by bytes.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::failure::Failure;
use crate::error::MetaError;
use crate::location::Role;

/// Version of all of it. A database with a higher one belongs to a later program.
pub(super) const VERSION: u32 = 2;

/// Says which version a database has.
pub(super) const VERSION_TABLE: &str = "reel_schema";

/// A table that must be there.
pub(super) struct Table {
    pub(super) name: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) primary: &'static str,
    pub(super) keys: &'static [Key],
}

/// A column, and its definition.
pub(super) struct Column(pub(super) &'static str, pub(super) &'static str);

/// A key besides the primary one.
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) columns: &'static str,
    pub(super) unique: bool,
}

/// Lets the database write down itself which rows are changed, whoever changes them.
pub(super) struct Trigger {
    pub(super) name: &'static str,
    /// When it runs, and what it does.
    pub(super) definition: &'static str,
}

const CREATED: Column = Column("create_time", "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP");
const UPDATED: Column = Column(
    "update_time",
    "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP",
);

const VERSIONS: Table = Table {
    name: VERSION_TABLE,
    columns: &[Column("id", "TINYINT NOT NULL"), Column("version", "INT UNSIGNED NOT NULL")],
    primary: "id",
    keys: &[],
};

const TRACKER: &[Table] = &[
    Table {
        name: "t_groups_info",
        columns: &[
            Column("id", "INT UNSIGNED NOT NULL AUTO_INCREMENT"),
            Column("group_name", "VARCHAR(32) NOT NULL"),
            CREATED,
            UPDATED,
        ],
        primary: "id",
        keys: &[Key { name: "reel_group_name", columns: "group_name", unique: true }],
    },
    Table {
        name: "t_router",
        columns: &[
            Column("id", "INT UNSIGNED NOT NULL AUTO_INCREMENT"),
            Column("appid", "VARCHAR(32) NOT NULL"),
            Column("userid", "VARCHAR(128) NOT NULL"),
            Column("group_name", "VARCHAR(32) NOT NULL"),
            CREATED,
            UPDATED,
        ],
        primary: "id",
        keys: &[Key { name: "reel_route", columns: "appid, userid", unique: true }],
    },
    VERSIONS,
];

const IDS: &[Table] = &[
    Table {
        name: "t_id_gen",
        columns: &[
            Column("id", "VARCHAR(64) NOT NULL"),
            Column("id_value", "BIGINT NOT NULL"),
            CREATED,
            UPDATED,
        ],
        primary: "id",
        keys: &[],
    },
    VERSIONS,
];

/// One of the tables of files. Listings of a user's files are found by `reel_user`, those of an app by `reel_app`, state by
/// state and in the order of their times; with the sizes in the keys, totals read nothing else.
macro_rules! files {
    ($name:literal) => {
        Table {
            name: $name,
            columns: &[
                Column("id", "VARCHAR(256) NOT NULL"),
                Column("appid", "VARCHAR(32) NOT NULL"),
                Column("userid", "VARCHAR(128) NOT NULL"),
                Column("status", "TINYINT NOT NULL DEFAULT 0"),
                Column("file_path", "VARCHAR(512) NOT NULL"),
                Column("file_size", "BIGINT NOT NULL"),
                CREATED,
                UPDATED,
                Column("checksum", "BIGINT UNSIGNED NULL"),
                Column("original_name", "VARCHAR(255) NULL"),
                Column("content_type", "VARCHAR(255) NULL"),
                Column("deleted_at", "BIGINT UNSIGNED NULL"),
                Column("expires_at", "BIGINT UNSIGNED NULL"),
            ],
            primary: "id",
            keys: &[
                Key {
                    name: "reel_user",
                    columns: "appid, userid, status, create_time, id, file_size",
                    unique: false,
                },
                Key {
                    name: "reel_app",
                    columns: "appid, status, create_time, id, file_size",
                    unique: false,
                },
                Key { name: "reel_deleted", columns: "deleted_at, id", unique: false },
                Key { name: "reel_expires", columns: "expires_at, id", unique: false },
            ],
        }
    };
}

const STORAGE: &[Table] = &[
    files!("t_file_01"),
    files!("t_file_02"),
    files!("t_file_03"),
    Table {
        name: "reel_left",
        columns: &[Column("file_path", "VARCHAR(512) NOT NULL")],
        primary: "file_path",
        keys: &[],
    },
    Table {
        name: "reel_stores",
        columns: &[
            Column("node", "VARCHAR(128) NOT NULL"),
            Column("path", "VARCHAR(512) NOT NULL"),
            Column("uuid", "VARCHAR(36) NOT NULL"),
            Column("created_at", "BIGINT UNSIGNED NOT NULL"),
        ],
        primary: "node, path",
        keys: &[],
    },
    Table {
        name: "reel_leases",
        columns: &[
            Column("name", "VARCHAR(128) NOT NULL"),
            Column("holder", "VARCHAR(255) NOT NULL"),
            Column("held_until", "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP"),
        ],
        primary: "name",
        keys: &[],
    },
    Table {
        name: "reel_changes",
        columns: &[
            Column("id", "BIGINT UNSIGNED NOT NULL AUTO_INCREMENT"),
            Column("file_id", "VARCHAR(256) NOT NULL"),
            Column("changed_at", "TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP"),
        ],
        primary: "id",
        keys: &[],
    },
    VERSIONS,
];

/// Of each table, what readers remember of a row: a change of anything else is not their business. A new row is not either:
/// nobody remembers that there is none.
macro_rules! triggers {
    ($($table:literal),*) => {
        &[$(
            Trigger {
                name: concat!("reel_", $table, "_update"),
                definition: concat!(
                    "AFTER UPDATE ON ", $table, " FOR EACH ROW \
                     INSERT INTO reel_changes (file_id) SELECT OLD.id FROM DUAL WHERE NOT \
                     (NEW.id <=> OLD.id AND NEW.appid <=> OLD.appid AND NEW.userid <=> OLD.userid \
                     AND NEW.status <=> OLD.status AND NEW.file_path <=> OLD.file_path \
                     AND NEW.file_size <=> OLD.file_size AND NEW.expires_at <=> OLD.expires_at)"
                ),
            },
            Trigger {
                name: concat!("reel_", $table, "_delete"),
                definition: concat!(
                    "AFTER DELETE ON ", $table, " FOR EACH ROW INSERT INTO reel_changes (file_id) VALUES (OLD.id)"
                ),
            },
        )*]
    };
}

const CHANGES: &[Trigger] = triggers!("t_file_01", "t_file_02", "t_file_03");

impl Role {
    pub(super) fn tables(self) -> &'static [Table] {
        match self {
            Self::Tracker => TRACKER,
            Self::Ids => IDS,
            Self::Storage => STORAGE,
        }
    }

    pub(super) fn triggers(self) -> &'static [Trigger] {
        match self {
            Self::Tracker | Self::Ids => &[],
            Self::Storage => CHANGES,
        }
    }
}

/// The names of the triggers that a database has, as far as the account may see them.
pub(super) async fn triggers(conn: &mut Conn, database: &str) -> Result<Vec<String>, Failure> {
    let found = conn.exec(
        "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = ?",
        (database,),
    );
    Ok(found.await?)
}

/// The version that a database has; none where no migration has run.
pub(super) async fn version(conn: &mut Conn) -> Result<Option<u32>, Failure> {
    let found = conn.query_first("SELECT version FROM reel_schema WHERE id = 1").await;
    match found.map_err(Failure::from) {
        Err(failure) if failure.is_missing_table() => Ok(None),
        found => found,
    }
}

/// Refuses a database whose tables are not those of this version.
pub(super) async fn check_version(conn: &mut Conn, database: &str) -> Result<(), Failure> {
    let path = database.into();
    match version(conn).await? {
        Some(VERSION) => Ok(()),
        Some(found) if found > VERSION => {
            let (found, known) = (i64::from(found), i64::from(VERSION));
            Err(Failure::Meta(MetaError::TooNew { path, found, known }))
        }
        _ => Err(Failure::Meta(MetaError::Open {
            path,
            cause: "its tables are not those of this version; `reel migrate` brings them to it"
                .into(),
        })),
    }
}
