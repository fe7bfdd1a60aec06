//! What a role (tracker, ID node, storage engine, gateway) is to the threads that run it.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::capability::{Capabilities, UnknownCapability};
use crate::connection::Accepted;
use crate::drain::Drain;
use crate::listen::ListenSpec;
use crate::metrics::{Exporter, Registry, Table};
use crate::ring::Driver;

/// A role's part of the system; each runs on threads of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Knows groups, nodes and users.
    Tracker,
    /// Hands out path ids.
    IdGen,
    /// Stores and serves files.
    Engine,
    /// HTTP edge.
    Gateway,
}

impl Role {
    /// The name in thread names, logs and the `role` label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tracker => "tracker",
            Self::IdGen => "idgen",
            Self::Engine => "engine",
            Self::Gateway => "gateway",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

/// One role's work, shared by its threads.
///
/// Data threads must never wait in a system call: what can wait for a disk goes to a
/// [`worker::Pool`](crate::worker::Pool), what waits for a database to the control thread.
pub trait Service: Send + Sync + 'static {
    /// What each data thread holds for itself: caches, buffers, metric cells.
    type Thread: 'static;

    /// Makes a data thread's part. Called once on the thread with its runtime running, before
    /// its first connection; may `monoio::spawn`. What it spawns should end with the drain, or
    /// it is leaked with what it holds.
    fn thread(self: &Arc<Self>, cx: ThreadContext) -> Self::Thread;

    /// Serves one connection to its end. Runs as a task of its own on the data thread.
    fn connection(thread: Rc<Self::Thread>, conn: Accepted) -> impl Future<Output = ()>;

    /// The role's background work on the control thread: beats, refills, repairs. Inside it
    /// `tokio::spawn`, `tokio::task::spawn_local` and tokio's time and net work.
    ///
    /// It should run until [`ControlContext::finished`] and then close what is open: uploads in
    /// flight during a drain may still need it. Returning early with `Ok` is fine.
    ///
    /// # Errors
    /// An error that the role cannot live with: it drains, and `Running::join` gives the error.
    fn control(
        self: Arc<Self>,
        cx: ControlContext,
    ) -> impl Future<Output = Result<(), ServiceError>>;

    /// The role's part of `/status`. Called on the control thread; must not block.
    fn status(&self) -> serde_json::Value;

    /// Whether the role can do its work now, for `/readyz`.
    ///
    /// # Errors
    /// What is missing, in words for a person.
    fn ready(&self) -> Result<(), String>;

    /// Why requests should go elsewhere although the role can do its work, for `/readyz` alone: it has started all the same.
    fn withdrawn(&self) -> Option<String> {
        None
    }

    /// What `POST path` on the admin server asks the role to do; `None`: it knows no such thing. Only asked where the
    /// operator may, but made also to tell whether there is such a path: nothing is done before the future is polled,
    /// on the control thread, which it must not block.
    fn act(self: &Arc<Self>, path: &str) -> Option<Act> {
        let _ = path;
        None
    }
}

/// Something that an operator asked for, to its end; what it did.
pub type Act = Pin<Box<dyn Future<Output = Result<serde_json::Value, ActError>> + Send>>;

/// What an operator asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum ActError {
    /// It is not to be done as things are: 409.
    #[error("{0}")]
    Needless(String),
    /// It was tried: 503. What stands in the way has to go first.
    #[error("{0}")]
    Failed(String),
}

/// What ended a role's background work.
#[derive(Debug)]
pub struct ServiceError(pub Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for ServiceError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What a data thread tells its service.
#[derive(Clone, Debug)]
pub struct ThreadContext {
    /// The role.
    pub role: Role,
    /// Index of the thread among the role's data threads, from 0.
    pub index: usize,
    /// How many data threads the role has.
    pub threads: usize,
    /// Core that the thread is pinned to; `None` when it is not.
    pub core: Option<usize>,
    /// What drives the thread.
    pub driver: Driver,
    /// The role's drain.
    pub drain: Drain,
    /// What the kernel grants.
    pub capabilities: Arc<Capabilities>,
}

/// What the control thread tells its service.
#[derive(Clone, Debug)]
pub struct ControlContext {
    /// The role.
    pub role: Role,
    /// Given when the role begins to drain: announce it to others, start nothing new.
    pub drain: Drain,
    /// Given when the last data thread has ended: nothing is in flight any more.
    pub finished: Drain,
    /// What the kernel grants. tokio-uring's operations may only be used when
    /// [`ControlContext::rings`] says so.
    pub capabilities: Arc<Capabilities>,
    /// Whether the control thread runs on tokio-uring; else on plain tokio.
    pub rings: bool,
    /// Addresses that the role listens on, in the order of its spec.
    pub addresses: Arc<[crate::listen::ListenAddress]>,
}

/// How a role is to run.
#[derive(Clone, Debug)]
pub struct RoleSpec {
    /// The role.
    pub role: Role,
    /// Data threads, at least one.
    pub data_threads: usize,
    /// Addresses to listen on; each data thread has its own socket for each.
    pub listeners: Vec<ListenSpec>,
    /// Where the admin HTTP server listens, if there is to be one. Its refusal is not used.
    pub admin: Option<ListenSpec>,
    /// Connections that one data thread holds; one more is told the listener's refusal.
    pub max_connections_per_thread: usize,
    /// How long requests in flight may take once a drain begins; then they are cut.
    pub drain_deadline: Duration,
    /// Index (into the process's cores) of the core for the first data thread, the next ones
    /// follow and wrap around; `None` leaves them to the scheduler.
    pub pin_from_core: Option<usize>,
}

/// What roles of one process share.
#[derive(Clone, Debug)]
pub struct Process {
    capabilities: Arc<Capabilities>,
    exporter: Exporter,
}

impl Process {
    /// Probes the kernel, takes away `capabilities_off`, raises the descriptor limit, and logs
    /// what is missing, once for all roles.
    ///
    /// # Errors
    /// `capabilities_off` names something unknown.
    pub fn new(capabilities_off: &[String]) -> Result<Self, UnknownCapability> {
        let capabilities = Arc::new(Capabilities::probe(capabilities_off)?);
        capabilities.log();
        if let Err(error) = crate::system::raise_descriptor_limit() {
            tracing::warn!(%error, "cannot read the descriptor limit");
        }
        Ok(Self { capabilities, exporter: Exporter::new() })
    }

    /// What the kernel grants.
    pub fn capabilities(&self) -> &Arc<Capabilities> {
        &self.capabilities
    }

    /// The process's metrics.
    pub fn exporter(&self) -> &Exporter {
        &self.exporter
    }

    /// A registry for a role's table of metrics.
    pub fn registry<T: Table>(&self, role: Role) -> Registry<T> {
        self.exporter.registry(role.name(), &[])
    }
}
