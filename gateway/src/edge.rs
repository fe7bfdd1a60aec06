//! What one data thread of the gateway holds: caches, connections to nodes, metrics.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reel_node::access::HttpWriteRule;
use reel_node::http::{HttpLimits, Pace, PoolLimits, UpstreamConn, UpstreamError, UpstreamPool};
use reel_node::{ThreadContext, metrics};
use reel_proto::http::head::{HeadLimits, ResponseHead};
use reel_proto::name::{AppId, UserId};

use crate::config::{Config, Mode};
use crate::handler::Question;
use crate::health::Health;
use crate::locations::{Locations, Node, Place, key};
use crate::metrics::Edge;
use crate::service::Gateway;
use crate::status::Failure;
use crate::trackers::TrackerClient;

/// How often a thread looks after its connections and gauges.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// For the answer of a node that is looked at.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Request buffers kept for use again; one is in use per request that is being sent.
const BUFFERS_MAX: usize = 64;

/// One data thread's part of the gateway.
pub(crate) struct EdgeThread {
    gateway: Arc<Gateway>,
    pub(crate) http_limits: Arc<HttpLimits>,
    pub(crate) metrics: metrics::Cell<Edge>,
    pub(crate) pool: Rc<UpstreamPool>,
    trackers: TrackerClient,
    locations: RefCell<Locations>,
    health: Rc<RefCell<Health>>,
    buffers: RefCell<Vec<Vec<u8>>>,
    random: Cell<u64>,
    head_limits: HeadLimits,
}

impl EdgeThread {
    /// Makes the thread's part, on the thread.
    pub(crate) fn new(gateway: &Arc<Gateway>, _cx: &ThreadContext) -> Self {
        let config = gateway.config();
        let pool = UpstreamPool::new(PoolLimits {
            idle_per_node_max: config.idle_connections_per_node,
            open_max: config.upstream_connections_max,
            connect: config.connect_timeout.0,
            ..PoolLimits::default()
        });
        let metrics = gateway.registry().cell();
        monoio::spawn(keep_house(Rc::clone(&pool), metrics.clone()));
        Self {
            gateway: Arc::clone(gateway),
            http_limits: Arc::clone(gateway.http_limits()),
            metrics,
            pool,
            trackers: TrackerClient::new(gateway),
            locations: RefCell::new(Locations::new(
                config.location_cache,
                config.location_lifetime.0,
            )),
            health: Rc::default(),
            buffers: RefCell::default(),
            random: Cell::new(seed()),
            head_limits: HeadLimits::default(),
        }
    }

    fn config(&self) -> &Config {
        self.gateway.config()
    }

    /// Proxy or redirect.
    pub(crate) fn mode(&self) -> Mode {
        self.config().mode
    }

    /// App of a write that names none.
    pub(crate) fn default_app(&self) -> AppId {
        self.gateway.default_app()
    }

    /// User of a write that names none.
    pub(crate) fn default_user(&self) -> UserId {
        self.gateway.default_user()
    }

    /// Largest upload, bytes.
    pub(crate) fn upload_max(&self) -> u64 {
        self.config().upload_max.0
    }

    /// Who may write.
    pub(crate) fn write_rule(&self) -> &HttpWriteRule {
        self.gateway.write_rule()
    }

    /// From the end of a request to the head of its answer.
    pub(crate) fn answer_timeout(&self) -> Duration {
        self.config().answer_timeout.0
    }

    /// Least progress of a node.
    pub(crate) fn pace(&self) -> Pace {
        Pace { window: self.config().body_timeout.0, bytes_min: 1024 }
    }

    /// How long a node may be silent where there is another one to ask.
    pub(crate) fn switch_after(&self) -> Duration {
        self.config().switch_after.0.min(self.config().body_timeout.0)
    }

    /// Least progress of a node where there is another one to ask.
    pub(crate) fn switching_pace(&self) -> Pace {
        Pace { window: self.switch_after(), ..self.pace() }
    }

    /// Size of a node's answer head.
    pub(crate) fn head_limits(&self) -> &HeadLimits {
        &self.head_limits
    }

    /// The nodes that have, or would take, what is asked about.
    pub(crate) async fn locate(&self, question: &Question) -> Result<Rc<[Node]>, Failure> {
        let mut name = self.buffer();
        key(&mut name, question);
        let cached = self.locations.borrow_mut().get(&name, Instant::now());
        let answer = match cached {
            Some(nodes) => {
                self.metrics.add(Edge::LOCATIONS.at([0]), 1);
                Ok(nodes)
            }
            None => self.ask(question, &name).await,
        };
        self.give_buffer(name);
        answer
    }

    async fn ask(&self, question: &Question, name: &[u8]) -> Result<Rc<[Node]>, Failure> {
        let answer = self.trackers.locate(question, self.next_random()).await;
        let result = match &answer {
            Ok(_) => 1,
            Err(Failure::Unknown) => 2,
            Err(_) => 3,
        };
        self.metrics.add(Edge::LOCATIONS.at([result]), 1);
        let nodes = answer?;
        self.locations.borrow_mut().put(name, Place::new(Rc::clone(&nodes), Instant::now()));
        Ok(nodes)
    }

    /// Forgets what is remembered about a question.
    pub(crate) fn forget(&self, question: &Question) {
        let mut name = self.buffer();
        key(&mut name, question);
        self.locations.borrow_mut().forget(&name);
        self.give_buffer(name);
    }

    /// The nodes that the trackers name now and that are not among those that were tried: what was remembered may be of a
    /// time when one of them was drained, or not there.
    pub(crate) async fn others(
        &self,
        question: &Question,
        tried: &[SocketAddr],
        is_write: bool,
    ) -> Vec<SocketAddr> {
        self.forget(question);
        let Ok(nodes) = self.locate(question).await else { return Vec::new() };
        let mut order = self.order(&nodes, is_write);
        order.retain(|node| !tried.contains(node));
        order
    }

    /// The order in which to try nodes.
    pub(crate) fn order(&self, nodes: &[Node], is_write: bool) -> Vec<SocketAddr> {
        self.health.borrow().order(nodes, self.next_random(), is_write)
    }

    /// A node answered a try.
    pub(crate) fn node_answered(&self, node: SocketAddr) {
        self.metrics.add(Edge::TRIES.at([0]), 1);
        self.health.borrow_mut().answered(node);
    }

    /// A request is answered; counted where the node that was asked first did not.
    pub(crate) fn count_failover(&self, order: &[SocketAddr], answered_by: SocketAddr) {
        if order.first().is_some_and(|first| *first != answered_by) {
            self.metrics.add(Edge::FAILOVERS, 1);
        }
    }

    /// A node did not answer a try.
    pub(crate) fn node_failed(&self, node: SocketAddr, error: &UpstreamError) {
        if matches!(error, UpstreamError::Busy) {
            return;
        }
        self.pool.forget(node);
        if self.health.borrow_mut().failed(node, Instant::now()) {
            tracing::warn!(%node, %error, "a storage node does not answer: others go first");
            let (pool, health) = (Rc::clone(&self.pool), Rc::clone(&self.health));
            monoio::spawn(watch(node, pool, health));
        }
    }

    /// The final head of an answer; interim ones are passed over.
    pub(crate) async fn final_head(
        &self,
        conn: &mut UpstreamConn,
        deadline: Duration,
    ) -> Result<ResponseHead, UpstreamError> {
        let until = Instant::now() + deadline;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let head = conn.answer(&self.head_limits, left).await?;
            if !(100..200).contains(&head.status) {
                return Ok(head);
            }
        }
    }

    /// An empty buffer.
    pub(crate) fn buffer(&self) -> Vec<u8> {
        self.buffers.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a buffer back.
    pub(crate) fn give_buffer(&self, mut buffer: Vec<u8>) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < BUFFERS_MAX {
            buffer.clear();
            buffers.push(buffer);
        }
    }

    /// xorshift64: spreads load, guards nothing.
    fn next_random(&self) -> u64 {
        let mut state = self.random.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.random.set(state);
        state
    }
}

fn seed() -> u64 {
    // Without random numbers every gateway starts with the same node: worse balance, no fault.
    getrandom::u64().unwrap_or(0) | 1
}

/// Looks at a node that did not answer until it does.
async fn watch(node: SocketAddr, pool: Rc<UpstreamPool>, health: Rc<RefCell<Health>>) {
    loop {
        let Some(pause) = health.borrow_mut().next_look(node, Instant::now()) else { return };
        monoio::time::sleep(pause).await;
        if health.borrow().is_down(node) && is_well(node, &pool).await {
            tracing::info!(%node, "a storage node answers again");
            health.borrow_mut().answered(node);
        }
    }
}

/// Whether a node's HTTP server answers, asked for what needs no disk and no database.
async fn is_well(node: SocketAddr, pool: &Rc<UpstreamPool>) -> bool {
    let question = format!("OPTIONS * HTTP/1.1\r\nHost: {node}\r\nConnection: close\r\n\r\n");
    let asked = async {
        let mut conn = pool.get(node, true).await?;
        conn.send(question.as_bytes(), false, Pace::any_within(LOOK_TIMEOUT)).await?;
        conn.answer(&HeadLimits::default(), LOOK_TIMEOUT).await
    };
    asked.await.is_ok_and(|head| head.status < 300)
}

async fn keep_house(pool: Rc<UpstreamPool>, metrics: metrics::Cell<Edge>) {
    loop {
        monoio::time::sleep(HOUSEKEEPING).await;
        pool.expire();
        let (open, idle) = (pool.open(), pool.idle());
        metrics.set(Edge::UPSTREAMS.at([0]), i64::try_from(idle).unwrap_or(i64::MAX));
        metrics.set(Edge::UPSTREAMS.at([1]), i64::try_from(open - idle).unwrap_or(i64::MAX));
    }
}
