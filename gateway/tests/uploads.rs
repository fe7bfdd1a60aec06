//! Uploads through the gateway: streamed, asked for first, never half believed.
#![allow(clippy::unwrap_used)]

mod kit;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kit::{Edge, Node, Then, Tracker, closed_port, config, drivers, pattern};
use reel_gateway::Config;
use reel_node::config::{HumanTime, Secret, TokenConfig};

/// Takes every body and tells its length and sum; `/files/taken` is a conflict.
fn sum_node() -> Node {
    Node::start(|request| {
        if request.head.contains("/files/taken") {
            request.answer(409, "", b"taken\n");
            return Then::Close;
        }
        let Some(body) = request.body() else { return Then::Close };
        let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
        let line = request.head.lines().next().unwrap().to_owned();
        let fields = "Location: /files/made\r\n";
        request.answer(201, fields, format!("{line}|{} {sum}", body.len()).as_bytes());
        Then::Keep
    })
}

fn told(line: &str, content: &[u8]) -> String {
    let sum: u64 = content.iter().map(|byte| u64::from(*byte)).sum();
    format!("{line}|{} {sum}", content.len())
}

#[test]
fn uploads_are_streamed_in_both_framings() {
    for off in drivers() {
        let node = sum_node();
        let tracker = Tracker::start(&[node.address]);
        let edge = Edge::start(&off, &config(&[tracker.address]));
        let mut client = edge.client();
        for size in [0, 1, 5000, 300_000, 5_000_000] {
            let content = pattern(size);
            let answer = client.put("/files/f?user=u", &content, "Content-Type: video/mp4\r\n");
            assert_eq!(answer.status, 201, "{}", answer.text());
            assert_eq!(answer.text(), told("PUT /files/f?user=u HTTP/1.1", &content));
        }
        let host = client.host.clone();
        let content = pattern(1_000_000);
        client.send(format!(
            "POST /files HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        for piece in content.chunks(77_777) {
            client.send(format!("{:x}\r\n", piece.len()));
            client.send(piece);
            client.send("\r\n");
        }
        client.send("0\r\n\r\n");
        let answer = client.answer(false);
        assert_eq!(answer.text(), told("POST /files HTTP/1.1", &content));
        assert_eq!(answer.field("location"), Some("/files/made"));
        assert_eq!(node.connections.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn the_client_is_told_to_go_on_only_when_the_node_agrees() {
    let node = sum_node();
    let tracker = Tracker::start(&[node.address]);
    let edge = Edge::start(&[], &config(&[tracker.address]));
    let mut client = edge.client();
    let host = client.host.clone();
    let head = |id: &str| {
        format!(
            "PUT /files/{id} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5\r\n\
             Expect: 100-continue\r\n\r\n"
        )
    };
    client.send(head("new"));
    assert_eq!(client.answer(false).status, 100);
    client.send("hello");
    assert_eq!(client.answer(false).status, 201);
    client.send(head("taken"));
    let answer = client.answer(false);
    assert_eq!((answer.status, answer.field("connection")), (409, Some("close")));
    assert!(client.is_closed());
}

#[test]
fn before_the_first_byte_another_node_is_tried() {
    for off in drivers() {
        let node = sum_node();
        let rude = Node::start(|_| Then::Close);
        let draining = Node::start(|request| {
            request.answer(503, "", b"");
            Then::Close
        });
        let full = Node::start(|request| {
            request.answer(507, "", b"");
            Then::Close
        });
        let silent = Node::start(|_| {
            std::thread::sleep(Duration::from_secs(10));
            Then::Close
        });
        let bad = [closed_port(), rude.address, draining.address, full.address, silent.address];
        for bad in bad {
            let tracker = Tracker::start(&[bad, node.address]);
            let switch_after = HumanTime(Duration::from_millis(200));
            let config = Config { switch_after, ..config(&[tracker.address]) };
            let edge = Edge::start(&off, &config);
            let mut client = edge.client();
            for _ in 0..10 {
                assert_eq!(client.put("/files/f", &pattern(1000), "").status, 201);
            }
        }
    }
}

#[test]
fn an_empty_post_is_sent_once_and_busy_nodes_are_a_503() {
    let rude = Node::start(|_| Then::Close);
    let good = sum_node();
    let tracker = Tracker::start(&[rude.address]);
    let edge = Edge::start(&[], &config(&[tracker.address]));
    let mut client = edge.client();
    assert_eq!(client.ask("POST", "/files", "Content-Length: 0\r\n").status, 502);
    assert_eq!(rude.requests.load(Ordering::Relaxed), 1);
    let busy = Node::start(|request| {
        request.answer(503, "Retry-After: 7\r\n", b"");
        Then::Close
    });
    *tracker.nodes.lock().unwrap() = vec![closed_port(), busy.address];
    for user in ["a", "b", "c", "d", "e", "f"] {
        let answer = client.put(&format!("/files/f?user={user}"), b"hello", "");
        assert_eq!(answer.status, 503);
        assert!(answer.field("retry-after").is_some());
    }
    // Its 503 may be of an upload that is done yet.
    let before = busy.requests.load(Ordering::Relaxed);
    *tracker.nodes.lock().unwrap() = vec![busy.address, busy.address];
    assert_eq!(client.ask("POST", "/files?user=g", "Content-Length: 0\r\n").status, 503);
    assert_eq!(busy.requests.load(Ordering::Relaxed), before + 1);
    // That it is full, the last one says itself.
    let full = Node::start(|request| {
        request.answer(507, "", b"");
        Then::Close
    });
    *tracker.nodes.lock().unwrap() = vec![full.address];
    assert_eq!(client.put("/files/f?user=h", b"hello", "").status, 507);
    *tracker.nodes.lock().unwrap() = vec![good.address];
    assert_eq!(client.put("/files/f?user=z", b"hello", "").status, 201);
}

#[test]
fn a_node_that_dies_in_the_middle_is_a_502_and_no_second_node_is_asked() {
    for off in drivers() {
        let dying = Node::start(|request| {
            request.stream_continue();
            let _ = request.take(100_000);
            Then::Close
        });
        let tracker = Tracker::start(&[dying.address]);
        let edge = Edge::start(&off, &config(&[tracker.address]));
        let mut client = edge.client();
        let answer = client.put("/files/f", &pattern(400_000), "");
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert_eq!(dying.requests.load(Ordering::Relaxed), 1);
    }
}

#[test]
fn a_refusal_in_the_middle_reaches_the_client() {
    for off in drivers() {
        let full = Node::start(|request| {
            request.stream_continue();
            let _ = request.take(100_000);
            request.answer(507, "Connection: close\r\n", b"full\n");
            // What is still under way is read, as a node does, so that its answer is not lost.
            let _ = request.take(10_000_000);
            Then::Close
        });
        let tracker = Tracker::start(&[full.address]);
        let edge = Edge::start(&off, &config(&[tracker.address]));
        for framing in ["Content-Length: 3000000", "Transfer-Encoding: chunked"] {
            let mut client = edge.client();
            let host = client.host.clone();
            client.send(format!("PUT /files/f HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n"));
            let mut writer = client.stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                if framing.starts_with("Transfer") {
                    let _ = writer.write_all(b"2dc6c0\r\n");
                }
                // Slower than the refusal comes back; the gateway stops reading then.
                for piece in pattern(3_000_000).chunks(100_000) {
                    if writer.write_all(piece).is_err() {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            let answer = client.answer(false);
            assert_eq!((answer.status, answer.text().as_str()), (507, "full\n"), "{framing}");
            assert_eq!(answer.field("connection"), Some("close"));
            drop(client);
            sender.join().unwrap();
        }
    }
}

/// A node that has spoken up early still takes what comes for the rest of the body: another request sent there would be
/// swallowed, and answered with whatever the node makes of what follows.
#[test]
fn a_connection_that_owes_a_body_serves_no_other_request() {
    // What the gateway moves before it listens to the node again, and what it then has not sent.
    let (segment, owed) = (512 * 1024, 50_000);
    for off in drivers() {
        let (asked, answered) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (agreed, said) = (Arc::clone(&asked), Arc::clone(&answered));
        let wait_for = |flag: &AtomicBool| {
            while !flag.load(Ordering::Acquire) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let hasty = Node::start(move |request| {
            if request.head.starts_with("PUT") {
                request.stream_continue();
                agreed.store(true, Ordering::Release);
                let _ = request.take(100_000);
                request.answer(507, "", b"full\n");
                said.store(true, Ordering::Release);
                let _ = request.take(segment - 100_000 + owed);
            } else {
                request.answer(200, "", b"content");
            }
            Then::Keep
        });
        let tracker = Tracker::start(&[hasty.address]);
        let edge = Edge::start(&off, &config(&[tracker.address]));
        let mut client = edge.client();
        let host = client.host.clone();
        let length = segment + owed;
        client.send(format!(
            "PUT /files/f HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
        ));
        // Not together with the head: what is read with it goes out beside the first segment.
        wait_for(&asked);
        client.send(pattern(200_000));
        // The answer waits at the gateway before the last of the segment is there.
        wait_for(&answered);
        client.send(pattern(segment - 200_000));
        assert_eq!(client.answer(false).status, 507);
        let mut other = edge.client();
        assert_eq!(other.get("/files/f").text(), "content");
        assert_eq!(hasty.connections.load(Ordering::Relaxed), 2);
    }
}

#[test]
fn a_client_that_dies_in_the_middle_ends_the_nodes_upload() {
    for off in drivers() {
        let (sender, ended) = std::sync::mpsc::channel();
        let node = Node::start(move |request| {
            let _ = sender.send(request.body().is_none());
            Then::Close
        });
        let tracker = Tracker::start(&[node.address]);
        let edge = Edge::start(&off, &config(&[tracker.address]));
        for framing in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
            let mut client = edge.client();
            let host = client.host.clone();
            client.send(format!("PUT /files/f HTTP/1.1\r\nHost: {host}\r\n{framing}\r\n\r\n"));
            client.send("5\r\nhello\r\n");
            std::thread::sleep(Duration::from_millis(100));
            drop(client);
            assert!(ended.recv_timeout(Duration::from_secs(10)).unwrap(), "{framing}");
        }
    }
}

#[test]
fn a_broken_chunk_is_a_400_and_ends_the_nodes_upload() {
    let (sender, ended) = std::sync::mpsc::channel();
    let node = Node::start(move |request| {
        let _ = sender.send(request.body().is_none());
        Then::Close
    });
    let tracker = Tracker::start(&[node.address]);
    let edge = Edge::start(&[], &config(&[tracker.address]));
    let mut client = edge.client();
    let host = client.host.clone();
    client.send(format!(
        "PUT /files/f HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello!\r\n"
    ));
    assert_eq!(client.answer(false).status, 400);
    assert!(client.is_closed());
    assert!(ended.recv_timeout(Duration::from_secs(10)).unwrap());
}

#[test]
fn an_upload_past_the_limit_is_a_413_also_when_it_does_not_say_so() {
    let node = sum_node();
    let tracker = Tracker::start(&[node.address]);
    let config = reel_gateway::Config {
        upload_max: reel_node::config::ByteSize(1000),
        ..config(&[tracker.address])
    };
    let edge = Edge::start(&[], &config);
    assert_eq!(edge.client().put("/files/f", &pattern(1000), "").status, 201);
    assert_eq!(edge.client().put("/files/f", &pattern(1001), "").status, 413);
    let mut client = edge.client();
    let host = client.host.clone();
    client.send(format!(
        "PUT /files/f HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n"
    ));
    client.send(pattern(1001));
    client.send("\r\n0\r\n\r\n");
    assert_eq!(client.answer(false).status, 413);
}

#[test]
fn with_tokens_a_write_needs_one_of_its_app_and_user() {
    let node = sum_node();
    let tracker = Tracker::start(&[node.address]);
    let token = TokenConfig {
        token: Some(Secret::from(b"0123456789abcdef-one".to_vec())),
        token_file: None,
        token_env: None,
        app: "tnvideo".to_owned(),
        user: Some("alice".to_owned()),
    };
    let edge = Edge::with_tokens(&[], &config(&[tracker.address]), &[token]);
    let bearer = "Authorization: Bearer 0123456789abcdef-one\r\n";
    let put = |target: &str, fields: &str| {
        let answer = edge.client().put(target, b"hello", fields);
        (answer.status, answer.field("www-authenticate").map(str::to_owned))
    };
    assert_eq!(put("/files/f?user=alice", ""), (401, Some("Bearer".to_owned())));
    assert_eq!(put("/files/f?user=alice", "Authorization: Bearer wrong\r\n").0, 401);
    assert_eq!(put("/files/f?user=bob", bearer), (403, None));
    assert_eq!(put("/files/f?user=alice", bearer).0, 201);
    // Any host and any proxy in front: the token decides.
    let mut far = edge.client();
    far.host = "media.example".to_owned();
    let fields = format!("{bearer}X-Forwarded-For: 10.0.0.1\r\n");
    assert_eq!(far.put("/files/f?user=alice", b"hello", &fields).status, 201);
}
