//! What a tracker counts.

reel_node::metric_table! {
    /// Metrics of the tracker.
    pub struct TrackerMetrics;
    /// Requests.
    counter REQUESTS = "reel_tracker_requests_total", Count, "Requests by kind and result.",
        [kind: "join", "beat", "saddrs", "groups", "locate", "nodes", "report", "drain", "gateway",
               "other"],
        [result: "ok", "malformed", "refused", "no_node", "failed"];
    /// Routes that a thread did not remember.
    counter ROUTE_LOOKUPS = "reel_tracker_route_lookups_total", Count,
        "Users whose group was looked up in the database.", [result: "known", "new", "none", "failed"];
    /// Time of a route.
    histogram ROUTE_SECONDS = "reel_tracker_route_seconds", Micros,
        "Time in which the database answered for a user.";
    /// Routes that a thread remembered.
    counter ROUTE_HITS = "reel_tracker_route_hits_total", Count,
        "Users whose group the data thread remembered.";
    /// Storage nodes.
    gauge NODES = "reel_tracker_nodes", Count, "Storage nodes by state.",
        [state: "offline", "online", "active"];
    /// Gateways.
    gauge GATEWAYS = "reel_tracker_gateways", Count, "Gateways that are there.";
    /// Nodes that fell silent.
    counter LOST = "reel_tracker_nodes_lost_total", Count,
        "Storage nodes that went offline because no beat came.";
}

/// Index of a kind of request in [`TrackerMetrics::REQUESTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Join,
    Beat,
    Saddrs,
    Groups,
    Locate,
    Nodes,
    Report,
    Drain,
    Gateway,
    Other,
}

/// Index of a result in [`TrackerMetrics::REQUESTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Malformed,
    Refused,
    NoNode,
    Failed,
}

/// Index of a result in [`TrackerMetrics::ROUTE_LOOKUPS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    Known,
    New,
    None,
    Failed,
}
