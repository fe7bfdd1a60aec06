//! What others change in a shared database: an old node, another node, an operator's own statement. Readers of this node
//! know of it within two seconds, or ask each time.
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use mysql_async::{Conn, prelude::Queryable};
use reel_meta::{
    FileStore, InsertOutcome, NewFile, Removal, Role, RowRef,
    mysql::{Changed, MysqlChangeLog, MysqlFileStore, MysqlOptions, migrate},
};
use reel_tests::{
    database::{self, block_on, is_installed, operator, store_on},
    http::{self, until_status},
    mariadb::MariaDb,
    process::Store,
    proxy::Proxy,
    role::RoleProcess,
};

/// Longest wait for what must become so. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);

fn storage(server: &MariaDb) -> MysqlOptions {
    let options = MysqlOptions::new(Role::Storage, vec![server.address()], "root");
    block_on(migrate(&options, Role::Storage, false)).unwrap();
    options
}

/// A plain connection to the database of files, as an old node's.
async fn old_node(server: &MariaDb) -> Conn {
    operator(server, Role::Storage.database()).await.unwrap()
}

fn new_file(file: &str) -> NewFile {
    database::new_file("tnv001", file, &format!("/data/000/000/000/65F1560C_00{}", &file[1..]))
}

fn files(names: &[&str]) -> Changed {
    Changed::Files(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn the_log_tells_of_every_change_whoever_makes_it() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let options = storage(&server);
    block_on(async {
        let mut store = MysqlFileStore::new(options.clone());
        let inserted = store.insert(&[new_file("f1"), new_file("f2"), new_file("f3")]).await;
        assert_eq!(
            inserted.unwrap(),
            [InsertOutcome::Inserted, InsertOutcome::Inserted, InsertOutcome::Inserted]
        );
        let mut log = MysqlChangeLog::open(options.clone()).await.unwrap();
        assert_eq!(log.read().await.unwrap(), files(&[]), "a new row is remembered by nobody");

        let mut old = old_node(&server).await;
        old.query_drop("UPDATE t_file_02 SET status = 1 WHERE id = 'f1'").await.unwrap();
        assert_eq!(log.read().await.unwrap(), files(&["f1"]));
        assert_eq!(log.read().await.unwrap(), files(&[]), "told once");
        old.query_drop("UPDATE t_file_02 SET checksum = 8, update_time = update_time")
            .await
            .unwrap();
        assert_eq!(log.read().await.unwrap(), files(&[]), "not what readers go by");
        let row = RowRef {
            user: "tnv001".to_owned(),
            file: "f1".to_owned(),
            path: new_file("f1").file_path,
        };
        store.remove(&[Removal { row, only: None }]).await.unwrap();
        assert_eq!(log.read().await.unwrap(), files(&["f1"]));

        // A transaction that has its number, and commits after a later one was read.
        let mut slow = old_node(&server).await;
        slow.query_drop("START TRANSACTION").await.unwrap();
        slow.query_drop("UPDATE t_file_02 SET status = 1 WHERE id = 'f2'").await.unwrap();
        old.query_drop("UPDATE t_file_02 SET status = 1 WHERE id = 'f3'").await.unwrap();
        assert_eq!(log.read().await.unwrap(), files(&["f3"]));
        slow.query_drop("COMMIT").await.unwrap();
        assert_eq!(log.read().await.unwrap(), files(&["f2"]));
        assert_eq!(log.read().await.unwrap(), files(&[]));

        // One that begins now is told what was changed a moment ago: it may have been read before the change was there.
        let mut second = MysqlChangeLog::open(options.clone()).await.unwrap();
        assert_eq!(second.read().await.unwrap(), files(&["f1", "f1", "f2", "f3"]));

        // Nobody has read for an hour: what is old goes, but for the last.
        old.query_drop("UPDATE reel_changes SET changed_at = NOW() - INTERVAL 2 HOUR")
            .await
            .unwrap();
        let mut third = MysqlChangeLog::open(options.clone()).await.unwrap();
        assert_eq!(third.read().await.unwrap(), files(&[]));
        third.remove_old().await.unwrap();
        let left: Vec<u64> = old.query("SELECT id FROM reel_changes").await.unwrap();
        assert_eq!(left.len(), 1, "{left:?}");
        assert_eq!(third.read().await.unwrap(), files(&[]));
        // Others see that something is gone that they have read: they cannot know what else.
        assert_eq!(second.read().await.unwrap(), Changed::Anything);
        assert_eq!(second.read().await.unwrap(), files(&[]));

        // A database from a backup.
        old.query_drop("TRUNCATE TABLE reel_changes").await.unwrap();
        assert_eq!(third.read().await.unwrap(), Changed::Anything);
        old.query_drop("UPDATE t_file_02 SET status = 0 WHERE id = 'f2'").await.unwrap();
        assert_eq!(third.read().await.unwrap(), files(&["f2"]));

        // More than anybody lists.
        old.query_drop("INSERT INTO reel_changes (file_id) SELECT seq FROM seq_1_to_100001")
            .await
            .unwrap();
        assert_eq!(third.read().await.unwrap(), Changed::Anything);

        old.query_drop("DROP TRIGGER reel_t_file_03_update").await.unwrap();
        let error = MysqlChangeLog::open(options.clone()).await.map(drop).unwrap_err();
        assert!(format!("{error:?}").contains("reel_t_file_03_update"), "{error:?}");
        let step = migrate(&options, Role::Storage, false).await.unwrap();
        assert_eq!(step.steps.len(), 1, "{step:?}");
        MysqlChangeLog::open(options).await.unwrap();
    });
}

/// A store on the server, with files `f1`, `f2`, `f3`.
fn store(server: &MariaDb, folder: &std::path::Path) -> Store {
    let up = store_on(server, server.address(), "root", &folder.join("data")).unwrap();
    let store = up.set("meta.mysql.statement_timeout", "2s").start().unwrap();
    let source = folder.join("content");
    std::fs::write(&source, b"content").unwrap();
    for id in ["f1", "f2", "f3"] {
        store.reel(&["put", source.to_str().unwrap(), "--id", id]).unwrap();
    }
    store
}

fn status_of(address: SocketAddr, target: &str) -> u16 {
    http::status(address, target).unwrap()
}

/// How long it takes until this is answered so.
fn until(address: SocketAddr, target: &str, wanted: u16) -> Duration {
    until_status(address, target, wanted).unwrap()
}

/// Waits until a line of the metrics ends so.
fn until_metrics_say(admin: SocketAddr, name: &str, end: &str) {
    let begin = Instant::now();
    loop {
        let metrics = http::request(admin, "GET", "/metrics", &[], None).unwrap().body;
        let metrics = String::from_utf8(metrics).unwrap();
        if metrics.lines().any(|line| line.starts_with(name) && line.ends_with(end)) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{name} does not end with {end:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_node_hears_of_what_an_old_one_deletes_and_restores() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = store(&server, folder.path());
    let media = store.addresses.media;
    let mut slowest = Duration::ZERO;
    for round in 0..5 {
        assert_eq!(status_of(media, "/files/f1"), 200, "known to the node");
        let set = |status: u8| {
            block_on(async {
                let set = format!("UPDATE t_file_02 SET status = {status} WHERE id = 'f1'");
                old_node(&server).await.query_drop(set).await.unwrap();
            });
        };
        // At another moment of the node's half second each time.
        std::thread::sleep(Duration::from_millis(130 * round));
        set(1);
        slowest = slowest.max(until(media, "/files/f1", 404));
        set(0);
        until(media, "/files/f1", 200);
    }
    println!("slowest: {slowest:?}");
    store.drain().unwrap();
}

#[test]
fn a_node_that_cannot_read_the_log_asks_for_each_file() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = store(&server, folder.path());
    let (media, admin) = (store.addresses.media, store.addresses.engine_admin);
    let sql = |statement: &str| {
        block_on(async { old_node(&server).await.query_drop(statement).await.unwrap() });
    };
    assert_eq!(status_of(media, "/files/f1"), 200);
    until(admin, "/readyz", 200);
    // Nothing can be changed in the rows without it, but for a trigger that is gone as well.
    sql("DROP TRIGGER reel_t_file_02_update");
    sql("RENAME TABLE reel_changes TO away");
    until(admin, "/readyz", 503);
    sql("UPDATE t_file_02 SET status = 1 WHERE id = 'f1'");
    // At once, unless the database takes longer to answer than readers wait.
    until(media, "/files/f1", 404);
    sql("UPDATE t_file_02 SET status = 0 WHERE id = 'f1'");
    until(media, "/files/f1", 200);
    sql("RENAME TABLE away TO reel_changes");
    until(admin, "/readyz", 200);
    store.drain().unwrap();
}

#[test]
fn known_files_are_served_while_the_database_is_gone() {
    if !is_installed() {
        return;
    }
    let mut server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = store(&server, folder.path());
    let (media, admin) = (store.addresses.media, store.addresses.engine_admin);
    let user = "/files/f1?app=tnvideo&user=tnv001";
    assert_eq!((status_of(media, "/files/f1"), status_of(media, user)), (200, 200));
    for frozen in [false, true] {
        until(admin, "/readyz", 200);
        if frozen {
            server.freeze().unwrap()
        } else {
            server.kill().unwrap()
        }
        until(admin, "/readyz", 503);
        until_metrics_say(admin, "reel_engine_changes_read", " 0");
        for _ in 0..20 {
            let answer = http::request(media, "GET", "/files/f1", &[], None).unwrap();
            assert_eq!(answer.status, 200, "known: {}", answer.text());
            assert_eq!(status_of(media, user), 200, "known");
        }
        let answer = http::request(media, "GET", "/files/f2", &[], None).unwrap();
        assert_eq!(answer.status, 503, "nothing is known of it: {}", answer.text());
        let source = folder.path().join("content");
        store.reel(&["put", source.to_str().unwrap(), "--id", "late"]).unwrap_err();
        if frozen {
            server.resume().unwrap()
        } else {
            server.run().unwrap()
        }
        until(admin, "/readyz", 200);
        until(media, "/files/f2", 200);
        store.reel(&["put", source.to_str().unwrap(), "--id", "late"]).unwrap();
        // Whatever was remembered of it: forgotten with the next round's server.
        store.reel(&["rm", "f2"]).unwrap();
        store.reel(&["restore", "f2"]).unwrap();
    }
    store.drain().unwrap();
}

/// Starts a role with a folder of its own, on the database at this address.
fn role(
    folder: &Path,
    name: &'static str,
    number: usize,
    database: (String, u16),
    own: &[(&str, String)],
) -> RoleProcess {
    let folder = folder.join(format!("{name}{number}"));
    std::fs::create_dir(&folder).unwrap();
    let (host, port) = database;
    let shared = [
        ("REEL_META__MYSQL__SERVERS", format!("[\"{host}:{port}\"]")),
        ("REEL_META__MYSQL__USER", "root".to_owned()),
        ("REEL_NODE__DATA_THREADS", "1".to_owned()),
        ("REEL_CLUSTER_SECRET", "0123456789abcdef".to_owned()),
    ];
    let environment =
        shared.iter().chain(own).map(|(name, value)| ((*name).to_owned(), value.clone()));
    RoleProcess::start(name, &folder, environment.collect()).unwrap()
}

#[test]
fn a_node_that_alone_is_far_from_the_database_serves_no_deleted_file() {
    if !is_installed() {
        return;
    }
    let mut server = MariaDb::start().unwrap();
    for role in Role::ALL {
        let options = MysqlOptions::new(role, vec![server.address()], "root");
        block_on(migrate(&options, role, false)).unwrap();
    }
    // In the build folder: a temporary folder may be a tmpfs without attributes.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = folder.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let idgen = role(folder.path(), "idgen", 0, server.address(), &[]);
    let proxy = Proxy::start(server.address()).unwrap();
    let databases = [server.address(), proxy.address()];
    let nodes = databases.into_iter().enumerate().map(|(number, database)| {
        let own = [
            ("REEL_ENGINE__HOSTNAME", format!("node{number}")),
            ("REEL_ENGINE__IDGENS", format!("[\"{}\"]", idgen.address("listen").unwrap())),
            ("REEL_ENGINE__TRACKERS", "[]".to_owned()),
            ("REEL_ENGINE__HTTP_LISTEN", "127.0.0.1:0".to_owned()),
            (
                "REEL_STORE_PATH",
                format!("[{{ path = {store:?}, shared = true, reserve = \"1MiB\" }}]"),
            ),
        ];
        role(folder.path(), "engine", number, database, &own)
    });
    let nodes: Vec<_> = nodes.collect();
    let [near, far] = [0, 1].map(|node: usize| nodes[node].address("http_listen").unwrap());
    let far_admin = nodes[1].address("admin_listen").unwrap();
    for node in &nodes {
        until(node.address("admin_listen").unwrap(), "/readyz", 200);
    }
    let ask = |node: SocketAddr, method: &str, target: &str, body: Option<&[u8]>| {
        http::request(node, method, target, &[], body).unwrap().status
    };
    let targets: Vec<String> = (0..8).map(|number| format!("/files/f{number}")).collect();
    for target in &targets {
        assert_eq!(ask(near, "PUT", target, Some(b"content")), 201, "{target}");
        assert_eq!(status_of(far, target), 200, "known to both");
    }

    // As with a link that loses packets: it has answers, and all of them too late.
    proxy.slow_down(Duration::from_secs(3));
    until(far_admin, "/readyz", 503);
    let (gone, kept) = targets.split_at(4);
    for target in gone {
        assert_eq!(ask(near, "DELETE", target, None), 204, "{target}");
    }
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        for target in gone {
            let status = status_of(far, target);
            assert!([404, 503].contains(&status), "{target} is deleted: {status}");
        }
        for target in kept {
            assert_eq!(status_of(far, target), 200, "{target} is there");
        }
    }
    // Nobody has a database: the same.
    server.kill().unwrap();
    for target in kept {
        assert_eq!(status_of(far, target), 200, "{target} is there");
    }
    // Nor does the store say anything any more: not even what is open is served.
    let (files, aside) = (store.join("000"), store.join("aside"));
    std::fs::rename(&files, &aside).unwrap();
    until(far, &kept[0], 503);
    std::fs::rename(&aside, &files).unwrap();
    until(far, &kept[0], 200);
    server.run().unwrap();
    proxy.slow_down(Duration::ZERO);
    until(far_admin, "/readyz", 200);
    for target in gone {
        assert_eq!(status_of(far, target), 404, "{target}");
    }
}

/// What several nodes could do is done by one of them, and by another one when that is gone.
#[test]
fn a_lease_is_held_by_one_at_a_time() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let options = storage(&server);
    block_on(async {
        let mut one = MysqlFileStore::new(options.clone());
        let mut two = MysqlFileStore::new(options);
        assert!(one.lease("sweep", "one", 60).await.unwrap());
        assert!(!two.lease("sweep", "two", 60).await.unwrap());
        assert!(one.lease("sweep", "one", 1).await.unwrap(), "kept, for a second from now");
        assert!(two.lease("other", "two", 60).await.unwrap());
        let begin = Instant::now();
        while !two.lease("sweep", "two", 60).await.unwrap() {
            assert!(begin.elapsed() < PATIENCE);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(!one.lease("sweep", "one", 60).await.unwrap());
    });
}
