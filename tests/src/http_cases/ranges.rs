//! Reading: whole files, single and multiple ranges, unsatisfiable and malformed ones.

use super::{Body, Case, Expect, case, get, request, status};

fn part(range: &'static str, first: usize, last: usize) -> Expect {
    status(206)
        .is("Content-Range", range)
        .is("ETag", "{etag}")
        .is("Content-Type", "video/mp4")
        .body(Body::Bytes(first, last))
}

fn whole() -> Expect {
    status(200).is("Content-Length", "{size}").without("Content-Range").body(Body::Whole)
}

fn unsatisfiable() -> Expect {
    status(416).is("Content-Range", "bytes */{size}")
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = whole_files();
    cases.extend(single());
    cases.extend(ignored());
    cases.extend(multiple());
    cases
}

fn whole_files() -> Vec<Case> {
    vec![
        case(
            "get-whole",
            "RFC 9110 9.3.1",
            get(&[]),
            whole()
                .is("Accept-Ranges", "bytes")
                .is("Content-Type", "video/mp4")
                .any("ETag")
                .any("Last-Modified")
                .any("Date")
                .is("X-Content-Type-Options", "nosniff")
                .has("Content-Security-Policy", "sandbox")
                .is("Cache-Control", "no-cache"),
        ),
        case(
            "head-has-the-fields-of-get",
            "RFC 9110 9.3.2",
            request("HEAD", "/files/{id}", &[]),
            status(200)
                .is("Content-Length", "{size}")
                .is("Accept-Ranges", "bytes")
                .is("ETag", "{etag}")
                .is("Last-Modified", "{modified}")
                .head(),
        ),
        case(
            "head-ignores-range",
            "RFC 9110 14.2",
            request("HEAD", "/files/{id}", &["Range: bytes=0-0"]),
            status(200).is("Content-Length", "{size}").without("Content-Range").head(),
        ),
        case(
            "get-unknown",
            "RFC 9110 15.5.5",
            request("GET", "/files/no-such-{run}", &[]),
            status(404),
        ),
        case("get-no-id", "RFC 9110 15.5.5", request("GET", "/files/", &[]), status(404)),
        case("get-root", "RFC 9110 15.5.5", request("GET", "/no/such", &[]), status(404)),
        case(
            "get-id-with-escapes",
            "RFC 3986 2.3",
            request("GET", "/files/%63ase%2D{run}", &[]),
            whole(),
        ),
        case(
            "get-id-with-a-slash",
            "RFC 3986 2.2",
            request("GET", "/files/..%2Fetc%2Fpasswd", &[]),
            status(400).or(404),
        ),
        case(
            "get-id-with-a-broken-escape",
            "RFC 3986 2.1",
            request("GET", "/files/a%zz", &[]),
            status(400).or(404),
        ),
        case(
            "get-of-another-user",
            "interfaces: a request that names a user sees only that user's files",
            request("GET", "/files/{id}?app=tnvideo&user=somebody-else", &[]),
            status(404),
        ),
        case(
            "get-of-its-own-user",
            "interfaces: app and user in the query",
            request("GET", "/files/{id}?app=tnvideo&user=tnv001", &[]),
            whole(),
        ),
    ]
}

fn single() -> Vec<Case> {
    let range = |name, rfc, range: &str, expect| {
        case(name, rfc, get(&[&format!("Range: {range}")]), expect)
    };
    vec![
        range("first-byte", "RFC 9110 14.1.2", "bytes=0-0", part("bytes 0-0/{size}", 0, 0)),
        range("first-500", "RFC 9110 14.1.2", "bytes=0-499", part("bytes 0-499/{size}", 0, 499)),
        range(
            "second-500",
            "RFC 9110 14.1.2",
            "bytes=500-999",
            part("bytes 500-999/{size}", 500, 999),
        ),
        range(
            "suffix",
            "RFC 9110 14.1.2",
            "bytes=-500",
            part("bytes 99500-99999/{size}", 99_500, 99_999),
        ),
        range(
            "open-end",
            "RFC 9110 14.1.2",
            "bytes=99500-",
            part("bytes 99500-99999/{size}", 99_500, 99_999),
        ),
        range(
            "whole-as-a-range",
            "RFC 9110 14.1.2",
            "bytes=0-",
            part("bytes 0-99999/{size}", 0, 99_999),
        ),
        range(
            "last-byte",
            "RFC 9110 14.1.2",
            "bytes=99999-99999",
            part("bytes 99999-99999/{size}", 99_999, 99_999),
        ),
        range(
            "end-past-the-file",
            "RFC 9110 14.1.2",
            "bytes=99990-200000",
            part("bytes 99990-99999/{size}", 99_990, 99_999),
        ),
        range(
            "suffix-longer-than-the-file",
            "RFC 9110 14.1.2",
            "bytes=-200000",
            part("bytes 0-99999/{size}", 0, 99_999),
        ),
        range("unit-in-another-case", "RFC 9110 14.1", "Bytes=0-0", part("bytes 0-0/{size}", 0, 0)),
        range("start-at-the-end", "RFC 9110 14.1.2", "bytes=100000-", unsatisfiable()),
        range(
            "start-far-past-the-end",
            "RFC 9110 15.5.17",
            "bytes=999999-9999999",
            unsatisfiable(),
        ),
        range("suffix-of-nothing", "RFC 9110 14.1.2", "bytes=-0", unsatisfiable()),
        range(
            "several-all-unsatisfiable",
            "RFC 9110 14.2",
            "bytes=100000-,200000-300000",
            unsatisfiable(),
        ),
    ]
}

fn ignored() -> Vec<Case> {
    let malformed =
        |name, rfc, range: &str| case(name, rfc, get(&[&format!("Range: {range}")]), whole());
    vec![
        malformed("another-unit", "RFC 9110 14.2", "seconds=0-1"),
        malformed("no-unit", "RFC 9110 14.2", "0-1"),
        malformed("no-range", "RFC 9110 14.2", "bytes="),
        malformed("letters", "RFC 9110 14.2", "bytes=a-b"),
        malformed("end-before-start", "RFC 9110 14.1.1", "bytes=5-2"),
        malformed("two-dashes", "RFC 9110 14.1.1", "bytes=--1"),
        malformed("a-sign", "RFC 9110 14.1.1", "bytes=+0-1"),
        malformed("a-good-and-a-malformed-one", "RFC 9110 14.2", "bytes=0-0,x"),
        case(
            "two-range-fields",
            "RFC 9110 5.3",
            get(&["Range: bytes=0-0", "Range: bytes=1-1"]),
            status(200).or(206).or(400),
        ),
        case(
            "a-number-past-64-bits",
            "RFC 9110 14.1.1",
            get(&["Range: bytes=0-99999999999999999999999999"]),
            status(206).or(200).body(Body::Whole),
        ),
    ]
}

fn multiple() -> Vec<Case> {
    let many = (0..2000).map(|at| format!("{0}-{0}", at * 2)).collect::<Vec<_>>().join(",");
    let overlapping = ["0-"; 100].join(",");
    vec![
        case(
            "first-and-last-byte",
            "RFC 9110 14.6",
            get(&["Range: bytes=0-0,-1"]),
            status(206)
                .has("Content-Type", "multipart/byteranges")
                .without("Content-Range")
                .body(Body::Parts(&[(0, 0), (99_999, 99_999)])),
        ),
        case(
            "three-ranges-in-the-order-asked",
            "RFC 9110 15.3.7.2",
            get(&["Range: bytes=50000-50099, 10-19 ,99990-"]),
            status(206).body(Body::Parts(&[(50_000, 50_099), (10, 19), (99_990, 99_999)])),
        ),
        case(
            "one-of-two-satisfiable",
            "RFC 9110 15.3.7.1",
            get(&["Range: bytes=0-9,100000-"]),
            part("bytes 0-9/{size}", 0, 9),
        ),
        case(
            "empty-list-members",
            "RFC 9110 5.6.1.2",
            get(&["Range: bytes=,0-9,"]),
            status(206).or(200),
        ),
        case(
            "very-many-ranges",
            "RFC 9110 14.2",
            get(&[&format!("Range: bytes={many}")]),
            status(200).or(416).or(431),
        )
        .ends(super::End::Either),
        case(
            "many-overlapping-ranges",
            "RFC 9110 17.15",
            get(&[&format!("Range: bytes={overlapping}")]),
            status(200).or(206).or(416).body(Body::Any),
        ),
    ]
}
