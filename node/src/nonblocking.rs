//! System calls on a non-blocking socket that monoio owns.
//!
//! Sockets are driven by readiness: the ring (or epoll) says when, the call itself moves the
//! bytes. Nothing is in flight while a task waits, so a wait can be dropped without losing bytes
//! or leaking an accepted descriptor, an idle connection holds no buffer, and borrowed slices are
//! fine. It costs one system call more than a RECV on the ring when nothing has arrived yet.

use std::io::{self, IoSlice, Read};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

use monoio::net::{TcpListener, TcpStream};
use socket2::{SockRef, Socket};

/// Borrows the descriptor of a monoio socket, which has no `AsFd` of its own.
fn descriptor<S: AsRawFd>(socket: &S) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `socket`, which owns it, is borrowed.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Receives what is there. 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock` when nothing is there; else the socket's error.
pub(crate) fn recv(stream: &TcpStream, into: &mut [u8]) -> io::Result<usize> {
    let descriptor = descriptor(stream);
    loop {
        match (&*SockRef::from(&descriptor)).read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Sends what fits into the socket's buffer; `more` holds back a last part packet (MSG_MORE).
/// Never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the buffer is full; else the socket's error.
pub(crate) fn send(stream: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
    let descriptor = descriptor(stream);
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    loop {
        match SockRef::from(&descriptor).send_with_flags(bytes, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// As [`send`], with `head` in front of `bytes`: they leave in one call.
///
/// # Errors
/// As [`send`].
pub(crate) fn send_both(
    stream: &TcpStream,
    head: &[u8],
    bytes: &[u8],
    more: bool,
) -> io::Result<usize> {
    let descriptor = descriptor(stream);
    let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    let slices = [IoSlice::new(head), IoSlice::new(bytes)];
    loop {
        match SockRef::from(&descriptor).send_vectored_with_flags(&slices, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Shuts down one or both directions, which also wakes whatever waits on the socket. A socket
/// that the peer has already reset is as good as shut.
pub(crate) fn shutdown(socket: BorrowedFd<'_>, how: Shutdown) {
    let _ = SockRef::from(&socket).shutdown(how);
}

/// Whether a receive would give something now: bytes, the end, or an error.
pub(crate) fn has_input(socket: BorrowedFd<'_>) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    match SockRef::from(&socket).recv_with_flags(&mut byte, flags) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Accepts one connection, non-blocking and close-on-exec from the first moment.
///
/// # Errors
/// `WouldBlock` when there is none; else the socket's error.
pub(crate) fn accept(listener: &TcpListener) -> io::Result<(Socket, Option<SocketAddr>)> {
    let descriptor = descriptor(listener);
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let (socket, peer) = SockRef::from(&descriptor).accept4(flags)?;
    Ok((socket, peer.as_socket()))
}

/// Ends listening at once. Closing alone does not: a poll that is being cancelled on the ring
/// holds the socket for a while, and with it the port.
pub(crate) fn stop_listening(listener: &TcpListener) {
    shutdown(descriptor(listener), Shutdown::Both);
}
