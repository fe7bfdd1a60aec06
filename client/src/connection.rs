//! One TCP connection that carries requests and replies of the binary protocol, with an end to every wait.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use reel_proto::{
    body::BodyError,
    command,
    frame::{self, HEADER_LEN, Header},
    limits,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::error::{ClientError, Refusal};

/// What became of a piece of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    All,
    /// The server has said something, or closed, before all of it was sent.
    PeerSpoke,
}

/// An open connection. After any error it is broken and must be dropped; after a whole reply it may go back to the pool.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    stall: Duration,
}

impl Connection {
    pub(crate) async fn open(
        address: SocketAddr,
        connect_timeout: Duration,
        stall: Duration,
    ) -> Result<Self, ClientError> {
        let failed =
            |source: io::Error| ClientError::Connect { address: address.to_string(), source };
        let stream = timeout(connect_timeout, TcpStream::connect(address))
            .await
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Ok(Self { stream, address, stall })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether the server has closed it, or sent what nobody asked for, while it lay idle.
    pub(crate) fn is_stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends all of it. Never vectored: `writev` raises SIGPIPE in a program that has not ignored it, `send` does not.
    pub(crate) async fn send(&mut self, mut bytes: &[u8]) -> Result<(), ClientError> {
        while !bytes.is_empty() {
            let sent = timeout(self.stall, self.stream.write(bytes))
                .await
                .map_err(|_| self.stalled())?
                .map_err(|source| self.broken(source))?;
            if sent == 0 {
                return Err(self.broken(io::ErrorKind::WriteZero.into()));
            }
            bytes = &bytes[sent..];
        }
        Ok(())
    }

    /// Sends a piece of an upload, unless the server speaks or closes first: then it sends no more of it.
    pub(crate) async fn send_piece(&mut self, mut bytes: &[u8]) -> Result<Sent, ClientError> {
        while !bytes.is_empty() {
            match self.stream.try_write(bytes) {
                Ok(0) => return Err(self.broken(io::ErrorKind::WriteZero.into())),
                Ok(sent) => bytes = &bytes[sent..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = async {
                        // An error of readiness shows again, with its reason, at the write that follows.
                        tokio::select! {
                            biased;
                            _ = self.stream.readable() => Sent::PeerSpoke,
                            _ = self.stream.writable() => Sent::All,
                        }
                    };
                    let ready = timeout(self.stall, ready).await.map_err(|_| self.stalled())?;
                    if ready == Sent::PeerSpoke {
                        return Ok(ready);
                    }
                }
                Err(source) => return Err(self.broken(source)),
            }
        }
        Ok(Sent::All)
    }

    /// Reads exactly this many bytes; `length` must have been checked against a limit.
    pub(crate) async fn read_exact(&mut self, length: usize) -> Result<BytesMut, ClientError> {
        let mut bytes = BytesMut::with_capacity(length);
        while bytes.len() < length {
            let left = length - bytes.len();
            self.read_some(&mut bytes, left).await?;
        }
        Ok(bytes)
    }

    /// Reads at least one and at most `max` bytes.
    pub(crate) async fn read_piece(&mut self, max: usize) -> Result<Bytes, ClientError> {
        let mut bytes = BytesMut::with_capacity(max);
        self.read_some(&mut bytes, max).await?;
        Ok(bytes.freeze())
    }

    async fn read_some(&mut self, bytes: &mut BytesMut, max: usize) -> Result<(), ClientError> {
        let mut limited = (&mut self.stream).take(max as u64);
        let read = match timeout(self.stall, limited.read_buf(bytes)).await {
            Err(_) => return Err(self.stalled()),
            Ok(Err(source)) => return Err(self.broken(source)),
            Ok(Ok(read)) => read,
        };
        if read == 0 {
            return Err(self.broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// Sends one request whose body is small.
    pub(crate) async fn request(&mut self, command: u8, body: &[u8]) -> Result<(), ClientError> {
        self.send_head(command, body, body.len() as u64).await
    }

    /// Sends a header for a body of `length` bytes, and the beginning of that body with it in one packet.
    pub(crate) async fn send_head(
        &mut self,
        command: u8,
        beginning: &[u8],
        length: u64,
    ) -> Result<(), ClientError> {
        let header = Header::request(command, length);
        let mut bytes = Vec::with_capacity(HEADER_LEN + beginning.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(beginning);
        self.send(&bytes).await
    }

    /// Reads the header of a reply: the length of a body that is still to be read, or the error that it carries.
    pub(crate) async fn reply_head(&mut self, expected: u8) -> Result<u64, ClientError> {
        let bytes = self.read_exact(HEADER_LEN).await?;
        let mut head = [0; HEADER_LEN];
        head.copy_from_slice(&bytes);
        let header = Header::decode(&head).map_err(|error| self.protocol(error.to_string()))?;
        if header.command != expected {
            return Err(self.protocol(format!("a reply of kind {}", header.command)));
        }
        if !header.is_error() {
            return Ok(header.length);
        }
        if header.length > limits::ERROR_BODY_BYTES_MAX {
            return Err(self.protocol(format!("an error of {} bytes", header.length)));
        }
        let body = self.read_exact(header.length as usize).await?;
        let remote = frame::decode_error(&body);
        Err(ClientError::Refused {
            address: self.address,
            reason: Refusal::of(remote.number),
            text: remote.text,
        })
    }

    /// Why sending failed: the refusal that the server sent before it closed, else the failure itself.
    pub(crate) async fn reason_of(&mut self, failure: ClientError) -> ClientError {
        match self.reply_head(command::REPLY_STORAGE).await {
            Err(refused @ ClientError::Refused { .. }) => refused,
            _ => failure,
        }
    }

    /// Reads a whole small reply.
    pub(crate) async fn reply(&mut self, expected: u8, max: usize) -> Result<Bytes, ClientError> {
        let length = self.reply_head(expected).await?;
        if length > max as u64 {
            return Err(self.protocol(format!("a reply of {length} bytes, at most {max} expected")));
        }
        Ok(self.read_exact(length as usize).await?.freeze())
    }

    /// The value of a reply's body, or that it is none.
    pub(crate) fn decoded<T>(&self, value: Result<T, BodyError>) -> Result<T, ClientError> {
        value.map_err(|error| self.protocol(error.to_string()))
    }

    pub(crate) fn protocol(&self, what: String) -> ClientError {
        ClientError::Protocol { address: self.address, what }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Broken { address: self.address, source }
    }

    fn stalled(&self) -> ClientError {
        ClientError::Stalled { address: self.address, waited: self.stall }
    }
}
