//! The ID node: one sequence of path ids for each key, and never an id twice.
//!
//! A block of ids is durable in the database before its first id goes out. What is left of a block
//! when the node stops is thrown away; ids are plentiful (512^4 for each key), mistakes are not.
//!
//! - [`sequence`] is the block in hand: atomics that all data threads draw from, without IO.
//! - [`pace`] decides how large the next block is.
//! - `database` is the thread that owns the connection and brings blocks ahead of need.
//! - `service` speaks the wire protocol.
//!
//! Invariant: only `database` makes blocks, and only from ranges that the store has made durable.
//! Invariant: a data thread never waits for the database while a block is in hand.

mod config;
mod database;
mod keys;
mod metrics;
pub mod pace;
pub mod sequence;
mod service;
mod start;

pub use config::{Config, ConfigFault};
pub use metrics::IdGenMetrics;
pub use start::{Error, start};
