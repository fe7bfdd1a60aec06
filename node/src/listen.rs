//! Listeners: one socket for each data thread on the same address, bound before any thread
//! starts, so that a port in use is an error of the start and not of a thread.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};

use crate::access::AllowList;

/// Connections that the kernel completes before we accept them, for each socket. The kernel caps
/// it at `net.core.somaxconn` (4096 since 5.4).
const BACKLOG: i32 = 4096;

/// How long a port in use is asked for again. The kernel takes the rings of a killed process apart
/// after its end has been reported, and they hold its listeners: a restart would come too early.
const PREDECESSOR_GRACE: Duration = Duration::from_secs(1);

/// Pause between two tries.
const PREDECESSOR_PAUSE: Duration = Duration::from_millis(20);

/// One address that a role listens on.
#[derive(Clone, Debug)]
pub struct ListenSpec {
    /// Its configuration key, as in `engine.listen`: what errors and `/status` call it.
    pub name: &'static str,
    /// Where; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Who may connect. Others are closed without a word.
    pub allow: AllowList,
    /// Sent before closing a connection beyond the limit: an error frame, a 503. May be empty.
    pub refusal: Bytes,
}

/// An address that a role listens on, with its port known.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ListenAddress {
    /// Name of the [`ListenSpec`].
    pub name: &'static str,
    /// The bound address.
    pub addr: SocketAddr,
}

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("{name}: cannot listen on {addr}: {source}")]
pub struct ListenError {
    /// Name of the listener.
    pub name: &'static str,
    /// The address asked for.
    pub addr: SocketAddr,
    /// What the system said; `AddrInUse` when another process has the port.
    pub source: io::Error,
}

/// The sockets of one listener, one for each data thread.
pub(crate) struct Bound {
    pub(crate) address: ListenAddress,
    pub(crate) sockets: Vec<TcpListener>,
}

/// Binds `count` sockets (at least one) that share an address and listen.
///
/// The first is bound without SO_REUSEPORT, so that another process of the same user on the same
/// port is found, and joins the group of the others after that, before it listens. Blocks up to
/// [`PREDECESSOR_GRACE`] before it says that the port is in use.
pub(crate) fn bind(
    name: &'static str,
    addr: SocketAddr,
    count: usize,
) -> Result<Bound, ListenError> {
    let failed = |source| ListenError { name, addr, source };
    let first = socket(addr).map_err(failed)?;
    bind_patiently(&first, addr).map_err(failed)?;
    let bound = first
        .local_addr()
        .and_then(|bound| bound.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into()))
        .map_err(failed)?;
    first.set_reuse_port(true).map_err(failed)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let next = socket(addr).map_err(failed)?;
        next.set_reuse_port(true).map_err(failed)?;
        next.bind(&bound.into()).map_err(failed)?;
        sockets.push(next);
    }
    // Listening last: a connection hashed to a socket that never listens would be refused.
    for socket in &sockets {
        socket.listen(BACKLOG).map_err(failed)?;
    }
    let sockets = sockets.into_iter().map(TcpListener::from).collect();
    Ok(Bound { address: ListenAddress { name, addr: bound }, sockets })
}

fn bind_patiently(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match socket.bind(&addr.into()) {
            Err(error)
                if error.kind() == ErrorKind::AddrInUse && began.elapsed() < PREDECESSOR_GRACE =>
            {
                thread::sleep(PREDECESSOR_PAUSE);
            }
            result => return result,
        }
    }
}

/// A stream socket, non-blocking and close-on-exec, whose accepted sockets inherit NODELAY.
fn socket(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // `[::]` and `0.0.0.0` are configured apart; a dual-stack socket would take both.
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for the connections of the last run to leave TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::ErrorKind;
    use std::net::{SocketAddr, TcpStream};
    use std::time::Duration;

    use super::bind;

    #[test]
    fn all_sockets_share_one_port_and_each_gets_connections() {
        let bound = bind("test.listen", "127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(bound.address.addr.port(), 0);
        let mut peers = Vec::new();
        let mut accepted = [0; 3];
        // Which socket a connection lands on is a hash of its addresses: among 200, each.
        for _ in 0..200 {
            peers.push(TcpStream::connect(bound.address.addr).unwrap());
            for (socket, count) in bound.sockets.iter().zip(&mut accepted) {
                while socket.accept().is_ok() {
                    *count += 1;
                }
            }
        }
        assert_eq!(accepted.iter().sum::<usize>(), 200);
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[test]
    fn a_port_in_use_is_found_even_when_the_holder_shares_ports() {
        for holder in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let holder: SocketAddr = holder.parse().unwrap();
            let first = bind("first", holder, 2).unwrap();
            let error = bind("second", first.address.addr, 2).map(|_| ()).unwrap_err();
            assert_eq!(error.source.kind(), ErrorKind::AddrInUse);
            let text = error.to_string();
            assert!(text.contains("second") && text.contains(&first.address.addr.to_string()));
            drop(first);
            bind("second", error.addr, 2).unwrap();
        }
    }

    #[test]
    fn a_predecessor_that_is_still_going_is_waited_for() {
        let first = bind("first", "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let addr = first.address.addr;
        let going = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(first);
        });
        bind("second", addr, 2).unwrap();
        going.join().unwrap();
    }
}
