//! The connection of a store: made when it is needed, made anew when it is lost, and what may be tried again.
//!
//! Tried again is what has certainly not happened: a read, and a transaction whose COMMIT was not sent or was refused. A
//! transaction of several calls ([`Link::begin`]) is its owner's to try again: only the owner knows all of it.
//!
//! After a COMMIT without an answer nothing is read or written until that connection has ended on its server: the commit could
//! still be under way there, and what was read before it would not stay true ([`super::mark`]). Or until the server's cluster
//! has lost it ([`super::cluster`]).

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::time::{Instant, sleep, timeout};

use super::MysqlOptions;
use super::answer::answer;
use super::failure::{Failure, Meaning};
use super::mark::{Asked, Mark};
use super::session::{Access, Session};
use crate::error::MetaError;

/// How often the same is tried in all.
const TRIES_MAX: u32 = 4;

/// After no server could be had, calls fail at once for so long, and for twice as long the next time, up to the second.
const DOWN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// One of several servers that cannot be asked whether a commit is under way has ended it after this time, unless it is cut off
/// from us alone: it has carried it out with its cluster, or lost the quorum and given it up (15 s by Galera's defaults), or never
/// got it, and ended the transaction. It is asked all the same when it is reached again, before it is used.
const FENCE: Duration = Duration::from_secs(20);

/// A server that could not be asked is not asked again for so long.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The connection of one store to one database.
pub(super) struct Link {
    options: Arc<MysqlOptions>,
    access: Access,
    session: Option<Session>,
    /// Index of the server that is tried first, and that `session` is at.
    server: usize,
    down: Option<Down>,
    open: Option<Open>,
    unsettled: Option<Unsettled>,
    /// Connections that are to be ended before their server is used again.
    left_behind: Vec<(usize, Mark)>,
}

/// No server could be had.
struct Down {
    until: Instant,
    wait: Duration,
    cause: Arc<str>,
}

/// A transaction of several calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    Sound,
    /// One of its calls failed; the server may have rolled it back by itself already.
    Failed,
}

/// A COMMIT without an answer.
struct Unsettled {
    server: usize,
    mark: Option<Mark>,
    /// When it was given up.
    since: Instant,
    /// When its server was last asked.
    asked: Option<Instant>,
}

/// How a try ended that did not succeed.
enum Ended {
    /// Nothing was changed.
    Before(Failure),
    Unknown(MetaError),
}

impl Ended {
    fn error(self, operation: &'static str) -> MetaError {
        match self {
            Self::Before(failure) => failure.error(operation),
            Self::Unknown(error) => error,
        }
    }
}

impl Link {
    pub(super) fn new(options: MysqlOptions, access: Access) -> Self {
        Self {
            options: Arc::new(options),
            access,
            session: None,
            server: 0,
            down: None,
            open: None,
            unsettled: None,
            left_behind: Vec::new(),
        }
    }

    /// What it is for.
    pub(super) fn access(&self) -> Access {
        self.access
    }

    /// Connects, unless it is connected.
    pub(super) async fn connect(&mut self) -> Result<(), MetaError> {
        self.session().await.map_err(|failure| failure.error("connect"))
    }

    /// Reads: in the open transaction, where there is one, else by itself.
    pub(super) async fn read<T>(
        &mut self,
        operation: &'static str,
        mut body: impl AsyncFnMut(&mut Conn) -> Result<T, Failure>,
    ) -> Result<T, MetaError> {
        if self.open.is_some() {
            return self.join(operation, &mut body).await;
        }
        let read = async |link: &mut Self| link.run(&mut body).await.map_err(Ended::Before);
        self.try_often(operation, read).await
    }

    /// Changes: in the open transaction, where there is one, else in one of its own, committed on return. `body` may be
    /// called several times, each time on a transaction without changes.
    pub(super) async fn write<T>(
        &mut self,
        operation: &'static str,
        mut body: impl AsyncFnMut(&mut Conn) -> Result<T, Failure>,
    ) -> Result<T, MetaError> {
        if self.open.is_some() {
            return self.join(operation, &mut body).await;
        }
        let change = async |link: &mut Self| link.transaction(operation, &mut body).await;
        self.try_often(operation, change).await
    }

    /// Opens a transaction of several calls.
    pub(super) async fn begin(&mut self) -> Result<(), MetaError> {
        if self.open.is_some() {
            self.roll_back().await;
        }
        let begin = async |link: &mut Self| link.run(&mut start).await.map_err(Ended::Before);
        self.try_often("begin", begin).await?;
        self.open = Some(Open::Sound);
        Ok(())
    }

    /// Outside of any transaction: tries until it has succeeded, may have, or cannot. Each try meets a database that the
    /// ones before it have not changed.
    async fn try_often<T>(
        &mut self,
        operation: &'static str,
        mut attempt: impl AsyncFnMut(&mut Self) -> Result<T, Ended>,
    ) -> Result<T, MetaError> {
        self.settle(operation).await?;
        let mut tries = 1;
        loop {
            match attempt(self).await {
                Ok(value) => return Ok(value),
                Err(Ended::Before(failure)) if failure.may_pass() && tries < TRIES_MAX => {
                    pause(tries).await;
                }
                Err(ended) => return Err(ended.error(operation)),
            }
            tries += 1;
        }
    }

    /// Commits what [`Self::begin`] opened.
    pub(super) async fn commit(&mut self) -> Result<(), MetaError> {
        const OPERATION: &str = "commit";
        if self.open != Some(Open::Sound) {
            self.roll_back().await;
            return Err(has_failed(OPERATION));
        }
        self.open = None;
        self.end(OPERATION).await.map_err(|ended| ended.error(OPERATION))
    }

    /// Ends the open transaction without its changes.
    pub(super) async fn roll_back(&mut self) {
        self.open = None;
        let Some(mut session) = self.session.take() else { return };
        let limit = self.options.statement_timeout;
        // Else it ends with the connection.
        if let Ok(Ok(())) = timeout(limit, session.conn.query_drop("ROLLBACK")).await {
            self.session = Some(session);
        }
    }

    /// One transaction, committed on return.
    async fn transaction<T>(
        &mut self,
        operation: &'static str,
        body: &mut impl AsyncFnMut(&mut Conn) -> Result<T, Failure>,
    ) -> Result<T, Ended> {
        self.run(&mut start).await.map_err(Ended::Before)?;
        match self.run_on_session(body).await {
            Ok(value) => self.end(operation).await.map(|()| value),
            Err(failure) => {
                self.roll_back().await;
                Err(Ended::Before(failure))
            }
        }
    }

    /// Commits. After an answer that leaves it open whether it did, the connection is given up.
    async fn end(&mut self, operation: &'static str) -> Result<(), Ended> {
        let Some(mut session) = self.session.take() else {
            return Err(Ended::Before(lost()));
        };
        // From here on: also if nobody waits for the answer any more.
        let (server, since) = (self.server, Instant::now());
        let mark = session.mark.clone();
        self.unsettled = Some(Unsettled { server, mark, since, asked: None });
        let commit = async { Ok(session.conn.query_drop("COMMIT").await?) };
        let failure = match answer(&self.options, &self.options.servers[server], commit).await {
            Ok(()) => {
                self.unsettled = None;
                self.session = Some(session);
                return Ok(());
            }
            Err(failure) => failure,
        };
        if !failure.refuses_commit() {
            if let Some(unsettled) = &mut self.unsettled {
                unsettled.since = Instant::now();
            }
            if failure.is_too_slow() {
                self.try_next_first();
            }
            let cause = failure.cause();
            return Err(Ended::Unknown(MetaError::CommitUnknown { operation, cause }));
        }
        self.unsettled = None;
        if failure.ends_connection() {
            self.give_up(&failure);
        } else {
            self.session = Some(session);
            self.roll_back().await;
        }
        Err(Ended::Before(failure))
    }

    /// A call that belongs to the open transaction.
    async fn join<T>(
        &mut self,
        operation: &'static str,
        body: &mut impl AsyncFnMut(&mut Conn) -> Result<T, Failure>,
    ) -> Result<T, MetaError> {
        if self.open == Some(Open::Failed) {
            return Err(has_failed(operation));
        }
        self.run_on_session(body).await.map_err(|failure| {
            self.open = Some(Open::Failed);
            failure.error(operation)
        })
    }

    /// Runs a body, on a new connection where there is none.
    async fn run<T>(
        &mut self,
        body: &mut impl AsyncFnMut(&mut Conn) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        self.session().await?;
        self.run_on_session(body).await
    }

    /// Runs a body on the connection that is there: what belongs to a transaction never goes over another one. The
    /// connection comes back only with an answer: one whose answer nobody waited for is of no use.
    async fn run_on_session<T>(
        &mut self,
        body: &mut impl AsyncFnMut(&mut Conn) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut session = self.session.take().ok_or_else(lost)?;
        let server = &self.options.servers[self.server];
        let result = answer(&self.options, server, body(&mut session.conn)).await;
        match &result {
            Err(failure) if failure.ends_connection() => self.give_up(failure),
            _ => self.session = Some(session),
        }
        result
    }

    /// Forgets the connection; the next one is tried elsewhere first where that is what the failure says. A server that
    /// does not answer is not asked by everybody who waits, one after the other.
    fn give_up(&mut self, failure: &Failure) {
        self.session = None;
        if matches!(failure, Failure::Timeout) {
            self.is_down("no answer in time".into());
        }
        if failure.meaning() == Meaning::Elsewhere || failure.is_too_slow() {
            self.try_next_first();
        }
    }

    /// Of a server that does not answer, or takes no changes: one of Galera that sends all its tables to another does so for
    /// as long as that takes.
    fn try_next_first(&mut self) {
        self.server = (self.server + 1) % self.options.servers.len().max(1);
    }

    /// Sees to it that there is a connection: to the first server that is fit, beginning with the last one used.
    async fn session(&mut self) -> Result<(), Failure> {
        if self.session.is_none() {
            self.session = Some(self.open_somewhere().await?);
        }
        Ok(())
    }

    async fn open_somewhere(&mut self) -> Result<Session, Failure> {
        if let Some(down) = &self.down
            && Instant::now() < down.until
        {
            return Err(Failure::Unreachable(Arc::clone(&down.cause)));
        }
        let count = self.options.servers.len();
        let mut causes = Vec::with_capacity(count);
        for step in 0..count {
            let server = (self.server + step) % count;
            match self.open_at(server).await {
                Ok(session) => {
                    if self.down.take().is_some() || step > 0 {
                        tracing::info!(server = %self.name_of(server), database = %self.options.database, "connected to the metadata");
                    }
                    self.server = server;
                    return Ok(session);
                }
                Err(failure) => {
                    causes.push(format!("{}: {}", self.name_of(server), failure.whole()));
                }
            }
        }
        let cause: Arc<str> = causes.join("; ").into();
        self.is_down(Arc::clone(&cause));
        Err(Failure::Unreachable(cause))
    }

    fn is_down(&mut self, cause: Arc<str>) {
        let wait = self.down.as_ref().map_or(DOWN[0], |down| (down.wait * 2).min(DOWN[1]));
        if self.down.is_none() {
            tracing::warn!(database = %self.options.database, %cause, "no server of the metadata can be used");
        }
        self.down = Some(Down { until: Instant::now() + wait, wait, cause });
    }

    async fn open_at(&mut self, server: usize) -> Result<Session, Failure> {
        self.end_left_behind(server).await?;
        let opening = Session::open(&self.options, &self.options.servers[server], self.access);
        timeout(self.options.connect_timeout, opening).await.unwrap_or(Err(Failure::Timeout))
    }

    /// Ends what was left behind on a server that is reached again.
    async fn end_left_behind(&mut self, server: usize) -> Result<(), Failure> {
        while let Some(index) = self.left_behind.iter().position(|(at, _)| *at == server) {
            match self.left_behind[index].1.end(&self.options, &self.options.servers[server]).await
            {
                Asked::Ended | Asked::Elsewhere | Asked::Apart => {
                    drop(self.left_behind.swap_remove(index));
                }
                Asked::Exists => return Err(Failure::Unreachable("a commit is under way".into())),
                Asked::Unknown(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn name_of(&self, server: usize) -> String {
        let (host, port) = &self.options.servers[server];
        format!("{host}:{port}")
    }

    /// Sees to it that a COMMIT without an answer is not under way any more.
    async fn settle(&mut self, operation: &'static str) -> Result<(), MetaError> {
        let Some(unsettled) = &mut self.unsettled else { return Ok(()) };
        let under_way = |cause: crate::Cause| MetaError::Unavailable { operation, cause };
        let Some(mark) = unsettled.mark.clone() else {
            self.unsettled = None;
            return Ok(());
        };
        if unsettled.asked.is_some_and(|asked| asked.elapsed() < ASK_AGAIN_AFTER) {
            return Err(under_way("a commit may still be under way".into()));
        }
        unsettled.asked = Some(Instant::now());
        let (server, since) = (unsettled.server, unsettled.since);
        let address = &self.options.servers[server];
        let asked = mark.end(&self.options, address).await;
        let may_be_lost = matches!(asked, Asked::Elsewhere | Asked::Apart | Asked::Unknown(_));
        let has_ended = (may_be_lost && mark.is_lost(&self.options, address).await)
            || since.elapsed() >= FENCE.max(2 * self.options.statement_timeout);
        match asked {
            Asked::Ended => {}
            Asked::Exists => return Err(under_way("a commit is under way".into())),
            Asked::Elsewhere | Asked::Apart if has_ended => {}
            Asked::Elsewhere => {
                return Err(under_way("another server answers in place of its own".into()));
            }
            Asked::Apart => return Err(under_way("its server has lost its quorum".into())),
            // A single server must answer anyway before anything is read.
            Asked::Unknown(_) if has_ended && self.options.servers.len() > 1 => {
                self.left_behind.push((server, mark));
                if self.server == server {
                    self.try_next_first();
                }
            }
            Asked::Unknown(failure) => return Err(under_way(failure.cause())),
        }
        self.unsettled = None;
        Ok(())
    }
}

fn lost() -> Failure {
    Failure::Unreachable("the connection was lost".into())
}

async fn start(conn: &mut Conn) -> Result<(), Failure> {
    Ok(conn.query_drop("START TRANSACTION").await?)
}

/// Before the next try: at once, then a little longer each time.
async fn pause(tries: u32) {
    if tries > 1 {
        sleep(Duration::from_millis(5 << tries)).await;
    }
}

fn has_failed(operation: &'static str) -> MetaError {
    MetaError::Database { operation, cause: "its transaction had failed".into() }
}
