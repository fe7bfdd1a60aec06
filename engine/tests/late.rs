//! A disk that does not answer: who waits for it is told so in time, and what was told is true when it answers again.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "kit/disk.rs"]
#[allow(dead_code, unreachable_pub)]
mod disk;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use disk::{Disk, Frozen, skipped};
use reel_node::config::HumanTime;
use support::{Engine, PATIENCE, content};

/// Sends a request and reads the answer to its end.
fn ask(address: SocketAddr, method: &str, target: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    // A refusal in the middle of the body may end the connection while it is still being sent.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.get(9..12).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("{method} {target}: {read:?} {text}")), text)
}

#[test]
fn whoever_waits_for_a_disk_that_does_not_answer_is_told_in_time() {
    if skipped("a hung disk") {
        return;
    }
    let mut disk = Disk::new("ext4", 256);
    let quick = |config: &mut reel_engine::Config| {
        config.store_timeout = HumanTime(Duration::from_millis(500));
    };
    let engine = Engine::start_on(Some(&disk.mount), quick, &[]);
    let large = content(24 << 20);
    let ask = |method: &str, target: &str, body: &[u8]| ask(engine.http, method, target, body);
    assert_eq!(ask("PUT", "/files/there", b"content").0, 201);
    // The journal has it durable by then, but the file's place is settled behind the reply.
    std::thread::sleep(Duration::from_millis(500));
    let frozen = Frozen::new(&disk.mount);
    for (method, target, body) in [
        ("PUT", "/files/small", &b"small"[..]),
        ("PUT", "/files/large", &large),
        ("DELETE", "/files/there", b""),
    ] {
        let (status, text) = ask(method, target, body);
        assert_eq!(status, 503, "{method} {target}: {text}");
        assert!(text.contains("Retry-After"), "{text}");
    }
    let refused = engine.client().upload("binary", &content(3 << 20));
    let (_, text) = refused.error();
    assert!(text.contains("does not answer") || text.contains("hung"), "{text}");
    drop(frozen);
    // What was asked for again is there, whatever became of it before.
    let again = |method: &str, target: &str, body: &[u8], wanted: &[u16]| {
        let begin = Instant::now();
        loop {
            let (status, text) = ask(method, target, body);
            if wanted.contains(&status) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{method} {target}: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    again("PUT", "/files/small", b"small", &[200, 201]);
    again("PUT", "/files/large", &large, &[200, 201]);
    again("DELETE", "/files/there", b"", &[204, 404]);
    assert_eq!(ask("GET", "/files/there", b"").0, 404);
    assert!(engine.client().download("large", 0, 0).ok() == large);
    drop(engine);
    disk.unmount();
}
