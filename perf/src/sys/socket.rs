//! Receiving without copying: the kernel drops the bytes, so that a generator costs little where a server sends much.

use std::{io, net::TcpStream, os::fd::AsRawFd};

/// Takes up to `length` bytes from the socket and drops them in the kernel (tcp(7), MSG_TRUNC). 0: the peer closed.
pub(crate) fn discard(stream: &TcpStream, length: u64) -> io::Result<u64> {
    // The kernel reads a length beyond 2^31 as 2^31 - 4096; less is as good here.
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(1 << 30);
    let fd = stream.as_raw_fd();
    // SAFETY: with MSG_TRUNC a TCP socket writes nothing to the buffer, so a null one is legal (tcp(7)).
    let got = unsafe { libc::recv(fd, std::ptr::null_mut(), length, libc::MSG_TRUNC) };
    if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got.unsigned_abs() as u64) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
    };

    use super::*;

    #[test]
    fn what_is_discarded_is_counted_and_the_rest_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        sender.write_all(b"0123456789").unwrap();
        drop(sender);
        let mut dropped = 0;
        while dropped < 7 {
            dropped += discard(&receiver, 7 - dropped).unwrap();
        }
        let mut rest = String::new();
        receiver.read_to_string(&mut rest).unwrap();
        assert_eq!((dropped, rest.as_str()), (7, "789"));
        assert_eq!(discard(&receiver, 1).unwrap(), 0);
    }
}
