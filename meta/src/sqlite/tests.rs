//! The contract on SQLite, and what is SQLite's own: migrations, wrong files, a failed commit.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::database::Database;
use super::migrate::{STORAGE, TRACKER};
use super::{SqliteCheckpointer, SqliteFileStore, SqliteGroupStore, SqliteSequenceStore, inline};
use crate::contract::{self, Source};
use crate::{FileStatus, FileStore, GroupStore, MetaError, NewFile};

/// A database in a folder of its own.
struct Folder<S> {
    folder: tempfile::TempDir,
    open: fn(&Path) -> Result<S, MetaError>,
}

impl<S> Source for Folder<S> {
    type Store = S;

    async fn open(&self) -> S {
        (self.open)(&self.folder.path().join("meta/test.db")).unwrap()
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        inline(future)
    }
}

fn folder<S>(open: fn(&Path) -> Result<S, MetaError>) -> impl Fn() -> Folder<S> {
    move || Folder { folder: tempfile::tempdir().unwrap(), open }
}

#[test]
fn groups_keep_the_contract() {
    contract::group_store(folder(SqliteGroupStore::open));
}

#[test]
fn sequences_keep_the_contract() {
    contract::sequence_store(folder(SqliteSequenceStore::open));
}

#[test]
fn files_keep_the_contract() {
    contract::file_store(folder(SqliteFileStore::open));
}

fn new_file(file: &str) -> NewFile {
    NewFile {
        file: file.to_owned(),
        app: "tnvideo".to_owned(),
        user: "tnv001".to_owned(),
        file_path: format!("/data/{file}"),
        size: 1,
        created_at: 5,
        checksum: None,
        name: None,
        content_type: None,
        expires_at: None,
        deleted_at: None,
    }
}

fn path_in(folder: &tempfile::TempDir) -> PathBuf {
    folder.path().join("test.db")
}

#[test]
fn a_reader_sees_what_is_committed_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    assert!(matches!(SqliteFileStore::open_reader(&path), Err(MetaError::Open { .. })));
    let mut writer = SqliteFileStore::open(&path).unwrap();
    let mut reader = SqliteFileStore::open_reader(&path).unwrap();
    assert_eq!(inline(reader.get(None, "a")).unwrap(), None);
    inline(writer.insert(&[new_file("a")])).unwrap();
    assert!(inline(reader.get(None, "a")).unwrap().is_some());
    let refused = inline(reader.insert(&[new_file("b")]));
    assert!(matches!(refused, Err(MetaError::ReadOnly { .. })), "{refused:?}");
    assert!(inline(writer.checkpoint()).unwrap());
    assert!(inline(reader.get(None, "a")).unwrap().is_some());
}

#[test]
fn a_deployed_database_is_upgraded_in_place_and_twice_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let deployed = Connection::open(&path).unwrap();
    for table in ["t_file_01", "t_file_02", "t_file_03"] {
        deployed
            .execute_batch(&format!(
                "CREATE TABLE {table} (id TEXT NOT NULL PRIMARY KEY, appid TEXT NOT NULL,
                    userid TEXT NOT NULL, status INTEGER NOT NULL DEFAULT 0,
                    file_path TEXT NOT NULL, file_size INTEGER NOT NULL,
                    create_time INTEGER NOT NULL DEFAULT 7, update_time INTEGER NOT NULL DEFAULT 8)"
            ))
            .unwrap();
    }
    deployed
        .execute_batch(
            "INSERT INTO t_file_02 (id, appid, userid, status, file_path, file_size)
             VALUES ('old', 'tnvideo', 'tnv001', 1, '../data/000/000/000/7_001', 3)",
        )
        .unwrap();
    drop(deployed);
    for _ in 0..2 {
        let mut store = SqliteFileStore::open(&path).unwrap();
        let row = inline(store.get(None, "old")).unwrap().unwrap();
        assert_eq!((row.status, row.created_at, row.updated_at), (FileStatus::Deleted, 7, 8));
        assert_eq!((row.checksum, row.deleted_at), (None, None));
        assert_eq!(row.file_path, "../data/000/000/000/7_001");
    }
    // A step that ran without its version having been written runs again.
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 0).unwrap();
    drop(connection);
    let mut store = SqliteFileStore::open(&path).unwrap();
    assert!(inline(store.get(None, "old")).unwrap().is_some());
    drop(store);
    // The version before stores were expected.
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch("DROP TABLE reel_stores; DROP TABLE reel_left; PRAGMA user_version = 3")
        .unwrap();
    drop(connection);
    let mut store = SqliteFileStore::open(&path).unwrap();
    assert_eq!(inline(store.expected_store("node", "/srv")).unwrap(), None);
    inline(store.expect_store("node", "/srv", "uuid", 7)).unwrap();
    assert!(inline(store.get(None, "old")).unwrap().is_some());
}

#[test]
fn routes_recorded_twice_in_the_past_are_merged_into_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let deployed = Connection::open(&path).unwrap();
    deployed
        .execute_batch(
            "CREATE TABLE t_groups_info (id INTEGER PRIMARY KEY AUTOINCREMENT,
                group_name TEXT, create_time INTEGER, update_time INTEGER);
             CREATE TABLE t_router (id INTEGER PRIMARY KEY AUTOINCREMENT, appid TEXT, userid TEXT,
                group_name TEXT, create_time INTEGER, update_time INTEGER);
             INSERT INTO t_groups_info (group_name) VALUES ('a'), ('b'), ('a');
             INSERT INTO t_router (appid, userid, group_name)
                VALUES ('app', 'u', 'b'), ('app', 'u', 'a'), ('app', 'v', 'a');",
        )
        .unwrap();
    drop(deployed);
    let mut store = SqliteGroupStore::open(&path).unwrap();
    assert_eq!(inline(store.groups()).unwrap(), ["a", "b"]);
    assert_eq!(inline(store.route("app", "u")).unwrap().as_deref(), Some("b"));
    assert_eq!(inline(store.route("app", "v")).unwrap().as_deref(), Some("a"));
}

#[test]
fn a_wrong_file_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    drop(SqliteGroupStore::open(&path).unwrap());
    let refused = SqliteFileStore::open(&path);
    assert!(matches!(refused, Err(MetaError::WrongDatabase { .. })), "{refused:?}");

    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 900).unwrap();
    drop(connection);
    let refused = SqliteGroupStore::open(&path);
    assert!(matches!(refused, Err(MetaError::TooNew { found: 900, .. })), "{refused:?}");

    let text = folder.path().join("text.db");
    std::fs::write(&text, "this is not a database, but long enough to be read as one".repeat(50))
        .unwrap();
    let refused = SqliteGroupStore::open(&text);
    assert!(matches!(refused, Err(MetaError::Open { .. })), "{refused:?}");
    assert!(std::fs::read_to_string(&text).unwrap().starts_with("this is not"));
}

#[test]
fn the_database_is_durable_and_compares_by_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open(&path_in(&folder), &STORAGE).unwrap();
    let number = |pragma: &str| {
        database.connection().pragma_query_value(None, pragma, |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(number("synchronous"), 2, "FULL");
    let mode: String =
        database.connection().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    assert_eq!(number("trusted_schema"), 0);
}

#[test]
fn nothing_is_answered_after_a_failed_commit_until_another_has_succeeded() {
    let folder = tempfile::tempdir().unwrap();
    let path = path_in(&folder);
    let mut database = Database::open(&path, &TRACKER).unwrap();
    let commits = |database: &mut Database| {
        database.read("test", |connection| {
            connection.query_row("SELECT commits FROM reel_settle", [], |row| row.get::<_, i64>(0))
        })
    };
    assert_eq!(commits(&mut database).unwrap(), 0);
    database.set_unsettled();
    assert_eq!(commits(&mut database).unwrap(), 1, "a commit came first");
    assert_eq!(commits(&mut database).unwrap(), 1, "once");

    // While no commit succeeds (here: another writer holds the file), nothing is answered.
    let blocker = Connection::open(&path).unwrap();
    database.connection().busy_timeout(std::time::Duration::from_millis(1)).unwrap();
    blocker.execute_batch("BEGIN IMMEDIATE").unwrap();
    database.set_unsettled();
    let answer = commits(&mut database);
    assert!(answer.as_ref().is_err_and(MetaError::outcome_unknown), "{answer:?}");
    blocker.execute_batch("ROLLBACK").unwrap();
    assert_eq!(commits(&mut database).unwrap(), 2);
}

#[test]
fn the_position_goes_with_the_change_and_only_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage.db");
    let mut store = SqliteFileStore::open(&path).unwrap();
    let position = |store: &mut SqliteFileStore| inline(store.journal_position()).unwrap();
    assert_eq!(position(&mut store), Some(0));
    inline(store.sync_commits(false)).unwrap();
    inline(store.begin(Some(7))).unwrap();
    inline(store.insert(&[new_file("a")])).unwrap();
    let mut other = SqliteFileStore::open_reader(&path).unwrap();
    assert_eq!(position(&mut other), Some(0), "nothing is committed yet");
    inline(store.commit()).unwrap();
    assert_eq!(position(&mut other), Some(7));
    inline(store.insert(&[new_file("b")])).unwrap();
    assert_eq!(position(&mut store), Some(7), "said once");

    // Changes that are refused take the position along, and what came before them in the transaction.
    inline(store.begin(Some(9))).unwrap();
    inline(store.insert(&[new_file("c")])).unwrap();
    store.database().connection().execute_batch("DROP TABLE t_file_02").unwrap();
    assert!(inline(store.insert(&[new_file("d")])).is_err());
    assert!(inline(store.insert(&[new_file("e")])).is_err(), "only a rollback is left");
    assert!(inline(store.commit()).is_err());
    assert_eq!(position(&mut store), Some(7));
    assert_eq!(inline(store.get(None, "c")).unwrap(), None);
    inline(store.insert(&[new_file("f")])).unwrap();
    inline(store.begin(None)).unwrap();
    inline(store.insert(&[new_file("g")])).unwrap();
    inline(store.roll_back());
    assert_eq!(inline(store.get(None, "g")).unwrap(), None);
}

#[test]
fn a_checkpoint_beside_the_writer_takes_in_what_was_committed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("storage.db");
    let mut store = SqliteFileStore::open(&path).unwrap();
    let mut checkpointer = SqliteCheckpointer::open(&path).unwrap();
    inline(store.sync_commits(false)).unwrap();
    for number in 0..300 {
        inline(store.insert(&[new_file(&format!("f{number}"))])).unwrap();
    }
    let done = checkpointer.run().unwrap();
    assert!(done.whole && done.log_pages > 0, "{done:?}");
    // The database file alone has everything: what its log would add is not needed any more.
    let copy = folder.path().join("copy.db");
    std::fs::copy(&path, &copy).unwrap();
    let rows: i64 = Connection::open(&copy)
        .unwrap()
        .query_row("SELECT count(*) FROM t_file_02", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 300);
    // Then the writer begins the log anew, so that it does not grow for ever.
    assert!(inline(store.checkpoint()).unwrap());
    inline(store.insert(&[new_file("last")])).unwrap();
    assert!(checkpointer.run().unwrap().log_pages < done.log_pages);
}
