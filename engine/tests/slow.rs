//! Peers that send or read too slowly: they run into a deadline, others are unharmed, and every budget comes back.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use reel_node::config::HumanTime;
use support::{Engine, PATIENCE, content, upload_frame};

fn quick() -> Engine {
    Engine::start_with(|config| config.progress = HumanTime(Duration::from_millis(500)), &[])
}

/// Sends a byte now and then until the engine has enough.
fn trickle(mut stream: TcpStream) {
    let until = Instant::now() + PATIENCE;
    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 1024];
    loop {
        assert!(Instant::now() < until, "a trickle was never ended");
        if stream.write_all(b"x").is_err() {
            return;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return,
            Ok(_) | Err(_) => {}
        }
    }
}

fn assert_settled(engine: &Engine) {
    let until = Instant::now() + PATIENCE;
    let levels = || {
        [
            engine.metric(r#"reel_engine_requests_in_flight{role="engine"}"#),
            engine.metric(r#"reel_engine_buffered_bytes{role="engine"}"#),
        ]
    };
    while levels() != [0.0, 0.0] {
        assert!(Instant::now() < until, "budgets are still taken: {:?}", levels());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn uploads_that_trickle_are_ended_and_leave_nothing() {
    let engine = quick();
    let mut binary = TcpStream::connect(engine.binary).unwrap();
    binary.write_all(&upload_frame("slow", &content(3 << 20))[..1000]).unwrap();
    let mut http = TcpStream::connect(engine.http).unwrap();
    let head = "PUT /files/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n";
    http.write_all(head.as_bytes()).unwrap();
    let slow = [binary, http].map(|stream| std::thread::spawn(move || trickle(stream)));
    // Others go on meanwhile.
    let mut client = engine.client();
    for index in 0..20 {
        client.upload(&format!("f{index}"), b"hello").ok();
    }
    for trickle in slow {
        trickle.join().unwrap();
    }
    assert_settled(&engine);
    engine.assert_files(20);
    client.upload("slow", b"hello").ok();
}

#[test]
fn readers_that_stop_are_ended() {
    for off in [&[][..], &["cachestat", "nowait_read"][..]] {
        let engine = Engine::start_with(
            |config| config.progress = HumanTime(Duration::from_millis(500)),
            off,
        );
        let bytes = content(32 << 20);
        engine.client().upload("f", &bytes).ok();
        let mut stopped = Vec::new();
        for _ in 0..8 {
            let mut stream = TcpStream::connect(engine.http).unwrap();
            stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            stopped.push(stream);
            let mut client = engine.client();
            let mut body = support::file_bytes("f");
            body.extend_from_slice(&[0; 16]);
            client.send(&reel_proto::frame::encode(reel_proto::command::DOWNLOAD, &body));
            stopped.push(client.stream);
        }
        assert!(engine.client().download("f", 5, 10).ok() == bytes[5..15]);
        assert_settled(&engine);
        drop(stopped);
    }
}

/// A drain lets what is in flight end, refuses what is new, and ends with every budget free.
#[test]
fn a_drain_lets_a_download_end() {
    let engine = Engine::start();
    let bytes = content(24 << 20);
    engine.client().upload("f", &bytes).ok();
    let mut stream = TcpStream::connect(engine.http).unwrap();
    stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 1000];
    stream.read_exact(&mut first).unwrap();
    let reader = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        let mut all = first.to_vec();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    // Drains and joins.
    drop(engine);
    let all = reader.join().unwrap();
    assert!(all.ends_with(&bytes[bytes.len() - 1000..]));
    assert!(all.len() > bytes.len());
}
