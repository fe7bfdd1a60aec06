//! How large a database may grow: whatever a request asks of the metadata is found by a key, and the server reads for it what
//! it answers and no more, whether a user has ten files or a million.
//!
//! Every call goes through the real store to a real MariaDB, which logs what it got; each of those statements is judged by the
//! plan that the server has for it, and by the rows that it then reads. No time is judged: they are printed, of
//! `REEL_TEST_CALLS` calls of each kind (by default 10) with `REEL_TEST_ROWS` files in all (by default 200,000;
//! docs/performance.md has those of 10,000,000).
#![allow(clippy::unwrap_used)]

mod calls;
mod fill;
mod trace;

use std::collections::BTreeSet;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use reel_meta::FileStore;
use reel_tests::database::{block_on, is_installed, operator};
use reel_tests::mariadb::MariaDb;
use reel_tests::seed::{Seeded, count_from};
use tokio::time::Instant;

use calls::{Call, Place, Stores};
use fill::Filled;
use trace::Trace;

/// As an operator would start it who knows that the database is large; and where statements are logged.
const ARGUMENTS: [&str; 3] =
    ["--innodb-buffer-pool-size=256M", "--innodb-log-file-size=256M", "--log-output=TABLE"];

/// Calls of a kind whose statements are judged.
const JUDGED: usize = 3;

#[test]
fn requests_find_rows_by_key_and_read_no_more_than_they_answer() {
    if !is_installed() {
        return;
    }
    let rows = count_from("REEL_TEST_ROWS", 200_000);
    let calls = count_from("REEL_TEST_CALLS", 10).max(JUDGED as u64);
    let mut seeded = Seeded::of_test("rows");
    let mut server = MariaDb::start_with(&ARGUMENTS).unwrap();
    let (filled, places) = block_on(async {
        let filled = fill::fill(&server, rows).await;
        tell_sizes(&server, &filled).await;
        let mut stores = Stores::open(&filled).await;
        let places = Place::draw(&mut stores.writer, calls, &mut seeded).await;
        let mut conn = operator(&server, &filled.storage.database).await.unwrap();
        let strange = calls::strange_rows(&mut conn).await;
        for call in calls::all() {
            let sent = send(&server, &mut stores, call, &places[..JUDGED]).await;
            conn.query_drop(format!("USE `{}`", call.database(&filled))).await.unwrap();
            for sql in sent {
                trace::judge(&mut conn, &sql, call.page() as u64, strange).await;
            }
        }
        (filled, places)
    });
    // Nothing is in its memory any more.
    server.kill().unwrap();
    server.run().unwrap();
    block_on(async {
        let mut stores = Stores::open(&filled).await;
        println!("| call | median, first time | worst | median, again | worst |");
        println!("| --- | --- | --- | --- | --- |");
        for call in calls::all() {
            tell_times(&mut stores, call, &places).await;
        }
    });
}

/// Everything that a kind of call sends.
async fn send(
    server: &MariaDb,
    stores: &mut Stores,
    call: Call,
    places: &[Place],
) -> BTreeSet<String> {
    let trace = Trace::start(server).await;
    let mut rows = 0;
    for place in places {
        // Changes are undone: what was sent is to meet the same rows once more.
        stores.writer.begin(None).await.unwrap();
        rows += call.run(stores, place).await;
        stores.writer.roll_back().await;
    }
    let sent = trace.end().await;
    assert!(rows > 0 && !sent.is_empty(), "{call:?}: {rows} rows, {sent:?}");
    println!("{call:?}: {rows} rows");
    sent
}

/// What a kind of call takes at places that nobody has been to, and at the same places again.
async fn tell_times(stores: &mut Stores, call: Call, places: &[Place]) {
    let mut told = format!("| {call:?}");
    for round in 0..2 {
        if round > 0 && call.is_once() {
            break;
        }
        let mut times = Vec::with_capacity(places.len());
        for place in places {
            let begin = Instant::now();
            call.run(stores, place).await;
            times.push(begin.elapsed());
        }
        times.sort();
        let shown = |time: Duration| format!(" | {:.2} ms", time.as_secs_f64() * 1000.0);
        told += &(shown(times[times.len() / 2]) + &shown(times[times.len() - 1]));
    }
    println!("{told} |");
}

/// How large everything is.
async fn tell_sizes(server: &MariaDb, filled: &Filled) {
    let mut conn = operator(server, "").await.unwrap();
    let [rows_ms, keys_ms] = filled.took_ms;
    println!("rows in {rows_ms} ms, keys in {keys_ms} ms");
    for options in [&filled.tracker, &filled.ids, &filled.storage] {
        let tables: Vec<(String, u64, u64, u64)> = conn
            .exec(
                "SELECT table_name, table_rows, data_length, index_length FROM information_schema.tables \
                 WHERE table_schema = ? AND table_rows > 0",
                (&options.database,),
            )
            .await
            .unwrap();
        for (table, rows, data, index) in tables {
            println!("{table}: about {rows} rows, {data} bytes and {index} of keys");
        }
    }
}
