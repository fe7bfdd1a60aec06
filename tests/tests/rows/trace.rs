//! What really goes over the wire to the server, and how it reads for it.

use std::collections::BTreeSet;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use reel_tests::database::operator;
use reel_tests::mariadb::MariaDb;

/// What a trigger does is logged, too: it reads nothing but the row of whoever set it off.
const OF_TRIGGER: &str = "OLD.id";

/// Statements that touch no row.
const WITHOUT_ROWS: [&str; 3] = ["START TRANSACTION", "COMMIT", "ROLLBACK"];

/// What a lookup may read that finds nothing, or one row: of each of three tables.
const READS_OF_LOOKUP: u64 = 12;

/// Reads for each row of a page: of an index, its condition, and of the table, in each of two states or seconds.
const READS_OF_ROW: u64 = 6;

/// How the server says that it looks rows up; the last one is from an end of a key on until it has enough, and how far it goes
/// is in what it reads.
const BY_KEY: [&str; 5] = ["const", "eq_ref", "ref", "range", "index"];

/// What it has looked up already, by a key.
const LOOKED_INTO: [&str; 5] = [
    "Impossible WHERE",
    "Impossible WHERE noticed after reading const tables",
    "no matching row in const table",
    "No matching min/max row",
    "Select tables optimized away",
];

/// Branches of a page for the states that no version writes: of these few the server sorts all that there are.
const STRANGE: &str = "status > 1 OR status < 0";

/// What a total reads, and how the server says that the key has all of it.
const SIZES: &str =
    "SELECT COALESCE(UNIX_TIMESTAMP(create_time), 0), id, GREATEST(COALESCE(file_size, 0), 0)";
const BY_KEY_ALONE: &str = "Using index";

/// An operator's connection that sees what others send.
pub(crate) struct Trace {
    conn: Conn,
}

impl Trace {
    pub(crate) async fn start(server: &MariaDb) -> Self {
        let mut conn = operator(server, "").await.unwrap();
        conn.query_drop("TRUNCATE mysql.general_log").await.unwrap();
        conn.query_drop("SET GLOBAL general_log = 1").await.unwrap();
        Self { conn }
    }

    /// Every statement that was carried out since, with its values.
    pub(crate) async fn end(mut self) -> BTreeSet<String> {
        self.conn.query_drop("SET GLOBAL general_log = 0").await.unwrap();
        let all: Vec<String> = self
            .conn
            .query(
                "SELECT CONVERT(argument USING utf8mb4) FROM mysql.general_log \
                 WHERE command_type IN ('Execute', 'Query') AND thread_id <> CONNECTION_ID()",
            )
            .await
            .unwrap();
        let has_rows =
            |sql: &String| !WITHOUT_ROWS.contains(&sql.as_str()) && !sql.contains(OF_TRIGGER);
        all.into_iter().filter(has_rows).collect()
    }
}

/// How the server would read for one part of a statement.
#[derive(Debug)]
struct Access {
    table: Option<String>,
    kind: String,
    key: Option<String>,
    extra: String,
}

impl Access {
    async fn all_of(conn: &mut Conn, sql: &str) -> Vec<Self> {
        let rows: Vec<Row> = conn.query(format!("EXPLAIN {sql}")).await.unwrap();
        let text = |row: &Row, column: &str| row.get::<Option<String>, _>(column).unwrap();
        rows.iter()
            .map(|row| Self {
                table: text(row, "table"),
                kind: text(row, "type").unwrap_or_default(),
                key: text(row, "key"),
                extra: text(row, "Extra").unwrap_or_default(),
            })
            .collect()
    }

    /// Whether rows are found by a key.
    fn is_by_key(&self) -> bool {
        match &self.table {
            None => LOOKED_INTO.contains(&self.extra.as_str()),
            Some(_) => {
                BY_KEY.contains(&self.kind.as_str())
                    && self.key.is_some()
                    && !self.extra.contains("temporary")
            }
        }
    }
}

/// Judges a statement by what the server says that it would do, and by what it did. `page`: rows that may be asked for;
/// `strange`: rows that no version writes, where there may be any.
pub(crate) async fn judge(conn: &mut Conn, sql: &str, page: u64, strange: u64) {
    conn.query_drop("START TRANSACTION").await.unwrap();
    if !sql.starts_with("INSERT") {
        let accesses = Access::all_of(conn, sql).await;
        assert!(!accesses.is_empty(), "{sql}");
        assert!(accesses.iter().all(Access::is_by_key), "{sql}\n{accesses:#?}");
        let sorts = accesses.iter().filter(|access| access.extra.contains("filesort"));
        assert!(sorts.count() <= sql.matches(STRANGE).count(), "{sql}\n{accesses:#?}");
        if sql.starts_with(SIZES) {
            let reads =
                |access: &Access| access.table.is_none() || access.extra.contains(BY_KEY_ALONE);
            assert!(accesses.iter().all(reads), "{sql}\n{accesses:#?}");
        }
    }
    let before = reads(conn).await;
    conn.query_drop(sql).await.unwrap();
    let done = reads(conn).await - before;
    conn.query_drop("ROLLBACK").await.unwrap();
    let allowed = READS_OF_LOOKUP + READS_OF_ROW * (page + strange);
    assert!(done <= allowed, "{done} reads, {allowed} are in order: {sql}");
    println!("{done:>6} of {allowed:>6} reads: {}", sql.chars().take(60).collect::<String>());
}

/// Rows and entries of indexes that this connection has read so far.
async fn reads(conn: &mut Conn) -> u64 {
    let all: Vec<(String, u64)> = conn
        .query(
            "SHOW SESSION STATUS WHERE Variable_name LIKE 'Handler_read%' \
             OR Variable_name IN ('Handler_icp_attempts', 'Handler_tmp_write', 'Sort_rows')",
        )
        .await
        .unwrap();
    all.iter().map(|(_, count)| count).sum()
}
