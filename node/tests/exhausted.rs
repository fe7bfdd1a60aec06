//! No descriptors left: connections wait in the backlog, those that are open are served, and all
//! goes on once there are descriptors again. In a process of its own, as the limit is one.

#![allow(clippy::unwrap_used)]

mod kit;

use std::net::TcpStream;
use std::time::Duration;

use kit::{Client, ECHO, Setup};
use socket2::{Domain, Socket, Type};

fn set_descriptor_limit(soft: libc::rlim_t) -> libc::rlim_t {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives across the call, which fills it.
    assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) }, 0);
    let old = std::mem::replace(&mut limit.rlim_cur, soft);
    // SAFETY: the structure lives across the call, which reads it.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) }, 0);
    old
}

fn lowest_free_descriptor() -> libc::rlim_t {
    use std::os::fd::AsRawFd;
    let probe = std::fs::File::open("/dev/null").unwrap();
    libc::rlim_t::try_from(probe.as_raw_fd()).unwrap()
}

#[test]
fn want_of_descriptors_is_survived() {
    for off in kit::drivers() {
        let toy = Setup { threads: 1, ..Setup::on(&off) }.start();
        // The client's descriptors come out of the same limit: they are made before.
        let sockets: Vec<_> =
            (0..20).map(|_| Socket::new(Domain::IPV4, Type::STREAM, None).unwrap()).collect();
        let mut open = toy.client();
        assert_eq!(open.call(ECHO, b"x").ok(), b"x");
        let old = set_descriptor_limit(lowest_free_descriptor() + 3);
        let mut clients: Vec<Client> = Vec::new();
        for socket in sockets {
            socket.connect(&toy.address.into()).unwrap();
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            clients.push(Client { stream });
        }
        while toy.metric("reel_accept_errors_total") == 0 {
            assert_eq!(open.call(ECHO, b"served").ok(), b"served");
        }
        // Three of them had a descriptor; as they go, the next come in.
        for mut client in clients.drain(..10) {
            assert_eq!(client.call(ECHO, b"one by one").ok(), b"one by one");
        }
        set_descriptor_limit(old);
        for client in &mut clients {
            assert_eq!(client.call(ECHO, b"all").ok(), b"all");
        }
        toy.stop();
    }
}
