//! Reads of what the page cache does not have: past it and through it, at every edge of alignment, bounded in memory
//! and in descriptors.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    net::TcpStream,
    os::fd::AsRawFd,
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use proptest::prelude::*;
use support::{Engine, PATIENCE, content};

const PIECE: u64 = 16 * 1024;
const MIB: usize = 1 << 20;

fn small_pieces(config: &mut reel_engine::Config) {
    config.read_piece.0 = PIECE;
}

fn drop_pages(engine: &Engine) {
    for path in engine.files() {
        let file = File::open(path).unwrap();
        file.sync_all().unwrap();
        // SAFETY: posix_fadvise takes no pointer; the descriptor is open.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
}

fn reads(engine: &Engine, way: &str) -> f64 {
    engine.metric(&format!(r#"reel_engine_disk_reads_total{{role="engine",way="{way}"}}"#))
}

/// One range over a connection that stays; the body.
fn range(stream: &mut TcpStream, id: &str, offset: u64, length: u64) -> Vec<u8> {
    let last = offset + length - 1;
    let request =
        format!("GET /files/{id} HTTP/1.1\r\nHost: x\r\nRange: bytes={offset}-{last}\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 206"), "{head}");
    let field = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    let mut body = vec![0; field.parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    body
}

fn connect(engine: &Engine) -> TcpStream {
    let stream = TcpStream::connect(engine.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Every way of reading: on the ring and on workers, past the page cache and through it.
const WAYS: [&[&str]; 5] =
    [&[], &["io_uring"], &["cachestat"], &["direct_io"], &["io_uring", "direct_io"]];

#[test]
fn every_edge_of_alignment() {
    for off in WAYS {
        let engine = Engine::start_with(small_pieces, off);
        // The end lies in the middle of a page, and of a sector.
        let size = 3 * PIECE + 4096 + 700;
        let bytes = content(size as usize);
        engine.client().upload("f", &bytes).ok();
        let mut stream = connect(&engine);
        let edges = [0, 1, 511, 512, 4095, 4096, 4097];
        let places = edges
            .into_iter()
            .chain([PIECE - 1, PIECE, PIECE + 1, 2 * PIECE - 1, 2 * PIECE])
            .chain(edges.map(|edge| size - 1 - edge));
        let lengths = [1, 511, 512, 4095, 4096, 4097, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE];
        for offset in places {
            for length in lengths.into_iter().chain([size - offset]) {
                let length = length.min(size - offset);
                drop_pages(&engine);
                let body = range(&mut stream, "f", offset, length);
                let expected = &bytes[offset as usize..(offset + length) as usize];
                assert!(body == expected, "{off:?}: {length} bytes from {offset}");
            }
        }
        let (direct, buffered) = (reads(&engine, "direct"), reads(&engine, "buffered"));
        if off.contains(&"direct_io") {
            assert!(direct == 0.0 && buffered > 0.0, "{off:?}: {direct} {buffered}");
        } else {
            assert!(direct > 0.0, "{off:?}: {direct} {buffered}");
        }
    }
}

/// Whole files of every size around the edges, from nothing on.
#[test]
fn files_of_every_odd_size() {
    for off in WAYS {
        let engine = Engine::start_with(small_pieces, off);
        let sizes = [1, 511, 512, 513, 4095, 4096, 4097, 16_383, 16_384, 16_385, 65_535, 65_537];
        for size in sizes {
            engine.client().upload(&format!("f{size}"), &content(size)).ok();
        }
        let mut client = engine.client();
        for size in sizes {
            drop_pages(&engine);
            let body = client.download(&format!("f{size}"), 0, 0).ok();
            assert!(body == content(size), "{off:?}: {size} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]
    /// Any ranges, with any part of the file in memory.
    #[test]
    fn any_range_with_any_part_in_memory(
        size in 1u64..2_000_000,
        steps in proptest::collection::vec((any::<u64>(), any::<u64>(), any::<u8>()), 30),
    ) {
        let engine = Engine::start_with(small_pieces, &[]);
        let bytes = content(size as usize);
        engine.client().upload("f", &bytes).ok();
        let mut stream = connect(&engine);
        for (offset, length, drop) in steps {
            let offset = offset % size;
            let length = length % (size - offset) + 1;
            if drop < 200 {
                drop_pages(&engine);
            }
            if drop % 3 == 0 {
                // Another reader brings some of it in.
                let mut file = File::open(&engine.files()[0]).unwrap();
                file.read_exact(&mut vec![0; (size / 3) as usize]).unwrap();
            }
            let body = range(&mut stream, "f", offset, length);
            prop_assert!(body == bytes[offset as usize..(offset + length) as usize]);
        }
    }
}

/// After the head has gone out, on the way past the page cache: the connection ends before a wrong byte.
#[test]
fn a_file_cut_under_a_cold_response_ends_the_connection() {
    for off in WAYS {
        let engine = Engine::start_with(|_| {}, off);
        let bytes = content(32 * MIB);
        engine.client().upload("f", &bytes).ok();
        drop_pages(&engine);
        let mut stream = connect(&engine);
        stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // The socket's buffers are full long before the end of the file; then it is cut.
        std::thread::sleep(Duration::from_millis(300));
        let cut = 24 * MIB + 5;
        let file = OpenOptions::new().write(true).open(&engine.files()[0]).unwrap();
        file.set_len(cut as u64).unwrap();
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received);
        let head = received.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        let body = &received[head..];
        assert!(body.len() > MIB && body.len() <= cut, "{off:?}: {}", body.len());
        assert!(body == &bytes[..body.len()], "{off:?}: a wrong byte");
        let counted = engine.metric(r#"reel_engine_files_cut_short_total{role="engine"}"#);
        assert!(counted >= 1.0, "{off:?}");
    }
}

/// Peers that stop in the middle of cold files hold no more than their windows; others go on, and all comes back.
#[test]
fn slow_peers_hold_a_bounded_window() {
    for off in WAYS {
        let engine = Engine::start_with(|config| config.buffers.0 = 64 << 20, off);
        let bytes = content(32 * MIB);
        engine.client().upload("f", &bytes).ok();
        drop_pages(&engine);
        let mut stopped = Vec::new();
        for index in 0..12 {
            // Each begins elsewhere: what is asked for again would become hot, and hold nothing.
            let mut stream = connect(&engine);
            let from = index * 100_000;
            let request =
                format!("GET /files/f HTTP/1.1\r\nHost: x\r\nRange: bytes={from}-\r\n\r\n");
            stream.write_all(request.as_bytes()).unwrap();
            stopped.push(stream);
        }
        let level = || engine.metric(r#"reel_engine_buffered_bytes{role="engine"}"#);
        std::thread::sleep(Duration::from_millis(1500));
        // The piece that is being sent, and four of 256 KiB more.
        let held = level();
        assert!(held <= f64::from(12 * 5 * (256 << 10)), "{off:?}: {held}");
        // What goes through the page cache is hot by now.
        assert!(held > 0.0 || off.contains(&"direct_io"), "{off:?}");
        let mut stream = connect(&engine);
        drop_pages(&engine);
        assert!(range(&mut stream, "f", 12_345, 100_000) == bytes[12_345..112_345], "{off:?}");
        // Gone in the middle: what the kernel still reads into comes back when it is done.
        drop(stopped);
        drop(stream);
        let until = Instant::now() + PATIENCE;
        while level() != 0.0 {
            assert!(Instant::now() < until, "{off:?}: {} bytes did not come back", level());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A peer that takes its time ends with one piece ahead of the one that it is being sent.
#[test]
fn a_slow_peer_s_window_shrinks() {
    let engine = Engine::start();
    let bytes = content(32 * MIB);
    engine.client().upload("f", &bytes).ok();
    drop_pages(&engine);
    let mut stream = connect(&engine);
    stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let level = || engine.metric(r#"reel_engine_buffered_bytes{role="engine"}"#);
    let is_small = || level() > 0.0 && level() <= f64::from(2 * (256 << 10));
    // More than the sockets hold by themselves, so that each piece after it waits for this side: longer where the disk is so
    // busy that it is the slower one.
    let mut some = vec![0; 64 * 1024];
    for pause in [2, 8, 32] {
        for _ in 0..150 {
            stream.read_exact(&mut some).unwrap();
            std::thread::sleep(Duration::from_millis(pause));
        }
        // What is under way arrives.
        let until = Instant::now() + PATIENCE / 4;
        while Instant::now() < until {
            if is_small() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    panic!("{} bytes", level());
}

/// Pages that are in memory and not on the disk yet are what a reader gets, also past the page cache.
#[test]
fn what_is_not_written_back_yet_is_read() {
    for off in WAYS {
        let engine = Engine::start_with(small_pieces, off);
        let mut bytes = content(MIB + 123);
        engine.client().upload("f", &bytes).ok();
        let mut client = engine.client();
        let mut stream = connect(&engine);
        drop_pages(&engine);
        assert!(range(&mut stream, "f", 0, 1) == bytes[..1], "the descriptors are open");
        for round in 0..20_usize {
            drop_pages(&engine);
            // Nobody does this to a file with a row; it makes the two views differ.
            let file = OpenOptions::new().write(true).open(&engine.files()[0]).unwrap();
            for at in [round * 4096 + 7, 40_000 + round, 16_384 * round, MIB + 100 + round] {
                bytes[at] ^= 0x55;
                file.write_all_at(&bytes[at..=at], at as u64).unwrap();
            }
            let (offset, length) = (round as u64 * 1000, 700_000);
            let part = range(&mut stream, "f", offset, length);
            assert!(part == bytes[offset as usize..(offset + length) as usize], "{off:?} {round}");
            assert!(client.download("f", 0, 0).ok() == bytes, "{off:?} {round}");
        }
    }
}

/// Second descriptors count: however many files are read cold, no more than `open_files` are kept.
#[test]
fn descriptors_stay_within_their_bound() {
    for off in [&[][..], &["io_uring"][..]] {
        let engine = Engine::start_with(|config| config.open_files = 16, off);
        for index in 0..40 {
            engine.client().upload(&format!("f{index}"), &content(10_000 + index)).ok();
        }
        let open_here = || {
            let store = engine.store.display().to_string();
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
                .filter(|target| target.starts_with(&store) && target.is_file())
                .filter(|target| !target.to_string_lossy().contains(".reel"))
                .count()
        };
        for _ in 0..3 {
            drop_pages(&engine);
            for index in 0..40 {
                let mut stream = connect(&engine);
                let body = range(&mut stream, &format!("f{index}"), 1, 9_000);
                assert!(body == content(10_000 + index)[1..9_001]);
            }
        }
        assert!(reads(&engine, "direct") > 0.0);
        // A descriptor of a ring is closed a moment later.
        let until = Instant::now() + PATIENCE;
        while open_here() > 16 {
            assert!(Instant::now() < until, "{off:?}: {} descriptors", open_here());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What is asked for again becomes hot, and so does what a reader that goes on is about to ask for.
#[test]
fn what_is_asked_for_again_becomes_hot() {
    for off in [&[][..], &["io_uring"][..]] {
        let engine = Engine::start_with(|_| {}, off);
        let bytes = content(3 * MIB);
        engine.client().upload("f", &bytes).ok();
        let mut stream = connect(&engine);
        let mut ask = |offset: u64, length: u64| {
            let body = range(&mut stream, "f", offset, length);
            assert!(body == bytes[offset as usize..(offset + length) as usize], "{off:?}");
        };
        let hot = || engine.metric(r#"reel_engine_sent_bytes_total{role="engine",path="hot"}"#);
        drop_pages(&engine);
        ask(MIB as u64, 500_000);
        assert_eq!((reads(&engine, "buffered"), hot()), (0.0, 0.0), "{off:?}");
        ask(MIB as u64, 500_000);
        assert!(reads(&engine, "buffered") > 0.0 && hot() == 0.0, "{off:?}");
        ask(MIB as u64, 500_000);
        assert_eq!(hot(), 500_000.0, "{off:?}");
        // Step by step: the first one past the page cache, most of the rest by sendfile.
        drop_pages(&engine);
        let step = 64 * 1024;
        for at in (0..bytes.len() as u64 - step).step_by(step as usize) {
            ask(at, step);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(hot() > 2_000_000.0, "{off:?}: {}", hot());
    }
}
