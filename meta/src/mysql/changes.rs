//! The change log: which files' rows somebody has changed, so that whoever remembers a row forgets it.
//!
//! The database writes it itself, by triggers (`mysql/schema.rs`): an old storage node and an operator's own statement are
//! in it as well as we. Its numbers are given before the COMMIT of the change, so a lower one may appear after a higher one.
//! Each reading therefore counts again what it has read in the last minute, and reads that once more where the count is
//! another.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::MysqlOptions;
use super::failure::Failure;
use super::link::Link;
use super::schema;
use super::session::Access;
use crate::error::MetaError;
use crate::location::Role;

/// A change appears at the latest so long after one with a higher number: a server ends a transaction that says nothing
/// after ten seconds, and a COMMIT is carried out or given up after twenty more.
const LATE_MAX: Duration = Duration::from_secs(60);

/// Whoever has not read for so long may have missed what was removed since.
const BLIND_MAX: Duration = Duration::from_secs(1800);

/// Rows of one page.
const PAGE: usize = 1000;

/// Changes of a minute that are told apart. Of more nobody keeps a list: anything may have changed then.
const APART_MAX: usize = 100_000;

/// Pages that are removed at a time, at most.
const REMOVED_PAGES_MAX: usize = 60;

const AFTER: &str = "SELECT id, file_id FROM reel_changes WHERE id > ? ORDER BY id LIMIT ?";
/// The last number of all, and how many of a range there are.
const COUNT: &str = "SELECT (SELECT MAX(id) FROM reel_changes), COUNT(*) FROM reel_changes WHERE id > ? AND id <= ?";
/// Everything that could still be joined by a lower number is read at the start. From the end on: the log of an hour is long, and
/// its times have no key.
const START: &str = "SELECT id FROM reel_changes WHERE changed_at < NOW() - INTERVAL 60 SECOND ORDER BY id DESC LIMIT 1";
/// The last one is always kept: it tells of a log that went back.
const OLD: &str = "SELECT MAX(id) FROM (SELECT id, changed_at FROM reel_changes ORDER BY id LIMIT 1000) oldest \
    WHERE changed_at < NOW() - INTERVAL 1 HOUR AND id < ?";
const REMOVE: &str = "DELETE FROM reel_changes WHERE id <= ?";

/// What was changed since the reading before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Rows of these file ids; one may come more than once.
    Files(Vec<String>),
    /// Any row may have been: the log is not the one that was read before, was not read for too long, or says too much.
    Anything,
}

/// A reader of the change log, on a connection of its own.
pub struct MysqlChangeLog {
    link: Link,
    position: Option<Position>,
}

/// How far the log was read.
struct Position {
    /// Nothing appears at or below it any more.
    floor: u64,
    /// What was read above the floor, and when.
    read: BTreeMap<u64, Instant>,
    /// When the log was last read.
    at: Instant,
}

impl Position {
    fn last(&self) -> u64 {
        self.read.last_key_value().map_or(self.floor, |(id, _)| *id)
    }

    /// Moves the floor up to what was read long before `now`, when a reading began that has succeeded.
    fn settle(&mut self, now: Instant) {
        while let Some(entry) = self.read.first_entry()
            && now.saturating_duration_since(*entry.get()) > LATE_MAX
        {
            self.floor = *entry.key();
            entry.remove();
        }
    }
}

/// What one reading found.
struct Reading {
    /// All above the last one that was known, and those below it that are not known yet.
    found: Vec<(u64, String)>,
    /// What was known is not there any more, or there is too much to be known.
    lost_track: bool,
}

impl MysqlChangeLog {
    /// The log, once it is certain that the database writes it.
    ///
    /// # Errors
    /// No server can be reached, or none is fit for use; a trigger is missing, or the account may not see it.
    pub async fn open(options: MysqlOptions) -> Result<Self, MetaError> {
        let database = options.database.clone();
        let mut link = Link::new(options, Access::Writes);
        let triggers =
            link.read("changes", async |conn: &mut Conn| schema::triggers(conn, &database).await);
        let triggers = triggers.await?;
        let mut wanted = Role::Storage.triggers().iter().map(|trigger| trigger.name);
        if let Some(name) = wanted.find(|name| !triggers.iter().any(|found| found == name)) {
            let cause = format!(
                "there is no trigger {name} that this account may see; `reel migrate` makes it, and the account \
                 needs the privilege TRIGGER"
            );
            return Err(MetaError::Open { path: database.into(), cause: cause.into() });
        }
        Ok(Self { link, position: None })
    }

    /// What was changed since the last call that succeeded. The first one tells what was changed in the last minute, too.
    ///
    /// # Errors
    /// The database's; what was not told is told by the next call.
    pub async fn read(&mut self) -> Result<Changed, MetaError> {
        let now = Instant::now();
        let (mut position, is_new) = match self.position.take() {
            Some(position) => (position, false),
            None => (self.start(now).await?, true),
        };
        let reading =
            self.link.read("changes", async |conn: &mut Conn| look(conn, &position).await);
        let reading = match reading.await {
            Ok(reading) => reading,
            Err(error) => {
                self.position = (!is_new).then_some(position);
                return Err(error);
            }
        };
        if reading.lost_track || now.saturating_duration_since(position.at) > BLIND_MAX {
            // The next call begins at the end of what is there then.
            return Ok(Changed::Anything);
        }
        position.at = now;
        let mut files = Vec::with_capacity(reading.found.len());
        for (id, file) in reading.found {
            position.read.insert(id, now);
            files.push(file);
        }
        position.settle(now);
        self.position = Some(position);
        Ok(Changed::Files(files))
    }

    /// Removes what is older than an hour, as any reader may.
    ///
    /// # Errors
    /// The database's.
    pub async fn remove_old(&mut self) -> Result<(), MetaError> {
        let Some(floor) = self.position.as_ref().map(|position| position.floor) else {
            return Ok(());
        };
        for _ in 0..REMOVED_PAGES_MAX {
            let old = self.link.read("old changes", async |conn: &mut Conn| {
                let old: Option<Option<u64>> = conn.exec_first(OLD, (floor,)).await?;
                Ok(old.flatten())
            });
            let Some(old) = old.await? else { return Ok(()) };
            self.link
                .write("remove changes", async |conn: &mut Conn| {
                    Ok(conn.exec_drop(REMOVE, (old,)).await?)
                })
                .await?;
        }
        Ok(())
    }

    async fn start(&mut self, now: Instant) -> Result<Position, MetaError> {
        let floor = self.link.read("changes", async |conn: &mut Conn| {
            let floor: Option<u64> = conn.exec_first(START, ()).await?;
            Ok(floor.unwrap_or(0))
        });
        Ok(Position { floor: floor.await?, read: BTreeMap::new(), at: now })
    }
}

async fn look(conn: &mut Conn, position: &Position) -> Result<Reading, Failure> {
    let (floor, last) = (position.floor, position.last());
    let mut found = above(conn, last).await?;
    let counted: Option<(Option<u64>, u64)> = conn.exec_first(COUNT, (floor, last)).await?;
    let (end, count) = counted.unwrap_or((None, 0));
    let known = position.read.len() as u64;
    let mut lost_track = end.unwrap_or(0) < last || count < known;
    if count > known && !lost_track {
        let late = above(conn, floor).await?.into_iter().filter(|(id, _)| *id <= last);
        let late: Vec<_> = late.collect();
        lost_track =
            position.read.keys().any(|id| late.binary_search_by_key(id, |row| row.0).is_err());
        found.extend(late.into_iter().filter(|(id, _)| !position.read.contains_key(id)));
    }
    lost_track |= position.read.len() + found.len() > APART_MAX;
    Ok(Reading { found, lost_track })
}

/// The changes with a higher number; of more than can be told apart the first.
async fn above(conn: &mut Conn, mut last: u64) -> Result<Vec<(u64, String)>, Failure> {
    let mut all = Vec::new();
    loop {
        let page: Vec<(u64, String)> = conn.exec(AFTER, (last, PAGE)).await?;
        let more = page.len() == PAGE && all.len() <= APART_MAX;
        all.extend(page);
        match all.last() {
            Some((id, _)) if more => last = *id,
            _ => return Ok(all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_follows_what_was_read_a_minute_ago() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut position = Position { floor: 4, read: BTreeMap::new(), at: begin };
        assert_eq!(position.last(), 4);
        position.read.extend([(6, at(0)), (7, at(1)), (9, at(2)), (8, at(40))]);
        position.settle(at(60));
        assert_eq!((position.floor, position.last()), (4, 9));
        position.settle(at(62));
        assert_eq!((position.floor, position.read.len()), (7, 2));
        // 8 came late: 9 waits for it, so that the floor never passes what was read a moment ago.
        position.settle(at(90));
        assert_eq!((position.floor, position.last()), (7, 9));
        position.settle(at(101));
        assert_eq!((position.floor, position.last()), (9, 9));
    }
}
