//! SIGTERM and SIGINT drain, a second one ends at once. In child processes: this test program
//! started again with a variable that makes it the server.

#![allow(clippy::unwrap_used)]

mod kit;

use std::io::{BufRead, BufReader, Lines};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use kit::{Client, ECHO, HOLD, Setup, request};

const SERVER: &str = "REEL_TEST_SIGNAL_SERVER";

struct Server {
    child: Child,
    address: SocketAddr,
    /// Kept open: the child's test harness writes to it at the end.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server", "--nocapture"])
            .env(SERVER, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = output
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("listens on ").map(|(_, at)| at.parse().unwrap()));
        Self { child, address: address.unwrap(), _output: output }
    }

    fn signal(&self, signal: libc::c_int) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: sends a signal to our own child, which has not been waited for.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

/// Not a test of its own: the child's part.
#[test]
fn server() {
    if std::env::var_os(SERVER).is_none() {
        return;
    }
    let drain = reel_node::drain::on_signals().unwrap();
    let mut toy = Setup::default().start();
    println!("listens on {}", toy.address);
    drain.wait_blocking();
    toy.running.drain();
    toy.running.join().unwrap();
    toy.gate = None;
}

#[test]
fn the_first_signal_drains_and_exits_clean() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut server = Server::start();
        let mut client = Client::connect(server.address);
        assert_eq!(client.call(ECHO, b"x").ok(), b"x");
        server.signal(signal);
        assert!(client.is_closed());
        assert_eq!(server.exit_code(), Some(0));
    }
}

#[test]
fn the_second_signal_does_not_wait() {
    let mut server = Server::start();
    let (mut held, mut idle) = (Client::connect(server.address), Client::connect(server.address));
    held.send(&request(HOLD, b""));
    assert_eq!(idle.call(ECHO, b"x").ok(), b"x");
    server.signal(libc::SIGTERM);
    // The drain has begun, and the held request keeps it from ending.
    assert!(idle.is_closed());
    server.signal(libc::SIGTERM);
    assert_eq!(server.exit_code(), Some(143));
}
