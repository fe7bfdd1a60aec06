//! What every Reel server shares: data threads and rings, listeners, the control thread,
//! configuration, logs, metrics, admin HTTP, drain.

pub mod access;
pub mod admin;
pub mod caller;
pub mod capability;
pub mod config;
pub mod connection;
pub mod drain;
pub mod frame_server;
pub mod http;
pub mod listen;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod notify;
pub mod pooled;
pub mod ring;
pub mod signed;
pub mod spare;
pub mod system;
pub mod worker;

mod accept;
mod control;
mod nonblocking;
mod role;
mod spec;
mod start;
mod thread;

pub use connection::Accepted;
pub use drain::Drain;
pub use listen::{ListenAddress, ListenError, ListenSpec};
pub use ring::Driver;
pub use role::{
    Act, ActError, ControlContext, Process, Role, RoleSpec, Service, ServiceError, ThreadContext,
};
pub use spec::Listener;
pub use start::{Readiness, RunError, Running, StartError, start};
pub use thread::yield_turn;
