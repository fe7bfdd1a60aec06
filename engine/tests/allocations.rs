//! The data threads ask the allocator for nothing to answer what they have answered before.
#![allow(clippy::unwrap_used)]

mod support;

#[path = "../../tests/src/http_cases/mod.rs"]
#[allow(dead_code, unreachable_pub)]
mod http_cases;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    backtrace::Backtrace,
    cell::Cell,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use http_cases::Connection;
use support::{Engine, content};

/// Counts what threads named `reel-engine-N` ask for. With REEL_TEST_TRACE in the environment it says where.
struct Counting;

static COUNTS: AtomicBool = AtomicBool::new(false);
static TRACES: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    static IS_DATA_THREAD: Cell<Option<bool>> = const { Cell::new(None) };
}

fn count(layout: Layout) {
    if !COUNTS.load(Ordering::Relaxed) || INSIDE.get() {
        return;
    }
    INSIDE.set(true);
    let is_data_thread = IS_DATA_THREAD.get().unwrap_or_else(|| {
        let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap_or_default();
        let number = name.trim().strip_prefix("reel-engine-");
        let is = number.is_some_and(|number| number.parse::<u32>().is_ok());
        IS_DATA_THREAD.set(Some(is));
        is
    });
    if is_data_thread {
        COUNT.fetch_add(1, Ordering::Relaxed);
        if TRACES.load(Ordering::Relaxed) {
            eprintln!("{layout:?}\n{}", Backtrace::force_capture());
        }
    }
    INSIDE.set(false);
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout);
        // SAFETY: passed on as it came.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(layout);
        // SAFETY: passed on as it came.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: passed on as it came.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Connections that ask at the same time.
const PEERS: u64 = 8;
const REQUESTS: u64 = 1000;

/// Allocations of the data threads for [`REQUESTS`] times `request`, after it ran often enough to be known.
fn allocations(mut request: impl FnMut()) -> u64 {
    (0..20).for_each(|_| request());
    COUNT.store(0, Ordering::Relaxed);
    COUNTS.store(true, Ordering::Relaxed);
    if std::env::var_os("REEL_TEST_TRACE").is_some() {
        TRACES.store(true, Ordering::Relaxed);
        request();
        TRACES.store(false, Ordering::Relaxed);
    }
    (0..REQUESTS / PEERS).for_each(|_| request());
    COUNTS.store(false, Ordering::Relaxed);
    COUNT.load(Ordering::Relaxed)
}

/// The housekeeping of a data thread, once a second, may allocate; requests may not.
const HOUSEKEEPING: u64 = 100;

#[test]
fn answers_to_hot_requests_allocate_nothing() {
    let engine = Engine::start();
    let bytes = content(400_000);
    let mut client = engine.client();
    client.upload("f", &bytes).ok();
    let http = engine.http;
    for (what, lines) in [
        ("a short range", "Range: bytes=4096-8191\r\n"),
        ("a range", "Range: bytes=777-100776\r\n"),
        ("the whole file", "User-Agent: someone\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"),
        ("several ranges", "Range: bytes=0-99,200000-249999\r\n"),
        ("a condition", "If-None-Match: \"1-2\"\r\n"),
    ] {
        let mut connections: Vec<_> = (0..PEERS).map(|_| Connection::open(http).unwrap()).collect();
        let request = format!("GET /files/f HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
        let count = allocations(|| {
            for connection in &mut connections {
                connection.send(request.as_bytes()).unwrap();
            }
            for connection in &mut connections {
                connection.response(false).unwrap();
            }
        });
        assert!(count <= HOUSEKEEPING, "{what}: {count} allocations for {REQUESTS} requests");
    }
    let mut clients: Vec<_> = (0..PEERS).map(|_| engine.client()).collect();
    let count = allocations(|| {
        for client in &mut clients {
            assert_eq!(client.download("f", 5, 16_384).ok().len(), 16_384);
            assert_eq!(client.download("f", 5, 384).ok().len(), 384);
        }
    });
    assert!(count <= HOUSEKEEPING, "DOWNLOAD: {count} allocations for {REQUESTS} requests");
}
