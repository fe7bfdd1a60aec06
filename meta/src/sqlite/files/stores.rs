//! `reel_stores`: which store each node had at each of its paths.

use rusqlite::{Connection, OptionalExtension, params};

use super::statements::unsigned;
use crate::row::ExpectedStore;

const EXPECTED: &str = "SELECT uuid, created_at FROM reel_stores WHERE node = ?1 AND path = ?2";
const EXPECT: &str = "INSERT INTO reel_stores (node, path, uuid, created_at)
    VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (node, path) DO UPDATE SET uuid = excluded.uuid, created_at = excluded.created_at
    WHERE uuid <> excluded.uuid";

pub(super) fn expected(
    connection: &Connection,
    node: &str,
    path: &str,
) -> rusqlite::Result<Option<ExpectedStore>> {
    connection
        .prepare_cached(EXPECTED)?
        .query_row(params![node, path], |row| {
            Ok(ExpectedStore { uuid: row.get(0)?, created_at: unsigned(row, 1)? })
        })
        .optional()
}

pub(super) fn expect(
    connection: &Connection,
    node: &str,
    path: &str,
    uuid: &str,
    now: u64,
) -> rusqlite::Result<()> {
    connection.prepare_cached(EXPECT)?.execute(params![node, path, uuid, now.cast_signed()])?;
    Ok(())
}
