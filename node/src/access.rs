//! Who may: address lists checked at accept, and the rule for HTTP writes.
//!
//! The binary protocol knows no authentication, so a listener beyond loopback needs a list of
//! networks, and a node refuses to start without one. HTTP writes need a token, or, where no token
//! is configured, every sign that the request comes from a program on this machine and not from a
//! web page or through a proxy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

mod write;

pub use write::{HttpWriteRule, Refusal, WriteRequest};

/// Why a listener may not be opened.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccessError {
    /// A listener beyond loopback without a list of networks.
    #[error(
        "{listener} on {address} is reachable from other machines, and node.allow is not set: \
         set node.allow to the networks that may connect (as [\"10.0.0.0/8\"]), bind a loopback \
         address, or start with --insecure"
    )]
    OpenListener {
        /// Name of the listener, as in `engine.listen`.
        listener: String,
        /// The address asked for.
        address: SocketAddr,
    },
}

/// The networks whose addresses may connect. Cheap to clone; checked at accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList {
    nets: Option<Arc<[IpNet]>>,
}

impl Default for AllowList {
    fn default() -> Self {
        Self::loopback()
    }
}

impl AllowList {
    /// 127.0.0.0/8 and ::1.
    pub fn loopback() -> Self {
        Self { nets: Some(Arc::from([])) }
    }

    /// Every address: what `--insecure` gives.
    pub fn any() -> Self {
        Self { nets: None }
    }

    /// These networks, and loopback.
    pub fn nets(nets: &[IpNet]) -> Self {
        Self { nets: Some(Arc::from(nets)) }
    }

    /// The list for a listener on `address`, from `node.allow` and `--insecure`.
    ///
    /// # Errors
    /// The address is not loopback while `allow` is unset and `insecure` is off.
    pub fn for_listener(
        listener: &str,
        address: SocketAddr,
        allow: Option<&[IpNet]>,
        insecure: bool,
    ) -> Result<Self, AccessError> {
        match allow {
            Some(nets) => Ok(Self::nets(nets)),
            None if insecure => Ok(Self::any()),
            None if address.ip().to_canonical().is_loopback() => Ok(Self::loopback()),
            None => Err(AccessError::OpenListener { listener: listener.to_owned(), address }),
        }
    }

    /// Whether a peer may connect. IPv4 addresses mapped into IPv6 (a dual-stack listener) count
    /// as IPv4.
    pub fn allows(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        match &self.nets {
            None => true,
            Some(nets) => peer.is_loopback() || nets.iter().any(|net| net.contains(&peer)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{AccessError, AllowList};

    #[test]
    fn unset_means_loopback_only() {
        let list =
            AllowList::for_listener("x", "127.0.0.1:1".parse().unwrap(), None, false).unwrap();
        assert!(list.allows("127.8.8.8".parse().unwrap()));
        assert!(list.allows("::1".parse().unwrap()));
        assert!(list.allows("::ffff:127.0.0.1".parse().unwrap()));
        assert!(!list.allows("10.0.0.1".parse().unwrap()));
        assert!(!list.allows("::ffff:10.0.0.1".parse().unwrap()));
    }

    #[test]
    fn an_open_listener_without_a_list_is_refused() {
        for address in ["0.0.0.0:1", "[::]:1", "10.1.1.1:23000"] {
            let address = address.parse().unwrap();
            let error = AllowList::for_listener("engine.listen", address, None, false).unwrap_err();
            let AccessError::OpenListener { listener, address: refused } = &error;
            assert_eq!((listener.as_str(), *refused), ("engine.listen", address));
            assert!(error.to_string().contains("node.allow"), "{error}");
            let open = AllowList::for_listener("engine.listen", address, None, true).unwrap();
            assert!(open.allows("8.8.8.8".parse().unwrap()));
        }
    }

    #[test]
    fn a_list_holds_its_networks_and_loopback() {
        let nets = ["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        let address = "0.0.0.0:1".parse().unwrap();
        let list = AllowList::for_listener("x", address, Some(&nets), true).unwrap();
        assert!(list.allows("10.255.0.1".parse().unwrap()));
        assert!(list.allows("::ffff:10.255.0.1".parse().unwrap()));
        assert!(list.allows("fd00::1".parse().unwrap()));
        assert!(list.allows("127.0.0.1".parse().unwrap()));
        assert!(!list.allows("11.0.0.1".parse().unwrap()));
        assert!(!list.allows("fe80::1".parse().unwrap()));
    }

    #[test]
    fn an_empty_list_is_loopback_only_on_any_address() {
        let address = "0.0.0.0:1".parse().unwrap();
        let list = AllowList::for_listener("x", address, Some(&[]), false).unwrap();
        assert!(!list.allows("10.0.0.1".parse().unwrap()));
    }
}
