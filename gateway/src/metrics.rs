//! What the gateway counts.

use reel_proto::http::head::Method;

reel_node::metric_table! {
    /// The metrics of the gateway.
    pub(crate) struct Edge;
    /// Requests by method and result.
    counter REQUESTS = "reel_gateway_requests_total", Count,
        "Requests by method and by the class of the answer; broken: the answer was cut.",
        [method: "get", "head", "put", "post", "delete", "options", "other"],
        [result: "2xx", "3xx", "4xx", "5xx", "broken"];
    /// Time of a request.
    histogram LATENCY = "reel_gateway_request_seconds", Micros,
        "Time from a request's head to the end of its answer.",
        [method: "get", "head", "put", "post", "delete", "options", "other"];
    /// Requests under way.
    gauge IN_FLIGHT = "reel_gateway_requests_in_flight", Count, "Requests under way.";
    /// Content passed to storage nodes.
    counter BYTES_IN = "reel_gateway_received_bytes_total", Bytes,
        "Content received from clients and passed on.";
    /// Content passed to clients.
    counter BYTES_OUT = "reel_gateway_sent_bytes_total", Bytes,
        "Content received from storage nodes and passed on.";
    /// Lookups of a file's group.
    counter LOCATIONS = "reel_gateway_locations_total", Count,
        "Lookups of a file's nodes: from the cache, from a tracker, or failed.",
        [result: "cached", "asked", "unknown", "failed"];
    /// Tries at storage nodes.
    counter TRIES = "reel_gateway_tries_total", Count,
        "Requests sent to storage nodes by result; stale: a kept connection that had been closed.",
        [result: "answered", "stale", "unreachable", "timeout", "broken", "malformed"];
    /// Requests that a further node answered.
    counter FAILOVERS = "reel_gateway_failovers_total", Count,
        "Requests that another node answered after the first one did not.";
    /// Answers that another node continued.
    counter CONTINUED = "reel_gateway_answers_continued_total", Count,
        "Answers that another connection continued in the middle after their node had died.";
    /// Answers cut because the node died.
    counter CUT = "reel_gateway_answers_cut_total", Count,
        "Answers cut in the middle, by whose fault.", [by: "node", "client"];
    /// Connections to storage nodes.
    gauge UPSTREAMS = "reel_gateway_upstream_connections", Count,
        "Connections to storage nodes.", [state: "idle", "busy"];
    /// Announcements to trackers.
    counter BEATS = "reel_gateway_tracker_messages_total", Count,
        "Announcements to trackers by result.", [result: "ok", "refused", "lost"];
    /// Trackers that know this gateway.
    gauge TRACKERS = "reel_gateway_trackers_active", Count,
        "Trackers that took the last announcement.";
}

/// Index of the `method` label.
pub(crate) const fn method_index(method: Method) -> usize {
    match method {
        Method::Get => 0,
        Method::Head => 1,
        Method::Put => 2,
        Method::Post => 3,
        Method::Delete => 4,
        Method::Options => 5,
        Method::Refused | Method::Unknown => 6,
    }
}

/// Index of the `result` label of a status.
pub(crate) const fn class_index(status: u16) -> usize {
    match status {
        200..300 => 0,
        300..400 => 1,
        400..500 => 2,
        _ => 3,
    }
}

/// Index of the `result` label of an answer that was cut.
pub(crate) const BROKEN: usize = 4;
