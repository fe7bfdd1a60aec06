//! `[idgen]` of `reel.toml`.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::sequence::BLOCK_IDS_MAX;

/// Settings of an ID node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the binary protocol is spoken.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are.
    pub admin_listen: SocketAddr,
    /// The name in error replies; unset: the machine's.
    pub hostname: Option<String>,
    /// Ids of the smallest block that ID_GET draws from. A crash throws away at most what is left
    /// of a block, and of the next one if the first was nearly used up.
    pub step: u64,
    /// Ids of the largest one: a key that empties block after block gets larger ones, up to this,
    /// so that many requests share one commit.
    pub step_max: u64,
    /// Keys that this node serves; one more is refused. Each takes some 200 bytes.
    pub keys_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 22000)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 22080)),
            hostname: None,
            step: 100,
            step_max: 1 << 20,
            keys_max: 65_536,
        }
    }
}

/// A setting that types alone cannot refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// `step` or `step_max` out of range.
    #[error(
        "idgen.step and idgen.step_max: 1 <= step <= step_max <= {BLOCK_IDS_MAX} is needed, not \
         {step} and {step_max}"
    )]
    Step {
        /// As configured.
        step: u64,
        /// As configured.
        step_max: u64,
    },
    /// `keys_max` is 0.
    #[error("idgen.keys_max: at least one key is needed")]
    Keys,
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn check(&self) -> Result<(), ConfigFault> {
        if self.step == 0 || self.step > self.step_max || self.step_max > BLOCK_IDS_MAX {
            return Err(ConfigFault::Step { step: self.step, step_max: self.step_max });
        }
        if self.keys_max == 0 {
            return Err(ConfigFault::Keys);
        }
        Ok(())
    }
}
