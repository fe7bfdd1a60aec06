//! Dates in HTTP fields (RFC 9110 section 5.6.7).

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Bytes of the form.
const LENGTH: usize = 29;

/// 9999-12-31 23:59:59: the last date that the form can hold. A later time is written as this one.
const LAST: u64 = 253_402_300_799;

/// A date as it stands in a field. Inline, `Copy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DateText {
    length: usize,
    bytes: [u8; LENGTH],
}

impl DateText {
    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::fmt::Write for DateText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        self.bytes
            .get_mut(self.length..end)
            .ok_or(std::fmt::Error)?
            .copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` of seconds since 1970.
pub fn format(time: u64) -> DateText {
    let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(time.min(LAST)));
    let mut text = DateText { length: 0, bytes: [0; LENGTH] };
    let written = write!(text, "{date}");
    debug_assert!(written.is_ok() && text.length == LENGTH, "every date has the same length");
    text
}

/// Seconds since 1970 of a date in any of the three forms; `None` for anything else, and before 1970.
pub fn parse(value: &[u8]) -> Option<u64> {
    let time: SystemTime = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
