//! Answers whose node dies in the middle: another one goes on, or the client is told that it has
//! not got the whole.
#![allow(clippy::unwrap_used)]

mod kit;

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use kit::{Edge, Node, Request, Then, Tracker, config, drivers, pattern};
use reel_node::config::HumanTime;

/// The file that all nodes have.
fn content() -> &'static [u8] {
    static CONTENT: OnceLock<Vec<u8>> = OnceLock::new();
    CONTENT.get_or_init(|| pattern(SIZE))
}

/// Its bytes.
const SIZE: usize = 3_000_000;

/// Answers a GET as a storage node does, with so many bytes of the content at most. `true`: that
/// was all of it.
fn serve(request: &mut Request<'_>, etag: &str, bytes_max: usize) -> bool {
    if request.field("if-match").is_some_and(|wanted| wanted != etag) {
        request.answer(412, "", b"");
        return true;
    }
    let content = content();
    let range = request.field("range").map(|range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        (first.parse::<usize>().unwrap(), last.parse::<usize>().unwrap())
    });
    let (status, (first, last)) = range.map_or((200, (0, SIZE - 1)), |range| (206, range));
    let mut head = format!("HTTP/1.1 {status} X\r\nETag: {etag}\r\n");
    if status == 206 {
        head += &format!("Content-Range: bytes {first}-{last}/{SIZE}\r\n");
    }
    head += &format!("Content-Length: {}\r\n\r\n", last + 1 - first);
    let wanted = &content[first..=last];
    let sent = &wanted[..wanted.len().min(bytes_max)];
    let _ = request.stream.write_all(&[head.as_bytes(), sent].concat());
    sent.len() == wanted.len()
}

/// A node that gives at most so many bytes of an answer, and dies.
fn dying(bytes_max: usize) -> Node {
    Node::start(move |request| {
        serve(request, "\"e\"", bytes_max);
        Then::Close
    })
}

fn well() -> Node {
    Node::start(|request| {
        serve(request, "\"e\"", usize::MAX);
        Then::Keep
    })
}

fn edge(off: &[String], nodes: &[SocketAddr], patience: Duration) -> (Edge, Tracker) {
    let tracker = Tracker::start(nodes);
    let config = reel_gateway::Config {
        body_timeout: HumanTime(patience),
        switch_after: HumanTime(Duration::from_millis(500)),
        ..config(&[tracker.address])
    };
    (Edge::start(off, &config), tracker)
}

const PATIENT: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(1);

/// The body of an answer that is cut.
fn cut_body(edge: &Edge, fields: &str) -> Vec<u8> {
    let mut client = edge.client();
    let host = client.host.clone();
    client.send(format!("GET /files/f HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n"));
    let rest = client.rest();
    let at = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    rest[at..].to_vec()
}

#[test]
fn another_node_goes_on_at_the_byte_where_the_first_one_died() {
    for off in drivers() {
        for bytes in [0, 1, 7_000, 40_000, 1_500_000, SIZE - 1] {
            let (first, second) = (dying(bytes), well());
            let (edge, _tracker) = edge(&off, &[first.address, second.address], PATIENT);
            let mut met = 0;
            while met < 2 {
                let mut client = edge.client();
                let answer = client.get("/files/f");
                assert_eq!((answer.status, answer.field("etag")), (200, Some("\"e\"")));
                assert!(answer.body == content(), "{bytes}");
                let answer = client.ask("GET", "/files/f", "Range: bytes=1000-2900000\r\n");
                assert_eq!(answer.status, 206);
                assert_eq!(answer.field("content-range"), Some("bytes 1000-2900000/3000000"));
                assert!(answer.body == content()[1000..=2_900_000], "{bytes}");
                met = first.requests.load(Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn every_node_may_die_as_long_as_bytes_come() {
    let nodes: Vec<Node> = (0..3).map(|_| dying(250_000)).collect();
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let (edge, _tracker) = edge(&[], &addresses, PATIENT);
    assert!(edge.client().get("/files/f").body == content());
    let asked: usize = nodes.iter().map(|node| node.requests.load(Ordering::Relaxed)).sum();
    assert!(asked >= SIZE / 250_000, "{asked}");
}

#[test]
fn the_only_node_goes_on_when_it_is_back() {
    let served = AtomicUsize::new(0);
    let node = Node::start(move |request| {
        match served.fetch_add(1, Ordering::Relaxed) {
            0 => drop(serve(request, "\"e\"", 1_000_000)),
            // While it starts again it hangs up, and then drains.
            1 | 2 => {}
            3 => request.answer(503, "Retry-After: 1\r\n", b""),
            _ => drop(serve(request, "\"e\"", usize::MAX)),
        }
        Then::Close
    });
    let (edge, _tracker) = edge(&[], &[node.address], PATIENT);
    assert!(edge.client().get("/files/f").body == content());
}

#[test]
fn a_node_that_falls_silent_is_left_for_another() {
    for off in drivers() {
        let hung = Arc::new(AtomicBool::new(true));
        let waits = Arc::clone(&hung);
        let silent = Node::start(move |request| {
            serve(request, "\"e\"", 1_000_000);
            while waits.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(10));
            }
            Then::Close
        });
        let well = well();
        let (edge, _tracker) = edge(&off, &[silent.address, well.address], PATIENT);
        for _ in 0..4 {
            assert!(edge.client().get("/files/f").body == content());
        }
        hung.store(false, Ordering::Relaxed);
    }
}

#[test]
fn no_other_file_goes_on_and_no_guess_is_made() {
    // Another file under this id; a node that does not look; one that gives all of it, or another
    // range, or as many bytes as it likes.
    let replaced = || {
        Node::start(|request| {
            serve(request, "\"other\"", usize::MAX);
            Then::Keep
        })
    };
    let careless = || {
        Node::start(|request| {
            let range = "ETag: \"other\"\r\nContent-Range: bytes 1000000-2999999/3000000\r\n";
            request.answer(206, range, &[0; 2_000_000]);
            Then::Keep
        })
    };
    let whole = || {
        Node::start(|request| {
            request.answer(200, "ETag: \"e\"\r\n", content());
            Then::Keep
        })
    };
    let gone = || {
        Node::start(|request| {
            request.answer(404, "", b"");
            Then::Keep
        })
    };
    for other in [replaced(), careless(), whole(), gone()] {
        let served = AtomicUsize::new(0);
        let first = Node::start(move |request| {
            if served.fetch_add(1, Ordering::Relaxed) == 0 {
                serve(request, "\"e\"", 1_000_000);
            }
            Then::Close
        });
        let (edge, tracker) = edge(&[], &[first.address], SHORT);
        // Only the first one is known until the answer has begun.
        let mut client = edge.client();
        client.send(format!("GET /files/f HTTP/1.1\r\nHost: {}\r\n\r\n", edge.address));
        client.peek();
        *tracker.nodes.lock().unwrap() = vec![other.address];
        let rest = client.rest();
        let at = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let body = &rest[at..];
        assert!(other.requests.load(Ordering::Relaxed) > 0, "it was asked");
        assert!(body.len() <= 1_000_000, "{}", body.len());
        assert!(*body == content()[..body.len()]);
    }
}

#[test]
fn what_nothing_identifies_is_cut_at_once() {
    let nameless = Node::start(|request| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n");
        request.stream.write_all(head.as_bytes()).unwrap();
        request.stream.write_all(&content()[..100_000]).unwrap();
        Then::Close
    });
    let (edge, _tracker) = edge(&[], &[nameless.address], PATIENT);
    let body = cut_body(&edge, "");
    assert!(body == content()[..body.len()] && body.len() <= 100_000);
    assert_eq!(nameless.requests.load(Ordering::Relaxed), 1);
}

#[test]
fn the_client_waits_no_longer_than_it_may_for_a_rest_that_nobody_has() {
    let first = AtomicUsize::new(0);
    let once = Node::start(move |request| {
        let bytes = if first.fetch_add(1, Ordering::Relaxed) == 0 { 1_000_000 } else { 0 };
        serve(request, "\"e\"", bytes);
        Then::Close
    });
    let (edge, tracker) = edge(&[], &[once.address], SHORT);
    let body = cut_body(&edge, "");
    assert!(body.len() <= 1_000_000 && body == content()[..body.len()]);
    assert!(once.requests.load(Ordering::Relaxed) > 1, "it was asked again");
    // The connection of the next client is its own.
    *tracker.nodes.lock().unwrap() = vec![well().address];
    assert!(edge.client().get("/files/other").body == content());
}

#[test]
fn a_node_that_cannot_read_its_copy_is_passed_over() {
    let broken = Node::start(|request| {
        request.answer(500, "", b"the file is broken");
        Then::Keep
    });
    let well = well();
    let (edge, _tracker) = edge(&[], &[broken.address, well.address], PATIENT);
    for _ in 0..10 {
        assert!(edge.client().get("/files/f").body == content());
    }
    let (edge, _tracker) = self::edge(&[], &[broken.address], PATIENT);
    assert_eq!(edge.client().get("/files/f").status, 500);
}
