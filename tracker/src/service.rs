//! The tracker as a role: what its threads share and hold, and its work on the control thread.

mod clients;
mod nodes;

use std::cell::{Cell as StdCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;
use reel_meta::Location;
use reel_meta::mysql::MysqlOptions;
use reel_node::frame_server::{BodyError, Ended, FrameConfig, FrameConn};
use reel_node::metrics::{Cell, Registry as Metrics};
use reel_node::signed::{Envelopes, SignedError};
use reel_node::{Accepted, ControlContext, ServiceError, ThreadContext};
use reel_proto::command::{self, REPLY_TRACKER};
use reel_proto::ext::{Locate, Nodes};
use reel_proto::frame::{FrameError, Header};
use reel_proto::name::AppId;
use reel_proto::refusal::Refusal;
use reel_proto::tracker::Saddrs;
use serde_json::json;

use crate::config::{Config, Names};
use crate::database::Database;
use crate::metrics::{Kind, Outcome, TrackerMetrics};
use crate::owners::Owners;
use crate::picture::Picture;
use crate::random::Random;
use crate::registry::{NodeId, Registry, Rules};
use crate::routes::Routes;
use crate::snapshot::Snapshot;
use crate::start::Error;

/// How long the check for silent nodes may be late, at most.
const EXPIRE_INTERVAL_MAX: Duration = Duration::from_secs(1);
/// And at least: a tracker with nothing to do sleeps.
const EXPIRE_INTERVAL_MIN: Duration = Duration::from_millis(20);

/// Bytes of the reply buffer that a thread keeps: a GROUPS text of a thousand nodes is not kept.
const REPLY_BYTES_KEPT: usize = 4096;

/// What a service is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) host: String,
    pub(crate) envelopes: Envelopes,
    pub(crate) location: Location,
    /// The shared database of files.
    pub(crate) files: Option<MysqlOptions>,
    pub(crate) metrics: Metrics<TrackerMetrics>,
}

/// The role, shared by its threads.
pub(crate) struct Service {
    config: Config,
    apps: Arc<[AppId]>,
    host: String,
    envelopes: Arc<Envelopes>,
    picture: Arc<Picture>,
    database: Database,
    owners: Option<Owners>,
    /// Those of `database` and `owners`.
    threads: Mutex<Vec<JoinHandle<()>>>,
    stopped: AtomicBool,
    metrics: Metrics<TrackerMetrics>,
}

/// What a data thread holds.
pub(crate) struct Thread {
    apps: Arc<[AppId]>,
    envelopes: Arc<Envelopes>,
    picture: Arc<Picture>,
    /// The newest snapshot: looking costs one load while it has not changed.
    snapshots: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    routes: RefCell<Routes>,
    random: RefCell<Random>,
    database: Database,
    owners: Option<Owners>,
    frames: Rc<FrameConfig>,
    metrics: Cell<TrackerMetrics>,
    /// Where replies are built; taken and given back, so that no borrow is held while one is sent.
    reply: StdCell<Vec<u8>>,
}

/// What a connection remembers.
#[derive(Debug, Default)]
struct Conversation {
    /// The node that joined on this connection.
    joined: Option<NodeId>,
}

/// Why a request gets an error reply.
struct Refused {
    outcome: Outcome,
    /// The number that the reply to one of our own commands carries.
    refusal: Refusal,
    text: String,
}

impl Refused {
    fn new(outcome: Outcome, error: impl std::fmt::Display) -> Self {
        let refusal = match outcome {
            Outcome::Malformed => Refusal::Malformed,
            Outcome::NoNode => Refusal::NoActiveNode,
            Outcome::Failed => Refusal::Failed,
            Outcome::Ok | Outcome::Refused => Refusal::Other,
        };
        Self { outcome, refusal, text: error.to_string() }
    }

    /// A node command without a good envelope: not one that we do not know, so that the sender does
    /// not fall back to an unsigned one, and its operator hears of it.
    fn untrusted(error: SignedError, peer: IpAddr) -> Self {
        tracing::warn!(%peer, %error, "a node command was refused");
        Self { refusal: Refusal::NotTrusted, ..Self::new(Outcome::Refused, error) }
    }
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        let rules = Rules {
            check_interval: parts.config.check_interval.0,
            forget_after: parts.config.forget_after.0,
            nodes_max: parts.config.nodes_max,
            gateways_max: parts.config.gateways_max,
            embedded: parts.config.embedded,
        };
        let (database, thread, groups) =
            Database::start(&parts.location, &parts.names.groups, &parts.metrics)?;
        let mut threads = vec![thread];
        let mut owners = None;
        if let Some(options) = parts.files {
            let (started, thread) = Owners::start(options)?;
            owners = Some(started);
            threads.push(thread);
        }
        Ok(Self {
            apps: parts.names.apps.into(),
            host: parts.host,
            envelopes: Arc::new(parts.envelopes),
            picture: Arc::new(Picture::new(Registry::new(rules, groups))),
            database,
            owners,
            threads: Mutex::new(threads),
            stopped: AtomicBool::new(false),
            metrics: parts.metrics,
            config: parts.config,
        })
    }

    /// Marks silent nodes as offline and sets the gauges.
    fn expire(&self) {
        let (lost, counts) = self.picture.change(|registry, now| {
            let lost: Vec<String> =
                registry.expire(now).into_iter().filter_map(|id| registry.describe(id)).collect();
            (lost, registry.counts())
        });
        let shared = self.metrics.shared();
        for node in &lost {
            tracing::warn!(%node, "a storage node is offline: no beat came");
        }
        shared.add(TrackerMetrics::LOST, lost.len() as u64);
        for (state, count) in [counts.offline, counts.online, counts.active].into_iter().enumerate()
        {
            shared.set(TrackerMetrics::NODES.at([state]), i64::try_from(count).unwrap_or(i64::MAX));
        }
        let gateways = i64::try_from(counts.gateways).unwrap_or(i64::MAX);
        shared.set(TrackerMetrics::GATEWAYS, gateways);
    }
}

impl reel_node::Service for Service {
    type Thread = Thread;

    fn thread(self: &Arc<Self>, _cx: ThreadContext) -> Thread {
        Thread {
            apps: Arc::clone(&self.apps),
            envelopes: Arc::clone(&self.envelopes),
            picture: Arc::clone(&self.picture),
            snapshots: RefCell::new(Cache::new(self.picture.snapshots())),
            routes: RefCell::new(Routes::new(self.config.routes_max)),
            random: RefCell::new(Random::from_kernel()),
            database: self.database.clone(),
            owners: self.owners.clone(),
            frames: Rc::new(FrameConfig::new(REPLY_TRACKER, &self.host)),
            metrics: self.metrics.cell(),
            reply: StdCell::default(),
        }
    }

    async fn connection(thread: Rc<Thread>, conn: Accepted) {
        let mut conn = FrameConn::new(conn, Rc::clone(&thread.frames));
        let mut conversation = Conversation::default();
        while let Some(header) = conn.read_header().await {
            if thread.request(&mut conn, &mut conversation, header).await.is_err() {
                return;
            }
        }
        conn.close().await;
    }

    async fn control(self: Arc<Self>, cx: ControlContext) -> Result<(), ServiceError> {
        // A tenth of the interval late is soon enough.
        let pause =
            (self.config.check_interval.0 / 10).clamp(EXPIRE_INTERVAL_MIN, EXPIRE_INTERVAL_MAX);
        while !cx.finished.requested() {
            self.expire();
            let _ = tokio::time::timeout(pause, cx.finished.wait()).await;
        }
        self.stopped.store(true, Ordering::Relaxed);
        self.database.stop().await;
        if let Some(owners) = &self.owners {
            owners.stop();
        }
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // Their queues are empty: nobody else asks any more.
        let ended: Vec<_> = threads.into_iter().map(JoinHandle::join).collect();
        if ended.iter().all(Result::is_ok) {
            Ok(())
        } else {
            Err("a thread of the database panicked".into())
        }
    }

    fn status(&self) -> serde_json::Value {
        self.picture.look(|registry, now| {
            let counts = registry.counts();
            json!({
                "embedded": self.config.embedded,
                "check_interval": self.config.check_interval.to_string(),
                "beat_interval": self.config.beat_interval.to_string(),
                // Until every node has had the time to beat, be refused and join again.
                "gathering": now.monotonic < self.config.beat_interval.0,
                "apps": self.config.apps,
                "offline": counts.offline,
                "online": counts.online,
                "active": counts.active,
                "nodes": registry.status(now),
                "gateways": registry.gateways(),
            })
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err("the tracker is stopping".to_owned());
        }
        if self.database.is_failing() {
            return Err("the tracker's database fails".to_owned());
        }
        Ok(())
    }
}

/// A request, read and checked.
enum Request {
    Saddrs(Saddrs),
    Locate(Locate),
    Groups,
    Nodes(Nodes),
    Node(nodes::Message),
}

impl Thread {
    /// Answers one request. `Err`: the connection has ended.
    async fn request(
        &self,
        conn: &mut FrameConn,
        conversation: &mut Conversation,
        header: Header,
    ) -> Result<(), Ended> {
        let (kind, body_max) = match check(&header) {
            Ok(fits) => fits,
            Err(error) => {
                self.count(Kind::Other, Outcome::Malformed);
                let refusal = number_for(&header, refusal_of(error));
                return Err(conn.refuse_with(refusal, &error.to_string()).await);
            }
        };
        let peer = conn.peer().ip().to_canonical();
        let request = match conn.read_body(body_max).await {
            Ok(body) => self.parse(header.command, body, peer),
            Err(BodyError::Incomplete { .. }) => return Err(Ended),
            Err(error) => Err(Refused::new(Outcome::Malformed, error)),
        };
        let mut reply = self.reply.take();
        reply.clear();
        let answer = match request {
            Ok(Request::Saddrs(saddrs)) => self.saddrs(conn, &saddrs, &mut reply).await?,
            Ok(Request::Locate(locate)) => self.locate(conn, &locate, &mut reply).await?,
            Ok(Request::Groups) => {
                self.groups(&mut reply);
                Ok(())
            }
            Ok(Request::Nodes(question)) => {
                self.nodes(question, &mut reply);
                Ok(())
            }
            Ok(Request::Node(message)) => self.node(conversation, message, peer),
            Err(refused) => Err(refused),
        };
        let sent = self.send(conn, &header, kind, answer, &reply).await;
        reply.shrink_to(REPLY_BYTES_KEPT);
        self.reply.set(reply);
        sent
    }

    fn parse(&self, command: u8, body: &[u8], peer: IpAddr) -> Result<Request, Refused> {
        let malformed = |error| Refused::new(Outcome::Malformed, error);
        Ok(match command {
            command::SADDRS => Request::Saddrs(Saddrs::decode(body).map_err(malformed)?),
            command::LOCATE => Request::Locate(Locate::decode(body).map_err(malformed)?),
            command::GROUPS => Request::Groups,
            command::NODES => Request::Nodes(Nodes::decode(body).map_err(malformed)?),
            _ => Request::Node(self.parse_node(command, body, peer)?),
        })
    }

    async fn send(
        &self,
        conn: &mut FrameConn,
        header: &Header,
        kind: Kind,
        answer: Result<(), Refused>,
        reply: &[u8],
    ) -> Result<(), Ended> {
        match answer {
            Ok(()) => {
                self.count(kind, Outcome::Ok);
                conn.reply(reply).await
            }
            Err(Refused { outcome, refusal, text }) => {
                self.count(kind, outcome);
                let refusal = number_for(header, refusal);
                match outcome {
                    // Bytes that are not what they should be: the next ones may not be either.
                    Outcome::Malformed => Err(conn.refuse_with(refusal, &text).await),
                    _ => conn.reply_refusal(refusal, &text).await,
                }
            }
        }
    }

    fn count(&self, kind: Kind, outcome: Outcome) {
        self.metrics.add(TrackerMetrics::REQUESTS.at([kind as usize, outcome as usize]), 1);
    }
}

/// Whether a request is one of ours with a body that fits, and how long that may be.
fn check(header: &Header) -> Result<(Kind, usize), FrameError> {
    let kind = match header.command {
        command::JOIN | command::JOIN_EXT => Kind::Join,
        command::BEAT => Kind::Beat,
        command::SADDRS => Kind::Saddrs,
        command::GROUPS => Kind::Groups,
        command::LOCATE => Kind::Locate,
        command::NODES => Kind::Nodes,
        command::REPORT => Kind::Report,
        command::DRAIN => Kind::Drain,
        command::GATEWAY => Kind::Gateway,
        command => return Err(FrameError::UnknownCommand { command }),
    };
    let (_, max) = command::check_request(header)?.bounds();
    Ok((kind, usize::try_from(max).unwrap_or(usize::MAX)))
}

/// The number in an error reply: the deployed system's commands know only one.
fn number_for(header: &Header, refusal: Refusal) -> Refusal {
    if header.command < command::LOCATE { Refusal::Other } else { refusal }
}

fn refusal_of(error: FrameError) -> Refusal {
    match error {
        FrameError::UnknownCommand { .. } => Refusal::UnknownCommand,
        FrameError::NegativeLength { .. } | FrameError::Length { .. } => Refusal::Malformed,
    }
}
