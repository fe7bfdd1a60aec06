//! Gateways that are there, by the address at which players reach them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::TooManyGateways;

/// When each gateway was last heard of, by the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Gateways {
    seen: BTreeMap<SocketAddr, Duration>,
}

impl Gateways {
    /// A gateway is there. `true` if it was not known.
    pub(super) fn beat(
        &mut self,
        media: SocketAddr,
        now: Duration,
        limit: usize,
    ) -> Result<bool, TooManyGateways> {
        if !self.seen.contains_key(&media) && self.seen.len() >= limit {
            return Err(TooManyGateways { limit });
        }
        Ok(self.seen.insert(media, now).is_none())
    }

    /// Forgets those that have been silent for longer than `interval`; whether there were any.
    pub(super) fn expire(&mut self, now: Duration, interval: Duration) -> bool {
        let before = self.seen.len();
        self.seen.retain(|_, seen| now.saturating_sub(*seen) <= interval);
        self.seen.len() != before
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.seen.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.seen.len()
    }
}
