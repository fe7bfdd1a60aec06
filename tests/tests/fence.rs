//! A COMMIT without an answer whose server cannot be asked, or is another one by now: what a store says then stays true.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use mysql_async::prelude::Queryable;
use reel_meta::mysql::{MysqlFileStore, MysqlOptions};
use reel_meta::{FileRow, FileStore, InsertOutcome, MetaError, Role};
use reel_tests::database::{block_on, create, is_installed, new_file, operator, said};
use reel_tests::mariadb::MariaDb;
use reel_tests::proxy::{Fault, Proxy};
use tokio::time::{Instant, sleep};

const FILE: &str = "film";
const SECOND: Duration = Duration::from_secs(1);

/// Longest wait for a store to answer again: it is refused for 20 s where time decides. It ends a test that hangs;
/// nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The same server at two addresses: what one of them loses can be read at the other, as in a cluster.
struct Two {
    _server: MariaDb,
    first: Proxy,
    /// To the server itself.
    direct: MysqlOptions,
    through: MysqlOptions,
}

impl Two {
    async fn start() -> Self {
        let server = MariaDb::start().unwrap();
        let direct = create(&server, Role::Storage).await.unwrap();
        let first = Proxy::start(server.address()).unwrap();
        let servers = vec![first.address(), server.address()];
        let through = MysqlOptions { servers, statement_timeout: SECOND, ..direct.clone() };
        Self { _server: server, first, direct, through }
    }

    async fn truth(&self) -> Option<FileRow> {
        MysqlFileStore::new_reader(self.direct.clone()).get(None, FILE).await.unwrap()
    }
}

/// The same database on two servers that know nothing of each other.
async fn create_on_both(one: &MariaDb, other: &MariaDb) -> MysqlOptions {
    let options = create(one, Role::Storage).await.unwrap();
    // Both count from zero.
    assert_eq!(create(other, Role::Storage).await.unwrap().database, options.database);
    options
}

async fn find(store: &mut MysqlFileStore) -> Result<Option<FileRow>, MetaError> {
    store.get_owned("tnvideo", "tnv001", FILE).await
}

/// Inserts the file; the COMMIT meets the fault and goes without an answer.
async fn insert_unanswered(store: &mut MysqlFileStore, proxy: &Proxy, fault: Fault) {
    store.connect().await.unwrap();
    proxy.arm("COMMIT", fault);
    let error = store.insert(&[new_file("tnv001", FILE, "/data/1")]).await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
}

/// What the store says of the file as soon as it says anything, and every refusal before that.
async fn until_answered(store: &mut MysqlFileStore) -> (Option<FileRow>, Vec<String>) {
    let mut refused = Vec::new();
    let begin = Instant::now();
    loop {
        match find(store).await {
            Ok(found) => return (found, refused),
            Err(error) => {
                // Not "busy": the database is not even asked.
                assert!(matches!(error, MetaError::Unavailable { .. }), "{error}");
                assert!(begin.elapsed() < PATIENCE, "{}", said(&error));
                refused.push(said(&error));
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// The first address leads nowhere, the second one could be read at once. Here it would say "busy" of the row, whose lock it knows;
/// another server of a cluster would say "not there" of a row that a COMMIT on its way still makes.
#[test]
fn a_commit_on_its_way_to_a_server_that_cannot_be_asked_is_waited_for() {
    if !is_installed() {
        return;
    }
    block_on(async {
        let two = Two::start().await;
        let mut store = MysqlFileStore::new(two.through.clone());
        insert_unanswered(&mut store, &two.first, Fault::Delay(Duration::from_secs(5))).await;
        two.first.lead_to(None);
        assert_eq!(two.truth().await, None, "not yet");
        let (found, refused) = until_answered(&mut store).await;
        assert!(!refused.is_empty());
        assert!(found.is_some(), "it has come");
        assert_eq!(found, two.truth().await);
    });
}

/// The same with a COMMIT that comes when its server has ended the transaction by itself.
#[test]
fn a_commit_that_comes_after_its_transaction_has_ended_commits_nothing() {
    if !is_installed() {
        return;
    }
    block_on(async {
        let two = Two::start().await;
        let mut store = MysqlFileStore::new(two.through.clone());
        insert_unanswered(&mut store, &two.first, Fault::Delay(Duration::from_secs(15))).await;
        two.first.lead_to(None);
        let (found, refused) = until_answered(&mut store).await;
        assert!(!refused.is_empty());
        assert_eq!((found, two.truth().await), (None, None));
        let outcomes = store.insert(&[new_file("tnv001", FILE, "/data/2")]).await.unwrap();
        assert_eq!(outcomes, [InsertOutcome::Inserted]);
    });
}

/// A server that stands still with a COMMIT at hand until time has decided, and goes on with it: it is not used again before
/// that connection has ended.
#[test]
fn what_a_server_was_left_with_is_ended_before_it_is_used_again() {
    if !is_installed() {
        return;
    }
    block_on(async {
        let (one, mut other) = (MariaDb::start().unwrap(), MariaDb::start().unwrap());
        let direct = create_on_both(&one, &other).await;
        let proxy = Proxy::start(one.address()).unwrap();
        let through = MysqlOptions {
            servers: vec![proxy.address(), other.address()],
            statement_timeout: Duration::from_secs(4),
            ..direct.clone()
        };
        let mut store = MysqlFileStore::new(through);
        store.begin(None).await.unwrap();
        store.insert(&[new_file("tnv001", FILE, "/data/1")]).await.unwrap();
        let mut blocker = operator(&one, "").await.unwrap();
        for stage in ["START", "BLOCK_COMMIT"] {
            blocker.query_drop(format!("BACKUP STAGE {stage}")).await.unwrap();
        }
        // The server does not learn that nobody waits any more.
        proxy.arm("COMMIT", Fault::Silence(PATIENCE));
        one.freeze().unwrap();
        let error = store.commit().await.unwrap_err();
        assert!(error.outcome_unknown(), "{error}");
        let (found, refused) = until_answered(&mut store).await;
        assert!(!refused.is_empty());
        assert_eq!(found, None, "as the other one says");

        other.kill().unwrap();
        one.resume().unwrap();
        // The COMMIT begins now, and waits for the backup.
        let (found, refused) = until_answered(&mut store).await;
        assert_eq!((found, refused), (None, Vec::new()));
        blocker.query_drop("BACKUP STAGE END").await.unwrap();
        let mut reader = MysqlFileStore::new_reader(direct);
        assert_eq!(reader.get(None, FILE).await.unwrap(), None, "and nothing comes");
        let outcomes = store.insert(&[new_file("tnv001", FILE, "/data/2")]).await.unwrap();
        assert_eq!(outcomes, [InsertOutcome::Inserted]);
    });
}

/// One address that leads to another server, as behind a balancer: that one knows nothing of the COMMIT.
#[test]
fn another_server_at_the_address_is_not_believed() {
    if !is_installed() {
        return;
    }
    block_on(async {
        let (one, other) = (MariaDb::start().unwrap(), MariaDb::start().unwrap());
        let direct = create_on_both(&one, &other).await;
        let proxy = Proxy::start(one.address()).unwrap();
        let through = MysqlOptions {
            servers: vec![proxy.address()],
            statement_timeout: SECOND,
            ..direct.clone()
        };
        let mut store = MysqlFileStore::new(through.clone());
        insert_unanswered(&mut store, &proxy, Fault::Delay(Duration::from_secs(4))).await;
        proxy.lead_to(Some(other.address()));
        let error = find(&mut store).await.unwrap_err();
        assert!(said(&error).contains("another server answers"), "{}", said(&error));
        proxy.lead_to(Some(one.address()));
        let (found, _) = until_answered(&mut store).await;
        assert_eq!(found, None, "its own server has ended it");
        sleep(Duration::from_secs(4)).await;
        let mut reader = MysqlFileStore::new_reader(direct.clone());
        assert_eq!(reader.get(None, FILE).await.unwrap(), None, "and it commits nothing any more");

        // Its own server never comes back: time decides, as where it cannot be asked.
        let mut store = MysqlFileStore::new(through);
        insert_unanswered(&mut store, &proxy, Fault::CutRequest(0)).await;
        proxy.lead_to(Some(other.address()));
        let elsewhere = MysqlOptions { servers: vec![other.address()], ..direct };
        let mut cluster = MysqlFileStore::new(elsewhere);
        cluster.insert(&[new_file("tnv001", FILE, "/data/of-the-cluster")]).await.unwrap();
        let (found, refused) = until_answered(&mut store).await;
        assert!(refused.iter().any(|text| text.contains("another server")), "{refused:?}");
        assert_eq!(found.unwrap().file_path, "/data/of-the-cluster");
    });
}

/// A server, or something before it, that refuses GET_LOCK: the connection is known by its number.
#[test]
fn a_server_without_locks_is_asked_by_number() {
    if !is_installed() {
        return;
    }
    block_on(async {
        let server = MariaDb::start().unwrap();
        let direct = create(&server, Role::Storage).await.unwrap();
        let proxy = Proxy::start(server.address()).unwrap();
        proxy.replace("GET_LOCK", "NOT_LOCK");
        let through = MysqlOptions {
            servers: vec![proxy.address()],
            statement_timeout: SECOND,
            ..direct.clone()
        };
        let mut reader = MysqlFileStore::new_reader(direct);
        let mut store = MysqlFileStore::new(through);
        insert_unanswered(&mut store, &proxy, Fault::Delay(Duration::from_secs(3))).await;
        assert_eq!(find(&mut store).await.unwrap(), None);
        sleep(Duration::from_secs(4)).await;
        assert_eq!(
            reader.get(None, FILE).await.unwrap(),
            None,
            "it comes late and commits nothing"
        );
        insert_unanswered(&mut store, &proxy, Fault::CutAnswer(0)).await;
        let found = find(&mut store).await.unwrap();
        assert!(found.is_some(), "it was committed, and its connection is gone");
        assert_eq!(found, reader.get(None, FILE).await.unwrap());
    });
}
