//! `[gateway]` in `reel.toml`.

use std::net::SocketAddr;
use std::time::Duration;

use reel_node::config::{ByteSize, HumanTime};
use serde::{Deserialize, Serialize};

/// How requests get to storage nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The gateway passes bytes on; clients need to reach only the gateway.
    #[default]
    Proxy,
    /// The gateway answers 307 with the node's address; clients must reach the nodes.
    Redirect,
}

/// The gateway's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Media HTTP.
    pub listen: SocketAddr,
    /// Admin HTTP.
    pub admin_listen: SocketAddr,
    /// Trackers, `host:port`; each is told about this gateway, any of them may answer.
    pub trackers: Vec<String>,
    /// `proxy` or `redirect`.
    pub mode: Mode,
    /// The address that trackers name to clients; unset: the one it listens on. An unspecified IP
    /// address stands for the one that the tracker sees.
    pub advertise: Option<SocketAddr>,
    /// How often it beats to each tracker.
    pub beat_interval: HumanTime,
    /// App of a request that names none.
    pub default_app: String,
    /// User of a write that names none.
    pub default_user: String,
    /// Places of files that each thread remembers.
    pub location_cache: usize,
    /// How long a place is believed; a node that dies is noticed earlier, by its silence.
    pub location_lifetime: HumanTime,
    /// For a tracker's answer, all trackers together.
    pub locate_timeout: HumanTime,
    /// For a connection to a storage node.
    pub connect_timeout: HumanTime,
    /// From the end of a request to the head of its answer. Beyond: 504.
    pub answer_timeout: HumanTime,
    /// How long a storage node may be silent, before the head of an answer or in its middle, until
    /// another node of its group is asked, where there is one.
    pub switch_after: HumanTime,
    /// Waiting for a storage node or a client in the middle of a body, in which at least 1 KiB
    /// must move. Beyond: the connection is closed.
    pub body_timeout: HumanTime,
    /// Largest upload, by its Content-Length or while it comes. Beyond: 413.
    pub upload_max: ByteSize,
    /// Idle connections kept to each storage node, per thread.
    pub idle_connections_per_node: usize,
    /// Connections to storage nodes, per thread. Beyond: 503.
    pub upstream_connections_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            trackers: vec!["127.0.0.1:21000".to_owned()],
            mode: Mode::Proxy,
            advertise: None,
            beat_interval: HumanTime(Duration::from_secs(10)),
            default_app: "tnvideo".to_owned(),
            default_user: "tnv001".to_owned(),
            location_cache: 65_536,
            location_lifetime: HumanTime(Duration::from_secs(5)),
            locate_timeout: HumanTime(Duration::from_secs(3)),
            connect_timeout: HumanTime(Duration::from_secs(2)),
            answer_timeout: HumanTime(Duration::from_secs(60)),
            switch_after: HumanTime(Duration::from_secs(5)),
            body_timeout: HumanTime(Duration::from_secs(30)),
            upload_max: ByteSize(1 << 40),
            idle_connections_per_node: 64,
            upstream_connections_max: 16_384,
        }
    }
}
