//! The envelope of commands between nodes: HMAC-SHA256 over time, nonce, command and payload.
//!
//! Who holds the cluster secret may speak; nobody may say again what was said (the nonce), nor much later (the time).
//! It hides nothing, and replies are not in it: what a node answers is believed because it was asked at its configured
//! address. The MAC does not name the receiver, so a request overheard could be repeated once to another node within the
//! window; every command of this kind says the same to each node that it may be sent to, or belongs to a connection.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 1 | scheme: 0 = unsigned, the payload follows; 1 = the fields below |
//! | 1 | 8 | time, seconds since 1970 |
//! | 9 | 16 | nonce |
//! | 25 | n | payload |
//! | 25 + n | 32 | HMAC-SHA256(secret, `"reel node 1"` 0x00 command time nonce payload) |

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::limits;

const UNSIGNED: u8 = 0;
const SIGNED: u8 = 1;
/// Keeps a MAC of ours from meaning anything under another use of the same secret.
const CONTEXT: &[u8] = b"reel node 1\0";
const NONCE_LEN: usize = 16;
const MAC_LEN: usize = 32;
const PREFIX_LEN: usize = 1 + 8 + NONCE_LEN;

/// Most bytes that the envelope adds to a payload.
pub const OVERHEAD: usize = PREFIX_LEN + MAC_LEN;

/// Sixteen bytes that are never used twice: random ones.
pub type Nonce = [u8; NONCE_LEN];

/// Why an envelope was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// Too short for its scheme, or no scheme that is known.
    #[error("malformed envelope")]
    Malformed,
    /// Unsigned, where there is a secret.
    #[error("unsigned, and this node has a cluster secret")]
    Unsigned,
    /// Signed, where there is no secret to check it by.
    #[error("signed, and this node has no cluster secret")]
    NoSecret,
    /// Not signed with our secret, or changed on the way.
    #[error("the signature is not that of this cluster's secret")]
    Forged,
    /// Its time is further off than the window. The clocks of the nodes may differ.
    #[error("signed at {time}, and it is {now} here")]
    Stale {
        /// When it says it was signed.
        time: u64,
        /// The time here.
        now: u64,
    },
    /// It was here before.
    #[error("this very request was here before")]
    Repeated,
    /// Too many nonces are in memory. The same again, signed anew, later.
    #[error("too many signed requests")]
    Busy,
}

/// Puts a payload in its envelope: signed with `secret`, unsigned without one.
///
/// `now`: seconds since 1970. `nonce`: random, new for each call.
pub fn seal(secret: Option<&[u8]>, command: u8, now: u64, nonce: Nonce, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(payload.len() + OVERHEAD);
    let Some(secret) = secret else {
        body.push(UNSIGNED);
        body.extend_from_slice(payload);
        return body;
    };
    body.push(SIGNED);
    body.extend_from_slice(&now.to_be_bytes());
    body.extend_from_slice(&nonce);
    body.extend_from_slice(payload);
    let mac = mac(secret, command, &body[1..]).finalize().into_bytes();
    body.extend_from_slice(&mac);
    body
}

/// Takes a payload out of its envelope.
///
/// The signature is checked first, so that nobody without the secret can fill the memory of nonces or learn its clock.
///
/// # Errors
/// [`SignError`]; nothing of the payload may be used then.
pub fn open<'a>(
    secret: Option<&[u8]>,
    command: u8,
    now: u64,
    body: &'a [u8],
    seen: &mut NonceCache,
) -> Result<&'a [u8], SignError> {
    let (&scheme, rest) = body.split_first().ok_or(SignError::Malformed)?;
    let secret = match (scheme, secret) {
        (UNSIGNED, None) => return Ok(rest),
        (UNSIGNED, Some(_)) => return Err(SignError::Unsigned),
        (SIGNED, None) => return Err(SignError::NoSecret),
        (SIGNED, Some(secret)) => secret,
        _ => return Err(SignError::Malformed),
    };
    let (signed, tag) = rest.split_last_chunk::<MAC_LEN>().ok_or(SignError::Malformed)?;
    let (time, after) = signed.split_first_chunk::<8>().ok_or(SignError::Malformed)?;
    let (nonce, payload) = after.split_first_chunk::<NONCE_LEN>().ok_or(SignError::Malformed)?;
    mac(secret, command, signed).verify_slice(tag).map_err(|_| SignError::Forged)?;
    seen.admit(u64::from_be_bytes(*time), *nonce, now)?;
    Ok(payload)
}

fn mac(secret: &[u8], command: u8, signed: &[u8]) -> Hmac<Sha256> {
    // A key of any length is taken; the error type is that of other MACs.
    #[allow(clippy::expect_used)]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    mac.update(CONTEXT);
    mac.update(&[command]);
    mac.update(signed);
    mac
}

/// The signed requests that could still be repeated. Bounded by [`limits::NONCES_MAX`]: some 3 MiB when full.
///
/// Forgotten when the node stops: a request overheard in its last minute could be repeated once after a restart.
#[derive(Debug, Clone)]
pub struct NonceCache {
    seen: BTreeSet<(u64, Nonce)>,
    capacity: usize,
    /// The latest time of a request that was forgotten. When the clock goes back, requests up to here are stale: they
    /// may have been here.
    forgotten: Option<u64>,
}

impl Default for NonceCache {
    fn default() -> Self {
        Self::new(limits::NONCES_MAX)
    }
}

impl NonceCache {
    /// Empty, for `capacity` nonces.
    pub fn new(capacity: usize) -> Self {
        Self { seen: BTreeSet::new(), capacity, forgotten: None }
    }

    /// Nonces in memory.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn admit(&mut self, time: u64, nonce: Nonce, now: u64) -> Result<(), SignError> {
        let off = time.abs_diff(now) > limits::SIGN_WINDOW_SECONDS;
        if off || self.forgotten.is_some_and(|forgotten| time <= forgotten) {
            return Err(SignError::Stale { time, now });
        }
        while let Some(&(oldest, _)) = self.seen.first() {
            if oldest.saturating_add(limits::SIGN_WINDOW_SECONDS) >= now {
                break;
            }
            self.seen.pop_first();
            self.forgotten = Some(oldest);
        }
        if self.seen.contains(&(time, nonce)) {
            return Err(SignError::Repeated);
        }
        if self.seen.len() >= self.capacity {
            return Err(SignError::Busy);
        }
        self.seen.insert((time, nonce));
        Ok(())
    }
}
