//! The HTTP edge: finds the storage nodes of a file through the trackers, and passes requests on
//! to one of them without copying their bodies, or sends the client there.
//!
//! Invariant: nothing of a file is ever stored here; a body is in flight or nowhere.
//!
//! Invariant: an answer that has begun is one node's answer. Whatever is tried again is tried
//! before its first byte.

mod announce;
mod config;
mod edge;
mod forward;
mod handler;
mod locations;
mod metrics;
mod proxy;
mod service;
mod status;
mod trackers;
mod upload;

pub use config::{Config, Mode};
pub use service::{GatewayError, check, start};
