//! The few socket operations that a caller needs, on either runtime.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::socket;
use crate::nonblocking;

/// A runtime's sockets and timers.
pub trait Wire: Send + Sync + 'static {
    /// A connected socket.
    type Stream: std::fmt::Debug + 'static;

    /// Connects, with NODELAY.
    fn connect(address: SocketAddr) -> impl Future<Output = io::Result<Self::Stream>>;

    /// Sends all of `bytes`.
    fn send(stream: &mut Self::Stream, bytes: &[u8]) -> impl Future<Output = io::Result<()>>;

    /// Receives 1 to `into.len()` bytes; 0 at the end.
    fn receive(
        stream: &mut Self::Stream,
        into: &mut [u8],
    ) -> impl Future<Output = io::Result<usize>>;

    /// Runs `work` for at most `limit`.
    fn within<F: Future>(limit: Duration, work: F) -> impl Future<Output = Option<F::Output>>;
}

/// monoio, on data threads.
#[derive(Clone, Copy, Debug)]
pub struct Monoio;

impl Wire for Monoio {
    type Stream = monoio::net::TcpStream;

    async fn connect(address: SocketAddr) -> io::Result<Self::Stream> {
        let stream = monoio::net::TcpStream::connect_addr(address).await?;
        socket::prepare(&stream)?;
        Ok(stream)
    }

    async fn send(stream: &mut Self::Stream, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match nonblocking::send(stream, bytes, false) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    stream.writable(false).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn receive(stream: &mut Self::Stream, into: &mut [u8]) -> io::Result<usize> {
        loop {
            // The answer is never there yet: wait first.
            stream.readable(false).await?;
            match nonblocking::recv(stream, into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
        monoio::time::timeout(limit, work).await.ok()
    }
}

/// tokio, on control threads.
#[derive(Clone, Copy, Debug)]
pub struct Tokio;

impl Wire for Tokio {
    type Stream = tokio::net::TcpStream;

    async fn connect(address: SocketAddr) -> io::Result<Self::Stream> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn send(stream: &mut Self::Stream, bytes: &[u8]) -> io::Result<()> {
        stream.write_all(bytes).await
    }

    async fn receive(stream: &mut Self::Stream, into: &mut [u8]) -> io::Result<usize> {
        stream.read(into).await
    }

    async fn within<F: Future>(limit: Duration, work: F) -> Option<F::Output> {
        tokio::time::timeout(limit, work).await.ok()
    }
}
