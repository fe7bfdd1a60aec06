//! The `[engine]` section and the `[[store_path]]` sections: what an operator may set, with its defaults.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use reel_meta::Location;
use reel_node::{
    capability::RingFlags,
    config::{ByteSize, HumanTime},
};
use reel_proto::{
    address::{self, AddressError},
    limits,
    name::{AppId, GroupName, HostName, IdKey, NameError, UserId},
};
use serde::{Deserialize, Serialize};

use crate::journal::{self, JournalConfig, SEGMENT_BYTES_MIN, SEGMENTS_MIN};
use crate::store::{BrickConfig, Durability, Reserve, StoreConfig, StorePathConfig};

/// The smallest journal.
const JOURNAL_BYTES_MIN: u64 = SEGMENTS_MIN as u64 * SEGMENT_BYTES_MIN;

/// Bytes of one segment: half a second of small uploads at 64 MiB/s, and a start that only has to fill one.
const JOURNAL_SEGMENT_BYTES: u64 = 32 << 20;

/// Longer than a busy disk takes for a syncfs; a journal that gets no space back for so long never will.
const JOURNAL_FULL_WAIT: Duration = Duration::from_secs(10);

/// `[engine]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the binary protocol is spoken.
    pub listen: SocketAddr,
    /// Where the media HTTP is spoken.
    pub http_listen: SocketAddr,
    /// Where `/metrics`, `/healthz`, `/readyz` and `/status` are.
    pub admin_listen: SocketAddr,
    /// The address at which clients reach `listen`, if it is another: behind a translated address, or where `listen`
    /// is all addresses. Port 0: the port of `listen`.
    pub advertise: Option<SocketAddr>,
    /// The port at which clients reach `http_listen` on the advertised address, if it is another.
    pub http_advertise_port: Option<u16>,
    /// The group whose files this node holds.
    pub group: String,
    /// The name under which trackers list the node; unset: the machine's.
    pub hostname: Option<String>,
    /// `host:port` of every tracker. A node joins each tracker's own address, never a floating one.
    pub trackers: Vec<String>,
    /// `host:port` of the ID nodes; the next one is asked when one fails.
    pub idgens: Vec<String>,
    /// Time between beats.
    pub beat_interval: HumanTime,
    /// When an upload is acknowledged.
    pub durability: Durability,
    /// Space for the commit journal beside the database: 8 MiB and more, or 0 for none.
    pub journal: ByteSize,
    /// How long a deleted file can be restored.
    pub retention: HumanTime,
    /// Bytes a second that `reel adopt` reads, on each store path; 0: as fast as it goes.
    pub adopt_rate: ByteSize,
    /// Within which time rot in a file of a brick is found, by reading all of it again; 0: nothing is read again.
    pub scrub_within: HumanTime,
    /// Path ids fetched at a time, for each store path.
    pub id_block: u64,
    /// Memory for records of files on all data threads together; some 250 bytes a file.
    pub record_cache: ByteSize,
    /// Open files that all data threads together keep for the next request.
    pub open_files: usize,
    /// Memory for uploads on their way to the disk and for reads from it, on all data threads together. A request that
    /// would need more is refused with 503 or an error frame.
    pub buffers: ByteSize,
    /// Bytes of one read from the disk: 4 KiB to 4 MiB.
    pub read_piece: ByteSize,
    /// Pieces of one response that are read or wait while another one is sent, at most; 1 to 64.
    pub read_ahead_pieces: usize,
    /// The largest upload.
    pub upload_max: ByteSize,
    /// How long a binary connection may stay without a request.
    pub idle: HumanTime,
    /// How long a peer may take for the next part of a request, or to take any of a response.
    pub progress: HumanTime,
    /// How long a request waits for a store path: for a piece of an upload, its acknowledgement, or a change. Beyond: 503
    /// or an error frame, though it may be done yet.
    pub store_timeout: HumanTime,
    /// `Cache-Control` of files.
    pub cache_control: String,
    /// The app of an HTTP write that names none.
    pub default_app: String,
    /// The user of an HTTP write that names none.
    pub default_user: String,
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            listen: loopback(23_000),
            http_listen: loopback(23_080),
            admin_listen: loopback(23_081),
            advertise: None,
            http_advertise_port: None,
            group: "group001".to_owned(),
            hostname: None,
            trackers: vec!["127.0.0.1:21000".to_owned()],
            idgens: vec!["127.0.0.1:22000".to_owned()],
            beat_interval: HumanTime(Duration::from_secs(10)),
            durability: Durability::Sync,
            journal: ByteSize(512 << 20),
            retention: HumanTime(Duration::from_secs(7 * 24 * 3600)),
            adopt_rate: ByteSize(64 << 20),
            scrub_within: HumanTime(Duration::from_secs(30 * 24 * 3600)),
            id_block: 16_384,
            record_cache: ByteSize(64 << 20),
            open_files: 8192,
            buffers: ByteSize(512 << 20),
            read_piece: ByteSize(256 << 10),
            read_ahead_pieces: 4,
            upload_max: ByteSize(1 << 40),
            idle: HumanTime(Duration::from_secs(300)),
            progress: HumanTime(Duration::from_secs(30)),
            store_timeout: HumanTime(Duration::from_secs(60)),
            cache_control: "no-cache".to_owned(),
            default_app: "tnvideo".to_owned(),
            default_user: "tnv001".to_owned(),
        }
    }
}

/// `[[store_path]]`: a disk, or a volume that the nodes of a group mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorePath {
    /// The folder, on a file system with user attributes: of this machine, or a mount that other nodes have, too.
    pub path: PathBuf,
    /// Whether other nodes mount it, too; unset: if it lies on a file system that other machines may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// The same folder on the brick that this node has of a GlusterFS volume: files are read there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brick: Option<PathBuf>,
    /// A folder of the node's own on the brick's file system; unset: `reel-brick` beside the volume's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub brick_state: Option<PathBuf>,
    /// Its key at the ID node; unset: the path's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_key: Option<String>,
    /// Other prefixes under which rows name files of this store, as `../data` of a database taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// What stays free; unset: 1 %, at least 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve: Option<ByteSize>,
    /// Threads for what blocks on this disk.
    #[serde(default = "workers_default")]
    pub workers: usize,
    /// Uuid of the store that the node had here and that is gone for good: an empty one, or the other one that lies
    /// here, takes its place. It has no effect afterwards, as the new store has another uuid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<String>,
}

fn workers_default() -> usize {
    StorePathConfig::new("").workers
}

impl StorePath {
    /// A store path with the defaults.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            shared: None,
            brick: None,
            brick_state: None,
            id_key: None,
            aliases: Vec::new(),
            reserve: None,
            workers: workers_default(),
            replaced: None,
        }
    }

    /// Refuses what no store can have.
    ///
    /// # Errors
    /// [`ConfigFault::StorePath`]
    pub fn validate(&self) -> Result<(), ConfigFault> {
        let wrong =
            |reason: String| Err(ConfigFault::StorePath { path: self.path.clone(), reason });
        match self.id_key.as_deref().map(IdKey::parse) {
            Some(Err(error)) => wrong(error.to_string()),
            _ if self.brick.is_none() && self.brick_state.is_some() => {
                wrong("brick_state is of a brick, and none is named".to_owned())
            }
            _ if self.workers == 0 => wrong("at least one worker is needed".to_owned()),
            _ => Ok(()),
        }
    }

    fn config(&self, scrub_within: Duration) -> StorePathConfig {
        let mut config = StorePathConfig::new(&self.path);
        config.shared = self.shared;
        config.brick = self.brick.clone().map(|path| BrickConfig {
            path,
            state: self.brick_state.clone(),
            scrub_within,
        });
        config.id_key.clone_from(&self.id_key);
        config.aliases.clone_from(&self.aliases);
        config.workers = self.workers.max(1);
        config.replaced.clone_from(&self.replaced);
        if let Some(reserve) = self.reserve {
            config.reserve = Reserve { permille: 0, bytes_min: reserve.0 };
        }
        config
    }
}

/// What of the configuration cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFault {
    /// A name that is none.
    #[error("engine.{key}: {error}")]
    Name {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        error: NameError,
    },
    /// A number outside of its limits.
    #[error("engine.{key} is {value}, not within {min} and {max}")]
    Range {
        /// The key.
        key: &'static str,
        /// What was given.
        value: u64,
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// No store path, or more than a join can tell of.
    #[error("{count} [[store_path]] sections, at least 1 and at most {max} are needed")]
    StorePaths {
        /// How many there are.
        count: usize,
        /// The most.
        max: usize,
    },
    /// A text that names no node.
    #[error("engine.{key}: {text:?}: {error}")]
    Address {
        /// The key.
        key: &'static str,
        /// What was given.
        text: String,
        /// How to write it.
        error: AddressError,
    },
    /// A store path that cannot be.
    #[error("store_path {}: {reason}", path.display())]
    StorePath {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A text that cannot stand in a header field.
    #[error("engine.{key} cannot stand in an HTTP header field")]
    Field {
        /// The key.
        key: &'static str,
    },
    /// The machine's name cannot be used.
    #[error("set engine.hostname: the machine's name cannot be used ({0})")]
    HostName(String),
}

impl Config {
    /// Refuses what cannot work, as the start would.
    ///
    /// # Errors
    /// The first key that cannot be.
    pub fn validate(&self) -> Result<(), ConfigFault> {
        self.check().map(drop)
    }

    /// The parsed names, after every check that types alone cannot make.
    ///
    /// # Errors
    /// The first key that cannot be.
    pub(crate) fn check(&self) -> Result<Names, ConfigFault> {
        let name = |key| move |error| ConfigFault::Name { key, error };
        let within = |key, value: u64, min: u64, max: u64| {
            let good = (min..=max).contains(&value);
            good.then_some(()).ok_or(ConfigFault::Range { key, value, min, max })
        };
        within("read_piece", self.read_piece.0, 4096, 4 << 20)?;
        within("read_ahead_pieces", self.read_ahead_pieces as u64, 1, 64)?;
        within("buffers", self.buffers.0, 4 << 20, 1 << 50)?;
        if self.journal.0 > 0 {
            within("journal", self.journal.0, JOURNAL_BYTES_MIN, 1 << 40)?;
        }
        within("id_block", self.id_block, 1, limits::ID_BLOCK_COUNT_MAX)?;
        within("upload_max", self.upload_max.0, 1, limits::UPLOAD_BYTES_MAX)?;
        let beat_millis = u64::try_from(self.beat_interval.0.as_millis()).unwrap_or(u64::MAX);
        within("beat_interval", beat_millis, 10, 3_600_000)?;
        for (key, addresses) in [("trackers", &self.trackers), ("idgens", &self.idgens)] {
            for text in addresses {
                address::check(text).map_err(|error| {
                    let text = text.clone();
                    ConfigFault::Address { key, text, error }
                })?;
            }
        }
        let value = &self.cache_control;
        if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || value.trim() != value {
            return Err(ConfigFault::Field { key: "cache_control" });
        }
        Ok(Names {
            group: GroupName::parse(&self.group).map_err(name("group"))?,
            host: self.host_name()?,
            app: AppId::parse(&self.default_app).map_err(name("default_app"))?,
            user: UserId::parse(&self.default_user).map_err(name("default_user"))?,
        })
    }

    /// Whether a node may have so many store paths: a join must be able to tell of each.
    ///
    /// # Errors
    /// [`ConfigFault::StorePaths`]
    pub(crate) fn check_store_paths(count: usize) -> Result<(), ConfigFault> {
        let max = limits::STORES_MAX;
        let good = (1..=max).contains(&count);
        good.then_some(()).ok_or(ConfigFault::StorePaths { count, max })
    }

    fn host_name(&self) -> Result<HostName, ConfigFault> {
        if let Some(text) = &self.hostname {
            return HostName::parse(text)
                .map_err(|error| ConfigFault::Name { key: "hostname", error });
        }
        let text = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map_err(|error| ConfigFault::HostName(error.to_string()))?;
        HostName::parse(text.trim()).map_err(|error| ConfigFault::HostName(error.to_string()))
    }

    /// The journal's part: segments of 32 MiB, or two of them where it is to be small.
    fn journal(&self, database: &Path, ring: Option<RingFlags>) -> JournalConfig {
        let enabled = self.journal.0 > 0;
        let bytes = self.journal.0.max(JOURNAL_BYTES_MIN);
        let segment_bytes = (bytes / 2).min(JOURNAL_SEGMENT_BYTES) / 4096 * 4096;
        let segments_max = bytes / segment_bytes;
        JournalConfig {
            folder: journal::folder_of(database),
            database: database.to_owned(),
            segment_bytes,
            segments_max: u32::try_from(segments_max).unwrap_or(u32::MAX),
            enabled,
            full_wait: JOURNAL_FULL_WAIT,
            ring,
        }
    }

    /// The store side's part.
    pub(crate) fn store(
        &self,
        names: &Names,
        paths: &[StorePath],
        (database, groups): (&Location, &Location),
        ring: Option<RingFlags>,
    ) -> StoreConfig {
        let paths = paths.iter().map(|path| path.config(self.scrub_within.0)).collect();
        let mut config = StoreConfig::new(names.host, names.group, paths);
        config.durability = self.durability;
        config.journal = match database {
            Location::Embedded(path) => Some(self.journal(path, ring)),
            // Its log is on other machines, and other nodes read it at once.
            Location::Shared(_) => None,
        };
        config.retention = self.retention.0;
        config.adoption_rate = self.adopt_rate.0;
        config.id_block = self.id_block;
        config.groups = match groups {
            Location::Embedded(_) => None,
            Location::Shared(options) => Some(options.clone()),
        };
        config
    }
}

/// The names of a configuration, parsed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    pub(crate) group: GroupName,
    pub(crate) host: HostName,
    pub(crate) app: AppId,
    pub(crate) user: UserId,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_good() {
        let names = Config::default().check().unwrap();
        assert_eq!(names.group.as_str(), "group001");
    }

    #[test]
    fn as_many_store_paths_as_a_join_can_tell_of() {
        let with = |count| Config::check_store_paths(count).is_ok();
        assert!(with(1) && with(limits::STORES_MAX));
        assert!(!with(0) && !with(limits::STORES_MAX + 1));
    }

    #[test]
    fn numbers_are_held_to_their_limits() {
        let at = |bytes| Config { read_piece: ByteSize(bytes), ..Config::default() }.check();
        assert!(at(4096).is_ok() && at(4 << 20).is_ok());
        assert!(at(4095).is_err() && at((4 << 20) + 1).is_err());
        let ahead = |pieces| Config { read_ahead_pieces: pieces, ..Config::default() }.check();
        assert!(ahead(1).is_ok() && ahead(64).is_ok() && ahead(0).is_err() && ahead(65).is_err());
        let beat = |time| Config { beat_interval: HumanTime(time), ..Config::default() }.check();
        assert!(beat(Duration::ZERO).is_err());
        assert!(beat(Duration::from_millis(10)).is_ok());
    }

    #[test]
    fn a_field_value_cannot_break_out() {
        for bad in ["a\r\nX: 1", "a\0", " a", "é"] {
            let config = Config { cache_control: bad.to_owned(), ..Config::default() };
            assert!(config.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn nodes_are_written_as_host_and_port() {
        let trackers = |text: &str| Config { trackers: vec![text.to_owned()], ..Config::default() };
        assert!(trackers("a:1").check().is_ok());
        let error = trackers("a").check().unwrap_err().to_string();
        assert!(error.contains("engine.trackers") && error.contains("HOST:PORT"), "{error}");
        let idgens = Config { idgens: vec!["a:x".to_owned()], ..Config::default() };
        assert!(idgens.check().unwrap_err().to_string().contains("engine.idgens"));
    }

    #[test]
    fn names_are_parsed() {
        for bad in ["", "with space", "seventeen-letters-long"] {
            let config = Config { group: bad.to_owned(), ..Config::default() };
            assert!(config.check().is_err(), "{bad:?}");
        }
    }
}
