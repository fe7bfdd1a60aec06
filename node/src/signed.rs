//! Commands between nodes (220–255) as a role receives them: who may send them, and never twice.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use reel_proto::sign::{self, NonceCache, SignError};

use crate::config::{NodeConfig, Secret};

/// A node command is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignedError {
    /// Without a cluster secret only this machine may send them.
    #[error("commands between nodes from another machine need the cluster secret")]
    NotLoopback,
    /// Its envelope.
    #[error(transparent)]
    Envelope(#[from] SignError),
}

/// Opens the envelopes of one role's node commands. Shared by its threads: a request heard by one
/// must not be taken again by another. The lock is held for a lookup, and no client's request
/// takes it.
#[derive(Debug)]
pub struct Envelopes {
    secret: Option<Secret>,
    insecure: bool,
    seen: Mutex<NonceCache>,
}

impl Envelopes {
    /// With the secret that [`NodeConfig::cluster_secret`] gave.
    pub fn new(secret: Option<Secret>, node: &NodeConfig) -> Self {
        Self { secret, insecure: node.insecure, seen: Mutex::default() }
    }

    /// The payload of a command that came from `peer`.
    ///
    /// # Errors
    /// [`SignedError`]; nothing of the payload may be used then.
    pub fn open<'a>(
        &self,
        command: u8,
        body: &'a [u8],
        peer: IpAddr,
    ) -> Result<&'a [u8], SignedError> {
        if self.secret.is_none() && !self.insecure && !peer.to_canonical().is_loopback() {
            return Err(SignedError::NotLoopback);
        }
        let unsigned = matches!(body, [0, ..]);
        let secret = self.secret.as_ref().filter(|_| !(self.insecure && unsigned));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(sign::open(secret.map(Secret::expose), command, now, body, &mut seen)?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const COMMAND: u8 = 220;

    fn envelopes(secret: Option<&str>, insecure: bool) -> Envelopes {
        let secret = secret.map(|text| Secret::from(text.as_bytes().to_vec()));
        Envelopes::new(secret, &NodeConfig { insecure, ..NodeConfig::default() })
    }

    fn sealed(secret: Option<&str>, nonce: u8) -> Vec<u8> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        sign::seal(secret.map(str::as_bytes), COMMAND, now, [nonce; 16], b"payload")
    }

    fn open(envelopes: &Envelopes, body: &[u8], peer: &str) -> Result<Vec<u8>, SignedError> {
        envelopes.open(COMMAND, body, peer.parse().unwrap()).map(<[u8]>::to_vec)
    }

    #[test]
    fn with_a_secret_each_request_counts_once_from_anywhere() {
        let secret = Some("a secret of the cluster");
        let ours = envelopes(secret, false);
        let body = sealed(secret, 1);
        assert_eq!(open(&ours, &body, "10.0.0.1").unwrap(), b"payload");
        let again = open(&ours, &body, "10.0.0.1").unwrap_err();
        assert_eq!(again, SignedError::Envelope(SignError::Repeated));
        let unsigned = open(&ours, &sealed(None, 2), "127.0.0.1").unwrap_err();
        assert_eq!(unsigned, SignedError::Envelope(SignError::Unsigned));
        let forged = open(&ours, &sealed(Some("another secret"), 3), "127.0.0.1").unwrap_err();
        assert_eq!(forged, SignedError::Envelope(SignError::Forged));
    }

    #[test]
    fn without_a_secret_only_this_machine() {
        let ours = envelopes(None, false);
        assert!(open(&ours, &sealed(None, 1), "127.0.0.9").is_ok());
        assert!(open(&ours, &sealed(None, 1), "::ffff:127.0.0.1").is_ok());
        let far = open(&ours, &sealed(None, 1), "10.0.0.1").unwrap_err();
        assert_eq!(far, SignedError::NotLoopback);
    }

    #[test]
    fn insecure_takes_unsigned_ones_from_anywhere_but_no_forged_ones() {
        let ours = envelopes(Some("a secret of the cluster"), true);
        assert!(open(&ours, &sealed(None, 1), "10.0.0.1").is_ok());
        assert!(open(&ours, &sealed(Some("another secret"), 3), "10.0.0.1").is_err());
        assert!(open(&envelopes(None, true), &sealed(None, 1), "10.0.0.1").is_ok());
    }
}
