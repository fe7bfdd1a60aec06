//! HTTP/1.1 over monoio: the drivers around `reel_proto::http`, and the socket calls below them.
//!
//! Everything here works on non-blocking sockets with plain system calls and waits by polling
//! (POLL_ADD on io_uring, epoll on the other driver). That is measured to be the cheapest way to
//! serve files (sendfile has no ring operation), it keeps an idle connection free of buffers, and
//! no buffer ever belongs to the ring: a future that is dropped leaves nothing behind.

mod body;
mod date;
mod limits;
pub mod media;
mod pace;
mod server;
pub mod socket;
pub mod splice;
mod upstream;
mod upstream_conn;

pub use body::BodyError;
pub use limits::HttpLimits;
pub use pace::{Meter, Pace};
pub use server::{PLAIN_TEXT, ServerConn};
pub use upstream::{PoolLimits, UpstreamError, UpstreamPool};
pub use upstream_conn::UpstreamConn;
