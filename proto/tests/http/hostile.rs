//! Heads of any bytes: no panic, bounded memory, one reading.

use proptest::prelude::*;
use reel_proto::http::head::{Framing, HeadLimits, HeadScan, RequestHead, ResponseHead};

const SAMPLE: &[u8] =
    b"PUT /files/a%20b?user=u HTTP/1.1\r\nHost: example.org:80\r\nContent-Length: 42\r\n\
      Expect: 100-continue\r\nConnection: close\r\nX: \xff\r\n\r\n";

/// What every head that is taken must keep.
fn sound(bytes: &[u8]) {
    let limits = HeadLimits::default();
    if let Ok(Some((head, used))) = RequestHead::parse(bytes, &limits) {
        assert!(used <= bytes.len() && used <= limits.bytes_max + 2);
        assert!(bytes[..used].ends_with(b"\r\n\r\n"));
        let line_feeds = bytes[..used].iter().filter(|&&byte| byte == b'\n').count();
        assert_eq!(bytes[..used].windows(2).filter(|pair| pair == b"\r\n").count(), line_feeds);
        assert!(!bytes[..used].contains(&0));
        assert!(head.fields().all("host").count() <= 1);
        let lengths = head.fields().all("content-length").count();
        let codings = head.fields().all("transfer-encoding").count();
        match head.framing {
            Framing::None => assert_eq!((lengths, codings), (0, 0)),
            Framing::Length(length) => {
                assert_eq!((lengths, codings), (1, 0));
                assert!(i64::try_from(length).is_ok());
            }
            Framing::Chunked => assert_eq!((lengths, codings), (0, 1)),
        }
        let _ = (head.path(), head.query(), head.path_and_query(), head.host(), head.method());
        for (name, value) in head.headers() {
            assert!(!name.is_empty() && !value.contains(&b'\n') && !value.contains(&b'\r'));
        }
        // The same again, from what was taken alone.
        let (again, length) = RequestHead::parse(&bytes[..used], &limits).unwrap().unwrap();
        assert_eq!((again.framing, length), (head.framing, used));
    }
    let _ = ResponseHead::parse(bytes, &limits);
}

#[test]
fn every_flipped_bit_and_every_cut() {
    sound(SAMPLE);
    assert!(RequestHead::parse(SAMPLE, &HeadLimits::default()).unwrap().is_some());
    for bit in 0..SAMPLE.len() * 8 {
        let mut flipped = SAMPLE.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        sound(&flipped);
    }
    for end in 0..SAMPLE.len() {
        sound(&SAMPLE[..end]);
        assert!(RequestHead::parse(&SAMPLE[..end], &HeadLimits::default()).unwrap().is_none());
    }
    for at in 0..SAMPLE.len() {
        for byte in [0, b'\n', b'\r', b' ', b':', b',', 0x7F, 0xFF] {
            let mut changed = SAMPLE.to_vec();
            changed.insert(at, byte);
            sound(&changed);
            changed.remove(at);
            changed[at] = byte;
            sound(&changed);
        }
    }
}

fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("Host: a".to_owned()),
        Just("Content-Length: 5".to_owned()),
        Just("Transfer-Encoding: chunked".to_owned()),
        "(Content-Length|Transfer-Encoding|Host|Expect|Connection|X)[ \t]?:[ -~\t\r\n]{0,12}",
        "[ -~]{0,20}",
    ]
}

proptest! {
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        sound(&bytes);
    }

    #[test]
    fn almost_heads(
        first in "(GET|PUT|CONNECT|OPTIONS|[A-Z]{1,3}) (/|\\*|http://a/)[!-~]{0,10} HTTP/1\\.[01]|[ -~]{0,30}",
        lines in proptest::collection::vec(line(), 0..6),
        ends in proptest::collection::vec(prop_oneof![9 => Just("\r\n"), 1 => Just("\n")], 8),
    ) {
        let mut bytes = Vec::new();
        for (text, end) in [first].iter().chain(&lines).zip(&ends) {
            bytes.extend_from_slice(text.as_bytes());
            bytes.extend_from_slice(end.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        sound(&bytes);
    }

    /// A head is read the same at once and byte by byte.
    #[test]
    fn in_pieces_as_at_once(
        lines in proptest::collection::vec(line(), 0..5), cuts in any::<[prop::sample::Index; 3]>(),
    ) {
        let bytes = format!("GET / HTTP/1.1\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes();
        let limits = HeadLimits { bytes_max: 120, ..HeadLimits::default() };
        let outcome = |result: Result<Option<(RequestHead, usize)>, _>| {
            result.map(|taken| taken.map(|(head, used)| (head.framing, used)))
        };
        let at_once = outcome(RequestHead::parse(&bytes, &limits));
        let mut ends = cuts.map(|cut| cut.index(bytes.len())).to_vec();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut scan = HeadScan::default();
        for end in ends {
            match outcome(RequestHead::parse_more(&bytes[..end], &mut scan, &limits)) {
                Ok(None) => {}
                done => {
                    prop_assert_eq!(&done, &at_once);
                    return Ok(());
                }
            }
        }
        prop_assert_eq!(at_once, Ok(None));
    }
}
