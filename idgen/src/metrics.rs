//! What an ID node counts.

reel_node::metric_table! {
    /// Metrics of the ID node.
    pub struct IdGenMetrics;
    /// Requests.
    counter REQUESTS = "reel_idgen_requests_total", Count, "Requests by kind and result.",
        [kind: "id_get", "id_block", "other"],
        [result: "ok", "malformed", "refused", "exhausted", "failed"];
    /// ID_GETs that found no block in hand.
    counter WAITS = "reel_idgen_waits_total", Count,
        "Requests for one id that had to wait for the database.";
    /// Blocks made durable.
    counter BLOCKS = "reel_idgen_blocks_total", Count,
        "Blocks of ids made durable, by who draws from them.", [by: "id_get", "id_block"];
    /// Ids in those blocks.
    counter IDS = "reel_idgen_ids_total", Count,
        "Ids in blocks made durable, by who draws from them.", [by: "id_get", "id_block"];
    /// Ids in hand.
    gauge IDS_LEFT = "reel_idgen_ids_left", Count, "Ids in hand, over all keys.";
    /// Keys.
    gauge KEYS = "reel_idgen_keys", Count, "Keys served.";
    /// Time of a block.
    histogram TAKE_SECONDS = "reel_idgen_take_seconds", Micros,
        "Time in which the database made a block durable.";
    /// Failures of the database.
    counter DATABASE_ERRORS = "reel_idgen_database_errors_total", Count,
        "Blocks that the database did not give.";
}

/// Index of a kind of request in [`IdGenMetrics::REQUESTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    IdGet,
    IdBlock,
    Other,
}

/// Index of a result in [`IdGenMetrics::REQUESTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    Malformed,
    Refused,
    Exhausted,
    Failed,
}
