//! Preconditions, each alone and in the order of RFC 9110 section 13.2.2.

use super::{Body, Case, Expect, case, get, request, status};

const LONG_AGO: &str = "Thu, 01 Jan 1998 00:00:00 GMT";
const LATER: &str = "Fri, 31 Dec 2100 23:59:59 GMT";

fn whole() -> Expect {
    status(200).is("ETag", "{etag}").body(Body::Whole)
}

fn not_modified() -> Expect {
    status(304).is("ETag", "{etag}").body(Body::Empty)
}

fn failed() -> Expect {
    status(412)
}

fn first_byte() -> Expect {
    status(206).is("Content-Range", "bytes 0-0/{size}").body(Body::Bytes(0, 0))
}

fn with(name: &'static str, rfc: &'static str, lines: &[&str], expect: Expect) -> Case {
    case(name, rfc, get(lines), expect)
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = tags();
    cases.extend(dates());
    cases.extend(order());
    cases.extend(if_range());
    cases
}

fn tags() -> Vec<Case> {
    vec![
        with("if-match-same", "RFC 9110 13.1.1", &["If-Match: {etag}"], whole()),
        with("if-match-any", "RFC 9110 13.1.1", &["If-Match: *"], whole()),
        with("if-match-list", "RFC 9110 13.1.1", &["If-Match: \"x\", {etag}"], whole()),
        with("if-match-other", "RFC 9110 13.1.1", &["If-Match: \"other\""], failed()),
        with("if-match-weak", "RFC 9110 8.8.3.2", &["If-Match: W/{etag}"], failed()),
        with("if-none-match-same", "RFC 9110 13.1.2", &["If-None-Match: {etag}"], not_modified()),
        with("if-none-match-any", "RFC 9110 13.1.2", &["If-None-Match: *"], not_modified()),
        with(
            "if-none-match-list",
            "RFC 9110 13.1.2",
            &["If-None-Match: \"x\", {etag}, \"y\""],
            not_modified(),
        ),
        with(
            "if-none-match-weak",
            "RFC 9110 8.8.3.2",
            &["If-None-Match: W/{etag}"],
            not_modified(),
        ),
        with("if-none-match-other", "RFC 9110 13.1.2", &["If-None-Match: \"other\""], whole()),
        case(
            "if-none-match-on-head",
            "RFC 9110 13.1.2",
            request("HEAD", "/files/{id}", &["If-None-Match: {etag}"]),
            status(304).head(),
        ),
    ]
}

fn dates() -> Vec<Case> {
    let since = |date: &str| format!("If-Modified-Since: {date}");
    let unmodified = |date: &str| format!("If-Unmodified-Since: {date}");
    vec![
        with("modified-since-same", "RFC 9110 13.1.3", &[&since("{modified}")], not_modified()),
        with("modified-since-later", "RFC 9110 13.1.3", &[&since(LATER)], not_modified()),
        with("modified-since-long-ago", "RFC 9110 13.1.3", &[&since(LONG_AGO)], whole()),
        with("modified-since-no-date", "RFC 9110 13.1.3", &[&since("yesterday")], whole()),
        with(
            "modified-since-rfc850-date",
            "RFC 9110 5.6.7",
            &[&since("Thursday, 01-Jan-98 00:00:00 GMT")],
            whole(),
        ),
        with("unmodified-since-same", "RFC 9110 13.1.4", &[&unmodified("{modified}")], whole()),
        with("unmodified-since-long-ago", "RFC 9110 13.1.4", &[&unmodified(LONG_AGO)], failed()),
        with("unmodified-since-no-date", "RFC 9110 13.1.4", &[&unmodified("no date")], whole()),
    ]
}

fn order() -> Vec<Case> {
    let since_long_ago = format!("If-Modified-Since: {LONG_AGO}");
    let unmodified_long_ago = format!("If-Unmodified-Since: {LONG_AGO}");
    vec![
        with(
            "if-match-before-if-none-match",
            "RFC 9110 13.2.2",
            &["If-None-Match: {etag}", "If-Match: \"other\""],
            failed(),
        ),
        with(
            "if-match-hides-unmodified-since",
            "RFC 9110 13.1.4",
            &["If-Match: {etag}", &unmodified_long_ago],
            whole(),
        ),
        with(
            "if-none-match-hides-modified-since",
            "RFC 9110 13.1.3",
            &["If-None-Match: {etag}", &since_long_ago],
            not_modified(),
        ),
        with(
            "if-none-match-other-hides-modified-since",
            "RFC 9110 13.1.3",
            &["If-None-Match: \"other\"", "If-Modified-Since: {modified}"],
            whole(),
        ),
        with(
            "not-modified-before-range",
            "RFC 9110 13.2.2",
            &["If-None-Match: {etag}", "Range: bytes=0-0"],
            not_modified(),
        ),
        with(
            "failed-before-unsatisfiable",
            "RFC 9110 13.2.2",
            &["If-Match: \"other\"", "Range: bytes=100000-"],
            failed(),
        ),
        with(
            "if-match-with-range",
            "RFC 9110 13.2.2",
            &["If-Match: {etag}", "Range: bytes=0-0"],
            first_byte(),
        ),
    ]
}

fn if_range() -> Vec<Case> {
    let range = "Range: bytes=0-0";
    let long_ago = format!("If-Range: {LONG_AGO}");
    vec![
        with("if-range-same", "RFC 9110 13.1.5", &[range, "If-Range: {etag}"], first_byte()),
        with("if-range-other", "RFC 9110 13.1.5", &[range, "If-Range: \"other\""], whole()),
        with("if-range-weak", "RFC 9110 13.1.5", &[range, "If-Range: W/{etag}"], whole()),
        with("if-range-long-ago", "RFC 9110 13.1.5", &[range, &long_ago], whole()),
        with(
            "if-range-other-with-unsatisfiable",
            "RFC 9110 13.1.5",
            &["Range: bytes=100000-", "If-Range: \"other\""],
            whole(),
        ),
        with("if-range-without-range", "RFC 9110 13.1.5", &["If-Range: {etag}"], whole()),
    ]
}
