//! Byte ranges and the layout of their answers.

use proptest::prelude::*;
use reel_proto::{
    http::{
        multipart::{Boundary, Multipart},
        range::{ByteRange, ContentRange, Parts, RangeSet, Ranges, resolve},
    },
    limits,
};

fn ranges(value: &str, size: u64) -> Ranges {
    resolve([value.as_bytes()].into_iter(), size)
}

/// `None`: the whole file. Empty: 416.
fn spans(value: &str, size: u64) -> Option<Vec<(u64, u64)>> {
    match ranges(value, size) {
        Ranges::Whole => None,
        Ranges::Unsatisfiable => Some(vec![]),
        Ranges::Parts(parts) => Some(parts.iter().map(|part| (part.first, part.last())).collect()),
    }
}

#[test]
fn ranges_of_a_file_of_10000_bytes() {
    // The examples of RFC 9110 section 14.1.2, and what surrounds them.
    for (section, value, expected) in [
        ("14.1.2", "bytes=0-499", &[(0, 499)][..]),
        ("14.1.2", "bytes=500-999", &[(500, 999)]),
        ("14.1.2", "bytes=-500", &[(9500, 9999)]),
        ("14.1.2", "bytes=9500-", &[(9500, 9999)]),
        ("14.1.2", "bytes=0-0,-1", &[(0, 0), (9999, 9999)]),
        ("14.1.2", "bytes= 0-999, 4500-5499, -1000", &[(0, 999), (4500, 5499), (9000, 9999)]),
        ("14.1.2", "bytes=500-600,601-999", &[(500, 600), (601, 999)]),
        ("14.1.2", "bytes=500-700,601-999", &[(500, 700), (601, 999)]),
        ("14.1.2", "bytes=0-", &[(0, 9999)]),
        ("14.1.2", "bytes=9999-", &[(9999, 9999)]),
        ("14.1.2", "bytes=9990-99999", &[(9990, 9999)]),
        ("14.1.2", "bytes=-99999", &[(0, 9999)]),
        ("14.1.2", "bytes=-10000", &[(0, 9999)]),
        ("14.1", "Bytes=1-2", &[(1, 2)]),
        ("14.1.1", "bytes=0-99999999999999999999999999", &[(0, 9999)]),
        ("14.1.1", "bytes=-99999999999999999999999999", &[(0, 9999)]),
        ("14.1.1", "bytes=00-0001", &[(0, 1)]),
        ("15.3.7.2", "bytes=50-59,10-19", &[(50, 59), (10, 19)]),
        ("14.2", "bytes=10000-,5-6", &[(5, 6)]),
        ("5.6.1.2", "bytes=,1-2,,\t3-4 ,", &[(1, 2), (3, 4)]),
        ("14.1.2", "bytes=10000-", &[]),
        ("14.1.2", "bytes=10000-20000", &[]),
        ("14.1.2", "bytes=-0", &[]),
        ("14.1.2", "bytes=-0,10000-,99999999999999999999-", &[]),
    ] {
        assert_eq!(spans(value, 10_000).as_deref(), Some(expected), "RFC 9110 {section}: {value}");
    }
}

#[test]
fn ranges_that_are_ignored() {
    let long = format!("bytes={}", ["0-0"; 400].join(","));
    let many = format!("bytes={}", ["0-0"; limits::HTTP_RANGES_MAX + 1].join(","));
    for (section, value) in [
        ("14.2", ""),
        ("14.2", "bytes"),
        ("14.2", "bytes="),
        ("14.2", "bytes=,"),
        ("14.2", "seconds=0-1"),
        ("14.2", "byte=0-1"),
        ("14.2", "0-1"),
        ("14.2", "bytes 0-1"),
        ("14.2", "bytes =0-1"),
        ("14.1.1", "bytes=5-2"),
        ("14.1.1", "bytes=-"),
        ("14.1.1", "bytes=--1"),
        ("14.1.1", "bytes=1--2"),
        ("14.1.1", "bytes=+1-2"),
        ("14.1.1", "bytes=1-2-3"),
        ("14.1.1", "bytes=a-b"),
        ("14.1.1", "bytes=0x1-2"),
        ("14.1.1", "bytes=1 -2"),
        ("14.1.1", "bytes=1.0-2"),
        ("14.2", "bytes=0-0,x"),
        ("14.2", "bytes=0-1;2-3"),
        ("14.2", "bytes=0-1, bytes=2-3"),
        ("14.2", &many),
        ("14.2", &long),
        ("17.15", "bytes=0-,0-"),
        ("17.15", "bytes=0-9999,-1"),
        ("17.15", "bytes=0-5000,4000-9000,0-2000"),
    ] {
        assert_eq!(spans(value, 10_000), None, "RFC 9110 {section}: {value}");
    }
    let two = [&b"bytes=0-0"[..], b"bytes=1-1"].into_iter();
    assert_eq!(resolve(two, 10), Ranges::Whole, "RFC 9110 5.3");
    assert_eq!(resolve(std::iter::empty(), 10), Ranges::Whole);
}

#[test]
fn at_the_limits() {
    let many = format!("bytes={}", ["0-0"; limits::HTTP_RANGES_MAX].join(","));
    assert_eq!(spans(&many, 10_000).unwrap().len(), limits::HTTP_RANGES_MAX);
    // As many bytes as the file has are not more than it.
    assert_eq!(spans("bytes=0-4999,5000-9999", 10_000).unwrap().len(), 2);
    let padded = format!("bytes=0-0{}", " ".repeat(limits::HTTP_RANGE_BYTES_MAX - 9));
    assert_eq!(spans(&padded, 10), Some(vec![(0, 0)]));
    assert_eq!(spans(&format!("{padded} "), 10), None);
    assert_eq!(spans("bytes=0-", u64::MAX), Some(vec![(0, u64::MAX - 1)]));
    assert_eq!(spans("bytes=-1", u64::MAX), Some(vec![(u64::MAX - 1, u64::MAX - 1)]));
}

#[test]
fn an_empty_file() {
    assert_eq!(spans("bytes=0-", 0), Some(vec![]), "RFC 9110 14.1.2");
    assert_eq!(spans("bytes=0-0", 0), Some(vec![]), "RFC 9110 14.1.2");
    assert_eq!(spans("bytes=-0", 0), Some(vec![]), "RFC 9110 14.1.2");
    assert_eq!(
        spans("bytes=-5", 0),
        None,
        "RFC 9110 14.1.2: satisfiable, and no Content-Range fits"
    );
}

#[test]
fn content_ranges() {
    let line = |range| {
        let mut out = Vec::new();
        ContentRange { range, size: 1234 }.write_field(&mut out);
        String::from_utf8(out).unwrap()
    };
    let range = Some(ByteRange { first: 42, length: 1192 });
    assert_eq!(line(range), "Content-Range: bytes 42-1233/1234\r\n", "RFC 9110 14.4");
    assert_eq!(line(None), "Content-Range: bytes */1234\r\n", "RFC 9110 14.4");

    let last = u64::MAX - 1;
    for (first, last, size) in [(42, 1233, 1234), (0, 0, 1), (0, last, u64::MAX), (9, 9, 11)] {
        let range = ByteRange { first, length: last - first + 1 };
        let told = ContentRange { range: Some(range), size };
        let text = format!("bytes {first}-{last}/{size}");
        assert_eq!(ContentRange::parse(text.as_bytes()), Some(told));
    }
    let none = ContentRange { range: None, size: 1234 };
    assert_eq!(ContentRange::parse(b"bytes */1234"), Some(none));
    for invalid in [
        "",
        "bytes",
        "bytes ",
        "bytes 0-0",
        "bytes 0-0/*",
        "bytes 0-0/",
        "bytes /9",
        "bytes 5-4/9",
        "bytes 0-9/9",
        "bytes -4/9",
        "bytes 4-/9",
        "bytes +0-1/9",
        "bytes 0-1/9 ",
        "0-1/9",
        "bytes 0-18446744073709551616/18446744073709551616",
        "items 0-1/9",
    ] {
        assert_eq!(ContentRange::parse(invalid.as_bytes()), None, "{invalid}");
    }
}

fn body(layout: &Multipart<'_>, content: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (index, part) in layout.parts.iter().enumerate() {
        layout.write_head(index, &mut body);
        body.extend_from_slice(&content[part.first as usize..=part.last() as usize]);
    }
    layout.write_end(&mut body);
    body
}

fn parts(value: &str, size: u64) -> Parts {
    match ranges(value, size) {
        Ranges::Parts(parts) => parts,
        other => panic!("{other:?}"),
    }
}

/// The form of RFC 9110 section 15.3.7.2.
#[test]
fn a_multipart_body_to_the_byte() {
    let content = b"0123456789";
    let parts = parts("bytes=0-1,-2", 10);
    let layout =
        Multipart { boundary: Boundary(0xAB), content_type: "video/mp4", size: 10, parts: &parts };
    let mut field = Vec::new();
    layout.write_field(&mut field);
    assert_eq!(
        field,
        b"Content-Type: multipart/byteranges; boundary=000000000000000000000000000000ab\r\n"
    );
    let body = body(&layout, content);
    assert_eq!(
        String::from_utf8(body.clone()).unwrap(),
        "--000000000000000000000000000000ab\r\nContent-Type: video/mp4\r\n\
         Content-Range: bytes 0-1/10\r\n\r\n01\r\n\
         --000000000000000000000000000000ab\r\nContent-Type: video/mp4\r\n\
         Content-Range: bytes 8-9/10\r\n\r\n89\r\n--000000000000000000000000000000ab--\r\n"
    );
    assert_eq!(layout.length(&mut Vec::new()), body.len() as u64);
}

proptest! {
    /// Against the plainest reading: for each byte, whether the range asks for it.
    #[test]
    fn one_range_has_exactly_the_bytes_asked_for(
        first in proptest::option::of(0u64..40), last in proptest::option::of(0u64..40), size in 0u64..30,
    ) {
        let shown = |number: Option<u64>| number.map_or(String::new(), |number| number.to_string());
        let value = format!("bytes={}-{}", shown(first), shown(last));
        let legal = match (first, last) {
            (None, None) => false,
            (Some(first), Some(last)) => first <= last,
            _ => true,
        };
        let wanted: Vec<u64> = (0..size).filter(|&at| match (first, last) {
            (Some(first), last) => at >= first && last.is_none_or(|last| at <= last),
            (None, Some(suffix)) => at + suffix >= size,
            (None, None) => false,
        }).collect();
        match spans(&value, size) {
            None => prop_assert!(!legal || (size == 0 && first.is_none())),
            Some(spans) => {
                prop_assert!(legal);
                let got: Vec<u64> = spans.iter().flat_map(|&(first, last)| first..=last).collect();
                prop_assert_eq!(got, wanted);
            }
        }
    }

    #[test]
    fn any_value_is_within_the_file(value in "bytes=[0-9, -]{0,60}|\\PC*", size in any::<u64>()) {
        if let Some(set) = RangeSet::parse(value.as_bytes())
            && let Ranges::Parts(parts) = set.resolve(size)
        {
            prop_assert!(!parts.is_empty() && parts.len() <= limits::HTTP_RANGES_MAX);
            let mut total = 0u64;
            for part in parts.iter() {
                prop_assert!(part.length > 0 && part.first < size && part.last() < size);
                total += part.length;
            }
            prop_assert!(total <= size);
        }
    }

    #[test]
    fn flipped_bits_do_not_panic(bit in 0usize..37 * 8, size in any::<u64>()) {
        let mut value = b"bytes=0-499, 500-999,-500,18446744073".to_vec();
        value[bit / 8] ^= 1 << (bit % 8);
        let _ = resolve([&value[..]].into_iter(), size);
    }

    #[test]
    fn a_multipart_body_is_as_long_as_it_says(
        picks in proptest::collection::vec((0u64..100, 1u64..5), 2..16), boundary in any::<u128>(),
    ) {
        let content: Vec<u8> = (0..=255).collect();
        let list: Vec<String> =
            picks.iter().map(|(first, more)| format!("{first}-{}", first + more)).collect();
        let parts = parts(&format!("bytes={}", list.join(",")), 256);
        let layout = Multipart {
            boundary: Boundary(boundary), content_type: "audio/ogg", size: 256, parts: &parts,
        };
        prop_assert_eq!(body(&layout, &content).len() as u64, layout.length(&mut Vec::new()));
    }
}
