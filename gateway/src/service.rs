//! The gateway as a role: what its threads share, and what it says about itself.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use reel_node::access::{AccessError, HttpWriteRule};
use reel_node::config::{ConfigError, NodeConfig, Secret, TokenConfig};
use reel_node::http::{HttpLimits, Pace};
use reel_node::metrics::Registry;
use reel_node::{
    Accepted, ControlContext, Listener, Process, Role, RoleSpec, Running, Service, ServiceError,
    StartError, ThreadContext,
};
use reel_proto::address;
use reel_proto::name::{AppId, UserId};
use serde_json::json;

use crate::announce;
use crate::config::{Config, Mode};
use crate::edge::EdgeThread;
use crate::handler;
use crate::metrics::Edge;
use crate::trackers::TrackerStates;

/// Told to a connection beyond the limit.
const REFUSAL: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
    Content-Type: text/plain; charset=utf-8\r\nContent-Length: 20\r\n\r\ntoo many connections";

/// The gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A secret or token that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A value in `[gateway]` that cannot work.
    #[error("gateway.{key}: {reason}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A listener that would be open to everybody.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// An address or a thread.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Starts a gateway: `[gateway]`, the shared `[node]`, and who may write.
///
/// # Errors
/// See [`GatewayError`]; nothing of it runs then.
pub fn start(
    config: &Config,
    node: &NodeConfig,
    tokens: &[TokenConfig],
    process: &Process,
) -> Result<Running, GatewayError> {
    check(config)?;
    let bad = |key| GatewayError::Value { key, reason: "no such name can be" };
    let listener = Listener {
        name: "gateway.listen",
        addr: config.listen,
        refusal: Bytes::from_static(REFUSAL),
    };
    let admin = ("gateway.admin_listen", config.admin_listen);
    let spec = RoleSpec::from_config(node, Role::Gateway, vec![listener], admin)?;
    let gateway = Gateway {
        http_limits: Arc::new(http_limits(config)),
        write_rule: HttpWriteRule::new(tokens, node.insecure)?,
        secret: node.cluster_secret()?,
        registry: process.registry(Role::Gateway),
        trackers: TrackerStates::new(&config.trackers),
        advertised: OnceLock::new(),
        app: AppId::parse(&config.default_app).map_err(|_| bad("default_app"))?,
        user: UserId::parse(&config.default_user).map_err(|_| bad("default_user"))?,
        config: config.clone(),
    };
    Ok(reel_node::start(spec, Arc::new(gateway), process)?)
}

/// Refuses what cannot work, as the start would.
///
/// # Errors
/// The first key that cannot be.
pub fn check(config: &Config) -> Result<(), GatewayError> {
    let wrong = |key, reason| Err(GatewayError::Value { key, reason });
    if config.trackers.is_empty() {
        return wrong("trackers", "at least one is needed");
    }
    if config.trackers.iter().any(|tracker| address::check(tracker).is_err()) {
        return wrong("trackers", "write each as HOST:PORT");
    }
    if config.beat_interval.0.is_zero() {
        return wrong("beat_interval", "must not be zero");
    }
    if config.advertise.is_some_and(|address| address.port() == 0) {
        return wrong("advertise", "needs the port that clients connect to");
    }
    if config.upstream_connections_max == 0 {
        return wrong("upstream_connections_max", "at least one is needed");
    }
    Ok(())
}

fn http_limits(config: &Config) -> HttpLimits {
    let pace = Pace { window: config.body_timeout.0, bytes_min: 1024 };
    HttpLimits { body: pace, answer: pace, ..HttpLimits::default() }
}

/// What all threads of a gateway share.
pub(crate) struct Gateway {
    config: Config,
    app: AppId,
    user: UserId,
    http_limits: Arc<HttpLimits>,
    write_rule: HttpWriteRule,
    secret: Option<Secret>,
    registry: Registry<Edge>,
    trackers: TrackerStates,
    advertised: OnceLock<SocketAddr>,
}

impl Gateway {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn default_app(&self) -> AppId {
        self.app
    }

    pub(crate) fn default_user(&self) -> UserId {
        self.user
    }

    pub(crate) fn http_limits(&self) -> &Arc<HttpLimits> {
        &self.http_limits
    }

    pub(crate) fn write_rule(&self) -> &HttpWriteRule {
        &self.write_rule
    }

    pub(crate) fn secret(&self) -> Option<&Secret> {
        self.secret.as_ref()
    }

    pub(crate) fn registry(&self) -> &Registry<Edge> {
        &self.registry
    }

    pub(crate) fn trackers(&self) -> &TrackerStates {
        &self.trackers
    }

    /// The address that clients are told: as configured, else where it listens.
    fn advertise(&self, cx: &ControlContext) -> Option<SocketAddr> {
        let listened = || cx.addresses.first().map(|address| address.addr);
        let address = self.config.advertise.or_else(listened)?;
        Some(*self.advertised.get_or_init(|| address))
    }
}

impl Service for Gateway {
    type Thread = EdgeThread;

    fn thread(self: &Arc<Self>, cx: ThreadContext) -> EdgeThread {
        EdgeThread::new(self, &cx)
    }

    async fn connection(thread: Rc<EdgeThread>, conn: Accepted) {
        handler::serve(thread, conn).await;
    }

    async fn control(self: Arc<Self>, cx: ControlContext) -> Result<(), ServiceError> {
        if let Some(address) = self.advertise(&cx) {
            announce::run(&self, address, &cx).await;
        }
        cx.finished.wait().await;
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        let mode = match self.config.mode {
            Mode::Proxy => "proxy",
            Mode::Redirect => "redirect",
        };
        json!({
            "mode": mode,
            "advertised": self.advertised.get(),
            "trackers": self.trackers.status(),
            "requests_in_flight": self.registry.level(Edge::IN_FLIGHT),
            "upstream_connections": {
                "idle": self.registry.level(Edge::UPSTREAMS.at([0])),
                "busy": self.registry.level(Edge::UPSTREAMS.at([1])),
            },
        })
    }

    fn ready(&self) -> Result<(), String> {
        if self.trackers.any_answers() {
            return Ok(());
        }
        Err("no tracker answers".to_owned())
    }
}
