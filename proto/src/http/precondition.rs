//! Preconditions (RFC 9110 section 13), in the order of section 13.2.2.

use super::{
    date,
    etag::{self, ETag},
    fields::Fields,
    head::Method,
};
use crate::limits;

/// What a file is compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validators {
    /// Its entity tag, strong.
    pub etag: ETag,
    /// Seconds since 1970, as `Last-Modified` tells it.
    pub last_modified: u64,
}

/// What the preconditions of a request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Go on.
    Proceed {
        /// Whether the `Range` field counts: false for other methods than GET, without one, and where `If-Range` says no.
        use_range: bool,
    },
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Evaluates the preconditions of a request whose answer would be 2xx without them (RFC 9110 section 13.2.1).
///
/// `current` is the file as it is now, `None` where there is none (an upload of a new one).
pub fn evaluate(method: Method, fields: &Fields, current: Option<&Validators>) -> Outcome {
    // Step 1, else step 2.
    if fields.has("if-match") {
        if !if_match(fields, current) {
            return Outcome::Failed;
        }
    } else if let Some(date) = only_date(fields, "if-unmodified-since")
        && current.is_some_and(|current| current.last_modified > date)
    {
        return Outcome::Failed;
    }
    // Step 3, else step 4.
    if fields.has("if-none-match") {
        if !if_none_match(fields, current) {
            return if method.is_read() { Outcome::NotModified } else { Outcome::Failed };
        }
    } else if method.is_read()
        && let Some(date) = only_date(fields, "if-modified-since")
        && current.is_some_and(|current| current.last_modified <= date)
    {
        return Outcome::NotModified;
    }
    // Step 5.
    let ranged = method == Method::Get && fields.has("range");
    Outcome::Proceed { use_range: ranged && if_range(fields, current) }
}

/// Section 13.1.1: true if any tag matches strongly, or for `*` if there is a file.
fn if_match(fields: &Fields, current: Option<&Validators>) -> bool {
    let Some(current) = current else { return false };
    any_tag(fields, "if-match", |tag| current.etag.matches_strong(tag))
}

/// Section 13.1.2: false if any tag matches weakly, or for `*` if there is a file.
fn if_none_match(fields: &Fields, current: Option<&Validators>) -> bool {
    let Some(current) = current else { return true };
    !any_tag(fields, "if-none-match", |tag| current.etag.matches_weak(tag))
}

/// Whether `*` stands there, or a tag that matches. A list is read up to its first fault.
fn any_tag(fields: &Fields, name: &str, matches: impl Fn(&[u8]) -> bool) -> bool {
    let mut seen = 0;
    for mut list in fields.all(name) {
        if list == b"*" {
            return true;
        }
        while let Some(tag) = etag::next_of_list(&mut list) {
            if matches(tag) {
                return true;
            }
            seen += 1;
            if seen == limits::HTTP_ETAGS_MAX {
                return false;
            }
        }
    }
    false
}

/// Section 13.1.5: an entity tag by strong comparison, a date by equality. A file is made once and never changed, so
/// its date is a strong validator (section 8.8.2.2) but for an id that was purged and used again within one second.
/// Anything else, and two lines, say that the file has changed: the whole is sent, which is always right.
fn if_range(fields: &Fields, current: Option<&Validators>) -> bool {
    if !fields.has("if-range") {
        return true;
    }
    let (Some(value), Some(current)) = (fields.only("if-range"), current) else { return false };
    match date::parse(value) {
        Some(date) => date == current.last_modified,
        None => current.etag.matches_strong(value),
    }
}

/// A field with a date: ignored where it is malformed or stands twice (sections 13.1.3, 13.1.4).
fn only_date(fields: &Fields, name: &str) -> Option<u64> {
    date::parse(fields.only(name)?)
}
