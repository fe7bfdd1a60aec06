//! Changes that share a transaction of a shared database: what is refused of one of them harms no other.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use mysql_async::prelude::Queryable;
use reel_client::{Client, FileId, UploadDetails, UploadSource};
use reel_meta::mysql::{MysqlFileStore, MysqlOptions, migrate};
use reel_meta::{FileStore, Role};
use reel_tests::database::{block_on, is_installed, operator};
use reel_tests::mariadb::MariaDb;
use reel_tests::process::{Store, Up};
use reel_tests::stored::files_below;
use reel_tests::uploaders::{impatient_client, owner};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// Uploads at once.
const UPLOADS: usize = 24;
/// The one whose row the database refuses.
const BAD: usize = 11;

/// Longest wait for uploads to be under way. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(30);

/// As an operator's own rule would: of names that no client is told about.
const RULE: &str = "CREATE TRIGGER rule BEFORE INSERT ON t_file_02 FOR EACH ROW \
    IF NEW.original_name = 'bad' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'not this one'; END IF";

async fn upload(client: Client, number: usize) -> bool {
    let file = FileId::parse(&format!("file{number}")).unwrap();
    let name = if number == BAD { "bad" } else { "good" };
    let details = UploadDetails { name: Some(name.to_owned()), ..UploadDetails::default() };
    let source = UploadSource::bytes(vec![7; 1000]);
    client.upload(&owner().file(file), &source, &details, &mut |_| {}).await.is_ok()
}

/// All of them at once, while the database stands still: then their rows wait for each other.
async fn upload_together(server: &MariaDb, store: &Store) -> Vec<bool> {
    server.freeze().unwrap();
    let tasks = LocalSet::new();
    let running: Vec<_> = (0..UPLOADS)
        .map(|number| {
            tasks.spawn_local(upload(impatient_client(&[store.addresses.tracker]).unwrap(), number))
        })
        .collect();
    tasks
        .run_until(async {
            let begin = Instant::now();
            while files_below(&store.data().join("store")).unwrap().len() < UPLOADS + 1 {
                assert!(begin.elapsed() < PATIENCE, "not all uploads are under way");
                sleep(Duration::from_millis(20)).await;
            }
            // From the file to the writer's queue.
            sleep(Duration::from_millis(500)).await;
            server.resume().unwrap();
            let mut went_well = Vec::with_capacity(UPLOADS);
            for upload in running {
                went_well.push(upload.await.unwrap());
            }
            went_well
        })
        .await
}

#[test]
fn one_refused_row_fails_one_upload_and_none_beside_it() {
    if !is_installed() {
        return;
    }
    let server = MariaDb::start_with(&["--log-output=TABLE"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    block_on(async {
        for role in Role::ALL {
            let options = MysqlOptions::new(role, vec![server.address()], "root");
            migrate(&options, role, false).await.unwrap();
        }
        let (host, port) = server.address();
        let up = Up::new(&data)
            .set("meta.mysql.servers", &format!("[\"{host}:{port}\"]"))
            .set("meta.mysql.user", "root")
            .expect_log("metadata")
            .expect_log("not this one");
        let store = up.start().unwrap();
        let source = folder.path().join("content");
        std::fs::write(&source, "first").unwrap();
        // The user has its group then, and the node its block of ids.
        store.reel(&["put", source.to_str().unwrap(), "--id", "first"]).unwrap();
        let options = MysqlOptions::new(Role::Storage, vec![server.address()], "root");
        let mut conn = operator(&server, &options.database).await.unwrap();
        conn.query_drop(RULE).await.unwrap();
        conn.query_drop("SET GLOBAL general_log = 1").await.unwrap();

        let went_well = upload_together(&server, &store).await;
        let failed: Vec<usize> = (0..UPLOADS).filter(|&number| !went_well[number]).collect();
        assert_eq!(failed, [BAD]);
        // Else this test has shown nothing.
        let together: Option<u64> = conn
            .query_first(
                "SELECT COUNT(*) FROM mysql.general_log WHERE command_type = 'Execute' \
                 AND argument LIKE 'INSERT%\\'bad\\'%' AND argument LIKE 'INSERT%\\'good\\'%'",
            )
            .await
            .unwrap();
        assert!(together > Some(0), "the refused row was in no statement with others");

        store.drain().unwrap();
        let mut rows = MysqlFileStore::new_reader(options);
        let rows = rows.scan(None, 100).await.unwrap().rows;
        let mut named: Vec<String> = rows.into_iter().map(|row| row.file_path).collect();
        named.sort();
        let there = files_below(&data.join("store")).unwrap();
        let there: Vec<String> = there.iter().map(|path| path.display().to_string()).collect();
        assert_eq!(named.len(), UPLOADS, "the first one and all that were not refused");
        assert_eq!(named, there, "a file for each row, a row for each file");
    });
}
