//! `[tracker]` of `reel.toml`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use reel_node::config::HumanTime;
use reel_proto::name::{AppId, GroupName, NameError};
use serde::{Deserialize, Serialize};

/// Settings of a tracker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the binary protocol is spoken.
    pub listen: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are.
    pub admin_listen: SocketAddr,
    /// The name in error replies; unset: the machine's.
    pub hostname: Option<String>,
    /// Groups that nodes may join, added to those that the database knows.
    pub groups: Vec<String>,
    /// Applications that clients may name; the first is taken where a question names none.
    pub apps: Vec<String>,
    /// A node without a beat for this long is offline.
    pub check_interval: HumanTime,
    /// How often nodes are expected to beat.
    pub beat_interval: HumanTime,
    /// The storage node keeps its metadata in its own SQLite file: exactly one may join.
    pub embedded: bool,
    /// A node that has been offline for this long is forgotten.
    pub forget_after: HumanTime,
    /// Storage nodes that are known at once; one more takes the place of one that is offline, or is
    /// refused. Each change of one rebuilds what clients are told of all: some 0.2 ms for 1000.
    pub nodes_max: usize,
    /// Gateways that are known at once; one more is refused.
    pub gateways_max: usize,
    /// Users whose group each data thread remembers, some 100 bytes each; the others are looked up
    /// in the database.
    pub routes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 21000)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 21080)),
            hostname: None,
            groups: vec!["group001".to_owned()],
            apps: vec!["tnvideo".to_owned()],
            check_interval: HumanTime(Duration::from_secs(120)),
            beat_interval: HumanTime(Duration::from_secs(10)),
            embedded: true,
            forget_after: HumanTime(Duration::from_secs(24 * 3600)),
            nodes_max: 1000,
            gateways_max: 1000,
            routes_max: 100_000,
        }
    }
}

/// A setting that types alone cannot refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// A group or app that could never be on the wire.
    #[error("tracker.{key}: {name:?}: {error}")]
    Name {
        /// `groups` or `apps`.
        key: &'static str,
        /// As configured.
        name: String,
        /// What is wrong with it.
        error: NameError,
    },
    /// Nobody could ask for anything.
    #[error("tracker.apps: at least one app is needed")]
    NoApps,
    /// Nodes would be offline between two beats.
    #[error("tracker.check_interval ({check}) must be longer than tracker.beat_interval ({beat})")]
    Intervals {
        /// As configured.
        check: HumanTime,
        /// As configured.
        beat: HumanTime,
    },
    /// A limit of 0.
    #[error("tracker.nodes_max: at least one node must fit")]
    NoNodes,
}

/// The names of a [`Config`], checked.
#[derive(Debug)]
pub(crate) struct Names {
    pub(crate) groups: Vec<GroupName>,
    pub(crate) apps: Vec<AppId>,
}

impl Config {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// The first setting that is out of range.
    pub fn check(&self) -> Result<(), ConfigFault> {
        self.names()?;
        if self.check_interval <= self.beat_interval {
            let (check, beat) = (self.check_interval, self.beat_interval);
            return Err(ConfigFault::Intervals { check, beat });
        }
        if self.nodes_max == 0 {
            return Err(ConfigFault::NoNodes);
        }
        Ok(())
    }

    pub(crate) fn names(&self) -> Result<Names, ConfigFault> {
        fn parse<T: std::str::FromStr<Err = NameError>>(
            key: &'static str,
            names: &[String],
        ) -> Result<Vec<T>, ConfigFault> {
            let parse = |name: &String| {
                name.parse().map_err(|error| ConfigFault::Name { key, name: name.clone(), error })
            };
            names.iter().map(parse).collect()
        }
        if self.apps.is_empty() {
            return Err(ConfigFault::NoApps);
        }
        Ok(Names { groups: parse("groups", &self.groups)?, apps: parse("apps", &self.apps)? })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_refused() {
        let good = Config::default();
        good.check().unwrap();
        let bad = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(bad(|config| config.groups.push("a b".to_owned())).contains("tracker.groups"));
        assert!(bad(|config| config.apps.push(String::new())).contains("tracker.apps"));
        assert!(bad(|config| config.apps.clear()).contains("tracker.apps"));
        assert!(bad(|config| config.check_interval = config.beat_interval).contains("beat"));
        assert!(bad(|config| config.nodes_max = 0).contains("nodes_max"));
    }

    #[test]
    fn unknown_keys_are_refused() {
        assert!(toml::from_str::<Config>("check_interval = \"1s\"").is_ok());
        assert!(toml::from_str::<Config>("chek_interval = \"1s\"").is_err());
    }
}
