//! The tracker: which storage nodes and gateways are there, and which group serves a user.
//!
//! - [`registry`] is the picture of the nodes, without IO: joins, beats, silence.
//! - [`snapshot`] is what data threads read of it, replaced whole, never changed.
//! - [`routes`] is a thread's bounded memory of users' groups; `database` asks the store for the
//!   others, on a thread of its own; `owners` asks whose a file is.
//! - `service` speaks the wire protocol.
//!
//! Invariant: trackers do not talk to each other. Every node joins and beats to each of them.
//! Invariant: nothing of the registry is stored. A tracker that restarts refuses beats, and a node
//! whose beat is refused joins again at once, so the picture is whole within one beat interval.
//! Invariant: a data thread waits for the database only for a user it does not remember.

mod config;
mod database;
mod metrics;
mod owners;
mod picture;
pub mod random;
pub mod registry;
pub mod routes;
mod service;
pub mod snapshot;
mod start;
mod zone;

pub use config::{Config, ConfigFault};
pub use metrics::TrackerMetrics;
pub use start::{Error, start};
