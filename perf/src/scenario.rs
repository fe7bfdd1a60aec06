//! Scenario files: what is measured, against whom, and what is to be reached.

use std::{fmt, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize};

use crate::dataset::CacheState;

/// The scenarios that come with the harness, in the order in which they run.
const BUILT_IN: &[(&str, &str)] = &[
    ("hot", include_str!("../scenarios/hot.toml")),
    ("connections", include_str!("../scenarios/connections.toml")),
    ("cold", include_str!("../scenarios/cold.toml")),
    ("upload", include_str!("../scenarios/upload.toml")),
    ("upload-large", include_str!("../scenarios/upload-large.toml")),
    ("upload-shared", include_str!("../scenarios/upload-shared.toml")),
    ("control", include_str!("../scenarios/control.toml")),
    ("isolation", include_str!("../scenarios/isolation.toml")),
    ("cores", include_str!("../scenarios/cores.toml")),
    ("population", include_str!("../scenarios/population.toml")),
    ("idle", include_str!("../scenarios/idle.toml")),
];

/// Those that run only when they are named.
const ON_REQUEST: &[(&str, &str)] = &[
    ("bricks", include_str!("../scenarios/bricks.toml")),
    ("many-files", include_str!("../scenarios/many-files.toml")),
    ("soak", include_str!("../scenarios/soak.toml")),
];

/// One scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Scenario {
    /// Its file's name without the ending.
    #[serde(skip)]
    pub(crate) name: String,
    /// For people.
    pub(crate) title: String,
    /// What is done.
    pub(crate) work: Work,
    /// Seconds of each round that count.
    pub(crate) seconds: f64,
    /// The same of a quick run.
    pub(crate) quick_seconds: f64,
    /// Servers and generators run on all cores, instead of each on its own.
    #[serde(default)]
    pub(crate) all_cores: bool,
    /// What the file system is made with besides.
    #[serde(default)]
    pub(crate) mkfs: Vec<String>,
    /// What is measured, one after the other.
    #[serde(rename = "case")]
    pub(crate) cases: Vec<Case>,
}

/// What a scenario does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Ranges of files over HTTP.
    HttpRanges,
    /// New files by UPLOAD.
    Uploads,
    /// Small answers of the binary protocol.
    Control,
    /// Hot reads beside work that keeps the disk busy.
    Isolation,
    /// A store with many files.
    Population,
    /// Memory of idle connections.
    Idle,
    /// Everything at once, for a long time.
    Soak,
}

/// The side that is `reel up` with its defaults.
pub(crate) const OURS: &str = "reel";

/// The same without io_uring, as a kernel or container that forbids it makes it: sockets by epoll, file IO by workers.
pub(crate) const WITHOUT_RING: &str = "reel-epoll";
/// Ours with its metadata in a MariaDB.
pub(crate) const SHARED: &str = "reel-mariadb";

/// Ours on a volume of three replicas, read from the brick on the same disk, and through the mount.
pub(crate) const BRICK: &str = "reel-brick";
pub(crate) const MOUNT: &str = "reel-mount";

/// The same with one data thread, whatever cores there are.
const ONE_THREAD: &str = "reel-one";

/// Configuration keys other than the defaults.
pub(crate) type Settings = &'static [(&'static str, &'static str)];

/// What a side of ours is started with; none: it is somebody else.
pub(crate) fn settings_of(side: &str) -> Option<Settings> {
    match side {
        OURS => Some(&[]),
        WITHOUT_RING => Some(&[("node.capabilities_off", r#"["io_uring"]"#)]),
        ONE_THREAD => Some(&[("node.data_threads", "1")]),
        _ => None,
    }
}

/// One measurement of a scenario.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Case {
    /// In the table and in file names.
    pub(crate) name: String,
    /// Bytes of a range or file.
    #[serde(default)]
    pub(crate) size: Size,
    /// Connections.
    #[serde(default = "one")]
    pub(crate) connections: usize,
    /// Files in the store, where their number is what is measured.
    #[serde(default)]
    pub(crate) files: u64,
    /// Requests a second of an open loop; none: a closed loop.
    #[serde(default)]
    pub(crate) rate: Option<f64>,
    /// The page cache at the begin of a round.
    #[serde(default)]
    pub(crate) cache: Option<CacheState>,
    /// Who else does the same, in turn with us.
    #[serde(default)]
    pub(crate) peers: Vec<String>,
    /// What is to be reached.
    #[serde(default)]
    pub(crate) reach: Vec<Reach>,
}

fn defaults() -> String {
    OURS.to_owned()
}

fn one() -> usize {
    1
}

/// A line of the Reach table.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Reach {
    /// Which of our sides: the one with defaults, or one with something switched off.
    #[serde(default = "defaults")]
    pub(crate) side: String,
    /// The peer.
    pub(crate) against: String,
    /// Fewest of our requests a second for one of the peer's.
    pub(crate) ratio_min: Option<f64>,
    /// Most of our CPU time a request for one of the peer's.
    pub(crate) cpu_ratio_max: Option<f64>,
    /// Most of our median latency for one of the peer's.
    pub(crate) p50_ratio_max: Option<f64>,
    /// Most of our 99th percentile for one of the peer's.
    pub(crate) p99_ratio_max: Option<f64>,
    /// Most memory of ours, whatever the peer has.
    pub(crate) memory_max: Option<Size>,
}

/// Bytes, written as `64 KiB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct Size(pub(crate) u64);

/// Units, the largest first.
const UNITS: &[(&str, u64)] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl Size {
    fn parse(text: &str) -> Result<Self> {
        for (unit, factor) in UNITS {
            if let Some(number) = text.strip_suffix(unit) {
                let number: u64 = number.trim().parse().with_context(|| format!("size {text}"))?;
                let bytes = number.checked_mul(*factor).context("a size that is too large")?;
                return Ok(Self(bytes));
            }
        }
        bail!("size {text}: write it as `64 KiB`")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = UNITS.iter().find(|(_, factor)| self.0.is_multiple_of(*factor) && self.0 > 0);
        let (name, factor) = unit.unwrap_or(&("B", 1));
        write!(f, "{} {name}", self.0 / factor)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| serde::de::Error::custom(format!("{error:#}")))
    }
}

impl Scenario {
    /// Whom the cases have as peers, each once.
    pub(crate) fn peers(&self) -> Vec<&str> {
        let mut peers: Vec<&str> = Vec::new();
        for peer in self.cases.iter().flat_map(|case| &case.peers) {
            if !peers.contains(&peer.as_str()) {
                peers.push(peer);
            }
        }
        peers
    }

    fn parse(name: &str, text: &str) -> Result<Self> {
        let parsed: Self = toml::from_str(text).with_context(|| format!("scenario {name}"))?;
        Ok(Self { name: name.to_owned(), ..parsed })
    }

    /// The scenarios named: built-in ones, or files by their path. None named: all of the built-in ones.
    pub(crate) fn select(names: &[String]) -> Result<Vec<Self>> {
        if names.is_empty() {
            return BUILT_IN.iter().map(|(name, text)| Self::parse(name, text)).collect();
        }
        names.iter().map(|name| Self::find(name)).collect()
    }

    fn find(name: &str) -> Result<Self> {
        let mut known = BUILT_IN.iter().chain(ON_REQUEST);
        if let Some((name, text)) = known.find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(path).with_context(|| name.to_owned())?;
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            return Self::parse(&stem, &text);
        }
        let known: Vec<&str> = BUILT_IN.iter().chain(ON_REQUEST).map(|(name, _)| *name).collect();
        bail!("no scenario {name}; there are: {}", known.join(", "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_scenarios_are_well_formed() {
        let mut all = Scenario::select(&[]).unwrap();
        assert_eq!(all.len(), BUILT_IN.len());
        let named: Vec<String> = ON_REQUEST.iter().map(|(name, _)| (*name).to_owned()).collect();
        all.extend(Scenario::select(&named).unwrap());
        for scenario in all {
            assert!(!scenario.cases.is_empty(), "{}", scenario.name);
            for case in &scenario.cases {
                for reach in &case.reach {
                    let against = &reach.against;
                    assert!(against == OURS || case.peers.contains(against), "{}", case.name);
                    let is_ours = reach.side == OURS || case.peers.contains(&reach.side);
                    assert!(is_ours, "{}", case.name);
                }
            }
        }
        assert!(Scenario::select(&["no-such".to_owned()]).is_err());
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for (text, bytes) in [("4 KiB", 4096), ("1MiB", 1 << 20), ("7 B", 7)] {
            assert_eq!(Size::parse(text).unwrap(), Size(bytes));
        }
        assert_eq!(Size(65_536).to_string(), "64 KiB");
        assert!(Size::parse("4").is_err());
    }
}
