//! Metadata in a real MariaDB: the contract of all stores, migrations, and what becomes of calls when the server fails.
#![allow(clippy::unwrap_used)]

use std::future::Future;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use reel_meta::contract::{self, Source};
use reel_meta::mysql::{
    MysqlFileStore, MysqlGroupStore, MysqlOptions, MysqlSequenceStore, migrate,
};
use reel_meta::{
    FileStatus, FileStore, GroupStore, InsertOutcome, MetaError, Role, Selection, SequenceStore,
    StatusFilter,
};
use reel_tests::database::{block_on, create, is_installed, new_file, operator, said, store_on};
use reel_tests::mariadb::MariaDb;
use reel_tests::process::Up;
use reel_tests::proxy::{Fault, Proxy};
use reel_tests::stored::files_below;

struct Database<S> {
    options: MysqlOptions,
    open: fn(MysqlOptions) -> S,
}

impl<S> Source for Database<S> {
    type Store = S;

    async fn open(&self) -> S {
        (self.open)(self.options.clone())
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        block_on(future)
    }
}

fn fresh<S>(server: &MariaDb, role: Role, open: fn(MysqlOptions) -> S) -> impl Fn() -> Database<S> {
    move || Database { options: block_on(create(server, role)).unwrap(), open }
}

#[test]
fn all_three_keep_the_contract() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    contract::group_store(fresh(&server, Role::Tracker, MysqlGroupStore::new));
    contract::sequence_store(fresh(&server, Role::Ids, MysqlSequenceStore::new));
    contract::file_store(fresh(&server, Role::Storage, MysqlFileStore::new));
}

/// The answer to a COMMIT is an OK packet of 11 bytes, the request one of 11: cut at each of them.
#[test]
fn a_commit_without_an_answer_is_told_and_then_settled() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let direct = block_on(create(&server, Role::Storage)).unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let through = MysqlOptions { servers: vec![proxy.address()], ..direct.clone() };
    let faults = (0..=11).flat_map(|bytes| [Fault::CutRequest(bytes), Fault::CutAnswer(bytes)]);
    let (mut committed, mut lost, mut answered) = (0, 0, 0);
    block_on(async {
        let mut store = MysqlFileStore::new(through);
        let mut other = MysqlFileStore::new_reader(direct);
        for (index, fault) in faults.enumerate() {
            let new = new_file("tnv001", &format!("file{index}"), &format!("/data/{index}"));
            store.connect().await.unwrap();
            proxy.arm("COMMIT", fault);
            let inserted = store.insert(std::slice::from_ref(&new)).await;
            assert!(!proxy.is_armed(), "{fault:?}");
            match &inserted {
                Ok(outcomes) => {
                    assert_eq!(outcomes.as_slice(), [InsertOutcome::Inserted]);
                    answered += 1;
                }
                Err(error) => assert!(error.outcome_unknown(), "{fault:?}: {error}"),
            }
            let found = store.get_owned("tnvideo", "tnv001", &new.file).await.unwrap();
            let truth = other.get(None, &new.file).await.unwrap();
            assert_eq!(found, truth, "{fault:?}");
            assert!(found.is_some() || inserted.is_err(), "{fault:?}: acknowledged and lost");
            if inserted.is_err() {
                *(if found.is_some() { &mut committed } else { &mut lost }) += 1;
            }
            // The retry of whoever uploads.
            let again = store.insert(std::slice::from_ref(&new)).await.unwrap();
            match (&again[0], found) {
                (InsertOutcome::Exists(row), Some(found)) => assert_eq!(**row, found),
                (InsertOutcome::Inserted, None) => {}
                (outcome, found) => panic!("{fault:?}: {outcome:?}, {found:?}"),
            }
        }
        let of = Selection::of_user("tnvideo", "tnv001");
        let (rows, _) = other.list(&of, None, 100).await.unwrap();
        assert_eq!(rows.len(), 24, "one row each");
    });
    println!("{committed} had been committed, {lost} had not, {answered} were answered");
    assert!(committed > 0 && lost > 0);
}

/// The COMMIT is still on its way when its sender gives up: nothing that was read after that may change by it.
#[test]
fn a_commit_that_comes_late_commits_nothing_any_more() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let direct = block_on(create(&server, Role::Storage)).unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let through = MysqlOptions {
        servers: vec![proxy.address()],
        statement_timeout: Duration::from_secs(1),
        ..direct.clone()
    };
    block_on(async {
        let mut store = MysqlFileStore::new(through);
        let new = new_file("tnv001", "late", "/data/1");
        store.connect().await.unwrap();
        proxy.arm("COMMIT", Fault::Delay(Duration::from_secs(3)));
        let error = store.insert(std::slice::from_ref(&new)).await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        assert_eq!(store.get_owned("tnvideo", "tnv001", "late").await.unwrap(), None);
        tokio::time::sleep(Duration::from_secs(4)).await;
        let mut other = MysqlFileStore::new_reader(direct);
        assert_eq!(other.get(None, "late").await.unwrap(), None, "still");
        let outcomes = store.insert(&[new]).await.unwrap();
        assert_eq!(outcomes, [InsertOutcome::Inserted]);
    });
}

#[test]
fn a_server_that_dies_and_comes_back_costs_errors_and_no_rows() {
    if !is_installed() {
        return;
    }
    let mut server = MariaDb::start().unwrap();
    let files = block_on(create(&server, Role::Storage)).unwrap();
    let ids = block_on(create(&server, Role::Ids)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut store = MysqlFileStore::new(files.clone());
    let mut reader = MysqlFileStore::new_reader(files);
    let mut sequences = MysqlSequenceStore::new(ids);
    let mut next = 0;
    for round in 0..5 {
        let new = new_file("bob", &format!("file{round}"), &format!("/data/{round}"));
        // The connections of the round before are dead, and nobody has noticed.
        let outcomes = runtime.block_on(store.insert(std::slice::from_ref(&new))).unwrap();
        assert_eq!(outcomes, [InsertOutcome::Inserted]);
        assert!(runtime.block_on(reader.get(None, &new.file)).unwrap().is_some());
        let block = runtime.block_on(sequences.take("../data", 10, 0)).unwrap();
        assert!(block.start >= next, "{block:?} again");
        next = block.end;
        server.kill().unwrap();
        let error = runtime.block_on(reader.get(None, &new.file)).unwrap_err();
        assert!(matches!(error, MetaError::Unavailable { .. }), "{error}");
        let error = runtime.block_on(store.insert(std::slice::from_ref(&new))).unwrap_err();
        assert!(error.retryable() && !error.outcome_unknown(), "{error}");
        server.run().unwrap();
        // Whoever was refused a moment ago is refused for that moment.
        std::thread::sleep(Duration::from_millis(2100));
    }
    let page = runtime.block_on(reader.list(&Selection::of_user("tnvideo", "bob"), None, 10));
    assert_eq!(page.unwrap().0.len(), 5);
}

#[test]
fn the_second_server_is_used_while_the_first_is_away() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let tracker = block_on(create(&server, Role::Tracker)).unwrap();
    // A port where nobody listens any more.
    let away = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let servers = vec![("127.0.0.1".to_owned(), away), server.address()];
    let both = MysqlOptions { servers, ..tracker.clone() };
    block_on(async {
        let mut store = MysqlGroupStore::new(both);
        assert!(store.add_group("group001").await.unwrap());
        let mut conn = operator(&server, &tracker.database).await.unwrap();
        conn.query_drop("SET GLOBAL read_only = 1").await.unwrap();
        let error = MysqlGroupStore::open(tracker.clone()).await.map(drop).unwrap_err();
        assert!(said(&error).contains("read only"), "{error}");
        conn.query_drop("SET GLOBAL read_only = 0, GLOBAL innodb_flush_log_at_trx_commit = 2")
            .await
            .unwrap();
        let error = MysqlGroupStore::open(tracker).await.map(drop).unwrap_err();
        assert!(said(&error).contains("innodb_flush_log_at_trx_commit"), "{error}");
    });
}

/// The three databases as the deployed system leaves them, with rows that make trouble.
async fn deploy(conn: &mut Conn, tracker: &str, ids: &str, storage: &str) {
    const TIMES: &str = "create_time timestamp NULL DEFAULT CURRENT_TIMESTAMP, \
        update_time timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP";
    const ENGINE: &str = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci";
    for database in [tracker, ids, storage] {
        let sql = format!(
            "CREATE DATABASE `{database}` DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_general_ci"
        );
        conn.query_drop(sql).await.unwrap();
    }
    let mut statements = vec![
        format!("USE `{tracker}`"),
        format!(
            "CREATE TABLE t_groups_info (id int unsigned NOT NULL AUTO_INCREMENT, group_name varchar(32) DEFAULT NULL, \
             {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ),
        format!(
            "CREATE TABLE t_router (id int unsigned NOT NULL AUTO_INCREMENT, appid varchar(32) DEFAULT NULL, \
             userid varchar(128) DEFAULT NULL, group_name varchar(32) DEFAULT NULL, {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ),
        "INSERT INTO t_groups_info (group_name) VALUES ('group001'), ('group002'), ('group001')".to_owned(),
        "INSERT INTO t_router (appid, userid, group_name) VALUES ('tnvideo', 'tnv001', 'group001'), \
         ('tnvideo', 'tnv001', 'group002'), ('tnvideo', 'TNV001', 'group002'), ('tnvideo', 'tnv002', 'group002')"
            .to_owned(),
        format!("USE `{ids}`"),
        format!(
            "CREATE TABLE t_id_gen (id varchar(64) NOT NULL, id_value bigint DEFAULT NULL, {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ),
        "INSERT INTO t_id_gen (id, id_value) VALUES ('../data', 700)".to_owned(),
        format!("USE `{storage}`"),
    ];
    for table in 1..=3 {
        statements.push(format!(
            "CREATE TABLE t_file_0{table} (id varchar(256) NOT NULL, appid varchar(32) DEFAULT NULL, \
             userid varchar(128) DEFAULT NULL, status tinyint DEFAULT 0, file_path varchar(512) DEFAULT NULL, \
             file_size bigint DEFAULT NULL, {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ));
    }
    statements.push(
        "INSERT INTO t_file_02 (id, appid, userid, status, file_path, file_size, create_time, update_time) VALUES \
         ('film.mp4', 'tnvideo', 'tnv001', 0, '../data/000/000/000/65F1560C_001', 9, '2024-03-13 07:31:24', '2024-03-14 08:00:00'), \
         ('gone.mp4', 'tnvideo', 'tnv001', 1, '../data/000/000/000/65F1560C_002', 9, '2024-03-13 07:31:24', '2024-03-14 08:00:00')"
            .to_owned(),
    );
    // Columns may be NULL there, and somebody's hand may have made them so.
    statements.push("INSERT INTO t_file_03 (id, status) VALUES ('odd', NULL)".to_owned());
    statements.push(format!("INSERT INTO `{ids}`.t_id_gen (id) VALUES ('odd')"));
    statements.push(format!("INSERT INTO `{tracker}`.t_groups_info (group_name) VALUES (NULL)"));
    statements.push(format!(
        "INSERT INTO `{tracker}`.t_router (appid, userid) VALUES ('tnvideo', 'odd')"
    ));
    for statement in statements {
        conn.query_drop(statement).await.unwrap();
    }
}

/// Everything that the three databases hold, as text.
async fn dump(conn: &mut Conn, databases: &[&str]) -> String {
    let mut text = String::new();
    for database in databases {
        let tables: Vec<String> =
            conn.query(format!("SHOW TABLES FROM `{database}`")).await.unwrap();
        for table in tables {
            let created: Option<(String, String)> = conn
                .query_first(format!("SHOW CREATE TABLE `{database}`.`{table}`"))
                .await
                .unwrap();
            text += &created.unwrap().1;
            let rows: Vec<mysql_async::Row> = conn
                .query(format!("SELECT * FROM `{database}`.`{table}` ORDER BY 1"))
                .await
                .unwrap();
            for row in rows {
                text += &format!("\n{:?}", row.unwrap());
            }
            text += "\n";
        }
    }
    text
}

#[test]
fn a_deployed_database_is_taken_over_where_it_is() {
    if !is_installed() {
        return;
    }
    // An hour that comes twice in autumn, and a server that does not count in UTC.
    let server = MariaDb::start_with(&["--default-time-zone=+02:00"]).unwrap();
    let names = [server.database(), server.database(), server.database()];
    let [tracker, ids, storage] = names.each_ref().map(String::as_str);
    let options = |role: Role, database: &str| MysqlOptions {
        database: database.to_owned(),
        ..MysqlOptions::new(role, vec![server.address()], "root")
    };
    let all =
        [options(Role::Tracker, tracker), options(Role::Ids, ids), options(Role::Storage, storage)];
    block_on(async {
        let mut conn = operator(&server, "").await.unwrap();
        deploy(&mut conn, tracker, ids, storage).await;
        let before = dump(&mut conn, &[tracker, ids, storage]).await;

        let mut store = MysqlFileStore::new(all[2].clone());
        let error = store.connect().await.unwrap_err();
        assert!(said(&error).contains("reel migrate"), "{error}");

        let mut clashes = Vec::new();
        for (role, options) in Role::ALL.into_iter().zip(&all) {
            let planned = migrate(options, role, true).await.unwrap();
            assert!(!planned.steps.is_empty());
            clashes.extend(planned.clashes);
        }
        assert_eq!(dump(&mut conn, &[tracker, ids, storage]).await, before, "a dry run");
        assert_eq!(clashes.len(), 1, "{clashes:?}");
        assert!(clashes[0].contains("tnv001") && clashes[0].contains("TNV001"), "{clashes:?}");

        for (role, options) in Role::ALL.into_iter().zip(&all) {
            migrate(options, role, false).await.unwrap();
        }
        let after = dump(&mut conn, &[tracker, ids, storage]).await;
        for (role, options) in Role::ALL.into_iter().zip(&all) {
            let second = migrate(options, role, false).await.unwrap();
            assert_eq!(second, reel_meta::mysql::Migration::default(), "{role:?}");
        }
        assert_eq!(dump(&mut conn, &[tracker, ids, storage]).await, after, "a second run");

        tokio::time::sleep(Duration::from_millis(200)).await;
        let film = store.get(None, "film.mp4").await.unwrap().unwrap();
        assert_eq!((film.user.as_str(), film.size, film.checksum), ("tnv001", 9, None));
        // Written at +02:00, as the deployed node meant it.
        assert_eq!((film.created_at, film.updated_at), (1_710_307_884, 1_710_396_000));
        assert_eq!(film.file_path, "../data/000/000/000/65F1560C_001");
        let of = Selection::of_user("tnvideo", "tnv001").in_state(StatusFilter::Deleted);
        let (rows, _) = store.list(&of, None, 10).await.unwrap();
        assert_eq!(rows[0].file, "gone.mp4");
        assert!(store.deleted_before(u64::MAX / 2, None, 10).await.unwrap().rows.is_empty());
        // An old node goes on.
        conn.query_drop(format!(
            "INSERT INTO `{storage}`.t_file_02 (id, appid, userid, status, file_path, file_size) \
             VALUES ('new.mp4', 'tnvideo', 'tnv001', 0, '../data/000/000/000/65F1560D_003', 3)"
        ))
        .await
        .unwrap();
        assert_eq!(store.get(None, "new.mp4").await.unwrap().unwrap().size, 3);

        let mut groups = MysqlGroupStore::new(all[0].clone());
        assert_eq!(groups.groups().await.unwrap(), ["group001", "group002"]);
        for (user, group) in
            [("tnv001", "group001"), ("TNV001", "group002"), ("tnv002", "group002")]
        {
            assert_eq!(groups.route("tnvideo", user).await.unwrap().as_deref(), Some(group));
        }
        assert_eq!(groups.route("tnvideo", "odd").await.unwrap(), None);
        let odd = store.get(None, "odd").await.unwrap().unwrap();
        assert_eq!((odd.user.as_str(), odd.status), ("", FileStatus::Deleted), "nobody's");
        assert_eq!(store.scan(None, 100).await.unwrap().rows.len(), 4, "no page stops at it");
        let mut sequences = MysqlSequenceStore::new(all[1].clone());
        let refused = sequences.take("odd", 100, 0).await;
        assert!(matches!(refused, Err(MetaError::Corrupt { .. })), "{refused:?}");
        assert_eq!(sequences.take("../data", 100, 0).await.unwrap(), 700..800);
    });
}

/// The deployed columns may allow it: such a row is as old as can be, and deleted unless it says otherwise.
#[test]
fn a_row_that_does_not_say_when_it_was_made_is_listed_first() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let options = block_on(create(&server, Role::Storage)).unwrap();
    block_on(async {
        let mut conn = operator(&server, &options.database).await.unwrap();
        conn.query_drop(
            "ALTER TABLE t_file_02 MODIFY create_time TIMESTAMP NULL, MODIFY status TINYINT NULL",
        )
        .await
        .unwrap();
        for (id, status, time) in [
            // Its size is said to be negative.
            ("a", "0", "NULL"),
            ("b", "NULL", "NULL"),
            ("c", "7", "NULL"),
            ("d", "0", "NULL"),
            ("e", "NULL", "FROM_UNIXTIME(20)"),
            ("f", "0", "FROM_UNIXTIME(10)"),
            ("g", "-1", "FROM_UNIXTIME(10)"),
        ] {
            conn.query_drop(format!(
                "INSERT INTO t_file_02 (id, appid, userid, status, file_path, file_size, create_time) \
                 VALUES ('{id}', 'tnvideo', 'tnv001', {status}, '../data', IF('{id}' = 'a', -1, 3), {time})"
            ))
            .await
            .unwrap();
        }
        let mut store = MysqlFileStore::new_reader(options.clone());
        for of in [Selection::of_user("tnvideo", "tnv001"), Selection::of_app("tnvideo")] {
            for (filter, since, expected) in [
                (StatusFilter::Any, 0, "abcdfge"),
                (StatusFilter::Normal, 0, "adf"),
                (StatusFilter::Deleted, 0, "bcge"),
                (StatusFilter::Any, 1, "fge"),
                (StatusFilter::Any, u64::MAX - 1, ""),
            ] {
                let of = Selection { filter, since, ..of.clone() };
                let mut ids = String::new();
                let mut after = None;
                loop {
                    let (rows, next) = store.list(&of, after.as_ref(), 1).await.unwrap();
                    ids.extend(rows.iter().map(|row| row.file.as_str()));
                    after = next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(ids, expected, "{of:?}");
                let (mut files, mut after) = (0, None);
                loop {
                    let (totals, next) = store.total(&of, after.as_ref(), 1).await.unwrap();
                    files += totals.normal.files + totals.deleted.files;
                    after = next;
                    if after.is_none() {
                        break;
                    }
                }
                assert_eq!(files, expected.len() as u64, "{of:?}");
            }
        }
    });
}

/// A deployed id may have 256 characters, of up to four bytes: more than a cursor takes.
#[test]
fn a_row_that_no_cursor_can_name_stops_no_listing() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let up = store_on(&server, server.address(), "root", &folder.path().join("data")).unwrap();
    let store = up.start().unwrap();
    let path = folder.path().join("a");
    std::fs::write(&path, b"content").unwrap();
    store.reel(&["put", path.to_str().unwrap(), "--id", "last"]).unwrap();
    let client = store.client().unwrap();
    block_on(async {
        let mut conn = operator(&server, Role::Storage.database()).await.unwrap();
        conn.query_drop(
            "INSERT INTO t_file_02 (id, appid, userid, status, file_path, file_size, create_time) \
             SELECT CONCAT(seq, REPEAT('\u{e9}', 200)), 'tnvideo', 'tnv001', 0, '../data', 3, FROM_UNIXTIME(seq) \
             FROM seq_1_to_5",
        )
        .await
        .unwrap();
        let (app, user) = ("tnvideo".parse().unwrap(), "tnv001".parse().unwrap());
        let of = reel_client::Selection::of_user(app, user);
        let page = client.list(&of, None, 1).await.unwrap();
        assert_eq!((page.files.len(), page.left_out, page.next), (1, 5, None));
        assert_eq!(page.files[0].file.as_str(), "last");
        let (normal, _) = client.usage(&of).await.unwrap();
        assert_eq!((normal.files, normal.bytes), (6, 5 * 3 + 7));
    });
    store.drain().unwrap();
}

/// Keys of a database that an earlier version has migrated are made anew where they are others now.
#[test]
fn a_key_that_has_changed_is_made_anew() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let options = block_on(create(&server, Role::Storage)).unwrap();
    block_on(async {
        let mut conn = operator(&server, &options.database).await.unwrap();
        conn.query_drop(
            "ALTER TABLE t_file_01 DROP KEY reel_app, DROP KEY reel_user, ADD KEY reel_user (userid, appid, status, id)",
        )
        .await
        .unwrap();
        conn.query_drop("UPDATE reel_schema SET version = 1").await.unwrap();
        let error = MysqlFileStore::open(options.clone()).await.map(drop).unwrap_err();
        assert!(said(&error).contains("reel migrate"), "{error}");
        let done = migrate(&options, Role::Storage, false).await.unwrap();
        let steps: Vec<&str> = done.steps.iter().map(|step| step.what.as_str()).collect();
        assert_eq!(steps.len(), 3, "{steps:?}");
        assert!(steps[0].contains("changes the key reel_user of t_file_01"), "{steps:?}");
        assert!(steps[1].contains("adds the key reel_app of t_file_01"), "{steps:?}");
        assert!(migrate(&options, Role::Storage, false).await.unwrap().steps.is_empty());
        MysqlFileStore::open(options).await.unwrap();
    });
}

#[test]
fn a_database_of_a_later_version_is_left_alone() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let options = block_on(create(&server, Role::Ids)).unwrap();
    block_on(async {
        let mut conn = operator(&server, &options.database).await.unwrap();
        conn.query_drop("UPDATE reel_schema SET version = 99").await.unwrap();
        let refused = migrate(&options, Role::Ids, false).await;
        assert!(matches!(refused, Err(MetaError::TooNew { found: 99, .. })), "{refused:?}");
        let error = MysqlSequenceStore::open(options).await.map(drop).unwrap_err();
        assert!(said(&error).contains("99"), "{error}");
    });
}

/// The same through a whole store: no acknowledged file without a row, no row without a file, and retries succeed.
#[test]
fn a_store_whose_commits_lose_their_answers_keeps_rows_and_files_together() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    for role in Role::ALL {
        let options = MysqlOptions::new(role, vec![server.address()], "root");
        block_on(migrate(&options, role, false)).unwrap();
    }
    let proxy = Proxy::start(server.address()).unwrap();
    let (host, port) = proxy.address();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let up = Up::new(&data)
        .set("meta.mysql.servers", &format!("[\"{host}:{port}\"]"))
        .set("meta.mysql.user", "root")
        .expect_log("metadata");
    let store = up.start().unwrap();
    let source = folder.path().join("content");
    std::fs::write(&source, vec![7; 5000]).unwrap();
    let source = source.to_str().unwrap();
    // The user has its group then, and the node its block of ids.
    store.reel(&["put", source, "--id", "first"]).unwrap();
    let faults: Vec<Fault> =
        (0..=11).flat_map(|bytes| [Fault::CutRequest(bytes), Fault::CutAnswer(bytes)]).collect();
    for (index, fault) in faults.iter().enumerate() {
        let id = format!("file{index}");
        proxy.arm("COMMIT", *fault);
        let put = store.reel(&["put", source, "--id", &id]);
        assert!(!proxy.is_armed(), "{fault:?}");
        if put.is_ok() {
            store.reel(&["get", &id, "-o", "/dev/null"]).unwrap();
        }
        // Whoever was told of a failure sends it again, and is told that it is there.
        store
            .reel(&["put", source, "--id", &id])
            .unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        store.reel(&["get", &id, "-o", "/dev/null"]).unwrap();
    }
    store.drain().unwrap();
    let rows = block_on(async {
        let options = MysqlOptions::new(Role::Storage, vec![server.address()], "root");
        let mut rows = MysqlFileStore::new_reader(options);
        rows.scan(None, 100).await.unwrap().rows
    });
    let mut named: Vec<String> = rows.into_iter().map(|row| row.file_path).collect();
    named.sort();
    let there = files_below(&data.join("store")).unwrap();
    let there: Vec<String> = there.iter().map(|path| path.display().to_string()).collect();
    assert_eq!(named.len(), faults.len() + 1);
    assert_eq!(named, there, "a file for each row, a row for each file");
}
