//! Real sockets on both drivers, for the tests of `reel_node::http`.
#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// Runs a test body on monoio's io_uring driver (where the kernel grants it) and on epoll.
pub fn on_both_drivers<F: Future<Output = ()>>(body: impl Fn() -> F) {
    let uring = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().enable_timer().build();
    match uring {
        Ok(mut runtime) => runtime.block_on(body()),
        Err(error) => eprintln!("io_uring is refused here ({error}): epoll only"),
    }
    monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
        .enable_timer()
        .build()
        .expect("epoll")
        .block_on(body());
}

/// A connected pair: ours on monoio, prepared, and the peer's as a plain blocking socket.
pub fn pair() -> (monoio::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let peer = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    peer.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
    peer.set_write_timeout(Some(Duration::from_secs(20))).expect("timeout");
    let (near, _) = listener.accept().expect("accept");
    near.set_nonblocking(true).expect("non-blocking");
    let near = monoio::net::TcpStream::from_std(near).expect("monoio");
    reel_node::http::socket::prepare(&near).expect("prepare");
    (near, peer)
}

/// Closes a socket of ours now: on io_uring the close is an operation that needs a turn of the ring,
/// which a test that joins a thread next would not give it.
pub async fn close(stream: monoio::net::TcpStream) {
    drop(stream);
    monoio::time::sleep(Duration::from_millis(5)).await;
}

/// Bytes in which every position tells itself apart from its neighbours.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// An address where nobody listens.
pub fn closed_port() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address")
}
