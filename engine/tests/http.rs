//! The media HTTP of a running engine over raw sockets: the table of cases, and files that are damaged on the disk.
#![allow(clippy::unwrap_used)]

mod support;

/// The table is the one that the gateway passes as well; it lives in `tests/`, which no crate imports.
#[path = "../../tests/src/http_cases/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod http_cases;

use std::{fs::OpenOptions, os::unix::fs::FileExt};

use http_cases::Connection;
use reel_proto::command;
use support::{Engine, content, file_bytes};

fn run_table(engine: &Engine) {
    let facts = http_cases::prepare(engine.http, "a").unwrap();
    let verdicts = http_cases::run(engine.http, &facts, &http_cases::cases());
    let faults: Vec<String> = verdicts
        .iter()
        .filter_map(|verdict| {
            let fault = verdict.fault.as_ref()?;
            Some(format!("{} ({}): {fault}", verdict.name, verdict.rfc))
        })
        .collect();
    assert!(verdicts.len() >= 60);
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), verdicts.len(), faults.join("\n"));
}

#[test]
fn the_table() {
    run_table(&Engine::start());
}

#[test]
fn the_table_without_a_ring() {
    let engine = Engine::start_with(|_| {}, &["io_uring", "cachestat"]);
    run_table(&engine);
}

fn get(engine: &Engine, target: &str, lines: &str) -> Result<http_cases::Response, String> {
    let mut connection = Connection::open(engine.http)?;
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n").as_bytes())?;
    connection.response(false)
}

fn the_file(engine: &Engine) -> std::fs::File {
    let files = engine.files();
    assert_eq!(files.len(), 1);
    OpenOptions::new().write(true).open(&files[0]).unwrap()
}

fn drop_pages(file: &std::fs::File) {
    use std::os::fd::AsRawFd;
    file.sync_all().unwrap();
    // SAFETY: posix_fadvise takes no pointer; the descriptor is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// Both ways of reading, hot and cold, at odd offsets, on rings and on workers.
#[test]
fn the_bytes_are_right_hot_and_cold() {
    for off in [&[][..], &["io_uring"][..], &["cachestat"][..], &["cachestat", "nowait_read"][..]] {
        let engine = Engine::start_with(|config| config.read_piece.0 = 64 * 1024, off);
        let bytes = content(5_000_001);
        engine.client().upload("f", &bytes).ok();
        for round in 0..3 {
            if round < 2 {
                drop_pages(&the_file(&engine));
            }
            assert!(get(&engine, "/files/f", "").unwrap().body == bytes, "{off:?} {round}");
            drop_pages(&the_file(&engine));
            let part = get(&engine, "/files/f", "Range: bytes=1234567-4000000\r\n").unwrap();
            assert!(part.body == bytes[1_234_567..=4_000_000], "{off:?} {round}");
            drop_pages(&the_file(&engine));
            assert!(engine.client().download("f", 77, 0).ok() == bytes[77..], "{off:?}");
        }
        let value = engine.metric(r#"reel_engine_sent_bytes_total{role="engine",path="cold"}"#);
        assert!(value > 0.0, "nothing was read from the disk: {off:?}");
    }
}

fn is_on_a_disk_file_system(folder: &std::path::Path) -> bool {
    let output = std::process::Command::new("stat").args(["-f", "-c", "%T"]).arg(folder).output();
    let kind = String::from_utf8(output.unwrap().stdout).unwrap();
    ["ext2/ext3", "xfs", "btrfs"].contains(&kind.trim())
}

/// More files than descriptors are kept: what the kernel has in memory is opened without a worker.
#[test]
fn files_that_are_in_memory_are_opened_at_once() {
    let has_it = reel_node::capability::Capabilities::probe(&[]).unwrap().cached_open;
    for (off, at_once) in [(&[][..], has_it), (&["cached_open"][..], false)] {
        let engine = Engine::start_with(|config| config.open_files = 2, off);
        if !is_on_a_disk_file_system(&engine.store) {
            return println!("skipped: {} is on no ext4, xfs or btrfs", engine.store.display());
        }
        let bytes = content(3000);
        for number in 0..20 {
            engine.client().upload(&format!("f{number}"), &bytes).ok();
        }
        let jobs = || {
            let page = engine.admin_page("/metrics");
            let lines =
                page.lines().filter(|line| line.starts_with("reel_worker_jobs_finished_total"));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        // Each data thread asks once which store path it has, or the like.
        let read_all = || {
            for number in 0..20 {
                let got = get(&engine, &format!("/files/f{number}"), "").unwrap();
                assert!(got.body == bytes);
            }
        };
        read_all();
        let before = jobs();
        assert!(before >= 20.0, "the uploads at least: {before}");
        // The kernel says "not at once", too, while somebody renames anything: of some rounds the best one counts.
        let rounds = (0..5).map(|_| {
            let before = jobs();
            read_all();
            jobs() - before
        });
        let fewest = rounds.fold(f64::INFINITY, f64::min);
        assert_eq!(fewest < 10.0, at_once, "{off:?}: {fewest} jobs");
    }
}

/// Before the head has gone out: 500. The connection goes on, and so do other files.
#[test]
fn a_file_cut_short_on_the_disk_is_an_error_before_a_byte() {
    let engine = Engine::start();
    let bytes = content(1_000_000);
    engine.client().upload("f", &bytes).ok();
    // Once through the caches of both threads, so that the descriptor is known.
    for _ in 0..20 {
        assert_eq!(get(&engine, "/files/f", "").unwrap().status, 200);
    }
    the_file(&engine).set_len(999_999).unwrap();
    for _ in 0..5 {
        assert_eq!(get(&engine, "/files/f", "").unwrap().status, 500);
        let long = get(&engine, "/files/f", "Range: bytes=0-99999\r\n").unwrap();
        assert_eq!(long.status, 500);
        let end = get(&engine, "/files/f", "Range: bytes=-1\r\n").unwrap();
        assert_eq!(end.status, 500);
        // A few bytes that are there are given without a look at how long the file is.
        let short = get(&engine, "/files/f", "Range: bytes=0-1\r\n").unwrap();
        assert!(short.status == 500 || short.body == bytes[..2]);
        engine.client().download("f", 0, 0).error();
    }
    let counted = engine.metric(r#"reel_engine_files_cut_short_total{role="engine"}"#);
    assert!(counted >= 20.0, "{counted}");
    assert_eq!(get(&engine, "/files/other", "").unwrap().status, 404);
    // Whole again: it is served again.
    let file = the_file(&engine);
    file.write_all_at(&bytes[999_999..], 999_999).unwrap();
    assert!(get(&engine, "/files/f", "").unwrap().body == bytes);
}

/// After the head has gone out: the connection ends before a wrong byte, by sendfile and by reads.
#[test]
fn a_file_cut_short_under_a_response_ends_the_connection() {
    for off in [&[][..], &["cachestat", "nowait_read"][..], &["io_uring"][..]] {
        let engine = Engine::start_with(|_| {}, off);
        let bytes = content(32 << 20);
        engine.client().upload("f", &bytes).ok();
        let mut connection = Connection::open(engine.http).unwrap();
        connection.send(b"GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // The socket's buffers are full long before the end of the file; then it is cut.
        std::thread::sleep(std::time::Duration::from_millis(300));
        the_file(&engine).set_len((24 << 20) + 5).unwrap();
        let received = connection.everything();
        let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let body = &received[head..];
        assert!(body.len() <= (24 << 20) + 5, "{off:?}: {}", body.len());
        assert!(body == &bytes[..body.len()], "{off:?}: a wrong byte");
        let counted = engine.metric(r#"reel_engine_files_cut_short_total{role="engine"}"#);
        assert!(counted >= 1.0, "{off:?}");
    }
}

/// A delete on one thread is seen by every thread at once, and so is the way back.
#[test]
fn a_delete_reaches_every_thread_before_its_reply() {
    let engine = Engine::start();
    for round in 0..20 {
        let id = format!("f{round}");
        engine.client().upload(&id, b"hello").ok();
        // Many connections, so that both threads have it in their caches.
        let mut connections: Vec<_> =
            (0..8).map(|_| Connection::open(engine.http).unwrap()).collect();
        let request = format!("GET /files/{id} HTTP/1.1\r\nHost: x\r\n\r\n");
        let mut all = |status: u16| {
            for connection in &mut connections {
                connection.send(request.as_bytes()).unwrap();
            }
            for connection in &mut connections {
                assert_eq!(connection.response(false).unwrap().status, status);
            }
        };
        all(200);
        engine.client().call(command::DELETE, &file_bytes(&id)).ok();
        all(404);
        let mut body = Vec::new();
        reel_proto::ext::encode_file(&support::file(&id), &mut body);
        engine.client().call(command::RESTORE, &body).ok();
        all(200);
    }
}

#[test]
fn a_browser_page_and_a_proxy_may_not_write() {
    let engine = Engine::start();
    let put = |lines: &str| {
        let mut connection = Connection::open(engine.http).unwrap();
        let request = format!("PUT /files/w HTTP/1.1\r\n{lines}Content-Length: 1\r\n\r\nx");
        connection.send(request.as_bytes()).unwrap();
        connection.response(false).unwrap().status
    };
    assert_eq!(put("Host: evil.example\r\n"), 403);
    assert_eq!(put("Host: localhost\r\nOrigin: https://evil.example\r\n"), 403);
    assert_eq!(put("Host: localhost\r\nX-Forwarded-For: 10.0.0.1\r\n"), 403);
    engine.assert_files(0);
    assert_eq!(put("Host: localhost\r\n"), 201);
}

#[test]
fn past_the_buffer_budget_requests_are_refused_and_it_comes_back() {
    let engine = Engine::start_with(|config| config.buffers.0 = 4 << 20, &[]);
    // Each thread has 2 MiB, a stalled large upload takes all of it.
    let mut stalled = Vec::new();
    for index in 0..16 {
        let mut connection = Connection::open(engine.http).unwrap();
        let request = format!(
            "PUT /files/s{index} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000000\r\n\r\nx"
        );
        connection.send(request.as_bytes()).unwrap();
        stalled.push(connection);
    }
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut connection = Connection::open(engine.http).unwrap();
    connection
        .send(b"PUT /files/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
        .unwrap();
    let refused = connection.response(false).unwrap();
    assert_eq!(refused.status, 503);
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(stalled);
    let until = std::time::Instant::now() + support::PATIENCE;
    loop {
        let mut connection = Connection::open(engine.http).unwrap();
        connection
            .send(b"PUT /files/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
            .unwrap();
        if connection.response(false).unwrap().status == 201 {
            break;
        }
        assert!(std::time::Instant::now() < until, "the budget did not come back");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// However a request is cut into segments, it is the same request.
#[test]
fn split_at_every_byte() {
    let engine = Engine::start();
    let mut requests =
        b"PUT /files/split HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
        5;x=y\r\nhello\r\n7\r\n, world\r\n0\r\nTrailer: 1\r\n\r\n"
            .to_vec();
    requests.extend_from_slice(
        b"GET /files/split HTTP/1.1\r\nHost: localhost\r\nRange: bytes=7-\r\n\r\n\
          HEAD /files/split HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    let mut connection = Connection::open(engine.http).unwrap();
    for at in 0..requests.len() {
        connection.send(&requests[..at]).unwrap();
        if at % 16 == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        connection.send(&requests[at..]).unwrap();
        let put = connection.response(false).unwrap().status;
        assert_eq!(put, if at == 0 { 201 } else { 200 }, "{at}");
        let part = connection.response(false).unwrap();
        assert_eq!((part.status, part.body.as_slice()), (206, &b"world"[..]), "{at}");
        assert_eq!(connection.response(true).unwrap().status, 200, "{at}");
    }
}

#[test]
fn uploads_at_and_one_past_the_limit() {
    let engine = Engine::start_with(|config| config.upload_max.0 = 1000, &[]);
    let put = |id: &str, fields: &str, body: &[u8]| {
        let mut connection = Connection::open(engine.http).unwrap();
        let head = format!("PUT /files/{id} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n\r\n");
        connection.send(head.as_bytes()).unwrap();
        connection.send(body).unwrap();
        connection.response(false).unwrap().status
    };
    let chunked = |length: usize| {
        let mut body = format!("{length:x}\r\n").into_bytes();
        body.extend(content(length));
        body.extend_from_slice(b"\r\n0\r\n\r\n");
        body
    };
    assert_eq!(put("a", "Content-Length: 1000", &content(1000)), 201);
    assert_eq!(put("b", "Content-Length: 1001", &content(1001)), 413);
    assert_eq!(put("c", "Transfer-Encoding: chunked", &chunked(1000)), 201);
    assert_eq!(put("d", "Transfer-Encoding: chunked", &chunked(1001)), 413);
    for (id, status) in [("a", 200), ("b", 404), ("c", 200), ("d", 404)] {
        assert_eq!(get(&engine, &format!("/files/{id}"), "").unwrap().status, status, "{id}");
    }
    engine.assert_files(2);
}
