//! The thread that owns the tracker's database: which group serves a user.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use reel_meta::mysql::MysqlGroupStore;
use reel_meta::sqlite::SqliteGroupStore;
use reel_meta::{GroupStore, Location, MetaError};
use reel_node::metrics::{Registry, SharedCell};
use reel_proto::name::{AppId, GroupName, UserId};

use crate::metrics::{Lookup, TrackerMetrics};
use crate::start::Error;

/// Questions that wait for the thread; whoever comes next waits for a place.
const QUEUE_MAX: usize = 4096;

/// The database did not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RouteError {
    /// It failed. A new user may have been recorded all the same; asking again tells.
    #[error("the tracker's database failed: {0}")]
    Failed(Arc<str>),
    /// The tracker is stopping.
    #[error("the tracker is stopping")]
    Stopping,
}

/// A question.
struct Question {
    app: AppId,
    user: UserId,
    /// The group that a new user gets; none: new users are not recorded.
    pick: Option<GroupName>,
    queued_at: Instant,
    answer: flume::Sender<Result<Option<GroupName>, RouteError>>,
}

/// The way to the thread. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// None: end.
    questions: flume::Sender<Option<Question>>,
    failing: Arc<AtomicBool>,
}

impl Database {
    /// Starts the thread, which opens the database, adds the configured groups and gives all legal ones.
    pub(crate) fn start(
        location: &Location,
        configured: &[GroupName],
        registry: &Registry<TrackerMetrics>,
    ) -> Result<(Self, JoinHandle<()>, Vec<GroupName>), Error> {
        let (questions, queue) = flume::bounded(QUEUE_MAX);
        let failing = Arc::new(AtomicBool::new(false));
        let owner =
            Owner { metrics: registry.shared(), failing: Arc::clone(&failing), failure: None };
        let (opened, wait) = flume::bounded(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Error::Thread)?;
        let (location, configured) = (location.clone(), configured.to_owned());
        let thread = std::thread::Builder::new()
            .name("tracker-database".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    match location {
                        Location::Embedded(path) => {
                            let store = SqliteGroupStore::open(&path);
                            owner.own(store, &configured, &opened, &queue).await;
                        }
                        Location::Shared(options) => {
                            let store = MysqlGroupStore::open(options).await;
                            owner.own(store, &configured, &opened, &queue).await;
                        }
                    }
                });
            })
            .map_err(Error::Thread)?;
        let gone = || Error::Thread(io::Error::other("it ended"));
        let groups = wait.recv().map_err(|_| gone())??;
        Ok((Self { questions, failing }, thread, groups))
    }

    /// The group of a user. A user without one gets `pick`, unless another tracker was first: then
    /// that one's choice, like everybody.
    pub(crate) async fn route(
        &self,
        app: AppId,
        user: UserId,
        pick: Option<GroupName>,
    ) -> Result<Option<GroupName>, RouteError> {
        let (answer, wait) = flume::bounded(1);
        let question = Question { app, user, pick, queued_at: Instant::now(), answer };
        self.questions.send_async(Some(question)).await.map_err(|_| RouteError::Stopping)?;
        wait.recv_async().await.map_err(|_| RouteError::Stopping)?
    }

    /// Whether the last question failed: new users cannot be served then, remembered ones are.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Ends the thread once it has answered what is queued. Waits for a place in the queue.
    pub(crate) async fn stop(&self) {
        let _ = self.questions.send_async(None).await;
    }
}

/// Adds the configured groups and gives all legal ones.
async fn prepare(
    store: &mut impl GroupStore,
    configured: &[GroupName],
) -> Result<Vec<GroupName>, MetaError> {
    for group in configured {
        if store.add_group(group.as_str()).await? {
            tracing::info!(%group, "added a group");
        }
    }
    let mut groups = Vec::new();
    for name in store.groups().await? {
        match GroupName::parse(&name) {
            Ok(group) => groups.push(group),
            Err(error) => tracing::warn!(?name, %error, "a group that no node can join"),
        }
    }
    Ok(groups)
}

/// What the thread owns beside the store.
struct Owner {
    metrics: SharedCell<TrackerMetrics>,
    failing: Arc<AtomicBool>,
    /// The last user that could not be recorded, until one is again. A failure may take as long as
    /// the database's busy timeout: who was waiting then is given the same answer, not one more
    /// wait in a row.
    failure: Option<(Instant, RouteError)>,
}

impl Owner {
    /// Tells which groups there are, and answers until the end.
    async fn own<S: GroupStore>(
        self,
        store: Result<S, MetaError>,
        configured: &[GroupName],
        opened: &flume::Sender<Result<Vec<GroupName>, MetaError>>,
        queue: &flume::Receiver<Option<Question>>,
    ) {
        let prepared = match store {
            Ok(mut store) => prepare(&mut store, configured).await.map(|groups| (store, groups)),
            Err(error) => Err(error),
        };
        match prepared {
            Ok((store, groups)) => {
                let _ = opened.send(Ok(groups));
                self.run(store, queue).await;
            }
            Err(error) => drop(opened.send(Err(error))),
        }
    }

    async fn run(mut self, mut store: impl GroupStore, queue: &flume::Receiver<Option<Question>>) {
        while let Ok(Some(question)) = queue.recv_async().await {
            let before = Instant::now();
            let found = self.route(&mut store, &question).await;
            let micros = u64::try_from(before.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.metrics.observe(TrackerMetrics::ROUTE_SECONDS, micros);
            self.failing.store(found.is_err(), Ordering::Relaxed);
            let (lookup, found) = match found {
                Ok((lookup, found)) => (lookup, Ok(found)),
                Err(error) => (Lookup::Failed, Err(error)),
            };
            self.metrics.add(TrackerMetrics::ROUTE_LOOKUPS.at([lookup as usize]), 1);
            let _ = question.answer.send(found);
        }
    }

    async fn route(
        &mut self,
        store: &mut impl GroupStore,
        question: &Question,
    ) -> Result<(Lookup, Option<GroupName>), RouteError> {
        let (app, user) = (question.app.as_str(), question.user.as_str());
        self.failure = self.failure.take().filter(|(at, _)| *at >= question.queued_at);
        if let Some((_, error)) = &self.failure {
            return Err(error.clone());
        }
        let found = match store.route(app, user).await {
            Ok(Some(name)) => group(&name).map(|group| (Lookup::Known, Some(group))),
            Ok(None) => match question.pick {
                None => Ok((Lookup::None, None)),
                Some(pick) => store
                    .route_or_insert(app, user, pick.as_str())
                    .await
                    .and_then(|name| group(&name))
                    .map(|group| (Lookup::New, Some(group))),
            },
            Err(error) => Err(error),
        };
        found.map_err(|error| {
            // Once, and not for everybody who asks until it is over.
            if !self.failing.load(Ordering::Relaxed) {
                tracing::error!(%error, "the group of a user could not be told");
            }
            let error = RouteError::Failed(error.to_string().into());
            self.failure = Some((Instant::now(), error.clone()));
            error
        })
    }
}

fn group(name: &str) -> Result<GroupName, MetaError> {
    GroupName::parse(name)
        .map_err(|error| MetaError::Corrupt { what: format!("t_router: {name:?}: {error}") })
}
