//! What a store does while its shared database is slow, read-only or full, or hangs when it is to stop: files that it knows are
//! served, uploads are refused clearly or wait, and when the database is well again so is the store.
#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use mysql_async::prelude::Queryable;
use reel_meta::Role;
use reel_tests::{
    database::{block_on, is_installed, operator, store_on},
    disk::{FileSystem, LoopDisk},
    http::{self, Response, status, until_status},
    mariadb::{MariaDb, Plan},
    process::Store,
    proxy::Proxy,
    seed::Content,
    stored::files_below,
};

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

fn sql(server: &MariaDb, statement: &str) -> Result<(), mysql_async::Error> {
    block_on(async {
        let mut conn = operator(server, "").await.unwrap();
        conn.query_drop(statement).await
    })
}

fn put(media: SocketAddr, id: &str, content: &[u8]) -> Response {
    http::request(media, "PUT", &format!("/files/{id}"), &[], Some(content)).unwrap()
}

fn get(media: SocketAddr, id: &str) -> Response {
    http::request(media, "GET", &format!("/files/{id}"), &[], None).unwrap()
}

/// Uploads until one is taken.
fn until_taken(media: SocketAddr, id: &str, content: &[u8]) {
    let begin = Instant::now();
    while put(media, id, content).status != 201 {
        assert!(begin.elapsed() < PATIENCE, "{id} is not taken");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What a refusal must be: a status that says "later", and when.
fn is_refused_for_now(answer: &Response) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{}", answer.text());
}

fn files(store: &Store) -> usize {
    files_below(&store.data().join("store")).unwrap().len()
}

/// Nothing of an upload that was refused stays on the disk.
fn until_files_are(store: &Store, count: usize) {
    let begin = Instant::now();
    while files(store) != count {
        assert!(begin.elapsed() < PATIENCE, "{} files, not {count}", files(store));
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn listed(store: &Store) -> Vec<String> {
    let lines = store.reel(&["ls", "--status", "all", "--json"]).unwrap();
    let id = |line: &str| {
        let file: serde_json::Value = serde_json::from_str(line).unwrap();
        file["id"].as_str().unwrap().to_owned()
    };
    let mut ids: Vec<String> = lines.lines().map(id).collect();
    ids.sort();
    ids
}

#[test]
fn a_database_that_is_read_only_refuses_changes_and_serves_files() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    sql(&server, "CREATE USER reel@'127.0.0.1'").unwrap();
    for role in Role::ALL {
        let database = role.database();
        let rights = "SELECT, INSERT, UPDATE, DELETE, TRIGGER";
        sql(&server, &format!("GRANT {rights} ON {database}.* TO reel@'127.0.0.1'")).unwrap();
    }
    let up = store_on(&server, server.address(), "reel", &folder.path().join("data")).unwrap();
    // Its user is new to the tracker, who reads from no server that takes no changes: what that has may be late.
    let up = up.expect_log("upload").expect_log("the group of a user could not be told");
    let store = up.start().unwrap();
    let media = store.addresses.media;
    for id in ["a", "b"] {
        assert_eq!(put(media, id, b"content").status, 201);
    }
    assert_eq!(get(media, "a").body, b"content");

    sql(&server, "SET GLOBAL read_only = ON").unwrap();
    is_refused_for_now(&put(media, "late", b"late"));
    assert!(store.log().text().contains("the server is read only"), "an operator is told why");
    let deleted = http::request(media, "DELETE", "/files/a", &[], None).unwrap();
    is_refused_for_now(&deleted);
    store.reel(&["rm", "b"]).unwrap_err();
    for id in ["a", "b"] {
        assert_eq!(get(media, id).body, b"content", "known or not");
    }
    assert_eq!(get(media, "late").status, 404);
    until_files_are(&store, 2);

    sql(&server, "SET GLOBAL read_only = OFF").unwrap();
    until_taken(media, "late", b"late");
    store.reel(&["rm", "b"]).unwrap();
    assert_eq!(
        (listed(&store), get(media, "b").status),
        (vec!["a".into(), "b".into(), "late".into()], 404)
    );
    until_status(store.addresses.engine_admin, "/readyz", 200).unwrap();
    store.drain().unwrap();
}

/// Several connections take from one queue: each is woken for what it gets, and for nothing else.
#[test]
fn a_store_whose_lookups_are_answered_is_at_rest() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let up = store_on(&server, server.address(), "root", &folder.path().join("data")).unwrap();
    let store = up.start().unwrap();
    let media = store.addresses.media;
    std::thread::scope(|scope| {
        for client in 0..8 {
            scope.spawn(move || {
                for number in 0..50 {
                    assert_eq!(get(media, &format!("{client}-{number}")).status, 404);
                }
            });
        }
    });
    let (cpu, memory) = (store.cpu_time().unwrap(), store.resident_bytes().unwrap());
    let rest = Duration::from_secs(2);
    std::thread::sleep(rest);
    let cpu = store.cpu_time().unwrap() - cpu;
    let memory = store.resident_bytes().unwrap().saturating_sub(memory);
    assert!(cpu < rest / 4, "{cpu:?} of CPU for nothing");
    assert!(memory < 8 << 20, "{memory} bytes for nothing");
    store.drain().unwrap();
}

#[test]
fn a_slow_database_slows_uploads_and_not_files_that_are_known() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let proxy = Proxy::start(server.address()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let up = store_on(&server, proxy.address(), "root", &folder.path().join("data")).unwrap();
    let store = up.start().unwrap();
    let (media, admin) = (store.addresses.media, store.addresses.engine_admin);
    assert_eq!(put(media, "known", b"content").status, 201);
    assert_eq!(put(media, "other", b"content").status, 201);
    assert_eq!(get(media, "known").body, b"content");
    // Some statements to a request, some to a look at the change log: a reading of that takes longer than it may be old.
    proxy.slow_down(Duration::from_millis(1200));
    until_status(admin, "/readyz", 503).unwrap();
    for round in 0..10 {
        assert_eq!(get(media, "known").body, b"content", "{round}");
    }
    assert_eq!(put(media, "slow", b"slow").status, 201, "late, and durable all the same");
    // What has to be looked up comes slowly, or later where there is no connection for it yet: making one takes too long.
    for (id, content) in [("slow", &b"slow"[..]), ("other", b"content")] {
        let answer = get(media, id);
        assert!(answer.status == 503 || answer.body == content, "{id}: {}", answer.text());
    }
    proxy.slow_down(Duration::ZERO);
    until_status(admin, "/readyz", 200).unwrap();
    assert_eq!(listed(&store), ["known", "other", "slow"]);
    store.drain().unwrap();
}

/// A server with so much space for its data.
fn server_on(disk: &Path) -> MariaDb {
    let small = ["--innodb-log-file-size=8M", "--innodb-buffer-pool-size=32M"];
    let mut server = Plan::default().arguments(small).on_disk(disk).make().unwrap();
    server.run().unwrap();
    server
}

#[test]
fn a_full_database_refuses_uploads_and_loses_none_that_it_took() {
    if !is_installed() {
        return;
    }
    let disk = match LoopDisk::new(FileSystem::Ext4, 400 << 20) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("skipped: {error:#}"),
    };
    let server = server_on(disk.path());
    let folder = tempfile::tempdir().unwrap();
    let up = store_on(&server, server.address(), "root", &folder.path().join("data")).unwrap();
    let store = up.expect_log("upload").start().unwrap();
    let media = store.addresses.media;
    assert_eq!(put(media, "known", b"content").status, 201);
    assert_eq!(get(media, "known").body, b"content");

    let ballast = disk.fill(0).unwrap();
    // Somebody else's rows take what the tables had in hand.
    let storage = Role::Storage.database();
    for rows in [1000, 100, 10, 1] {
        let insert = format!(
            "INSERT INTO {storage}.t_file_02 (id, appid, userid, status, file_path, file_size) \
             SELECT CONCAT(MD5(RAND()), seq), 'other', REPEAT('u', 100), 0, REPEAT('p', 400), 1 FROM seq_1_to_{rows}"
        );
        let mut inserts = 0;
        while sql(&server, &insert).is_ok() {
            inserts += 1;
            assert!(inserts < 10_000, "it does not get full");
        }
    }
    let mut taken = vec!["known".to_owned()];
    let mut refused = Vec::new();
    for number in 0..2000 {
        let content = Content { seed: number, size: 100 };
        let id = format!("{:016x}", number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let answer = put(media, &id, &content.bytes());
        match answer.status {
            201 => taken.push(id),
            503 | 507 => refused.push(id),
            other => panic!("{other}: {}", answer.text()),
        }
        if refused.len() == 3 {
            break;
        }
    }
    assert_eq!(refused.len(), 3, "it never was full; {} were taken", taken.len());
    println!("{} taken before it was full", taken.len());
    for id in &taken {
        assert_eq!(status(media, &format!("/files/{id}")).unwrap(), 200, "{id}");
    }
    for id in &refused {
        assert_eq!(status(media, &format!("/files/{id}")).unwrap(), 404, "{id}");
    }
    until_files_are(&store, taken.len());

    std::fs::remove_file(ballast).unwrap();
    for id in refused {
        until_taken(media, &id, b"again");
        taken.push(id);
    }
    taken.sort();
    assert_eq!(listed(&store), taken);
    store.drain().unwrap();
}

/// A service manager waits for a while and then kills.
#[test]
fn a_store_stops_while_its_database_answers_nothing() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let up = store_on(&server, server.address(), "root", &folder.path().join("data")).unwrap();
    let store = up.set("node.drain_deadline", "2s").expect_log("drain").start().unwrap();
    let (media, admin) = (store.addresses.media, store.addresses.engine_admin);
    assert_eq!(put(media, "known", b"content").status, 201);
    server.freeze().unwrap();
    // An upload is under way, and so is a look at the change log.
    let upload = std::thread::spawn(move || {
        http::request(media, "PUT", "/files/late", &[], Some(b"late")).map(|answer| answer.status)
    });
    until_status(admin, "/readyz", 503).unwrap();
    let begin = Instant::now();
    store.terminate().unwrap();
    let ended = store.reap_killed();
    println!("ended after {:?}: {ended:?}", begin.elapsed());
    assert!(begin.elapsed() < PATIENCE);
    let answer = upload.join().unwrap();
    assert!(!matches!(answer, Ok(200..=299)), "{answer:?}: acknowledged by nobody");
    server.resume().unwrap();
    // What was under way is whole or not there.
    let up = store_on(&server, server.address(), "root", &folder.path().join("data")).unwrap();
    let store = up.start().unwrap();
    let media = store.addresses.media;
    assert_eq!(get(media, "known").body, b"content");
    let late = get(media, "late");
    assert!(late.status == 404 || late.body == b"late", "{}", late.text());
    store.drain().unwrap();
}
