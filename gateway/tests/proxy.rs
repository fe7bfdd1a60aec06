//! What the gateway passes on, what it tries again, and what it cuts.
#![allow(clippy::unwrap_used)]

mod kit;

use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kit::{Edge, Node, Then, Tracker, closed_port, config, drivers, pattern};
use reel_node::config::HumanTime;

fn edge_over(off: &[String], nodes: &[std::net::SocketAddr]) -> (Edge, Tracker) {
    let tracker = Tracker::start(nodes);
    let edge = Edge::start(off, &config(&[tracker.address]));
    (edge, tracker)
}

/// `/files/N` has N bytes.
fn file_node() -> Node {
    Node::start(|request| {
        let target = request.head.split(' ').nth(1).unwrap().to_owned();
        let size = target["/files/".len()..].parse().unwrap();
        let content = pattern(size);
        if request.head.starts_with("HEAD") {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nETag: \"e\"\r\n\r\n");
            request.stream.write_all(head.as_bytes()).unwrap();
        } else {
            request.answer(200, "ETag: \"e\"\r\n", &content);
        }
        Then::Keep
    })
}

#[test]
fn content_of_any_size_arrives_whole_over_one_kept_connection() {
    for off in drivers() {
        let node = file_node();
        let (edge, tracker) = edge_over(&off, &[node.address]);
        let mut client = edge.client();
        for size in [0, 1, 7000, 8191, 8192, 40_000, 200_000, 5_000_000] {
            let answer = client.get(&format!("/files/{size}"));
            assert_eq!((answer.status, answer.body == pattern(size)), (200, true), "{size}");
            assert_eq!(answer.field("etag"), Some("\"e\""));
            let answer = client.ask("HEAD", &format!("/files/{size}"), "");
            assert_eq!(answer.field("content-length"), Some(size.to_string().as_str()));
        }
        assert_eq!(node.connections.load(Ordering::Relaxed), 1);
        assert_eq!(tracker.asked.load(Ordering::Relaxed), 8);
    }
}

#[test]
fn fields_pass_except_those_of_one_connection() {
    let node = Node::start(|request| {
        let echo = request.head.clone();
        let fields = "Keep-Alive: timeout=5\r\nConnection: X-Hop\r\nX-Hop: secret\r\n\
            Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nX-End: kept\r\nContent-Range: bytes 0-0/9\r\n";
        request.answer(206, fields, echo.as_bytes());
        Then::Keep
    });
    let (edge, _tracker) = edge_over(&[], &[node.address]);
    let mut client = edge.client();
    let fields = "Range: bytes=0-0\r\nIf-Range: \"e\"\r\nConnection: X-Mine\r\nX-Mine: secret\r\n\
        TE: trailers\r\nUpgrade: h2c\r\nKeep-Alive: 5\r\nX-Other: kept\r\n";
    let answer = client.ask("GET", "/files/a%20b?download=n%22&x=1", fields);
    assert_eq!(answer.status, 206);
    assert_eq!(answer.field("x-end"), Some("kept"));
    assert_eq!(answer.field("content-range"), Some("bytes 0-0/9"));
    assert_eq!(answer.head.matches("Date: ").count(), 1);
    assert_eq!(answer.field("date"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    for gone in ["connection", "x-hop", "keep-alive"] {
        assert_eq!(answer.field(gone), None, "{}", answer.head);
    }
    let sent = answer.text();
    assert!(sent.starts_with("GET /files/a%20b?download=n%22&x=1 HTTP/1.1\r\n"), "{sent}");
    let lower = sent.to_ascii_lowercase();
    let host = format!("host: {}\r\n", client.host);
    for kept in [host.as_str(), "range: bytes=0-0", "if-range: \"e\"", "x-other: kept", "via: 1.1 "]
    {
        assert!(lower.contains(kept), "{kept}: {sent}");
    }
    for gone in ["x-mine", "secret", "upgrade", "te:", "keep-alive", "connection"] {
        assert!(!lower.contains(gone), "{gone}: {sent}");
    }
}

#[test]
fn answers_without_content_pass() {
    let node = Node::start(|request| {
        let status = request.head.split(['/', ' ']).nth(3).unwrap().to_owned();
        let head = match status.as_str() {
            "304" => "HTTP/1.1 304 Not Modified\r\nETag: \"e\"\r\n\r\n".to_owned(),
            "204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "416" => {
                "HTTP/1.1 416 X\r\nContent-Range: bytes */9\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
            _ => panic!("{status}"),
        };
        request.stream.write_all(head.as_bytes()).unwrap();
        Then::Keep
    });
    let (edge, _tracker) = edge_over(&[], &[node.address]);
    let mut client = edge.client();
    let answer = client.get("/files/304");
    assert_eq!((answer.status, answer.field("content-length")), (304, None));
    assert_eq!(client.get("/files/416").field("content-range"), Some("bytes */9"));
    let answer = client.ask("DELETE", "/files/204", "");
    assert_eq!((answer.status, answer.field("content-length")), (204, None));
    assert_eq!(node.connections.load(Ordering::Relaxed), 1);
}

#[test]
fn a_node_that_cannot_be_reached_or_hangs_up_is_passed_over() {
    for off in drivers() {
        let good = file_node();
        let rude = Node::start(|_| Then::Close);
        let draining = Node::start(|request| {
            request.answer(503, "Retry-After: 9\r\n", b"draining");
            Then::Close
        });
        let babbling = Node::start(|request| {
            request.stream.write_all(b"SSH-2.0-OpenSSH\r\n\r\n").unwrap();
            Then::Close
        });
        for bad in [closed_port(), rude.address, draining.address, babbling.address] {
            let (edge, _tracker) = edge_over(&off, &[bad, good.address]);
            let mut client = edge.client();
            for size in 100..120 {
                let answer = client.get(&format!("/files/{size}"));
                assert_eq!((answer.status, answer.body == pattern(size)), (200, true));
            }
        }
    }
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced() {
    for off in drivers() {
        // Closes after every answer without saying so: by then the gateway has kept it.
        let node = Node::start(|request| {
            request.answer(200, "", b"x");
            Then::Close
        });
        let (edge, _tracker) = edge_over(&off, &[node.address]);
        let mut client = edge.client();
        for _ in 0..10 {
            assert_eq!(client.get("/files/f").status, 200);
        }
        // And one that closes when the next request comes.
        let served = AtomicUsize::new(0);
        let node = Node::start(move |request| {
            if served.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
                return Then::Close;
            }
            request.answer(200, "", b"x");
            Then::Keep
        });
        let (edge, _tracker) = edge_over(&off, &[node.address]);
        let mut client = edge.client();
        for _ in 0..10 {
            assert_eq!(client.get("/files/f").status, 200);
        }
    }
}

#[test]
fn a_node_that_dies_in_the_middle_takes_the_clients_connection_with_it() {
    for off in drivers() {
        for (promised, sent) in [(10_000, 5_000), (2_000_000, 1_000_000)] {
            let dying = Node::start(move |request| {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n");
                request.stream.write_all(head.as_bytes()).unwrap();
                request.stream.write_all(&pattern(sent)).unwrap();
                Then::Close
            });
            let other = file_node();
            let (edge, tracker) = edge_over(&off, &[dying.address]);
            let mut client = edge.client();
            let host = client.host.clone();
            client.send(format!("GET /files/9 HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            let rest = client.rest();
            let at = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let body = &rest[at..];
            assert!(body.len() <= sent && body == &pattern(sent)[..body.len()]);
            // The next request goes on elsewhere.
            *tracker.nodes.lock().unwrap() = vec![other.address];
            assert_eq!(edge.client().get("/files/10").status, 200);
        }
    }
}

#[test]
fn no_node_is_a_502_a_silent_one_a_504_none_at_all_a_503() {
    let (edge, tracker) = edge_over(&[], &[closed_port(), closed_port()]);
    let mut client = edge.client();
    assert_eq!(client.get("/files/f").status, 502);
    tracker.nodes.lock().unwrap().clear();
    let answer = client.get("/files/g");
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
    assert!(answer.field("access-control-allow-origin").is_some());

    let silent = Node::start(|_| {
        std::thread::sleep(Duration::from_secs(5));
        Then::Close
    });
    let tracker = Tracker::start(&[silent.address]);
    let config = reel_gateway::Config {
        answer_timeout: HumanTime(Duration::from_millis(500)),
        ..config(&[tracker.address])
    };
    let edge = Edge::start(&[], &config);
    assert_eq!(edge.client().get("/files/f").status, 504);
    // A silent node does not hold up one that answers.
    let good = file_node();
    *tracker.nodes.lock().unwrap() = vec![silent.address, good.address];
    for size in 10..20 {
        assert_eq!(edge.client().get(&format!("/files/{size}")).status, 200);
    }
}

#[test]
fn trackers_that_are_down_or_refuse() {
    let node = file_node();
    let edge = Edge::start(&[], &config(&[closed_port()]));
    let mut client = edge.client();
    let answer = client.get("/files/1");
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
    assert!(edge.running.as_ref().unwrap().readiness().check().is_err());

    let tracker = Tracker::start(&[node.address]);
    let edge = Edge::start(&[], &config(&[closed_port(), tracker.address]));
    edge.wait_ready();
    assert_eq!(tracker.announced.load(Ordering::Relaxed), 1);
    for size in 10..20 {
        assert_eq!(edge.client().get(&format!("/files/{size}")).status, 200);
    }
    *tracker.refusal.lock().unwrap() = Some(reel_proto::refusal::Refusal::UnknownApp);
    let mut client = edge.client();
    let answer = client.get("/files/f?app=other");
    assert_eq!((answer.status, &*answer.body), (404, &b"no such file\n"[..]));
    let answer = client.put("/files/f?app=other", b"x", "");
    assert_eq!((answer.status, &*answer.body), (404, &b"no tracker knows this app\n"[..]));
}

#[test]
fn redirect_mode_names_a_node_and_keeps_the_target() {
    let node = file_node();
    let tracker = Tracker::start(&[node.address]);
    let config =
        reel_gateway::Config { mode: reel_gateway::Mode::Redirect, ..config(&[tracker.address]) };
    let edge = Edge::start(&[], &config);
    let mut client = edge.client();
    let answer = client.get("/files/a%20b?download=x&app=tnvideo");
    let location = format!("http://{}/files/a%20b?download=x&app=tnvideo", node.address);
    assert_eq!((answer.status, answer.field("location")), (307, Some(location.as_str())));
    assert_eq!(client.put("/files/x", b"hello", "").status, 307);
    assert_eq!(client.ask("OPTIONS", "/files/x", "").status, 204);
    assert_eq!(node.requests.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_no_request_never_reaches_a_node() {
    let node = Node::start(|_| panic!("reached"));
    let (edge, tracker) = edge_over(&[], &[node.address]);
    let host = edge.address;
    for (request, status) in [
        (format!("GET /files/f HTTP/1.1\r\nHost: {host}\r\nA: b\r\n c\r\n\r\n"), 400),
        (
            format!(
                "PUT /files/f HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            400,
        ),
        (format!("GET /files/{}%00 HTTP/1.1\r\nHost: {host}\r\n\r\n", 'a'), 400),
        (format!("GET /files/a%2Fb HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400),
        (format!("GET /other HTTP/1.1\r\nHost: {host}\r\n\r\n"), 404),
        (format!("POST /files/f HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n"), 405),
        (format!("BREW /files/f HTTP/1.1\r\nHost: {host}\r\n\r\n"), 501),
        (format!("PUT /files/f HTTP/1.1\r\nHost: {host}\r\n\r\n"), 411),
        (
            format!(
                "PUT /files/f HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9000000000000000\r\n\r\n"
            ),
            413,
        ),
        (format!("OPTIONS /files/f HTTP/1.1\r\nHost: {host}\r\n\r\n"), 204),
        (format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n"), 204),
        (
            "PUT /files/f HTTP/1.1\r\nHost: other.example\r\nContent-Length: 1\r\n\r\nx".to_owned(),
            403,
        ),
        (
            format!(
                "DELETE /files/f HTTP/1.1\r\nHost: {host}\r\nOrigin: http://evil.example\r\n\r\n"
            ),
            403,
        ),
        (
            format!(
                "DELETE /files/f HTTP/1.1\r\nHost: {host}\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
            ),
            403,
        ),
    ] {
        let mut client = edge.client();
        client.send(&request);
        assert_eq!(client.answer(false).status, status, "{request}");
    }
    assert_eq!(tracker.asked.load(Ordering::Relaxed), 0);
}

#[test]
fn a_delete_that_a_node_may_have_done_before_it_died_is_done() {
    for off in drivers() {
        let died = Node::start(|_| Then::Close);
        let second = Node::start(|request| {
            request.answer(404, "", b"no such file\n");
            Then::Keep
        });
        // A gateway begins with either of them. Where nobody else was asked the file does not exist.
        let ended = (0..64).find(|number| {
            let (edge, _tracker) = edge_over(&off, &[died.address, second.address]);
            let status = edge.client().ask("DELETE", &format!("/files/{number}"), "").status;
            let was_asked = died.requests.load(Ordering::Relaxed) > 0;
            assert_eq!(status, if was_asked { 204 } else { 404 });
            was_asked
        });
        assert!(ended.is_some(), "the node that dies was never asked");
        let (edge, _tracker) = edge_over(&off, &[second.address]);
        assert_eq!(edge.client().ask("DELETE", "/files/none", "").status, 404);
    }
}

#[test]
fn of_an_owner_who_is_named_in_part_the_rest_is_filled_in() {
    let node = Node::start(|request| {
        request.answer(200, "", b"content");
        Then::Close
    });
    let (edge, tracker) = edge_over(&[], &[node.address]);
    for (query, app, user) in [
        ("", None, None),
        ("?user=alice", Some("tnvideo"), Some("alice")),
        ("?app=photos", Some("photos"), Some("tnv001")),
        ("?app=photos&user=bob", Some("photos"), Some("bob")),
    ] {
        assert_eq!(edge.client().get(&format!("/files/9{query}")).status, 200);
        let asked = (app.map(str::to_owned), user.map(str::to_owned));
        assert_eq!(*tracker.owner.lock().unwrap(), asked, "{query}");
    }
}

#[test]
fn a_place_that_was_remembered_and_answers_no_more_is_asked_for_again() {
    for off in drivers() {
        // As after a drain of the other one: only this node was named.
        let old = Node::start(|request| {
            request.answer(200, "", b"old");
            Then::Close
        });
        let tracker = Tracker::start(&[old.address]);
        let edge = Edge::start(&off, &config(&[tracker.address]));
        let mut client = edge.client();
        assert_eq!(client.get("/files/9").body, b"old");
        let asked = tracker.asked.load(Ordering::Relaxed);
        // From here on it hangs up, and the trackers name another one.
        old.stopped.store(true, Ordering::Relaxed);
        let new = file_node();
        *tracker.nodes.lock().unwrap() = vec![new.address];
        let answer = client.get("/files/9");
        assert_eq!((answer.status, answer.body == pattern(9)), (200, true));
        assert_eq!(tracker.asked.load(Ordering::Relaxed), asked + 1);
        assert_eq!(edge.metric("reel_gateway_failovers_total"), 1);
    }
}
