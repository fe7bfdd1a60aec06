//! The ID node's database in MySQL.

use std::ops::Range;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::MysqlStore;
use super::failure::Failure;
use crate::PATH_ID_END;
use crate::error::MetaError;
use crate::row::Sequence;
use crate::store::SequenceStore;
use crate::text::{TextField, check};

const NEXT: &str = "SELECT id_value FROM t_id_gen WHERE id = ?";
const ALL: &str = "SELECT id, id_value FROM t_id_gen ORDER BY id";

/// Takes a block in one statement, which leaves its start as the id that it inserted: the lowest start, the lowest
/// end, then lowest start, count and end of all for a key that exists.
const TAKE: &str = "INSERT INTO t_id_gen (id, id_value) VALUES (?, LEAST(LAST_INSERT_ID(?) + ?, ?)) \
    ON DUPLICATE KEY UPDATE id_value = LEAST(LAST_INSERT_ID(GREATEST(id_value, ?)) + ?, ?)";

/// The database of ID nodes.
pub enum Sequences {}

/// `t_id_gen` in MySQL.
pub type MysqlSequenceStore = MysqlStore<Sequences>;

impl SequenceStore for MysqlSequenceStore {
    async fn take(
        &mut self,
        key: &str,
        count: u64,
        at_least: u64,
    ) -> Result<Range<u64>, MetaError> {
        check(TextField::Key, key)?;
        if count == 0 {
            return Err(MetaError::EmptyBlock);
        }
        let exhausted = || MetaError::Exhausted { key: key.to_owned() };
        if at_least >= PATH_ID_END {
            return Err(exhausted());
        }
        let count = count.min(PATH_ID_END);
        let start = self
            .link
            .write("take", async |conn: &mut Conn| {
                let parameters = (key, at_least, count, PATH_ID_END, at_least, count, PATH_ID_END);
                conn.exec_drop(TAKE, parameters).await?;
                let start = conn.last_insert_id().unwrap_or(0);
                if start >= PATH_ID_END {
                    return Err(exhausted().into());
                }
                // What stands there now is what was meant: not so after NULL, or where something between drops the start.
                let end = (start + count).min(PATH_ID_END);
                match next(conn, key).await? {
                    Some(stands) if stands == end => Ok(start),
                    stands => Err(MetaError::Corrupt {
                        what: format!("t_id_gen: {key:?} stands at {stands:?} and not at {end}"),
                    }
                    .into()),
                }
            })
            .await?;
        Ok(start..start.saturating_add(count).min(PATH_ID_END))
    }

    async fn peek(&mut self, key: &str) -> Result<Option<u64>, MetaError> {
        check(TextField::Key, key)?;
        self.link.read("peek", async |conn: &mut Conn| next(conn, key).await).await
    }

    async fn sequences(&mut self) -> Result<Vec<Sequence>, MetaError> {
        self.link
            .read("sequences", async |conn: &mut Conn| {
                let rows: Vec<(String, Option<i64>)> = conn.exec(ALL, ()).await?;
                let sequence = |(key, next): (String, Option<i64>)| {
                    let next = value(&key, next)?;
                    Ok(Sequence { key, next })
                };
                rows.into_iter().map(sequence).collect()
            })
            .await
    }
}

/// Where a sequence stands.
async fn next(conn: &mut Conn, key: &str) -> Result<Option<u64>, Failure> {
    let next: Option<Option<i64>> = conn.exec_first(NEXT, (key,)).await?;
    next.map(|next| value(key, next)).transpose()
}

fn value(key: &str, next: Option<i64>) -> Result<u64, Failure> {
    next.and_then(|next| u64::try_from(next).ok()).ok_or_else(|| {
        MetaError::Corrupt { what: format!("t_id_gen: {key:?} stands at {next:?}") }.into()
    })
}
