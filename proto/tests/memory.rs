//! Bounded memory: whatever a peer's bytes claim, a decoder reserves no more than a small multiple of what came.
//!
//! Own test program, because it counts every allocation of the process.
#![allow(clippy::unwrap_used)] // A test that cannot unwrap has failed.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use reel_proto::{
    ext::{FileStat, ListReply, Located},
    frame::decode_error,
    http::{
        chunked::Decoder,
        head::{HeadLimits, RequestHead},
        query::Query,
        range::RangeSet,
    },
    peer::{JoinExt, Report},
    sign::{NonceCache, open, seal},
    tracker::{SaddrsReply, groups},
};

thread_local! {
    static RESERVED: Cell<usize> = const { Cell::new(0) };
}

/// Counts the bytes that this thread reserves; gives nothing back for those that it frees.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the count beside it allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = RESERVED.try_with(|reserved| reserved.set(reserved.get() + layout.size()));
        // SAFETY: the caller keeps GlobalAlloc's contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes reserved while `run` ran.
fn reserved<T>(run: impl FnOnce() -> T) -> usize {
    let before = RESERVED.get();
    std::hint::black_box(run());
    RESERVED.get() - before
}

#[test]
fn the_count_is_not_blind() {
    assert!(reserved(|| Vec::<u8>::with_capacity(12_345)) >= 12_345);
    assert_eq!(reserved(|| 1), 0);
}

#[test]
fn counts_that_lie_reserve_nothing() {
    let group = b"\x01\x01g".to_vec();
    let mut list = b"\x02\x00\x00\x00\x03\xe8".to_vec();
    assert!(reserved(|| ListReply::decode(&list)) < 1024);
    list.extend_from_slice(&[0; 16]);
    assert!(reserved(|| ListReply::decode(&list)) < 1024);
    let located = [group, vec![16]].concat();
    assert!(reserved(|| Located::decode(&located)) < 2048);
    let report = b"\x01\x00\x00\x00\x00\x00\x40";
    assert!(reserved(|| Report::decode(report)) < 1024);
    let text = b"COUNT OF GROUPS: 65536\nGROUPNAME: a\nCOUNT OF STORAGES: 65536\n\0";
    assert!(reserved(|| groups::parse(text, 0)) < 1024);
}

#[test]
fn bytes_without_sense_reserve_little() {
    for fill in [0, 1, 4, 0x7F, 0xFF] {
        let mut bytes = vec![fill; 64 * 1024];
        bytes[0] = 1;
        let used = reserved(|| {
            let _ = Located::decode(&bytes);
            let _ = FileStat::decode(&bytes);
            let _ = JoinExt::decode(&bytes);
            let _ = Report::decode(&bytes);
            let _ = SaddrsReply::decode(&bytes);
            let _ = groups::parse(&bytes, 0);
        });
        assert!(used < 64 * 1024, "{fill}: {used}");
        bytes[0] = 2;
        let used = reserved(|| ListReply::decode(&bytes));
        assert!(used < 64 * 1024, "{fill}: {used}");
        // An error's text is kept, at most 1,024 bytes of it, each at worst a replacement character of three.
        let used = reserved(|| decode_error(&bytes));
        assert!(used < 16 * 1024, "{fill}: {used}");
    }
}

#[test]
fn a_head_reserves_its_own_length_and_a_place_for_each_field() {
    let limits = HeadLimits::default();
    let line = b"A: b\r\n".repeat(98);
    let bytes = [&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &line, b"\r\n"].concat();
    let used = reserved(|| RequestHead::parse(&bytes, &limits).unwrap().unwrap());
    assert!(used <= bytes.len() + 100 * 8, "{used} for {}", bytes.len());
    for end in 0..bytes.len() {
        assert_eq!(reserved(|| RequestHead::parse(&bytes[..end], &limits)), 0, "not whole yet");
    }
    assert_eq!(reserved(|| RequestHead::parse(&[b'a'; 100_000], &limits)), 0);
}

#[test]
fn what_streams_and_what_is_looked_at_once_reserve_nothing() {
    let body = b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n";
    let mut decoder = Decoder::new();
    assert_eq!(reserved(|| decoder.decode(body)), 0);
    let ranges = format!("bytes={}", vec!["0-0"; 16].join(","));
    assert_eq!(reserved(|| RangeSet::parse(ranges.as_bytes()).map(|set| set.resolve(9))), 0);
    let query = "x=1&".repeat(30);
    assert_eq!(reserved(|| Query::parse(&query)), 0);
}

#[test]
fn nonces_are_kept_within_their_bound() {
    let secret: Option<&[u8]> = Some(b"0123456789abcdef");
    let mut seen = NonceCache::new(100);
    let mut refused = 0;
    for number in 0..1000u128 {
        let body = seal(secret, 220, 1000, number.to_be_bytes(), b"");
        refused += usize::from(open(secret, 220, 1000, &body, &mut seen).is_err());
    }
    assert_eq!((seen.len(), refused), (100, 900));
    let body = seal(secret, 220, 1000, [0xFF; 16], b"");
    assert_eq!(reserved(|| open(secret, 220, 1000, &body, &mut seen).is_err()), 0);
}
