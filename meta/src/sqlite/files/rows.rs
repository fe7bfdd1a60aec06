//! What requests cost in a large database, in steps of SQLite's machine: a page costs the same in ten thousand rows as in a million.
//! `REEL_TEST_ROWS` says how many.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, StatementStatus, params_from_iter};

use super::{SqliteFileStore, statements as sql};
use crate::page::StatusFilter;

/// Rows in which a page costs what it has to.
const FEW: u64 = 10_000;

/// Rows of a page.
const PAGE: i64 = 101;

/// When many files were deleted together.
const TOGETHER: i64 = 1_735_689_600;

/// A tenth is one user's; another one has a tenth, too, and has deleted the lower half of it; the others have few.
const FILL: &str = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) \
    INSERT INTO t_file_02 (id, appid, userid, status, file_path, file_size, create_time, update_time, deleted_at) \
    SELECT id, 'tnvideo', user, status, '../data/000/000/000/' || id, i, i, i, \
        CASE WHEN status = 0 THEN NULL WHEN i % 3 = 0 THEN 1735689600 ELSE 1700000000 + i END \
    FROM (SELECT i, id, user, \
            (user = 'cleaner' AND id < '8') OR (user = 'giant' AND i % 130 = 0) AS status \
        FROM (SELECT i, printf('%08x%08x', (i * 2654435761) & 4294967295, i) AS id, \
                CASE i % 10 WHEN 0 THEN 'giant' WHEN 1 THEN 'cleaner' ELSE printf('u%d', i * 7919 % (?1 / 25)) END AS user \
            FROM n))";

fn filled(folder: &tempfile::TempDir, rows: u64) -> SqliteFileStore {
    let store = SqliteFileStore::open(&folder.path().join(format!("{rows}.db"))).unwrap();
    let connection = store.database.connection();
    connection.execute(FILL, [i64::try_from(rows).unwrap()]).unwrap();
    store
}

/// What is asked, and the values: `id` is where a row could be, `at` a second in which one could have been made.
fn questions(id: &str, at: i64) -> Vec<(&'static str, &'static str, Vec<Value>)> {
    let text = |text: &str| Value::Text(text.to_owned());
    let page = |user: &str, at: i64| {
        vec![
            text("tnvideo"),
            text(user),
            at.into(),
            0.into(),
            text(id),
            i64::MAX.into(),
            PAGE.into(),
        ]
    };
    let deleted = |at: i64| vec![i64::MAX.into(), at.into(), text(id), PAGE.into()];
    let (user, app) = (&*sql::OF_USER, &*sql::OF_APP);
    let [normal, gone, any] = [StatusFilter::Normal, StatusFilter::Deleted, StatusFilter::Any];
    vec![
        ("by id", sql::FIND[1], vec![text(id)]),
        ("by id, all tables", sql::FIND_ANYWHERE, vec![text(id)]),
        ("served, giant", &user.pages(normal)[1], page("giant", 0)),
        ("served, giant, middle", &user.pages(normal)[1], page("giant", at)),
        ("served, after many deleted", &user.pages(normal)[1], page("cleaner", 0)),
        ("deleted, cleaner", &user.pages(gone)[1], page("cleaner", 0)),
        ("any, cleaner, middle", &user.pages(any)[1], page("cleaner", at)),
        ("any, giant", &user.pages(any)[1], page("giant", 0)),
        ("served, app", &app.pages(normal)[1], page("", 0)),
        ("served, app, middle", &app.pages(normal)[1], page("", at)),
        ("deleted, app", &app.pages(gone)[1], page("", 0)),
        ("any, app, middle", &app.pages(any)[1], page("", at)),
        ("sizes, giant", &user.sizes[1][0], page("giant", at)),
        ("sizes of deleted, app", &app.sizes[1][1], page("", at)),
        ("deleted before", sql::DELETED_BEFORE[1], deleted(0)),
        ("deleted together", sql::DELETED_BEFORE[1], deleted(TOGETHER)),
        ("scan", sql::SCAN[1], vec![text(id), PAGE.into()]),
    ]
}

/// Rows and steps of one question.
fn cost(connection: &Connection, statement: &str, values: Vec<Value>) -> (u64, i32) {
    let mut statement = connection.prepare(statement).unwrap();
    let mut rows = statement.query(params_from_iter(values)).unwrap();
    let mut count = 0;
    while rows.next().unwrap().is_some() {
        count += 1;
    }
    drop(rows);
    for kind in [StatementStatus::FullscanStep, StatementStatus::Sort, StatementStatus::AutoIndex] {
        assert_eq!(statement.get_status(kind), 0);
    }
    (count, statement.get_status(StatementStatus::VmStep))
}

#[test]
fn a_page_costs_the_same_however_many_rows_there_are() {
    let rows = std::env::var("REEL_TEST_ROWS").map_or(100_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let (few, many) = (filled(&folder, FEW), filled(&folder, rows));
    let (few, many) = (few.database.connection(), many.database.connection());
    let id = "20000000";
    let of_few = questions(id, FEW as i64 / 4);
    let of_many = questions(id, rows as i64 / 4);
    for ((name, statement, values), (.., same)) in of_few.into_iter().zip(of_many) {
        let (few_rows, few_steps) = cost(few, statement, values);
        let (many_rows, many_steps) = cost(many, statement, same);
        println!("{name}: {few_steps} steps of {FEW}, {many_steps} of {rows} rows");
        assert_eq!(few_rows, many_rows, "{name}");
        assert!(many_steps <= few_steps + few_steps / 2, "{name}: {few_steps}, {many_steps}");
    }
    tell_times(many, rows);
}

/// For people: nothing is judged by it.
fn tell_times(connection: &Connection, rows: u64) {
    const TIMES: u64 = 200;
    for question in 0..questions("", 0).len() {
        let mut times: Vec<Duration> = Vec::new();
        let mut told = "";
        for time in 0..TIMES {
            let id = format!("{:08x}", (time * 2_246_822_519) & 0xffff_ffff);
            let at = (time * rows / TIMES) as i64;
            let (name, statement, values) = questions(&id, at).swap_remove(question);
            let begin = Instant::now();
            cost(connection, statement, values);
            times.push(begin.elapsed());
            told = name;
        }
        times.sort();
        println!("{told}: median {:?}, worst {:?}", times[times.len() / 2], times[times.len() - 1]);
    }
}
