//! A database and a folder as the deployed system leaves them become Reel's: migrated, adopted, served. The old system's
//! nodes may go on beside it until an operator says that they are gone.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs,
    net::SocketAddr,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mysql_async::{Conn, OptsBuilder, Row, prelude::Queryable};
use reel_proto::{path::PathId, table::table_of_user};
use reel_tests::{
    database::{block_on, is_installed},
    http,
    mariadb::MariaDb,
    process::{Store, Up, command},
    stored::attribute,
};
use serde_json::Value;

/// Users and the files that each has.
const USERS: [&str; 5] = ["tnv001", "tnv002", "tnv003", "alice", "用户"];
const FILES: usize = 24;

/// When the deployed system took them.
const THEN: u64 = 0x65F1_560C;

const PATIENCE: Duration = Duration::from_secs(60);

/// A file of the deployed system.
struct Old {
    id: String,
    user: &'static str,
    deleted: bool,
    /// Relative to the folder.
    place: String,
    content: Vec<u8>,
}

impl Old {
    fn row(&self) -> String {
        let (table, deleted) = (table_of_user(self.user.as_bytes()), u8::from(self.deleted));
        let (id, user, place, size) = (&self.id, self.user, &self.place, self.content.len());
        format!(
            "INSERT INTO tnv_storagedb.t_file_0{table} \
             (id, appid, userid, status, file_path, file_size, create_time, update_time) VALUES \
             ('{id}', 'tnvideo', '{user}', {deleted}, '../data/{place}', {size}, \
             '2024-03-13 07:31:24', '2024-03-14 08:00:00')"
        )
    }

    fn write(&self, folder: &Path) {
        let path = folder.join(&self.place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &self.content).unwrap();
    }
}

fn place(id: u64) -> String {
    PathId::new(id).unwrap().relative(THEN).as_str().to_owned()
}

fn content(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ seed.wrapping_mul(131) ^ (at >> 8)) as u8).collect()
}

/// What the deployed system has: small files and some of `large` bytes, empty ones, ids that two users have, deleted ones.
fn deployed(large: usize) -> Vec<Old> {
    let mut files = Vec::new();
    for (number, user) in USERS.into_iter().enumerate() {
        for index in 0..FILES {
            // Over several folders of several levels.
            let path = (number * FILES + index) as u64 * 211;
            let path = if index == 7 { path + 512 * 512 * 3 } else { path };
            let len = match index {
                0 => 0,
                1 => large + number,
                _ => 700 * index + number,
            };
            files.push(Old {
                id: format!("65f1560c{number:02x}{index:04x}0123456789abcdef0001.mp4"),
                user,
                deleted: index % 6 == 5,
                place: place(path),
                content: content(number * FILES + index, len),
            });
        }
    }
    for (number, user) in ["tnv001", "tnv002"].into_iter().enumerate() {
        files.push(Old {
            id: "both have it".to_owned(),
            user,
            deleted: false,
            place: place(900_000 + number as u64),
            content: content(900 + number, 100 + number),
        });
    }
    files
}

/// The SQL of the deployed system's tables.
fn tables() -> Vec<String> {
    const TIMES: &str = "create_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
        update_time timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP";
    const ENGINE: &str = "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci";
    let mut all = vec!["SET time_zone = '+00:00'".to_owned()];
    for database in ["tnv_trackerdb", "tnv_idsdb", "tnv_storagedb"] {
        all.push(format!(
            "CREATE DATABASE {database} DEFAULT CHARSET utf8mb4 COLLATE utf8mb4_general_ci"
        ));
    }
    all.extend([
        format!(
            "CREATE TABLE tnv_trackerdb.t_groups_info (id int unsigned NOT NULL AUTO_INCREMENT, \
             group_name varchar(32) NOT NULL, {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ),
        format!(
            "CREATE TABLE tnv_trackerdb.t_router (id int unsigned NOT NULL AUTO_INCREMENT, appid varchar(32) NOT NULL, \
             userid varchar(128) NOT NULL, group_name varchar(32) NOT NULL, {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ),
        format!(
            "CREATE TABLE tnv_idsdb.t_id_gen (id varchar(64) NOT NULL, id_value bigint NOT NULL, {TIMES}, \
             PRIMARY KEY (id)) {ENGINE}"
        ),
    ]);
    for table in 1..=3 {
        all.push(format!(
            "CREATE TABLE tnv_storagedb.t_file_0{table} (id varchar(256) NOT NULL, appid varchar(32) NOT NULL, \
             userid varchar(128) NOT NULL, status tinyint NOT NULL DEFAULT 0, file_path varchar(512) NOT NULL, \
             file_size bigint NOT NULL, {TIMES}, PRIMARY KEY (id)) {ENGINE}"
        ));
    }
    all.push("INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES ('group001')".to_owned());
    all.push("INSERT INTO tnv_idsdb.t_id_gen (id, id_value) VALUES ('../data', 900100)".to_owned());
    for user in USERS {
        all.push(format!(
            "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) VALUES ('tnvideo', '{user}', 'group001')"
        ));
    }
    all
}

/// An installation of the deployed system, and what Reel needs to take it over.
struct Installation {
    server: MariaDb,
    folder: tempfile::TempDir,
}

impl Installation {
    fn new(files: &[Old]) -> Self {
        let this = Self { server: MariaDb::start().unwrap(), folder: tempfile::tempdir().unwrap() };
        let mut statements = tables();
        statements.extend(files.iter().map(Old::row));
        this.sql(&statements);
        for file in files {
            file.write(&this.data());
        }
        let (host, port) = this.server.address();
        let config = format!(
            "[meta.mysql]\nservers = [\"{host}:{port}\"]\nuser = \"root\"\n\n\
             [[store_path]]\npath = {:?}\nid_key = \"../data\"\n",
            this.data()
        );
        fs::create_dir_all(this.node()).unwrap();
        fs::write(this.node().join("reel.toml"), config).unwrap();
        this
    }

    /// Where the files of the deployed system are.
    fn data(&self) -> PathBuf {
        self.folder.path().join("storage/data")
    }

    /// The data folder of `reel up`.
    fn node(&self) -> PathBuf {
        self.folder.path().join("reel")
    }

    fn sql(&self, statements: &[impl AsRef<str>]) {
        block_on(async {
            let mut conn = self.conn().await;
            for statement in statements {
                let statement = statement.as_ref();
                let done = conn.query_drop(statement).await;
                done.unwrap_or_else(|error| panic!("{statement}: {error}"));
            }
        });
    }

    async fn conn(&self) -> Conn {
        let (host, port) = self.server.address();
        let builder = OptsBuilder::default().ip_or_hostname(host).tcp_port(port).user(Some("root"));
        Conn::new(builder.prefer_socket(false)).await.unwrap()
    }

    fn migrate(&self) {
        let mut migrate = command().unwrap();
        migrate.args(["migrate", "--config"]).arg(self.node().join("reel.toml"));
        let output = migrate.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn up(&self) -> Up {
        Up::new(&self.node())
            .expect_log("files were here before the store")
            // The sequence of the old system is behind none of its files, but the mark begins with them.
            .expect_log("files above the mark of path ids")
    }

    /// Everything in the three databases, as text.
    fn dump(&self) -> String {
        block_on(async {
            let mut conn = self.conn().await;
            let mut text = String::new();
            for table in [
                "tnv_trackerdb.t_groups_info",
                "tnv_trackerdb.t_router",
                "tnv_storagedb.t_file_01",
                "tnv_storagedb.t_file_02",
                "tnv_storagedb.t_file_03",
            ] {
                let rows: Vec<Row> =
                    conn.query(format!("SELECT * FROM {table} ORDER BY id")).await.unwrap();
                rows.into_iter().for_each(|row| text += &format!("{:?}\n", row.unwrap()));
            }
            text
        })
    }

    /// Every file with its record, content's length and times.
    fn disk(&self) -> BTreeMap<PathBuf, (Option<Vec<u8>>, u64, i64)> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.file_name().is_some_and(|name| name == ".reel") {
                    continue;
                }
                let meta = fs::metadata(&path).unwrap();
                if meta.is_dir() {
                    folders.push(path);
                } else {
                    let record = record(&path);
                    found.insert(path, (record, meta.len(), meta.mtime()));
                }
            }
        }
        found
    }

    /// `reel adopt` to its end: its exit code, and what it says in JSON.
    fn adopt(&self, store: &Store, arguments: &[&str]) -> (bool, Value) {
        let admin = store.addresses.engine_admin.to_string();
        let mut adopt = command().unwrap();
        adopt.args(["adopt", "--json", "--admin", &admin]).args(arguments);
        let output = adopt.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let told = serde_json::from_str(text.trim()).unwrap_or_else(|error| {
            panic!("{error}: {text}{}", String::from_utf8_lossy(&output.stderr))
        });
        (output.status.success(), told)
    }
}

/// The extended attribute that holds a file's record.
fn record(path: &Path) -> Option<Vec<u8>> {
    attribute(path, "user.reel").ok()
}

fn get(address: SocketAddr, target: &str) -> (u16, Vec<u8>) {
    let answer = http::request(address, "GET", target, &[], None).unwrap();
    (answer.status, answer.body)
}

/// A path segment of any text.
fn segment(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Each file by its id alone over HTTP, and with its user over HTTP and the binary protocol.
fn all_are_served(store: &Store, files: &[Old]) {
    for file in files {
        let (id, user) = (segment(&file.id), segment(file.user));
        for address in [store.addresses.media, store.addresses.gateway] {
            let (status, body) = get(address, &format!("/files/{id}?app=tnvideo&user={user}"));
            if file.deleted {
                assert_eq!(status, 404, "{} of {}", file.id, file.user);
                continue;
            }
            assert_eq!(status, 200, "{} of {}", file.id, file.user);
            assert!(body == file.content, "{} of {}", file.id, file.user);
            if file.id != "both have it" {
                let (status, body) = get(address, &format!("/files/{id}"));
                assert!(
                    status == 200 && body == file.content,
                    "{} by its id alone: {status}",
                    file.id
                );
            }
        }
        let to = store.data().join("got");
        let arguments =
            ["get", &file.id, "--user", file.user, "-o", to.to_str().unwrap(), "--force"];
        let got = store.reel(&arguments[..6]);
        assert_eq!(got.is_ok(), !file.deleted, "{}: {got:?}", file.id);
        if !file.deleted {
            assert!(fs::read(&to).unwrap() == file.content, "{} over the binary protocol", file.id);
            fs::remove_file(&to).unwrap();
        }
    }
    let older = &files.iter().find(|file| file.id == "both have it").unwrap().content;
    let (status, body) = get(store.addresses.media, "/files/both%20have%20it");
    assert!(status == 200 && body == *older, "the older, here the one of the lower path");
}

#[test]
fn a_deployed_installation_is_taken_over_whole() {
    if !is_installed() {
        return;
    }
    let files = deployed(1_500_000);
    let deployment = Installation::new(&files);
    // Another group, whose nodes call their folder the same.
    let of_another = [false, true].map(|deleted| Old {
        id: format!("of another group {deleted}"),
        user: "another",
        deleted,
        place: place(800_000 + u64::from(deleted)),
        content: vec![1; 10],
    });
    of_another.iter().for_each(|file| deployment.sql(&[&file.row()]));
    deployment.sql(&[
        "INSERT INTO tnv_trackerdb.t_groups_info (group_name) VALUES ('group002')",
        "INSERT INTO tnv_trackerdb.t_router (appid, userid, group_name) \
         VALUES ('tnvideo', 'another', 'group002')",
    ]);
    deployment.migrate();
    let before = deployment.dump();
    let store = deployment.up().start().unwrap();
    all_are_served(&store, &files);
    assert_eq!(deployment.dump(), before, "nothing is written by reading");

    // A look changes nothing.
    let disk = deployment.disk();
    let (clean, told) = deployment.adopt(&store, &["--check"]);
    assert!(clean, "{told}");
    assert_eq!(told["adoption"]["pass"]["seen"]["rows"], files.len(), "{told}");
    assert_eq!(deployment.dump(), before);
    assert_eq!(deployment.disk(), disk);

    let etag = |file: &Old| {
        let target = format!("/files/{}", segment(&file.id));
        let answer = http::request(store.addresses.media, "HEAD", &target, &[], None).unwrap();
        answer.header("etag").map(str::to_owned)
    };
    let first = files.iter().find(|file| !file.deleted).unwrap();
    let tag = etag(first);
    let (ended, told) = deployment.adopt(&store, &[]);
    assert!(ended, "{told}");
    let seen = &told["adoption"]["pass"]["seen"];
    assert_eq!((&seen["adopted"], &seen["already"]), (&files.len().into(), &0.into()), "{told}");
    let bytes: usize = files.iter().map(|file| file.content.len()).sum();
    assert_eq!(seen["bytes"], bytes, "{told}");
    assert_eq!(told["adoption"]["state"], "open");
    assert_eq!(etag(first), tag, "an ETag never changes");
    all_are_served(&store, &files);
    let after = deployment.dump();
    let disk = deployment.disk();
    assert!(disk.values().all(|(record, ..)| record.is_some()));
    assert!(!after.contains("NULL, NULL, NULL, NULL, NULL"), "each row has its checksum: {after}");
    for (row, times) in after.lines().zip(before.lines()) {
        let time = |row: &str| row.matches("Date(").count();
        assert_eq!(time(row), time(times));
        assert!(!row.contains("t_file") || row.contains("2024, 3, 14, 8, 0, 0"), "{row}");
    }

    // Again, all of it, changes nothing.
    deployment.migrate();
    let (ended, told) = deployment.adopt(&store, &[]);
    let seen = &told["adoption"]["pass"]["seen"];
    assert!(ended && seen["adopted"] == 0 && seen["already"] == files.len(), "{told}");
    assert_eq!(deployment.dump(), after);
    assert_eq!(deployment.disk(), disk);

    // An old node goes on: it takes a file, deletes one, restores one. It knows no records.
    let new = Old {
        id: "of the old node".to_owned(),
        user: "alice",
        deleted: false,
        place: place(900_050),
        content: content(5, 5000),
    };
    new.write(&deployment.data());
    let deleted = files.iter().find(|file| file.deleted).unwrap();
    let set = |file: &Old, status: u8| {
        let table = table_of_user(file.user.as_bytes());
        format!(
            "UPDATE tnv_storagedb.t_file_0{table} SET status = {status} WHERE id = '{}'",
            file.id
        )
    };
    deployment.sql(&[new.row(), set(first, 1), set(deleted, 0)]);
    let media = store.addresses.media;
    let known = |file: &Old| get(media, &format!("/files/{}", segment(&file.id))).0;
    let begin = Instant::now();
    while (known(&new), known(first), known(deleted)) != (200, 404, 200) {
        assert!(begin.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(50));
    }
    // Nothing goes for good as long as it may be there.
    let purged = store.reel(&["purge", &first.id, "--user", first.user]);
    assert!(purged.is_err(), "{purged:?}");
    let (ended, told) = deployment.adopt(&store, &["--finish"]);
    let seen = &told["adoption"]["pass"]["seen"];
    assert!(ended && seen["adopted"] == 3, "{told}");
    assert_eq!(told["adoption"]["state"], "finished");
    assert_eq!((known(&new), known(first), known(deleted)), (200, 404, 200));

    // A store like any other: verified, uploaded to, purged.
    let source = deployment.folder.path().join("source");
    fs::write(&source, content(77, 3000)).unwrap();
    store.reel(&["put", source.to_str().unwrap(), "--id", "new"]).unwrap();
    store.reel(&["purge", &first.id, "--user", first.user]).unwrap();
    assert!(!deployment.data().join(&first.place).exists());
    let paths: Vec<String> = block_on(async {
        let mut conn = deployment.conn().await;
        conn.query("SELECT file_path FROM tnv_storagedb.t_file_02 WHERE id = 'new'").await.unwrap()
    });
    let (_, id, _) = (0, PathId::parse_file_path(&paths[0]).unwrap().1, 0);
    assert!(id.get() >= 900_100, "the sequence goes on: {paths:?}");
    let admin = store.addresses.engine_admin.to_string();
    let again = store.reel(&["adopt", "--admin", &admin]).unwrap();
    assert_eq!(again, "", "nothing is to be taken over any more");
    store.drain().unwrap();
    let mut verify = command().unwrap();
    let output = verify.args(["verify", "--data"]).arg(deployment.node()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("(2 of other groups)"), "{told}");
}

#[test]
fn what_is_wrong_with_an_installation_is_told_and_left_alone() {
    if !is_installed() {
        return;
    }
    let files = deployed(1_500_000);
    let deployment = Installation::new(&files);
    let at = |index: usize| deployment.data().join(&files[index].place);
    // A row without its file, a file cut short, one without a row, one that nobody of us has named.
    fs::remove_file(at(2)).unwrap();
    fs::write(at(3), b"short").unwrap();
    let nobodys =
        Old { place: place(700_000), content: vec![1; 10], ..deployed(1_500_000).remove(4) };
    nobodys.write(&deployment.data());
    fs::write(deployment.data().join("README"), b"hands off").unwrap();
    deployment.sql(&[
        "INSERT INTO tnv_storagedb.t_file_01 (id, appid, userid, file_path, file_size) \
         VALUES ('long', 'an app id that is too long', 'tnv003', '../data/000/000/000/65F1560C_1F0', 3)",
        "INSERT INTO tnv_storagedb.t_file_01 (id, appid, userid, file_path, file_size) \
         VALUES ('elsewhere', 'tnvideo', 'tnv003', '/other/data/000/000/000/65F1560C_1F0', 3)",
    ]);
    deployment.migrate();
    let store = deployment.up().expect_log("cannot be opened").start().unwrap();
    for mode in [&["--check"][..], &[], &["--finish"]] {
        let (ended, told) = deployment.adopt(&store, mode);
        assert_eq!(ended, mode != ["--check"], "{mode:?}: {told}");
        let seen = &told["adoption"]["pass"]["seen"];
        for (kind, count) in
            [("no_file", 1), ("wrong_size", 1), ("no_row", 1), ("bad_row", 1), ("bad_record", 0)]
        {
            assert_eq!(seen[kind], count, "{mode:?} {kind}: {told}");
        }
        let list =
            fs::read_to_string(deployment.data().join(".reel/adoption-findings.jsonl")).unwrap();
        assert_eq!(list.lines().count(), 4, "{list}");
        for place in [&files[2].place, &files[3].place, &nobodys.place] {
            assert_eq!(list.matches(place.as_str()).count(), 1, "{place}: {list}");
        }
    }
    assert_eq!(fs::read(at(3)).unwrap(), b"short");
    assert_eq!(record(&at(3)), None);
    assert_eq!(record(&deployment.data().join(&nobodys.place)), None);
    assert!(deployment.data().join("README").exists());
    store.drain().unwrap();
}

/// Killed again and again in the middle of it, with a rate at which it takes a while.
#[test]
fn taking_over_goes_on_where_it_was() {
    if !is_installed() {
        return;
    }
    let files = deployed(20_000);
    let deployment = Installation::new(&files);
    deployment.migrate();
    let bytes: u64 = files.iter().map(|file| file.content.len() as u64).sum();
    let slow = |rate: &str| deployment.up().set("engine.adopt_rate", rate).expect_log("");
    // A quarter of a minute in all.
    let up = slow("64KiB");
    let store = up.start().unwrap();
    let admin = store.addresses.engine_admin.to_string();
    store.reel(&["adopt", "--no-wait", "--admin", &admin]).unwrap();
    let mut store = store;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(700));
        store.kill().unwrap();
        store = up.start().unwrap();
    }
    store.kill().unwrap();
    let store = slow("1KiB").start().unwrap();
    // An operator lets it wait, and that outlives a restart.
    let admin = store.addresses.engine_admin.to_string();
    store.reel(&["adopt", "--pause", "--admin", &admin]).unwrap();
    let pass = |store: &Store| {
        let status = store.status(store.addresses.engine_admin).unwrap();
        status["service"]["store_paths"][0]["adoption"]["pass"].clone()
    };
    let begin = Instant::now();
    while pass(&store)["paused"] != true {
        assert!(begin.elapsed() < PATIENCE, "{}", pass(&store));
        std::thread::sleep(Duration::from_millis(20));
    }
    store.drain().unwrap();
    let store = deployment.up().start().unwrap();
    assert_eq!(pass(&store)["paused"], true);
    let (ended, told) = deployment.adopt(&store, &[]);
    assert!(ended, "{told}");
    let seen = &told["adoption"]["pass"]["seen"];
    let all = seen["adopted"].as_u64().unwrap() + seen["already"].as_u64().unwrap();
    assert_eq!(all, files.len() as u64, "{told}");
    assert!(seen["bytes"].as_u64().unwrap() < bytes, "what was read is not read again: {told}");
    assert!(deployment.disk().values().all(|(record, ..)| record.is_some()));
    all_are_served(&store, &files);
    store.drain().unwrap();
}
