//! Dates in HTTP fields (RFC 9110 section 5.6.7).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 9999-12-31 23:59:59: the last date that the form can hold. A later time is written as this one.
const LAST: u64 = 253_402_300_799;

/// `Sun, 06 Nov 1994 08:49:37 GMT` of seconds since 1970.
pub fn format(time: u64) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.min(LAST)))
}

/// Seconds since 1970 of a date in any of the three forms; `None` for anything else, and before 1970.
pub fn parse(value: &[u8]) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
