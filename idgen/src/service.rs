//! The ID node on the wire: ID_GET from what is in hand, blocks for storage nodes from the database.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use reel_meta::sqlite::SqliteSequenceStore;
use reel_node::config::Secret;
use reel_node::frame_server::{BodyError, Ended, FrameConfig, FrameConn};
use reel_node::metrics::{Cell, Registry};
use reel_node::{Accepted, ControlContext, ServiceError, ThreadContext};
use reel_proto::command::{self, REPLY_IDGEN};
use reel_proto::frame::{FrameError, Header};
use reel_proto::idgen::{IdGet, encode_id};
use reel_proto::name::IdKey;
use serde_json::json;

use crate::database::{self, Database, Steps, TakeError};
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
    pub(crate) secret: Option<Secret>,
    pub(crate) insecure: bool,
    pub(crate) store: SqliteSequenceStore,
    pub(crate) registry: Registry<IdGenMetrics>,
}

/// The role, shared by its threads.
pub(crate) struct Service {
    host: String,
    steps: Steps,
    keys: Arc<Keys>,
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
    reply: RefCell<Vec<u8>>,
}

impl Service {
    pub(crate) fn new(mut parts: Parts) -> Result<Self, Error> {
        // Keys that the database knows are always served; the limit is for new ones.
        let stored = database::stored(&mut parts.store)?;
        let keys = Keys::new(parts.keys_max.max(stored.len()));
        for row in stored {
            match IdKey::parse(&row.key) {
                Ok(key) => drop(keys.find(&key)),
                Err(error) => {
                    tracing::warn!(key = ?row.key, %error, "a key that nobody can ask for")
                }
            }
        }
        let (database, thread) =
            Database::start(parts.store, parts.steps, &parts.registry).map_err(Error::Thread)?;
        Ok(Self {
            host: parts.host,
            steps: parts.steps,
            keys: Arc::new(keys),
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
            reply: RefCell::default(),
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
        Ok(())
    }
}

/// Keys that `/status` lists.
const STATUS_KEYS_MAX: usize = 100;

impl Thread {
    /// Answers one request. `Err`: the connection has ended.
    async fn request(&self, conn: &mut FrameConn, header: Header) -> Result<(), Ended> {
        if let Err(error) = check(&header) {
            self.count(Kind::Other, Outcome::Malformed);
            return Err(conn.refuse(&error.to_string()).await);
        }
        self.id_get(conn).await
    }

    async fn id_get(&self, conn: &mut FrameConn) -> Result<(), Ended> {
        const BODY_MAX: usize = IdKey::BYTES_MAX + 1;
        let request = match conn.read_body(BODY_MAX).await {
            Ok(body) => IdGet::decode(body),
            Err(BodyError::Incomplete { .. }) => return Err(Ended),
            Err(error) => return Err(conn.refuse(&error.to_string()).await),
        };
        let key = match request {
            Ok(IdGet { key }) => key,
            Err(error) => {
                self.count(Kind::IdGet, Outcome::Malformed);
                return Err(conn.refuse(&error.to_string()).await);
            }
        };
        let sequence = match self.keys.find(&key) {
            Ok(sequence) => sequence,
            Err(error) => {
                self.count(Kind::IdGet, Outcome::Refused);
                return conn.reply_error(&error.to_string()).await;
            }
        };
        match self.draw(conn, &sequence).await? {
            Ok(id) => {
                self.count(Kind::IdGet, Outcome::Ok);
                conn.reply(&encode_id(id)).await
            }
            Err(error) => {
                self.count(Kind::IdGet, outcome_of(&error));
                conn.reply_error(&error.to_string()).await
            }
        }
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

/// Whether a request is one of ours, with a body that fits.
fn check(header: &Header) -> Result<(), FrameError> {
    match header.command {
        command::ID_GET => command::check_request(header).map(drop),
        command => Err(FrameError::UnknownCommand { command }),
    }
}

fn outcome_of(error: &TakeError) -> Outcome {
    match error {
        TakeError::Exhausted => Outcome::Exhausted,
        TakeError::Refused(_) => Outcome::Refused,
        TakeError::Failed(_) | TakeError::Stopping => Outcome::Failed,
    }
}
