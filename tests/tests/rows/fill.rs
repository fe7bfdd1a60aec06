//! Tables as years of use leave them: one user with a tenth of all files, a few with very many, many with few; several
//! apps; deleted files with and without a time, many of them with the same; ids in no order of time or user.
//!
//! All of it is made on the server, and every value comes from the row's number: a second run makes the same tables. Rows
//! come in the order of their ids and keys afterwards, as a migration adds them: one by one, ten million would take hours.

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use reel_meta::Role;
use reel_meta::mysql::{MysqlOptions, migrate};
use reel_proto::table::table_of_user;
use reel_tests::database::{create, operator};
use reel_tests::mariadb::MariaDb;

/// The user with a tenth of all files, and the app of most of them.
pub(crate) const GIANT: &str = "tnv001";
pub(crate) const APP: &str = "tnvideo";

/// Users that share a fifth of all files.
const LARGE: u64 = 9;

/// Files of a user with few, on average.
const FILES_OF_SMALL: u64 = 25;

/// Rows of one INSERT.
const ROWS_AT_ONCE: u64 = 500_000;

/// When all deletions of a database that was taken over are said to have been, when many files were brought in, and when many
/// expire.
pub(crate) const TAKEN_OVER: u64 = 1_735_689_600;

/// The second of the first upload, and the seconds until the last one.
pub(crate) const FIRST_UPLOAD: u64 = 1_640_995_200;
pub(crate) const UPLOAD_TIME: u64 = 94_608_000;

/// A database for each role, with rows.
pub(crate) struct Filled {
    pub(crate) tracker: MysqlOptions,
    pub(crate) ids: MysqlOptions,
    pub(crate) storage: MysqlOptions,
    /// Time that the rows took, and then the keys, milliseconds.
    pub(crate) took_ms: [u128; 2],
}

/// Makes and fills the three databases: `rows` files.
pub(crate) async fn fill(server: &MariaDb, rows: u64) -> Filled {
    let begin = std::time::Instant::now();
    let storage = create(server, Role::Storage).await.unwrap();
    let mut conn = operator(server, &storage.database).await.unwrap();
    conn.query_drop("SET SESSION time_zone = '+00:00'").await.unwrap();
    let users = 1 + LARGE + (rows / FILES_OF_SMALL).max(1);
    enter_users(&mut conn, users).await;
    for table in 1..=3 {
        conn.query_drop(format!(
            "ALTER TABLE t_file_0{table} DROP KEY reel_user, DROP KEY reel_app, DROP KEY reel_deleted, \
             DROP KEY reel_expires"
        ))
        .await
        .unwrap();
        enter_files(&mut conn, table, rows, users).await;
    }
    enter_others(&mut conn, rows).await;
    let with_rows = begin.elapsed();
    // As for a deployed database: keys are what is missing.
    migrate(&storage, Role::Storage, false).await.unwrap();
    let with_keys = begin.elapsed() - with_rows;
    let tracker = create(server, Role::Tracker).await.unwrap();
    let ids = create(server, Role::Ids).await.unwrap();
    enter_routes(&mut conn, &tracker.database, users).await;
    enter_sequences(&mut conn, &ids.database).await;
    conn.query_drop("DROP TABLE users").await.unwrap();
    for (database, table) in [
        (&storage.database, "t_file_01"),
        (&storage.database, "t_file_02"),
        (&storage.database, "t_file_03"),
        (&storage.database, "reel_left"),
        (&storage.database, "reel_changes"),
        (&tracker.database, "t_router"),
        (&ids.database, "t_id_gen"),
    ] {
        conn.query_drop(format!("ANALYZE TABLE `{database}`.{table}")).await.unwrap();
    }
    let took_ms = [with_rows.as_millis(), with_keys.as_millis()];
    Filled { tracker, ids, storage, took_ms }
}

/// A user by number: 0 is the giant, then come the large ones.
pub(crate) fn user(number: u64) -> String {
    if number == 0 {
        GIANT.to_owned()
    } else {
        format!("u{:x}", number.wrapping_mul(2_654_435_761))
    }
}

/// All users with the table that each one's files are in, which only the program knows.
async fn enter_users(conn: &mut Conn, users: u64) {
    conn.query_drop(
        "CREATE TABLE users (number INT PRIMARY KEY, name VARCHAR(128) NOT NULL, tab TINYINT NOT NULL) \
         ENGINE = MyISAM DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
    )
    .await
    .unwrap();
    let numbers: Vec<u64> = (0..users).collect();
    for some in numbers.chunks(10_000) {
        let rows: Vec<String> = some
            .iter()
            .map(|&number| {
                let name = user(number);
                format!("({number}, '{name}', {})", table_of_user(name.as_bytes()))
            })
            .collect();
        conn.query_drop(format!("INSERT INTO users VALUES {}", rows.join(", "))).await.unwrap();
    }
}

/// A number below 1 for each row; another `factor` gives one that has nothing to do with it.
fn fraction(factor: u64) -> String {
    format!("(MOD(seq * {factor}, 4294967296) / 4294967296e0)")
}

/// Inserts the rows of one table: those of the users that are in it.
async fn enter_files(conn: &mut Conn, table: u8, rows: u64, users: u64) {
    let (of_user, of_size) = (fraction(2_654_435_761), fraction(2_246_822_519));
    let (of_app, of_state) = (fraction(3_266_489_917), fraction(668_265_263));
    let (of_time, of_rest) = (fraction(374_761_393), fraction(1_274_126_177));
    let small = users - LARGE - 1;
    // A tenth is the giant's, two tenths are the large ones'; of the others a few have a hundred times as many as most.
    let number = format!(
        "CAST(CASE WHEN {of_user} < 0.1 THEN 0 WHEN {of_user} < 0.3 THEN 1 + FLOOR({of_size} * {LARGE}) \
         ELSE {LARGE} + 1 + FLOOR(POW({of_size}, 2) * {small}) END AS SIGNED)"
    );
    let stride = i64::MAX as u64 / (rows + 1);
    // 1 in 50 was brought in by a script, all of them in one second.
    let created = format!(
        "IF({of_time} < 0.02, {TAKEN_OVER}, {FIRST_UPLOAD} + CAST(FLOOR({of_time} * {UPLOAD_TIME}) AS UNSIGNED))"
    );
    // 1 in 20 is deleted with a time of its own, 1 in 50 with that of the taking over, 1 in 100 without one; 1 in 10,000
    // has a state that no version writes.
    let status =
        format!("CASE WHEN {of_state} < 0.08 THEN 1 WHEN {of_state} < 0.0801 THEN 2 ELSE 0 END");
    let deleted_at = format!(
        "CASE WHEN {of_state} < 0.05 THEN 1704067200 + FLOOR({of_time} * 31536000) \
         WHEN {of_state} < 0.07 THEN {TAKEN_OVER} ELSE NULL END"
    );
    let insert = format!(
        "INSERT INTO t_file_0{table} (id, appid, userid, status, file_path, file_size, create_time, update_time, \
         checksum, original_name, content_type, deleted_at, expires_at) \
         SELECT LOWER(CONCAT(LPAD(HEX(seq * {stride} + CAST(FLOOR({of_rest} * {stride}) AS UNSIGNED)), 16, '0'), \
         LPAD(HEX(MOD(seq * 2654435761, 4294967296)), 8, '0'), LPAD(HEX(MOD(seq * 2246822519, 4294967296)), 8, '0'), \
         LPAD(MOD(seq, 10000), 4, '0'))), \
         CASE WHEN {of_app} < 0.8 THEN '{APP}' WHEN {of_app} < 0.95 THEN 'tnphoto' ELSE 'tnmusic' END, \
         u.name, {status}, \
         CONCAT('../data/', LPAD(HEX(MOD(seq, 512)), 3, '0'), '/', LPAD(HEX(MOD(seq DIV 512, 512)), 3, '0'), \
         '/000/', LPAD(HEX({created}), 8, '0'), '_', LPAD(HEX(seq), 9, '0')), \
         FLOOR(POW({of_size}, 4) * 1000000000), FROM_UNIXTIME({created}), FROM_UNIXTIME({created}), \
         IF({of_rest} < 0.9, seq * 922337203685, NULL), CONCAT('Holiday ', seq, '.mp4'), 'video/mp4', {deleted_at}, \
         CASE WHEN {of_rest} < 0.01 THEN {TAKEN_OVER} WHEN {of_rest} < 0.03 THEN {created} + 94608000 ELSE NULL END"
    );
    for first in (1..=rows).step_by(usize::try_from(ROWS_AT_ONCE).unwrap()) {
        let last = (first + ROWS_AT_ONCE - 1).min(rows);
        conn.query_drop(format!(
            "{insert} FROM seq_{first}_to_{last} STRAIGHT_JOIN users u ON u.number = {number} AND u.tab = {table}"
        ))
        .await
        .unwrap();
    }
}

/// Places that were left, stores that nodes had, and the changes of an hour: one for each ten rows, the last of them two minutes ago.
async fn enter_others(conn: &mut Conn, rows: u64) {
    let left = (rows / 100).max(1);
    conn.query_drop(format!(
        "INSERT INTO reel_left SELECT CONCAT('/srv/left/', LPAD(HEX(seq), 9, '0')) FROM seq_1_to_{left}"
    ))
    .await
    .unwrap();
    conn.query_drop(
        "INSERT INTO reel_stores SELECT CONCAT('node', seq DIV 10), CONCAT('/srv/', MOD(seq, 10)), UUID(), 1700000000 \
         FROM seq_0_to_999",
    )
    .await
    .unwrap();
    let changes = (rows / 10).max(1);
    conn.query_drop(format!(
        "INSERT INTO reel_changes (file_id, changed_at) SELECT LOWER(HEX(seq * 1000003)), \
         NOW() - INTERVAL 120 + ({changes} - seq) * 3600 DIV {changes} SECOND FROM seq_1_to_{changes}"
    ))
    .await
    .unwrap();
}

async fn enter_routes(conn: &mut Conn, tracker: &str, users: u64) {
    conn.query_drop(format!(
        "INSERT INTO `{tracker}`.t_groups_info (group_name) \
         SELECT CONCAT('group', LPAD(seq, 3, '0')) FROM seq_1_to_100"
    ))
    .await
    .unwrap();
    conn.query_drop(format!(
        "INSERT INTO `{tracker}`.t_router (appid, userid, group_name) \
         SELECT '{APP}', name, CONCAT('group', LPAD(1 + MOD(number, 100), 3, '0')) FROM users"
    ))
    .await
    .unwrap();
    assert!(users > 0);
}

async fn enter_sequences(conn: &mut Conn, ids: &str) {
    conn.query_drop(format!(
        "INSERT INTO `{ids}`.t_id_gen (id, id_value) SELECT CONCAT('/srv/reel/', seq), seq * 1000 FROM seq_1_to_10000"
    ))
    .await
    .unwrap();
}
