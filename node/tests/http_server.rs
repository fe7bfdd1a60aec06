//! The HTTP driver over real sockets, on both drivers of the runtime.
#![allow(clippy::unwrap_used)]

mod http_support;
#[path = "http_support/toy.rs"]
mod toy;

use std::time::{Duration, Instant};

use http_support::pattern;
use reel_node::http::{HttpLimits, Pace};
use toy::{Client, FILE_BYTES, Server, drivers, limits};

fn on_each(limits: &HttpLimits, test: impl Fn(&Server)) {
    for off in drivers() {
        test(&Server::start(&off, limits.clone()));
    }
}

fn sum_of(content: &[u8]) -> String {
    let sum: u64 = content.iter().map(|byte| u64::from(*byte)).sum();
    format!("{} {sum}", content.len())
}

fn put(path: &str, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    [head.as_bytes(), content].concat()
}

fn put_chunked(path: &str, content: &[u8], chunk: usize) -> Vec<u8> {
    let head = format!("PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut bytes = head.into_bytes();
    for piece in content.chunks(chunk) {
        bytes.extend_from_slice(format!("{:x};a=b\r\n", piece.len()).as_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\nTrailer: dropped\r\n\r\n");
    bytes
}

#[test]
fn content_arrives_whole_from_memory_and_from_a_file() {
    on_each(&limits(), |server| {
        let mut client = server.client();
        let answer = client.get("/bytes/123456");
        assert_eq!((answer.status, answer.body == pattern(123_456)), (200, true));
        assert!(answer.field("date").is_some() && answer.field("connection").is_none());
        let answer = client.get("/file/1000");
        assert_eq!((answer.status, answer.body == pattern(FILE_BYTES)[1000..]), (206, true));
        assert_eq!(client.get("/bytes/0").body, b"");
        assert_eq!(client.get("/path/kept").text(), "/path/kept");
    });
}

#[test]
fn bodies_arrive_whole_in_bounded_pieces() {
    on_each(&HttpLimits { piece_bytes_max: 30_000, ..limits() }, |server| {
        let mut client = server.client();
        let content = pattern(1_000_003);
        for request in [
            put("/sum", &content),
            put_chunked("/sum", &content, 70_001),
            put_chunked("/sum", &content[..3000], 1),
        ] {
            let sent = if request.len() > 200_000 { &content[..] } else { &content[..3000] };
            client.send(&request);
            assert_eq!(client.answer(false).unwrap().text(), sum_of(sent));
        }
        client.send(put("/sum", b""));
        assert_eq!(client.answer(false).unwrap().text(), "0 0");
    });
}

/// A conversation of every kind of request, and what must come back.
fn conversation() -> (Vec<u8>, Vec<(bool, String)>) {
    let content = pattern(40);
    let parts: Vec<(Vec<u8>, bool, String)> = vec![
        (b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), false, "/a".into()),
        (put("/sum", &content), false, sum_of(&content)),
        (put_chunked("/sum", &content, 7), false, sum_of(&content)),
        (b"\r\nHEAD /bytes/9 HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), true, String::new()),
        (put("/refuse", b"unread"), false, "no\n".into()),
        (b"GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".to_vec(), false, "/b".into()),
    ];
    let bytes = parts.iter().flat_map(|part| part.0.clone()).collect();
    (bytes, parts.into_iter().map(|part| (part.1, part.2)).collect())
}

fn check_conversation(mut client: Client, expected: &[(bool, String)]) {
    for (to_head, text) in expected {
        let answer = client.answer(*to_head).expect("an answer");
        assert_eq!(&answer.text(), text);
    }
    assert!(client.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_are_split() {
    let (bytes, expected) = conversation();
    on_each(&limits(), |server| {
        let mut client = server.client();
        client.send(&bytes);
        check_conversation(client, &expected);
        for at in 1..bytes.len() {
            let mut client = server.client();
            client.send(&bytes[..at]);
            std::thread::sleep(Duration::from_micros(300));
            client.send(&bytes[at..]);
            check_conversation(client, &expected);
        }
        let mut client = server.client();
        for byte in &bytes {
            client.send([*byte]);
        }
        check_conversation(client, &expected);
    });
}

#[test]
fn what_could_be_read_in_two_ways_is_refused_and_nothing_after_it_is_read() {
    let cases: &[(&str, u16)] = &[
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 5, 5\r\n\r\n", 400),
        (
            "PUT /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 400),
        ("PUT /sum HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5 5\r\n", 400),
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello", 400),
        ("PUT /sum HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!", 400),
        ("GET / HTTP/1.1\nHost: x\n\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: x\r\nExpect: else\r\n\r\n", 417),
        ("GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("\x16\x03\x01\x02", 400),
    ];
    on_each(&limits(), |server| {
        for (bytes, status) in cases {
            let mut client = server.client();
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
            client.send(format!("{bytes}{smuggled}"));
            let answer = client.answer(false).expect(bytes);
            assert_eq!(answer.status, *status, "{bytes:?}: {}", answer.text());
            assert_eq!(answer.field("connection"), Some("close"), "{bytes:?}");
            assert!(client.is_closed(), "{bytes:?}");
        }
    });
}

#[test]
fn heads_past_the_limits_are_refused() {
    on_each(&limits(), |server| {
        let long = "a".repeat(1 << 20);
        let fields: String = (0..3000).map(|at| format!("X-{at}: {at}\r\n")).collect();
        for (bytes, status) in [
            (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 414),
            (format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"), 431),
            (format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n"), 431),
        ] {
            let mut client = server.client();
            // The peer may stop reading before all of it is sent.
            let _ = std::io::Write::write_all(&mut client.stream, bytes.as_bytes());
            assert_eq!(client.answer(false).expect("an answer").status, status);
            assert!(client.is_closed());
        }
    });
}

#[test]
fn slow_peers_run_into_deadlines_and_others_do_not_wait() {
    let limits = HttpLimits {
        idle: Duration::from_millis(600),
        head: Duration::from_millis(600),
        body: Pace { window: Duration::from_millis(600), bytes_min: 100 },
        ..limits()
    };
    on_each(&limits, |server| {
        let mut idle = server.client();
        let mut never = server.client();
        assert_eq!(idle.get("/x").status, 200);
        let mut trickles: Vec<_> =
            ["GET / HT", "PUT /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"]
                .into_iter()
                .map(|start| {
                    let mut client = server.client();
                    client.send(start);
                    client
                })
                .collect();
        let started = Instant::now();
        let mut other = server.client();
        while started.elapsed() < Duration::from_millis(1500) {
            for client in &mut trickles {
                let _ = std::io::Write::write_all(&mut client.stream, b"T");
            }
            assert_eq!(other.get("/x").status, 200);
            std::thread::sleep(Duration::from_millis(50));
        }
        for mut client in trickles {
            let answer = client.answer(false).expect("an answer");
            assert_eq!(answer.status, 408);
            assert!(client.is_closed());
        }
        assert!(idle.is_closed() && never.is_closed());
    });
}

#[test]
fn a_peer_that_does_not_read_is_cut() {
    let limits = HttpLimits {
        answer: Pace { window: Duration::from_millis(300), bytes_min: 1 },
        ..limits()
    };
    on_each(&limits, |server| {
        let mut client = server.client();
        for _ in 0..10 {
            client.send("GET /file/0 HTTP/1.1\r\nHost: x\r\n\r\n");
        }
        std::thread::sleep(Duration::from_millis(1500));
        let rest = client.rest();
        assert!(rest.len() < 10 * FILE_BYTES, "{}", rest.len());
    });
}

#[test]
fn continue_is_sent_when_the_body_is_wanted_and_only_then() {
    on_each(&limits(), |server| {
        let expect = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
        let mut client = server.client();
        client.send(format!("PUT /sum HTTP/1.1\r\nHost: x\r\n{expect}"));
        assert_eq!(client.answer(false).unwrap().status, 100);
        client.send("hello");
        assert_eq!(client.answer(false).unwrap().text(), sum_of(b"hello"));
        // The body came at once: no 100 is needed.
        client.send(format!("PUT /sum HTTP/1.1\r\nHost: x\r\n{expect}hello"));
        assert_eq!(client.answer(false).unwrap().status, 200);
        client.send(format!("PUT /refuse HTTP/1.1\r\nHost: x\r\n{expect}"));
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.field("connection")), (409, Some("close")));
        assert!(client.is_closed());
    });
}

#[test]
fn a_small_unread_body_is_passed_over_and_a_large_one_ends_the_connection() {
    on_each(&limits(), |server| {
        let mut client = server.client();
        client.send(put("/refuse", &pattern(60_000)));
        assert_eq!(client.answer(false).unwrap().status, 409);
        assert_eq!(client.get("/x").status, 200);
        client.send(put("/refuse", &pattern(900_000)));
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.field("connection")), (409, Some("close")));
        assert!(client.is_closed());
        // So does one that does not say how large it is.
        let mut client = server.client();
        client.send(put_chunked("/refuse", &pattern(500_000), 50_000));
        let answer = client.answer(false).unwrap();
        assert_eq!((answer.status, answer.field("connection")), (409, Some("close")));
        assert!(client.is_closed());
    });
}

#[test]
fn answers_without_content_have_none() {
    on_each(&limits(), |server| {
        let mut client = server.client();
        client
            .send("HEAD /bytes/100 HTTP/1.1\r\nHost: x\r\n\r\nHEAD /x HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = client.answer(true).unwrap();
        assert_eq!((answer.status, answer.field("content-length")), (200, Some("100")));
        assert_eq!(client.answer(true).unwrap().field("content-length"), Some("2"));
        for (path, status) in [("/none", 204), ("/not-modified", 304), ("/options", 204)] {
            let answer = client.get(path);
            assert_eq!((answer.status, answer.field("content-length")), (status, None));
        }
        assert_eq!(client.get("/x").status, 200);
    });
}

#[test]
fn the_life_of_a_connection_is_announced() {
    on_each(&HttpLimits { requests_max: 3, ..limits() }, |server| {
        let mut client = server.client();
        assert_eq!(client.get("/1").field("connection"), None);
        assert_eq!(client.get("/2").field("connection"), None);
        assert_eq!(client.get("/3").field("connection"), Some("close"));
        assert!(client.is_closed());
        let mut client = server.client();
        client.send("GET /a HTTP/1.0\r\n\r\n");
        assert_eq!(client.answer(false).unwrap().field("connection"), Some("close"));
        assert!(client.is_closed());
        let mut client = server.client();
        client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(client.answer(false).unwrap().field("connection"), Some("keep-alive"));
        assert_eq!(client.get("/b").status, 200);
    });
}

#[test]
fn an_answer_that_stays_short_ends_the_connection() {
    on_each(&limits(), |server| {
        let mut client = server.client();
        client.send("GET /short HTTP/1.1\r\nHost: x\r\n\r\nGET /next HTTP/1.1\r\nHost: x\r\n\r\n");
        let rest = String::from_utf8(client.rest()).unwrap();
        let (head, body) = rest.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("Content-Length: 100") && body.len() == 50, "{rest:?}");
    });
}

#[test]
fn a_peer_that_goes_away_in_the_middle_leaves_nothing_behind() {
    on_each(&limits(), |server| {
        for start in ["GET / HT", "PUT /sum HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"] {
            let mut client = server.client();
            client.send(start);
            client.stream.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(client.is_closed());
        }
        assert_eq!(server.client().get("/x").status, 200);
    });
}

#[test]
fn a_drain_ends_idle_connections_and_lets_requests_finish() {
    for off in drivers() {
        let mut server = Server::start(&off, limits());
        let (mut idle, mut busy) = (server.client(), server.client());
        assert_eq!(idle.get("/x").status, 200);
        busy.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        std::thread::sleep(Duration::from_millis(100));
        server.running.as_ref().unwrap().drain();
        assert!(idle.is_closed());
        server.gate.take();
        let answer = busy.answer(false).unwrap();
        assert_eq!((answer.text().as_str(), answer.field("connection")), ("held", Some("close")));
        assert!(busy.is_closed());
    }
}
