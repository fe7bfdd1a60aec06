//! What a load generator is to do, as the harness hands it over.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::cpu::Meter;

/// Bytes of content that uploads are cut from, again and again. Larger than any small file, and it stays in the
/// processor's cache.
pub(crate) const PATTERN_BYTES: u64 = 256 * 1024;

/// One load on one server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Where the server listens.
    pub(crate) target: SocketAddr,
    /// Cores to run on, one thread each, pinned. Empty: one thread, not pinned.
    pub(crate) cores: Vec<usize>,
    /// Connections, all threads together.
    pub(crate) connections: usize,
    /// Milliseconds before anything is counted.
    pub(crate) warmup_ms: u64,
    /// Milliseconds that are counted.
    pub(crate) measure_ms: u64,
    /// Requests a second of an open loop, all threads together. `None`: a closed loop.
    pub(crate) rate: Option<f64>,
    /// Requests after which a thread stops early.
    pub(crate) count_max: Option<u64>,
    /// Every so many answers one is compared byte by byte, besides the first of each connection.
    pub(crate) check_every: u64,
    /// Of the order of requests.
    pub(crate) seed: u64,
    /// Whose CPU time is read at both ends of the counted time: the server's, then the generator's own.
    pub(crate) meters: Vec<Meter>,
    /// What is asked.
    pub(crate) work: Work,
}

/// What is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    /// Ranges of files over HTTP.
    HttpRange(Ranges),
    /// Whole files over HTTP, any of those that an upload of the same prefix has stored.
    HttpNumbered {
        /// The path of their URLs up to the dash and the number.
        prefix: String,
        /// How many there are.
        count: u64,
        /// Every so many of them are asked for.
        stride: u64,
        /// Bytes of each.
        size: u64,
        /// Of the content, which they share.
        content: u64,
    },
    /// Ranges of files by DOWNLOAD.
    Download(Ranges),
    /// New files by UPLOAD.
    Upload {
        /// File ids are this, a dash and a number.
        prefix: String,
        /// Bytes of a file.
        size: u64,
        /// Of the content, which all files of the load share.
        content: u64,
    },
    /// DELETE of files that an upload of the same prefix has stored, each once; then the load ends.
    Delete {
        /// As the upload's.
        prefix: String,
        /// How many there are.
        count: u64,
    },
    /// SADDRS of users in turn.
    Saddrs {
        /// Users.
        users: u64,
    },
    /// ID_GET of keys in turn.
    IdGet {
        /// Keys.
        keys: u64,
    },
    /// Bytes that come back as they were sent: the loopback by itself.
    Echo {
        /// Bytes of a message.
        bytes: u64,
    },
}

/// Ranges of a set of files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ranges {
    /// The files.
    pub(crate) files: Vec<Target>,
    /// Bytes of a range; a range begins at a multiple of it.
    pub(crate) length: u64,
    /// Which one comes next.
    pub(crate) order: Order,
}

/// A file that is asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target {
    /// The path of its URL, or its file id.
    pub(crate) name: String,
    /// Its bytes.
    pub(crate) size: u64,
    /// Of its content.
    pub(crate) content: u64,
}

/// Which range comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Any one, each time anew.
    Random,
    /// Every one once, shuffled; then the load ends. No answer warms the cache for a later one.
    Once,
}

/// One thread's part of a plan.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// Its number.
    pub(crate) index: usize,
    /// Threads in all.
    pub(crate) of: usize,
    /// Its core.
    pub(crate) core: Option<usize>,
    /// Its connections.
    pub(crate) connections: usize,
}

impl Plan {
    /// The parts of the threads: one for each core, none without a connection.
    pub(crate) fn shares(&self) -> Vec<Share> {
        let of = self.cores.len().clamp(1, self.connections.max(1));
        let part = |index: usize| Share {
            index,
            of,
            core: self.cores.get(index).copied(),
            connections: self.connections / of + usize::from(index < self.connections % of),
        };
        (0..of).map(part).collect()
    }
}
