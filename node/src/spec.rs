//! From the shared `[node]` section to the spec of one role.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::access::{AccessError, AllowList};
use crate::config::NodeConfig;
use crate::listen::ListenSpec;
use crate::role::{Role, RoleSpec};
use crate::system;

/// A listener as a role asks for it; who may connect is `[node]`'s to say.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Configuration key, as in `engine.listen`.
    pub name: &'static str,
    /// Where; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Sent before closing a connection beyond the limit: an error frame, a 503.
    pub refusal: Bytes,
}

impl RoleSpec {
    /// The spec of `role` under `node`: its listeners (in this order), and its admin address.
    ///
    /// Data threads: as configured, else one per core for an engine or gateway, one for the
    /// others. Threads are pinned where there is one per core.
    ///
    /// # Errors
    /// A listener beyond loopback while `node.allow` is unset.
    pub fn from_config(
        node: &NodeConfig,
        role: Role,
        listeners: Vec<Listener>,
        admin: (&'static str, SocketAddr),
    ) -> Result<Self, AccessError> {
        let allow = |name: &str, addr| {
            AllowList::for_listener(name, addr, node.allow.as_deref(), node.insecure)
        };
        let cores = system::cores().len();
        let data_threads = node.data_threads.unwrap_or(match role {
            Role::Engine | Role::Gateway => cores,
            Role::Tracker | Role::IdGen => 1,
        });
        let listeners = listeners
            .into_iter()
            .map(|Listener { name, addr, refusal }| {
                Ok(ListenSpec { name, addr, allow: allow(name, addr)?, refusal })
            })
            .collect::<Result<Vec<_>, AccessError>>()?;
        let (name, addr) = admin;
        let admin = ListenSpec { name, addr, allow: allow(name, addr)?, refusal: Bytes::new() };
        Ok(Self {
            role,
            data_threads,
            listeners,
            admin: Some(admin),
            max_connections_per_thread: node.max_connections_per_thread,
            drain_deadline: node.drain_deadline.0,
            pin_from_core: (data_threads >= cores).then_some(0),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use bytes::Bytes;

    use super::Listener;
    use crate::config::NodeConfig;
    use crate::role::{Role, RoleSpec};

    fn spec(node: &NodeConfig, listen: &str, admin: &str) -> Result<RoleSpec, String> {
        let addr = listen.parse().unwrap();
        let listener = Listener { name: "engine.listen", addr, refusal: Bytes::new() };
        let admin = ("engine.admin_listen", admin.parse().unwrap());
        RoleSpec::from_config(node, Role::Engine, vec![listener], admin)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_listener_is_checked_and_named() {
        let node = NodeConfig::default();
        assert!(spec(&node, "127.0.0.1:0", "127.0.0.1:0").is_ok());
        let error = spec(&node, "0.0.0.0:0", "127.0.0.1:0").unwrap_err();
        assert!(error.contains("engine.listen"), "{error}");
        let error = spec(&node, "127.0.0.1:0", "[::]:0").unwrap_err();
        assert!(error.contains("engine.admin_listen"), "{error}");
        let open = NodeConfig { allow: Some(vec!["10.0.0.0/8".parse().unwrap()]), ..node };
        let spec = spec(&open, "0.0.0.0:0", "0.0.0.0:0").unwrap();
        assert!(spec.listeners[0].allow.allows("10.1.2.3".parse().unwrap()));
        assert!(!spec.admin.unwrap().allow.allows("11.1.2.3".parse().unwrap()));
    }

    #[test]
    fn data_threads_as_configured() {
        let node = NodeConfig { data_threads: Some(3), ..NodeConfig::default() };
        assert_eq!(spec(&node, "127.0.0.1:0", "127.0.0.1:0").unwrap().data_threads, 3);
    }
}
