//! Checks the settings and starts the role's threads.

use std::sync::Arc;

use bytes::Bytes;
use reel_meta::{Location, MetaError};
use reel_node::access::AccessError;
use reel_node::config::{ConfigError, NodeConfig};
use reel_node::signed::Envelopes;
use reel_node::{Listener, Process, Role, RoleSpec, Running, StartError};
use reel_proto::command::REPLY_TRACKER;
use reel_proto::frame;

use crate::config::{Config, ConfigFault};
use crate::service::{Parts, Service};

/// The tracker could not be started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of range.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// A listener would be open to other machines.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The cluster secret is unusable.
    #[error(transparent)]
    Secret(#[from] ConfigError),
    /// The database cannot be opened or read.
    #[error(transparent)]
    Database(#[from] MetaError),
    /// A thread or a listener.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The thread of the database.
    #[error("tracker: cannot start the thread of the database: {0}")]
    Thread(#[source] std::io::Error),
}

/// Starts a tracker on its database; an embedded one is made if it is not there. `files`: the storage nodes' database,
/// which tells whose a file is; only a shared one can be asked.
///
/// # Errors
/// [`Error`]; nothing runs then.
pub fn start(
    config: &Config,
    node: &NodeConfig,
    location: &Location,
    files: Option<&Location>,
    process: &Process,
) -> Result<Running, Error> {
    config.check()?;
    let mut config = config.clone();
    // Other nodes can look into it, so there may be others.
    config.embedded &= !location.is_shared();
    let names = config.names()?;
    let host = config.hostname.clone().unwrap_or_else(machine_name);
    let spec = spec(&config, node, &host)?;
    let envelopes = Envelopes::new(node.cluster_secret()?, node);
    let service = Service::new(Parts {
        config,
        names,
        host,
        envelopes,
        location: location.clone(),
        files: match files {
            Some(Location::Shared(options)) => Some(options.clone()),
            Some(Location::Embedded(_)) | None => None,
        },
        metrics: process.registry(Role::Tracker),
    })?;
    Ok(reel_node::start(spec, Arc::new(service), process)?)
}

fn spec(config: &Config, node: &NodeConfig, host: &str) -> Result<RoleSpec, AccessError> {
    let refusal = frame::error_reply(REPLY_TRACKER, host, "too many connections");
    let listener =
        Listener { name: "tracker.listen", addr: config.listen, refusal: Bytes::from(refusal) };
    let admin = ("tracker.admin_listen", config.admin_listen);
    RoleSpec::from_config(node, Role::Tracker, vec![listener], admin)
}

/// The machine's name, for error texts only.
fn machine_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}
