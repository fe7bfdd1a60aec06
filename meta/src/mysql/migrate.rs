//! Brings a database to the tables of this version, in place and without losing a row: it looks what is there and adds what
//! is not, so that a run that was cut short is finished by the next one and a second run changes nothing.
//!
//! A deployed database gets columns that may be NULL, keys, our own tables, triggers, and a collation by bytes. No statement moves
//! an `update_time`. Rows are removed in one case: further routes of a user that has one, and a group's second entry, which
//! no reader was ever given. The old system can go on beside it.

use std::collections::HashMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::failure::Failure;
use super::schema::{self, Column, Key, Table};
use super::{MysqlOptions, session};
use crate::error::MetaError;
use crate::location::Role;

/// How long a migration waits for another one of the same database, seconds.
const LOCK_WAIT: u32 = 60;

/// Clashes that are named, of each table.
const EXAMPLES_MAX: usize = 20;

/// One statement of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it does, for people.
    pub what: String,
    /// As the server gets it.
    pub statement: String,
}

impl Step {
    /// As the server has refused it.
    fn refused(&self, error: mysql_async::Error) -> Failure {
        let hint = match &error {
            mysql_async::Error::Server(error) if error.code == TRIGGER_REFUSED => {
                ": migrate as an account with SUPER, or set log_bin_trust_function_creators = 1 on the servers"
            }
            mysql_async::Error::Server(_) => "",
            _ => return error.into(),
        };
        let cause = format!("{}: {error}{hint}", self.what).into();
        Failure::Meta(MetaError::Database { operation: "migrate", cause })
    }
}

/// The server writes a binary log (a Galera cluster always does), and trusts nobody's triggers.
const TRIGGER_REFUSED: u16 = 1419;

/// What a migration did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Migration {
    /// In the order in which they run. None: the database is as this version wants it.
    pub steps: Vec<Step>,
    /// What the operator should know before: texts that were equal to the old collation and are not by bytes.
    pub clashes: Vec<String>,
}

/// Brings the database of a role to this version's tables; `dry`: only says how.
///
/// # Errors
/// No server can be reached, a statement is refused (those before it stay done), or a later version was here.
pub async fn migrate(
    options: &MysqlOptions,
    role: Role,
    dry: bool,
) -> Result<Migration, MetaError> {
    let migration = run(options, role, dry).await;
    migration.map_err(|failure| failure.error("migrate"))
}

async fn run(options: &MysqlOptions, role: Role, dry: bool) -> Result<Migration, Failure> {
    let mut conn = connect(options).await?;
    let database = options.database.as_str();
    conn.query_drop(
        "SET SESSION time_zone = '+00:00', sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    )
    .await?;
    conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    if !dry {
        let name = format!("reel-migrate-{database}");
        let locked: Result<Option<Option<u8>>, _> =
            conn.exec_first("SELECT GET_LOCK(?, ?)", (name, LOCK_WAIT)).await;
        match locked {
            Ok(locked) if locked.flatten() == Some(1) => {}
            Ok(_) => return Err(Failure::Meta(MetaError::Busy { operation: "migrate" })),
            Err(mysql_async::Error::Server(error)) => {
                tracing::warn!(database, %error, "the server gives no locks: let no other migration run beside this one");
            }
            Err(error) => return Err(error.into()),
        }
    }
    let version: Option<String> = conn.query_first("SELECT VERSION()").await?;
    let collation = if version.is_some_and(|version| version.to_lowercase().contains("mariadb")) {
        "utf8mb4_nopad_bin"
    } else {
        "utf8mb4_0900_bin"
    };
    let migration = plan(&mut conn, database, role, collation).await?;
    if !dry {
        for step in &migration.steps {
            tracing::debug!(database, what = %step.what, "migrating");
            conn.query_drop(&step.statement).await.map_err(|error| step.refused(error))?;
        }
    }
    conn.disconnect().await?;
    Ok(migration)
}

async fn connect(options: &MysqlOptions) -> Result<Conn, Failure> {
    let mut last = Failure::Unreachable("no server is configured".into());
    for server in &options.servers {
        let connecting = session::connect(options, server);
        match tokio::time::timeout(options.connect_timeout, connecting).await {
            Ok(Ok(conn)) => return Ok(conn),
            Ok(Err(failure)) => last = failure,
            Err(_) => last = Failure::Timeout,
        }
    }
    Err(last)
}

async fn plan(
    conn: &mut Conn,
    database: &str,
    role: Role,
    collation: &str,
) -> Result<Migration, Failure> {
    let mut migration = Migration::default();
    let exists: Option<u8> = conn
        .exec_first("SELECT 1 FROM information_schema.schemata WHERE schema_name = ?", (database,))
        .await?;
    let version = if exists.is_some() {
        conn.query_drop(format!("USE `{database}`")).await?;
        schema::version(conn).await?
    } else {
        migration.step(
            format!("makes the database {database}"),
            format!("CREATE DATABASE `{database}` CHARACTER SET utf8mb4 COLLATE {collation}"),
        );
        migration.step(format!("goes into {database}"), format!("USE `{database}`"));
        None
    };
    if let Some(found) = version
        && found > schema::VERSION
    {
        let (found, known) = (i64::from(found), i64::from(schema::VERSION));
        return Err(Failure::Meta(MetaError::TooNew { path: database.into(), found, known }));
    }
    for table in role.tables() {
        let found = Found::of(conn, database, table.name).await?;
        migration.bring(conn, table, &found, collation).await?;
    }
    let found = schema::triggers(conn, database).await?;
    for trigger in role.triggers() {
        if !found.iter().any(|name| name == trigger.name) {
            migration.step(
                format!("lets the change log be written: {}", trigger.name),
                format!("CREATE TRIGGER {} {}", trigger.name, trigger.definition),
            );
        }
    }
    if version != Some(schema::VERSION) {
        migration.step(
            format!("writes down that this is version {}", schema::VERSION),
            format!("REPLACE INTO reel_schema (id, version) VALUES (1, {})", schema::VERSION),
        );
    }
    Ok(migration)
}

/// What a table has now.
#[derive(Debug, Default)]
struct Found {
    /// Each column, with its collation where it is a text.
    columns: HashMap<String, Option<String>>,
    /// Each key, with its columns.
    keys: HashMap<String, String>,
}

impl Found {
    async fn of(conn: &mut Conn, database: &str, table: &str) -> Result<Self, Failure> {
        let columns: Vec<(String, Option<String>)> = conn
            .exec(
                "SELECT column_name, collation_name FROM information_schema.columns \
                 WHERE table_schema = ? AND table_name = ?",
                (database, table),
            )
            .await?;
        let keys: Vec<(String, String)> = conn
            .exec(
                // With what makes a key another one: a prefix, a falling order. One of expressions names no columns.
                "SELECT index_name, COALESCE(GROUP_CONCAT(CONCAT(column_name, \
                 COALESCE(CONCAT('(', sub_part, ')'), ''), IF(`collation` = 'D', ' DESC', '')) \
                 ORDER BY seq_in_index SEPARATOR ', '), '') \
                 FROM information_schema.statistics WHERE table_schema = ? AND table_name = ? \
                 GROUP BY index_name",
                (database, table),
            )
            .await?;
        Ok(Self { columns: columns.into_iter().collect(), keys: keys.into_iter().collect() })
    }

    fn has(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    fn is_by_bytes(&self, collation: &str) -> bool {
        self.columns.values().flatten().all(|found| found == collation)
    }
}

impl Migration {
    fn step(&mut self, what: String, statement: String) {
        self.steps.push(Step { what, statement });
    }

    /// Brings one table to its definition.
    async fn bring(
        &mut self,
        conn: &mut Conn,
        table: &Table,
        found: &Found,
        collation: &str,
    ) -> Result<(), Failure> {
        let name = table.name;
        if found.columns.is_empty() {
            self.step(format!("makes the table {name}"), creation(table, collation));
            return Ok(());
        }
        if !found.is_by_bytes(collation) {
            for columns in compared_together(table) {
                self.clashes.extend(clashes(conn, name, columns).await?);
            }
            self.step(
                format!("lets the texts of {name} be compared by bytes"),
                format!("ALTER TABLE {name} CONVERT TO CHARACTER SET utf8mb4 COLLATE {collation}"),
            );
        }
        let missing: Vec<&Column> =
            table.columns.iter().filter(|column| !found.has(column.0)).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|column| column.0).collect();
            let added: Vec<String> = missing
                .iter()
                .map(|Column(column, kind)| format!("ADD COLUMN {column} {kind}"))
                .collect();
            self.step(
                format!("adds {} to {name}", names.join(", ")),
                format!("ALTER TABLE {name} {}", added.join(", ")),
            );
        }
        for key in table.keys {
            let has = found.keys.get(key.name);
            if has.is_some_and(|columns| columns == key.columns) {
                continue;
            }
            if key.unique
                && let Some(step) = merge(conn, name, key).await?
            {
                self.steps.push(step);
            }
            let kind = if key.unique { "UNIQUE KEY" } else { "KEY" };
            let (does, drop) = match has {
                Some(_) => ("changes", format!("DROP KEY {}, ", key.name)),
                None => ("adds", String::new()),
            };
            self.step(
                format!("{does} the key {} of {name}", key.name),
                format!("ALTER TABLE {name} {drop}ADD {kind} {} ({})", key.name, key.columns),
            );
        }
        Ok(())
    }
}

fn creation(table: &Table, collation: &str) -> String {
    let columns = table.columns.iter().map(|Column(name, kind)| format!("{name} {kind}"));
    let primary = std::iter::once(format!("PRIMARY KEY ({})", table.primary));
    let keys = table.keys.iter().map(|key| {
        let kind = if key.unique { "UNIQUE KEY" } else { "KEY" };
        format!("{kind} {} ({})", key.name, key.columns)
    });
    let parts: Vec<String> = columns.chain(primary).chain(keys).collect();
    format!(
        "CREATE TABLE {} ({}) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE {collation}",
        table.name,
        parts.join(", ")
    )
}

/// Columns whose texts the old collation took for equal where they are not, where that mattered: not in a primary
/// key, which cannot hold two equal ones.
fn compared_together(table: &Table) -> &'static [&'static [&'static str]] {
    match table.name {
        "t_groups_info" => &[&["group_name"]],
        "t_router" | "t_file_01" | "t_file_02" | "t_file_03" => &[&["appid", "userid"]],
        _ => &[],
    }
}

async fn clashes(conn: &mut Conn, table: &str, columns: &[&str]) -> Result<Vec<String>, Failure> {
    let together = columns.join(", ");
    let bytes = format!("CAST(CONCAT_WS('/', {together}) AS BINARY)");
    let found: Vec<Vec<u8>> = conn
        .query(format!(
            "SELECT GROUP_CONCAT(DISTINCT QUOTE({bytes}) SEPARATOR ' and ') FROM {table} \
             GROUP BY {together} HAVING COUNT(DISTINCT {bytes}) > 1 LIMIT {EXAMPLES_MAX}"
        ))
        .await?;
    Ok(found
        .iter()
        .map(|texts| {
            let texts = String::from_utf8_lossy(texts);
            format!("{table} ({together}): {texts} were the same and are not any more")
        })
        .collect())
}

/// Removes rows that a unique key would not allow: the first one stays, because it is the one that readers were given.
async fn merge(conn: &mut Conn, table: &str, key: &Key) -> Result<Option<Step>, Failure> {
    let columns: Vec<&str> = key.columns.split(", ").collect();
    let bytes: Vec<String> =
        columns.iter().map(|column| format!("BINARY {column} AS b_{column}")).collect();
    let groups: Vec<String> = columns.iter().map(|column| format!("b_{column}")).collect();
    let same: Vec<String> =
        columns.iter().map(|column| format!("BINARY later.{column} = kept.b_{column}")).collect();
    let later = format!(
        "FROM {table} later JOIN (SELECT MIN(id) AS first, {} FROM {table} GROUP BY {} HAVING COUNT(*) > 1) kept \
         ON {} AND later.id > kept.first",
        bytes.join(", "),
        groups.join(", "),
        same.join(" AND ")
    );
    let count: Option<u64> = conn.query_first(format!("SELECT COUNT(*) {later}")).await?;
    let count = count.unwrap_or(0);
    Ok((count > 0).then(|| Step {
        what: format!("removes {count} rows of {table} that repeat an earlier one"),
        statement: format!("DELETE later {later}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_definition_is_of_its_own_columns() {
        for role in Role::ALL {
            for table in role.tables() {
                let has =
                    |name: &str| table.columns.iter().any(|Column(column, _)| *column == name);
                assert!(table.primary.split(", ").all(has), "{}", table.name);
                assert!(
                    table.keys.iter().all(|key| key.columns.split(", ").all(has)),
                    "{}",
                    table.name
                );
            }
        }
    }
}
