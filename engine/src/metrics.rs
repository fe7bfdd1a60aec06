//! What the serving side counts: one table, and a guard that counts one request from its head to its end.

use std::time::Instant;

use reel_node::metrics::Cell;

reel_node::metric_table! {
    /// The metrics of the storage engine's serving side.
    pub(crate) struct Serve;
    /// Requests by what they ask and how they ended.
    counter REQUESTS = "reel_engine_requests_total", Count, "Requests by kind and result.",
        [kind: "upload", "filesize", "download", "delete", "stat", "list", "restore", "purge",
               "http_get", "http_head", "http_put", "http_delete", "http_options", "drain", "other"],
        [result: "ok", "refused", "error", "broken"];
    /// Time of a request.
    histogram LATENCY = "reel_engine_request_seconds", Micros,
        "Time from the request's head to the end of its response.",
        [kind: "upload", "filesize", "download", "delete", "stat", "list", "restore", "purge",
               "http_get", "http_head", "http_put", "http_delete", "http_options", "drain", "other"];
    /// Requests under way.
    gauge IN_FLIGHT = "reel_engine_requests_in_flight", Count, "Requests under way.";
    /// Content taken.
    counter BYTES_IN = "reel_engine_received_bytes_total", Bytes, "Content received in uploads.";
    /// Content given, by how.
    counter BYTES_OUT = "reel_engine_sent_bytes_total", Bytes,
        "Content sent, from the page cache by sendfile or read from the disk.",
        [path: "hot", "cold"];
    /// Reads from the disk, by how.
    counter DISK_READS = "reel_engine_disk_reads_total", Count,
        "Pieces read from the disk: past the page cache (O_DIRECT) or through it.",
        [way: "direct", "buffered"];
    /// Lookups in the caches.
    counter CACHE = "reel_engine_cache_lookups_total", Count, "Lookups in the per-thread caches.",
        [cache: "record", "descriptor"], [result: "hit", "miss", "stale"];
    /// Entries in the caches.
    gauge CACHED = "reel_engine_cache_entries", Count, "Entries in the per-thread caches.",
        [cache: "record", "descriptor"];
    /// Buffer memory handed out.
    gauge BUFFERED = "reel_engine_buffered_bytes", Bytes,
        "Buffer memory handed out to uploads and to reads from the disk.";
    /// Requests refused because of it.
    counter OVERLOADED = "reel_engine_overloaded_total", Count,
        "Requests refused because the buffer memory was handed out.";
    /// Files found shorter than their rows.
    counter CUT_SHORT = "reel_engine_files_cut_short_total", Count,
        "Reads that found less of a file on the disk than its row says.";
    /// Reads that failed.
    counter READ_ERRORS = "reel_engine_read_errors_total", Count,
        "Reads that the disk failed.";
    /// Messages to trackers.
    counter BEATS = "reel_engine_tracker_messages_total", Count,
        "Messages to trackers by kind and result.",
        [message: "join_ext", "join", "beat", "report"], [result: "ok", "refused", "lost"];
    /// Trackers that take our beats.
    gauge TRACKERS = "reel_engine_trackers_active", Count,
        "Trackers that took the last beat.";
    /// Whether an operator has drained the node.
    gauge DRAINED = "reel_engine_drained", Count,
        "1 while an operator has drained the node: trackers name it to nobody.";
    /// Whether other nodes' changes are known.
    gauge CHANGES_READ = "reel_engine_changes_read", Count,
        "1 while it is known what others change in the metadata; 0: each request compares.";
    /// Blocks of path ids.
    counter ID_BLOCKS = "reel_engine_id_blocks_total", Count,
        "Blocks of path ids asked of the ID nodes.", [result: "ok", "failed"];
}

/// What a request asks: the index of the `kind` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Kind {
    Upload,
    FileSize,
    Download,
    Delete,
    Stat,
    List,
    Restore,
    Purge,
    HttpGet,
    HttpHead,
    HttpPut,
    HttpDelete,
    HttpOptions,
    Drain,
    Other,
}

/// How a request ended: the index of the `result` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Outcome {
    /// Done.
    Ok,
    /// Not done, and rightly so: malformed, unknown, forbidden, out of range, overload.
    Refused,
    /// Not done, and the fault is ours.
    Error,
    /// The connection ended first.
    Broken,
}

/// Where content that was sent came from: the index of the `path` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Path {
    Hot,
    Cold,
}

/// How a piece was read from the disk: the index of the `way` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Way {
    Direct,
    Buffered,
}

/// A cache: the index of the `cache` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Cache {
    Record,
    Descriptor,
}

/// The end of a lookup: the index of the `result` label of the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Lookup {
    Hit,
    Miss,
    Stale,
}

/// One request, counted when this is dropped. A request whose future is dropped counts as broken.
pub(crate) struct Tally {
    cell: Cell<Serve>,
    kind: Kind,
    outcome: Outcome,
    start: Instant,
}

impl Tally {
    /// The request's head is there.
    pub(crate) fn start(cell: &Cell<Serve>, kind: Kind) -> Self {
        cell.raise(Serve::IN_FLIGHT, 1);
        Self { cell: cell.clone(), kind, outcome: Outcome::Broken, start: Instant::now() }
    }

    /// How it ends.
    pub(crate) fn ends(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let micros = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.cell.lower(Serve::IN_FLIGHT, 1);
        self.cell.add(Serve::REQUESTS.at([self.kind as usize, self.outcome as usize]), 1);
        self.cell.observe(Serve::LATENCY.at([self.kind as usize]), micros);
    }
}

#[cfg(test)]
mod tests {
    use reel_node::metrics::Registry;

    use super::*;

    #[test]
    fn a_request_is_counted_once_at_its_end() {
        let registry = Registry::<Serve>::detached();
        let cell = registry.cell();
        let mut tally = Tally::start(&cell, Kind::Other);
        assert_eq!(registry.level(Serve::IN_FLIGHT), 1);
        tally.ends(Outcome::Ok);
        drop(tally);
        drop(Tally::start(&cell, Kind::HttpGet));
        assert_eq!(registry.level(Serve::IN_FLIGHT), 0);
        let count = |kind: Kind, outcome: Outcome| {
            registry.count(Serve::REQUESTS.at([kind as usize, outcome as usize]))
        };
        assert_eq!(count(Kind::Other, Outcome::Ok), 1);
        assert_eq!(count(Kind::HttpGet, Outcome::Broken), 1);
        assert_eq!(registry.observations(Serve::LATENCY.at([Kind::Other as usize])), 1);
    }
}
