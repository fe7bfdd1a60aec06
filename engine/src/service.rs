//! The engine as a role: from its configuration to running threads, and what `/status` and `/readyz` say of it.

use std::{
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use reel_meta::Location;
use reel_node::{
    Accepted, Act, ControlContext, Listener, Process, Role, RoleSpec, Running, Service,
    ServiceError, ThreadContext,
    access::{AccessError, HttpWriteRule},
    config::{ConfigError, NodeConfig, Secret, TokenConfig},
    frame_server::FrameConfig,
    http::{HttpLimits, Pace},
    metrics::Registry,
    signed::Envelopes,
};
use reel_proto::{command, refusal};

use crate::{
    acts, binary,
    config::{Config, ConfigFault, Names, StorePath},
    control,
    drain::OperatorDrain,
    media,
    metadata::{Metadata, RowError},
    metrics::Serve,
    store::{OpenError, Stores},
    thread::{Thread, now},
};

/// Index of the binary protocol among the listeners.
pub(crate) const BINARY_LISTENER: usize = 0;
/// Index of the media HTTP among the listeners.
pub(crate) const HTTP_LISTENER: usize = 1;

/// How long the last uploads may take once the data threads have ended.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What an engine is started from.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// `[engine]`.
    pub config: &'a Config,
    /// `[[store_path]]`, at least one.
    pub store_paths: &'a [StorePath],
    /// The database of files.
    pub database: &'a Location,
    /// The database that says which group a user's files are in.
    pub groups: &'a Location,
    /// `[node]`.
    pub node: &'a NodeConfig,
    /// `[[token]]`.
    pub tokens: &'a [TokenConfig],
}

/// An engine could not be started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something in `[engine]` cannot be.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// A secret or token cannot be used.
    #[error(transparent)]
    Secret(#[from] ConfigError),
    /// A listener would be open to everybody.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The database cannot be opened.
    #[error("{location}: {error}")]
    Metadata {
        /// Where it lies.
        location: String,
        /// What it said.
        error: RowError,
    },
    /// A store path cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// An address or a thread.
    #[error(transparent)]
    Node(#[from] reel_node::StartError),
}

/// What all threads of an engine share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) names: Names,
    pub(crate) started_at: u64,
    pub(crate) stores: Arc<Stores>,
    pub(crate) registry: Registry<Serve>,
    pub(crate) disks: Vec<control::DiskMetrics>,
    pub(crate) frames: FrameConfig,
    pub(crate) http: Arc<HttpLimits>,
    pub(crate) writes: HttpWriteRule,
    pub(crate) secret: Option<Secret>,
    /// Of commands that come to this node.
    pub(crate) envelopes: Envelopes,
    pub(crate) drained: OperatorDrain,
    /// Trackers that took the last beat.
    pub(crate) trackers_active: AtomicUsize,
}

/// The role.
pub(crate) struct Engine(Arc<Shared>);

/// Opens the stores, then the addresses, then serves.
///
/// # Errors
/// [`StartError`]; what had started has ended.
pub fn start(setup: &Setup<'_>, process: &Process) -> Result<Running, StartError> {
    let config = setup.config;
    let names = config.check()?;
    Config::check_store_paths(setup.store_paths.len())?;
    setup.store_paths.iter().try_for_each(StorePath::validate)?;
    let http = Arc::new(http_limits(config));
    let frames = frame_config(config, &names);
    let spec = spec(setup, &frames)?;
    let writes = HttpWriteRule::new(setup.tokens, setup.node.insecure)?;
    let secret = setup.node.cluster_secret()?;
    let envelopes = Envelopes::new(secret.clone(), setup.node);
    let metadata = Metadata::open(setup.database)
        .map_err(|error| StartError::Metadata { location: setup.database.to_string(), error })?;
    let capabilities = process.capabilities();
    let ring = capabilities.io_uring.then_some(capabilities.ring_flags);
    let store_config =
        config.store(&names, setup.store_paths, (setup.database, setup.groups), ring);
    let stores = Stores::open(&store_config, metadata)?;
    let disks = control::disk_metrics(process, &stores);
    let shared = Shared {
        config: config.clone(),
        names,
        started_at: now(),
        stores: stores.clone(),
        registry: process.registry(Role::Engine),
        disks,
        frames,
        http,
        writes,
        secret,
        envelopes,
        drained: OperatorDrain::new(&stores),
        trackers_active: AtomicUsize::new(0),
    };
    let engine = Arc::new(Engine(Arc::new(shared)));
    reel_node::start(spec, engine, process).map_err(|error| {
        stores.close(Duration::ZERO);
        error.into()
    })
}

fn spec(setup: &Setup<'_>, frames: &FrameConfig) -> Result<RoleSpec, AccessError> {
    let config = setup.config;
    let text = "too many connections";
    let busy =
        refusal::error_reply(refusal::Refusal::Other, frames.reply_command, &frames.host, text);
    let listeners = vec![
        Listener { name: "engine.listen", addr: config.listen, refusal: busy.into() },
        Listener {
            name: "engine.http_listen",
            addr: config.http_listen,
            refusal: Bytes::from_static(media::TOO_MANY_CONNECTIONS),
        },
    ];
    let admin = ("engine.admin_listen", config.admin_listen);
    RoleSpec::from_config(setup.node, Role::Engine, listeners, admin)
}

fn frame_config(config: &Config, names: &Names) -> FrameConfig {
    let mut frames = FrameConfig::new(command::REPLY_STORAGE, names.host.as_str());
    frames.idle_timeout = config.idle.0;
    frames.progress_timeout = config.progress.0;
    frames.output_timeout = config.progress.0;
    frames
}

fn http_limits(config: &Config) -> HttpLimits {
    let default = HttpLimits::default();
    let window = config.progress.0;
    HttpLimits {
        body: Pace { window, ..default.body },
        answer: Pace { window, ..default.answer },
        ..default
    }
}

impl Service for Engine {
    type Thread = Rc<Thread>;

    fn thread(self: &Arc<Self>, cx: ThreadContext) -> Rc<Thread> {
        let thread = Rc::new(Thread::new(&self.0, &cx));
        monoio::spawn(thread.clone().keep_house(cx.drain));
        thread
    }

    async fn connection(thread: Rc<Rc<Thread>>, conn: Accepted) {
        let thread = Rc::clone(&*thread);
        if conn.listener() == HTTP_LISTENER {
            media::serve(thread, conn).await;
        } else {
            binary::serve(thread, conn).await;
        }
    }

    async fn control(self: Arc<Self>, cx: ControlContext) -> Result<(), ServiceError> {
        let shared = self.0.clone();
        control::run(shared.clone(), &cx).await;
        // The threads of the stores are joined, which blocks: not on the control thread.
        tokio::task::spawn_blocking(move || {
            shared.stores.close(CLOSE_DEADLINE);
            shared.stores.metadata().close();
        })
        .await?;
        Ok(())
    }

    fn status(&self) -> serde_json::Value {
        let shared = &self.0;
        serde_json::json!({
            "group": shared.names.group.as_str(),
            "hostname": shared.names.host.as_str(),
            "started_at": shared.started_at,
            "trackers": shared.config.trackers.len(),
            "drained": shared.drained.is_on(),
            "trackers_active": shared.trackers_active.load(Ordering::Relaxed),
            "uploads_active": shared.stores.active_uploads(),
            "requests_in_flight": shared.registry.level(Serve::IN_FLIGHT),
            "buffered_bytes": shared.registry.level(Serve::BUFFERED),
            "store_paths": shared.stores.status(),
            "acts": acts::possible(&shared.stores),
        })
    }

    fn ready(&self) -> Result<(), String> {
        let shared = &self.0;
        shared.stores.ready()?;
        if !shared.config.trackers.is_empty() && shared.trackers_active.load(Ordering::Relaxed) == 0
        {
            return Err("no tracker has taken a beat yet".to_owned());
        }
        Ok(())
    }

    fn withdrawn(&self) -> Option<String> {
        self.0.drained.is_on().then(|| "drained by an operator".to_owned())
    }

    fn act(self: &Arc<Self>, path: &str) -> Option<Act> {
        acts::act(&self.0.stores, path)
    }
}

/// The address at which others reach a listener: the advertised one, else the bound one. All addresses (`0.0.0.0`) stand
/// for the one that the tracker sees.
pub(crate) fn reachable(advertised: Option<SocketAddr>, bound: SocketAddr) -> SocketAddr {
    match advertised {
        Some(address) if address.port() == 0 => SocketAddr::new(address.ip(), bound.port()),
        Some(address) => address,
        None => bound,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Of both protocols: 10,000 idle connections are to stay under 100 MiB with everything that the kernel does not
    /// count.
    #[test]
    fn the_task_of_a_waiting_connection_is_small() {
        fn size<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(<Engine as Service>::connection);
        assert!(bytes <= 2048, "{bytes} bytes");
    }

    #[test]
    fn what_others_are_told_of_an_address() {
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        let bound = parse("10.0.0.1:23000");
        assert_eq!(reachable(None, bound), bound);
        assert_eq!(reachable(Some(parse("192.0.2.1:0")), bound), parse("192.0.2.1:23000"));
        assert_eq!(reachable(Some(parse("192.0.2.1:9")), bound), parse("192.0.2.1:9"));
        assert_eq!(reachable(None, parse("0.0.0.0:23000")), parse("0.0.0.0:23000"));
    }
}
