//! The HTTP edge: finds the storage nodes of a file through the trackers, and passes requests on
//! to one of them without copying their bodies, or sends the client there.
//!
//! Invariant: nothing of a file is ever stored here; a body is in flight or nowhere.
//!
//! Invariant: an answer that has begun is one file's. Where its node dies another one goes on at
//! the byte where it stopped, under the same strong ETag, or the client's connection is closed.

mod announce;
mod config;
mod continuation;
mod edge;
mod forward;
mod handler;
mod health;
mod locations;
mod metrics;
mod proxy;
mod service;
mod status;
mod trackers;
mod upload;

pub use config::{Config, Mode};
pub use service::{GatewayError, check, start};
