//! The Date field, formatted once a second a thread.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

struct Cached {
    second: u64,
    line: Vec<u8>,
}

thread_local! {
    static CACHED: RefCell<Cached> = const {
        RefCell::new(Cached { second: u64::MAX, line: Vec::new() })
    };
}

/// Appends the `Date` field line (RFC 9110 section 6.6.1).
pub(super) fn append(out: &mut Vec<u8>) {
    // A clock before 1970 is no reason to fail an answer.
    let second = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    CACHED.with(|cached| {
        let mut cached = cached.borrow_mut();
        if cached.second != second {
            cached.second = second;
            cached.line.clear();
            cached.line.extend_from_slice(b"Date: ");
            cached.line.extend_from_slice(reel_proto::http::date::format(second).as_bytes());
            cached.line.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(&cached.line);
    });
}
