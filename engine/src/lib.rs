//! The storage engine: the node that holds files on plain disks, takes uploads of them and serves byte ranges.
//!
//! Two halves meet in `store::Stores`: the store side decides where a file lies, when it is durable and what its row
//! says; the serving side speaks the binary protocol and the media HTTP on the data threads and caches what it reads.

// --- the serving side
mod acts;
mod admission;
mod binary;
mod cache;
mod config;
mod control;
mod drain;
mod media;
mod metrics;
mod peers;
mod read;
mod service;
mod thread;

// --- the store side
pub mod adopt;
mod epochs;
pub mod groups;
pub mod housekeeping;
pub mod ids;
pub mod journal;
pub mod layout;
pub mod metadata;
pub mod probe;
pub mod rebuild;
pub mod record;
mod repair;
pub mod store;
pub mod sweep;
mod throttle;
pub mod verify;

pub use config::{Config, ConfigFault, StorePath};
pub use service::{Setup, StartError, start};
