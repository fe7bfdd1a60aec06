//! `reel.toml`: the sections of all roles together, as the roles and the shared parts define them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reel_meta::Role;
use reel_node::access::{AllowList, HttpWriteRule};
use reel_node::capability::Capabilities;
use reel_node::config::{ConfigError, Loaded, LogConfig, NodeConfig, TokenConfig, load_from};
use serde::{Deserialize, Serialize};

use crate::exit::Usage;
use crate::meta_config::MetaConfig;

/// The whole file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Settings {
    pub(crate) log: LogConfig,
    pub(crate) node: NodeConfig,
    pub(crate) meta: MetaConfig,
    pub(crate) idgen: reel_idgen::Config,
    pub(crate) tracker: reel_tracker::Config,
    pub(crate) engine: reel_engine::Config,
    pub(crate) store_path: Vec<reel_engine::StorePath>,
    pub(crate) gateway: reel_gateway::Config,
    pub(crate) token: Vec<TokenConfig>,
}

/// Loads the file (if any) over `defaults`, the environment over it, the flags on top. What is
/// wrong with it is wrong usage: exit code 2.
pub(crate) fn load(
    defaults: Settings,
    file: Option<&Path>,
    flags: &serde_json::Value,
) -> anyhow::Result<Loaded<Settings>> {
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok()?;
        name.starts_with("REEL_").then(|| (name, value.to_string_lossy().into_owned()))
    });
    let loaded = load_from(defaults, file, variables, flags).map_err(usage)?;
    loaded.value.check()?;
    Ok(loaded)
}

fn usage(error: ConfigError) -> Usage {
    Usage::new(error.to_string())
}

impl Settings {
    /// What every role would refuse at its start: for `reel config check`.
    pub(crate) fn check_roles(&self) -> Result<(), Usage> {
        let usage = |error: &dyn std::fmt::Display| Usage::new(error.to_string());
        self.idgen.check().map_err(|error| usage(&error))?;
        self.tracker.check().map_err(|error| usage(&error))?;
        self.engine.validate().map_err(|error| usage(&error))?;
        reel_gateway::check(&self.gateway).map_err(|error| usage(&error))?;
        self.node.cluster_secret().map_err(|error| usage(&error))?;
        for role in Role::ALL {
            self.meta.location(role).map_err(|error| usage(&error))?;
        }
        Capabilities::named(&self.node.capabilities_off).map_err(|error| usage(&error))?;
        for store_path in &self.store_path {
            store_path.validate().map_err(|error| usage(&error))?;
        }
        let (node, allow) = (&self.node, self.node.allow.as_deref());
        let listeners = [
            ("idgen.listen", self.idgen.listen),
            ("idgen.admin_listen", self.idgen.admin_listen),
            ("tracker.listen", self.tracker.listen),
            ("tracker.admin_listen", self.tracker.admin_listen),
            ("engine.listen", self.engine.listen),
            ("engine.http_listen", self.engine.http_listen),
            ("engine.admin_listen", self.engine.admin_listen),
            ("gateway.listen", self.gateway.listen),
            ("gateway.admin_listen", self.gateway.admin_listen),
        ];
        for (name, address) in listeners {
            AllowList::for_listener(name, address, allow, node.insecure)
                .map_err(|error| usage(&error))?;
        }
        Ok(())
    }

    /// The defaults of `reel up`: everything in its data folder.
    pub(crate) fn for_folder(folder: &Path, secret_file: PathBuf) -> Self {
        let mut settings = Self::default();
        settings.meta.dir = folder.join("meta");
        settings.store_path = vec![reel_engine::StorePath::new(folder.join("store"))];
        settings.node.cluster_secret_file = Some(secret_file);
        settings
    }

    /// Says loudly what `--insecure` gives away.
    pub(crate) fn warn_insecure(&self) {
        if self.node.insecure {
            tracing::warn!(
                "INSECURE: whoever reaches a port of this node may read, write and delete every \
                 file, and pose as a node"
            );
        }
    }

    /// What types alone cannot say. Nothing is opened, and of files only the secrets are read.
    fn check(&self) -> Result<(), Usage> {
        reel_node::log::check_level(&self.log.level)
            .map_err(|error| Usage::new(error.to_string()))?;
        HttpWriteRule::new(&self.token, self.node.insecure).map_err(usage)?;
        if self.node.data_threads == Some(0) {
            return Err(Usage::new("node.data_threads: at least one is needed"));
        }
        if self.node.max_connections_per_thread == 0 {
            return Err(Usage::new("node.max_connections_per_thread: at least one is needed"));
        }
        Ok(())
    }
}

/// Reads `PORT` (on loopback) or `ADDRESS:PORT`; port 0 leaves the choice to the kernel.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    text.parse().map_err(|_| "write PORT, ADDRESS:PORT or [ADDRESS]:PORT".to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::parse_listen;

    #[test]
    fn listen_addresses_in_short_and_in_full() {
        assert_eq!(parse_listen("0").unwrap(), "127.0.0.1:0".parse().unwrap());
        assert_eq!(parse_listen("10.0.0.1:80").unwrap(), "10.0.0.1:80".parse().unwrap());
        assert_eq!(parse_listen("[::1]:80").unwrap(), "[::1]:80".parse().unwrap());
        for wrong in ["", "65536", "-1", "localhost:80", "10.0.0.1", ":80"] {
            assert!(parse_listen(wrong).is_err(), "{wrong}");
        }
    }
}
