//! Preconditions: each alone, then in the order of RFC 9110 section 13.2.2.

use proptest::prelude::*;
use reel_proto::{
    http::{
        etag::ETag,
        head::{HeadLimits, RequestHead},
        precondition::{Outcome, Validators, evaluate},
    },
    limits,
    path::PathId,
};

use super::heads::head;

const MODIFIED: &str = "Mon, 11 Mar 2024 20:14:02 GMT";
const BEFORE: &str = "Mon, 11 Mar 2024 20:14:01 GMT";
const AFTER: &str = "Mon, 11 Mar 2024 20:14:03 GMT";
const ETAG: &str = "\"10-ff\"";

fn current() -> Validators {
    Validators { etag: ETag::of_file(PathId::new(16).unwrap(), 255), last_modified: 1_710_188_042 }
}

fn outcome(method: &str, lines: &[&str], current: Option<&Validators>) -> Outcome {
    let line = format!("{method} /files/x HTTP/1.1");
    let bytes = head(&[&[line.as_str(), "Host: a"], lines].concat());
    let (head, _) = RequestHead::parse(&bytes, &HeadLimits::default()).unwrap().unwrap();
    evaluate(head.method, head.fields(), current)
}

fn get(lines: &[&str]) -> Outcome {
    outcome("GET", lines, Some(&current()))
}

const GO: Outcome = Outcome::Proceed { use_range: false };
const RANGE: Outcome = Outcome::Proceed { use_range: true };

#[test]
fn our_tag_is_strong_and_fixed() {
    assert_eq!(current().etag.as_str(), ETAG, "RFC 9110 8.8.3");
    let longest = ETag::of_file(PathId::MAX, u64::MAX);
    assert_eq!(longest.as_str(), "\"fffffffff-ffffffffffffffff\"");
    assert_eq!(ETag::of_file(PathId::new(0).unwrap(), 0).as_str(), "\"0-0\"");
}

/// Each: the section, the field lines of a GET, the outcome.
#[test]
fn each_alone() {
    for (section, lines, expected) in [
        ("13.1", &[][..], GO),
        ("13.1.1", &["If-Match: \"10-ff\""], GO),
        ("13.1.1", &["If-Match: *"], GO),
        ("13.1.1", &["If-Match: \"a\", \"10-ff\""], GO),
        ("13.1.1", &["If-Match: \"a\"", "If-Match: \"10-ff\""], GO),
        ("13.1.1", &["If-Match: \"a,b\",\"10-ff\""], GO),
        ("13.1.1", &["If-Match: ,, \"10-ff\" ,"], GO),
        ("13.1.1", &["If-Match: \"a\""], Outcome::Failed),
        ("13.1.1", &["If-Match: \"10-FF\""], Outcome::Failed),
        ("8.8.3.2", &["If-Match: W/\"10-ff\""], Outcome::Failed),
        ("13.1.1", &["If-Match: 10-ff"], Outcome::Failed),
        ("13.1.1", &["If-Match:"], Outcome::Failed),
        ("13.1.1", &["If-Match: \"10-ff"], Outcome::Failed),
        ("13.1.2", &["If-None-Match: \"10-ff\""], Outcome::NotModified),
        ("13.1.2", &["If-None-Match: *"], Outcome::NotModified),
        ("8.8.3.2", &["If-None-Match: W/\"10-ff\""], Outcome::NotModified),
        ("13.1.2", &["If-None-Match: \"a\", W/\"10-ff\", \"b\""], Outcome::NotModified),
        ("13.1.2", &["If-None-Match: \"a\""], GO),
        ("13.1.2", &["If-None-Match: w/\"10-ff\""], GO),
        ("13.1.2", &["If-None-Match: nonsense"], GO),
        ("13.1.3", &["If-Modified-Since: Mon, 11 Mar 2024 20:14:02 GMT"], Outcome::NotModified),
        ("13.1.3", &["If-Modified-Since: Mon, 11 Mar 2024 20:14:03 GMT"], Outcome::NotModified),
        ("13.1.3", &["If-Modified-Since: Mon, 11 Mar 2024 20:14:01 GMT"], GO),
        ("5.6.7", &["If-Modified-Since: Monday, 11-Mar-24 20:14:02 GMT"], Outcome::NotModified),
        ("5.6.7", &["If-Modified-Since: Mon Mar 11 20:14:02 2024"], Outcome::NotModified),
        ("13.1.3", &["If-Modified-Since: yesterday"], GO),
        ("13.1.3", &["If-Modified-Since: 1710188042"], GO),
        (
            "13.1.3",
            &[
                "If-Modified-Since: Mon, 11 Mar 2024 20:14:02 GMT",
                "If-Modified-Since: Mon, 11 Mar 2024 20:14:02 GMT",
            ],
            GO,
        ),
        ("13.1.4", &["If-Unmodified-Since: Mon, 11 Mar 2024 20:14:02 GMT"], GO),
        ("13.1.4", &["If-Unmodified-Since: Mon, 11 Mar 2024 20:14:03 GMT"], GO),
        ("13.1.4", &["If-Unmodified-Since: Mon, 11 Mar 2024 20:14:01 GMT"], Outcome::Failed),
        ("13.1.4", &["If-Unmodified-Since: whenever"], GO),
        ("13.1.5", &["Range: bytes=0-0"], RANGE),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: \"10-ff\""], RANGE),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: \"a\""], GO),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: W/\"10-ff\""], GO),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: Mon, 11 Mar 2024 20:14:02 GMT"], RANGE),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: Mon, 11 Mar 2024 20:14:03 GMT"], GO),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: nonsense"], GO),
        ("13.1.5", &["Range: bytes=0-0", "If-Range:"], GO),
        ("13.1.5", &["Range: bytes=0-0", "If-Range: \"10-ff\"", "If-Range: \"10-ff\""], GO),
        ("13.1.5", &["If-Range: \"a\""], GO),
    ] {
        assert_eq!(get(lines), expected, "RFC 9110 {section}: {lines:?}");
    }
}

#[test]
fn in_the_order_of_13_2_2() {
    let (since, unmodified) = ("If-Modified-Since: ", "If-Unmodified-Since: ");
    let line = |name: &str, date: &str| format!("{name}{date}");
    for (step, lines, expected) in [
        (
            "1 before 3",
            vec!["If-None-Match: \"10-ff\"".to_owned(), "If-Match: \"a\"".to_owned()],
            Outcome::Failed,
        ),
        ("1 hides 2", vec!["If-Match: *".to_owned(), line(unmodified, BEFORE)], GO),
        (
            "2 before 3",
            vec!["If-None-Match: *".to_owned(), line(unmodified, BEFORE)],
            Outcome::Failed,
        ),
        (
            "2 then 3",
            vec!["If-None-Match: *".to_owned(), line(unmodified, MODIFIED)],
            Outcome::NotModified,
        ),
        ("3 hides 4", vec!["If-None-Match: \"a\"".to_owned(), line(since, MODIFIED)], GO),
        (
            "3 hides 4",
            vec!["If-None-Match: \"10-ff\"".to_owned(), line(since, BEFORE)],
            Outcome::NotModified,
        ),
        ("2 before 4", vec![line(unmodified, BEFORE), line(since, AFTER)], Outcome::Failed),
        (
            "3 before 5",
            vec!["Range: bytes=0-0".to_owned(), "If-None-Match: *".to_owned()],
            Outcome::NotModified,
        ),
        (
            "4 before 5",
            vec!["Range: bytes=0-0".to_owned(), line(since, MODIFIED)],
            Outcome::NotModified,
        ),
        ("1, then 5", vec!["Range: bytes=0-0".to_owned(), "If-Match: *".to_owned()], RANGE),
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(get(&lines), expected, "RFC 9110 13.2.2 step {step}: {lines:?}");
    }
}

#[test]
fn other_methods() {
    let there = current();
    for (section, method, lines, file, expected) in [
        ("13.1.2", "HEAD", "If-None-Match: *", Some(&there), Outcome::NotModified),
        (
            "13.1.3",
            "HEAD",
            "If-Modified-Since: Mon, 11 Mar 2024 20:14:02 GMT",
            Some(&there),
            Outcome::NotModified,
        ),
        ("14.2", "HEAD", "Range: bytes=0-0", Some(&there), GO),
        ("14.2", "PUT", "Range: bytes=0-0", Some(&there), GO),
        ("13.1.2", "PUT", "If-None-Match: *", Some(&there), Outcome::Failed),
        ("13.1.2", "PUT", "If-None-Match: *", None, GO),
        ("13.1.1", "PUT", "If-Match: *", None, Outcome::Failed),
        ("13.1.1", "PUT", "If-Match: *", Some(&there), GO),
        ("13.1.1", "DELETE", "If-Match: \"a\"", Some(&there), Outcome::Failed),
        ("13.1.3", "PUT", "If-Modified-Since: Mon, 11 Mar 2024 20:14:02 GMT", Some(&there), GO),
        (
            "13.1.4",
            "PUT",
            "If-Unmodified-Since: Mon, 11 Mar 2024 20:14:01 GMT",
            Some(&there),
            Outcome::Failed,
        ),
        ("13.1.4", "PUT", "If-Unmodified-Since: Mon, 11 Mar 2024 20:14:01 GMT", None, GO),
    ] {
        let got = outcome(method, &[lines], file);
        assert_eq!(got, expected, "RFC 9110 {section}: {method} {lines}");
    }
}

#[test]
fn tags_at_and_past_the_limit() {
    let list = |others: usize| {
        let tags = ["\"x\""].repeat(others).join(",");
        format!("If-None-Match: {tags},\"10-ff\"")
    };
    assert_eq!(get(&[&list(limits::HTTP_ETAGS_MAX - 1)]), Outcome::NotModified);
    assert_eq!(get(&[&list(limits::HTTP_ETAGS_MAX)]), GO);
    let failed = list(limits::HTTP_ETAGS_MAX).replace("None-", "");
    assert_eq!(get(&[&failed]), Outcome::Failed);
}

proptest! {
    #[test]
    fn any_value_is_evaluated(value in "[ -~\u{80}-\u{ff}]{0,80}", which in 0usize..6) {
        let name = [
            "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range",
        ][which];
        let _ = get(&[&format!("{name}: {value}"), "Range: bytes=0-0"]);
    }

    /// A tag of ours is found wherever it stands among well-formed others, and only then.
    #[test]
    fn our_tag_is_found_in_any_list(
        mut others in proptest::collection::vec("(W/)?\"[!#-~]{0,12}\"", 0..10),
        at in any::<prop::sample::Index>(),
        there in any::<bool>(),
    ) {
        others.retain(|tag| !tag.ends_with(ETAG));
        if there {
            others.insert(at.index(others.len() + 1), ETAG.to_owned());
        }
        let expected = if there { GO } else { Outcome::Failed };
        prop_assert_eq!(get(&[&format!("If-Match: {}", others.join(", "))]), expected);
    }
}
