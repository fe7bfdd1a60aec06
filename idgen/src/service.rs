//! The ID node on the wire: ID_GET from what is in hand, blocks for storage nodes from the database.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reel_meta::Location;
use reel_node::frame_server::{BodyError, Ended, FrameConfig, FrameConn};
use reel_node::metrics::{Cell, Registry};
use reel_node::signed::Envelopes;
use reel_node::{Accepted, ControlContext, ServiceError, ThreadContext};
use reel_proto::command::{self, REPLY_IDGEN};
use reel_proto::frame::{FrameError, Header};
use reel_proto::idgen::{IdGet, encode_id};
use reel_proto::name::IdKey;
use reel_proto::peer::{IdBlock, IdBlockReply};
use reel_proto::refusal::Refusal;
use serde_json::json;

use crate::database::{Database, Steps, TakeError};
use crate::keys::{Keys, SeenKeys};
use crate::metrics::{IdGenMetrics, Kind, Outcome};
use crate::sequence::Sequence;
use crate::start::Error;

/// How often the gauges of ids in hand are set.
const GAUGE_INTERVAL: Duration = Duration::from_secs(1);

/// What a service is made of.
pub(crate) struct Parts {
    pub(crate) host: String,
    pub(crate) steps: Steps,
    pub(crate) keys_max: usize,
    pub(crate) envelopes: Envelopes,
    pub(crate) location: Location,
    pub(crate) registry: Registry<IdGenMetrics>,
}

/// The role, shared by its threads.
pub(crate) struct Service {
    host: String,
    steps: Steps,
    keys: Arc<Keys>,
    envelopes: Arc<Envelopes>,
    database: Database,
    database_thread: Mutex<Option<JoinHandle<()>>>,
    stopped: AtomicBool,
    registry: Registry<IdGenMetrics>,
}

/// What a data thread holds.
pub(crate) struct Thread {
    keys: SeenKeys,
    database: Database,
    frames: Rc<FrameConfig>,
    metrics: Cell<IdGenMetrics>,
    envelopes: Arc<Envelopes>,
}

impl Service {
    pub(crate) fn new(parts: Parts) -> Result<Self, Error> {
        // Keys that the database knows are always served; the limit is for new ones.
        let (database, thread, stored) =
            Database::start(&parts.location, parts.steps, &parts.registry)?;
        let keys = Keys::new(parts.keys_max.max(stored.len()));
        for row in stored {
            match IdKey::parse(&row.key) {
                Ok(key) => drop(keys.find(&key)),
                Err(error) => {
                    tracing::warn!(key = ?row.key, %error, "a key that nobody can ask for")
                }
            }
        }
        Ok(Self {
            host: parts.host,
            steps: parts.steps,
            keys: Arc::new(keys),
            envelopes: Arc::new(parts.envelopes),
            database,
            database_thread: Mutex::new(Some(thread)),
            stopped: AtomicBool::new(false),
            registry: parts.registry,
        })
    }

    fn ids_left(&self) -> u64 {
        self.keys.all().iter().map(|sequence| sequence.left()).sum()
    }
}

impl reel_node::Service for Service {
    type Thread = Thread;

    fn thread(self: &Arc<Self>, _cx: ThreadContext) -> Thread {
        Thread {
            keys: SeenKeys::new(Arc::clone(&self.keys)),
            database: self.database.clone(),
            frames: Rc::new(FrameConfig::new(REPLY_IDGEN, &self.host)),
            metrics: self.registry.cell(),
            envelopes: Arc::clone(&self.envelopes),
        }
    }

    async fn connection(thread: Rc<Thread>, conn: Accepted) {
        let mut conn = FrameConn::new(conn, Rc::clone(&thread.frames));
        while let Some(header) = conn.read_header().await {
            if thread.request(&mut conn, header).await.is_err() {
                return;
            }
        }
        conn.close().await;
    }

    async fn control(self: Arc<Self>, cx: ControlContext) -> Result<(), ServiceError> {
        let gauges = self.registry.shared();
        while !cx.finished.requested() {
            gauges.set(IdGenMetrics::KEYS, self.keys.all().len().cast_signed() as i64);
            gauges.set(IdGenMetrics::IDS_LEFT, self.ids_left().cast_signed());
            let _ = tokio::time::timeout(GAUGE_INTERVAL, cx.finished.wait()).await;
        }
        self.stopped.store(true, Ordering::Relaxed);
        self.database.stop().await;
        let thread = self.database_thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Its queue is empty: nobody else asks any more.
        match thread.map(JoinHandle::join) {
            Some(Err(_)) => Err("the thread of the database panicked".into()),
            _ => Ok(()),
        }
    }

    fn status(&self) -> serde_json::Value {
        let mut keys: Vec<_> = self.keys.all();
        keys.sort_unstable_by(|a, b| a.key().cmp(b.key()));
        let shown: Vec<_> = keys
            .iter()
            .take(STATUS_KEYS_MAX)
            .map(|sequence| json!({"key": sequence.key().as_str(), "in_hand": sequence.left()}))
            .collect();
        json!({
            "step": self.steps.smallest,
            "step_max": self.steps.largest,
            "keys": keys.len(),
            "ids_in_hand": self.ids_left(),
            "sequences": shown,
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.stopped.load(Ordering::Relaxed) {
            return Err("the ID node is stopping".to_owned());
        }
        if self.database.is_failing() {
            return Err("the database of ids fails".to_owned());
        }
        Ok(())
    }
}

/// Keys that `/status` lists.
const STATUS_KEYS_MAX: usize = 100;

/// A request, read and checked.
enum Request {
    Get(IdKey),
    Block(IdBlock),
}

/// What a request comes to.
enum Reply {
    Id(u64),
    Block(IdBlockReply),
}

/// Why a request gets an error reply.
struct Refused {
    outcome: Outcome,
    /// A node command without a good envelope.
    untrusted: bool,
    text: String,
}

impl Refused {
    fn new(outcome: Outcome, error: impl std::fmt::Display) -> Self {
        Self { outcome, untrusted: false, text: error.to_string() }
    }

    /// The number that the reply to one of our own commands carries; the deployed system's know
    /// only one.
    fn refusal(&self, header: &Header) -> Refusal {
        match self.outcome {
            _ if header.command < command::ID_BLOCK => Refusal::Other,
            _ if self.untrusted => Refusal::NotTrusted,
            Outcome::Malformed => Refusal::Malformed,
            Outcome::Failed => Refusal::Failed,
            Outcome::Ok | Outcome::Refused | Outcome::Exhausted => Refusal::Other,
        }
    }
}

impl From<TakeError> for Refused {
    fn from(error: TakeError) -> Self {
        let outcome = match &error {
            TakeError::Exhausted => Outcome::Exhausted,
            TakeError::Refused(_) => Outcome::Refused,
            TakeError::Failed(_) | TakeError::Stopping => Outcome::Failed,
        };
        Self::new(outcome, error)
    }
}

impl Thread {
    /// Answers one request. `Err`: the connection has ended.
    async fn request(&self, conn: &mut FrameConn, header: Header) -> Result<(), Ended> {
        let (kind, body_max) = match check(&header) {
            Ok(fits) => fits,
            Err(error) => {
                self.count(Kind::Other, Outcome::Malformed);
                let refusal = match error {
                    FrameError::UnknownCommand { command: 200.. } => Refusal::UnknownCommand,
                    _ => Refusal::Other,
                };
                return Err(conn.refuse_with(refusal, &error.to_string()).await);
            }
        };
        let peer = conn.peer().ip().to_canonical();
        let request = match conn.read_body(body_max).await {
            Ok(body) => self.parse(header.command, body, peer),
            Err(BodyError::Incomplete { .. }) => return Err(Ended),
            Err(error) => Err(Refused::new(Outcome::Malformed, error)),
        };
        let answer = match request {
            Ok(Request::Get(key)) => self.get(conn, &key).await?.map(Reply::Id),
            Ok(Request::Block(block)) => self.block(conn, &block).await?.map(Reply::Block),
            Err(refused) => Err(refused),
        };
        self.send(conn, &header, kind, answer).await
    }

    async fn send(
        &self,
        conn: &mut FrameConn,
        header: &Header,
        kind: Kind,
        answer: Result<Reply, Refused>,
    ) -> Result<(), Ended> {
        let refused = match answer {
            Ok(reply) => {
                self.count(kind, Outcome::Ok);
                return match reply {
                    Reply::Id(id) => conn.reply(&encode_id(id)).await,
                    Reply::Block(block) => conn.reply_with(|out| block.encode(out)).await,
                };
            }
            Err(refused) => refused,
        };
        self.count(kind, refused.outcome);
        let number = refused.refusal(header);
        match refused.outcome {
            // Bytes that are not what they should be: the next ones may not be either.
            Outcome::Malformed => Err(conn.refuse_with(number, &refused.text).await),
            _ => conn.reply_refusal(number, &refused.text).await,
        }
    }

    fn parse(&self, command: u8, body: &[u8], peer: IpAddr) -> Result<Request, Refused> {
        let malformed = |error| Refused::new(Outcome::Malformed, error);
        if command == command::ID_GET {
            return Ok(Request::Get(IdGet::decode(body).map_err(malformed)?.key));
        }
        let payload = self.envelopes.open(command, body, peer).map_err(|error| Refused {
            untrusted: true,
            ..Refused::new(Outcome::Refused, error)
        })?;
        Ok(Request::Block(IdBlock::decode(payload).map_err(malformed)?))
    }

    async fn get(&self, conn: &mut FrameConn, key: &IdKey) -> Result<Result<u64, Refused>, Ended> {
        match self.keys.find(key) {
            Ok(sequence) => Ok(self.draw(conn, &sequence).await?.map_err(Refused::from)),
            Err(error) => Ok(Err(Refused::new(Outcome::Refused, error))),
        }
    }

    /// A block straight from the database: its durable start and end are the reply.
    async fn block(
        &self,
        conn: &mut FrameConn,
        block: &IdBlock,
    ) -> Result<Result<IdBlockReply, Refused>, Ended> {
        let sequence = match self.keys.find(&block.key) {
            Ok(sequence) => sequence,
            Err(error) => return Ok(Err(Refused::new(Outcome::Refused, error))),
        };
        conn.flush().await?;
        let taken = self.database.block(&sequence, block.count, block.at_least).await;
        Ok(taken.map(|ids| IdBlockReply { start: ids.start, end: ids.end }).map_err(Refused::from))
    }

    /// An id: from what is in hand, else after the database has brought more.
    async fn draw(
        &self,
        conn: &mut FrameConn,
        sequence: &Arc<Sequence>,
    ) -> Result<Result<u64, TakeError>, Ended> {
        loop {
            if let Some(drawn) = sequence.draw() {
                if drawn.ask {
                    self.database.ask(sequence);
                }
                return Ok(Ok(drawn.id));
            }
            self.metrics.add(IdGenMetrics::WAITS, 1);
            // Replies to earlier requests must not wait for the database.
            conn.flush().await?;
            if let Err(error) = self.database.refill(sequence).await {
                return Ok(Err(error));
            }
        }
    }

    fn count(&self, kind: Kind, outcome: Outcome) {
        self.metrics.add(IdGenMetrics::REQUESTS.at([kind as usize, outcome as usize]), 1);
    }
}

/// Whether a request is one of ours with a body that fits, and how long that may be.
fn check(header: &Header) -> Result<(Kind, usize), FrameError> {
    let kind = match header.command {
        command::ID_GET => Kind::IdGet,
        command::ID_BLOCK => Kind::IdBlock,
        command => return Err(FrameError::UnknownCommand { command }),
    };
    let (_, max) = command::check_request(header)?.bounds();
    Ok((kind, usize::try_from(max).unwrap_or(usize::MAX)))
}
