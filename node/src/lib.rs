//! What every Reel server shares: data threads and rings, listeners, the control thread,
//! configuration, logs, metrics, admin HTTP, drain.

pub mod access;
pub mod admin;
pub mod config;
pub mod http;
pub mod log;
pub mod metrics;
pub mod notify;
