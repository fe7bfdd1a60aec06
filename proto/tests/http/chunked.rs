//! The chunked coding: every legal form, every refusal, cut at every byte.

use proptest::prelude::*;
use reel_proto::{
    http::chunked::{ChunkError, Decoder, Step},
    limits,
};

/// Decodes pieces of a body one after another: the content, and what is left of the last piece after the end.
fn decode<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<(Vec<u8>, usize)>, ChunkError> {
    let mut decoder = Decoder::new();
    let mut content = Vec::new();
    for mut piece in pieces {
        loop {
            match decoder.decode(piece)? {
                Step::Data { skip, length } => {
                    assert!(length > 0, "no empty piece of content");
                    content.extend_from_slice(&piece[skip..skip + length]);
                    piece = &piece[skip + length..];
                }
                Step::NeedMore { used } => {
                    assert_eq!(used, piece.len(), "all that is there is consumed");
                    break;
                }
                Step::Done { used } => {
                    assert!(decoder.is_done());
                    assert_eq!(decoder.decode(b"more"), Ok(Step::Done { used: 0 }));
                    return Ok(Some((content, piece.len() - used)));
                }
            }
        }
    }
    Ok(None)
}

fn content(body: &str) -> String {
    let (content, left) = decode([body.as_bytes()]).unwrap().unwrap();
    assert_eq!(left, 0);
    String::from_utf8(content).unwrap()
}

#[test]
fn legal_bodies() {
    for (section, body, expected) in [
        ("9112 7.1", "0\r\n\r\n", ""),
        ("9112 7.1", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("9112 7.1", "1\r\na\r\nA\r\n0123456789\r\n0\r\n\r\n", "a0123456789"),
        ("9112 7.1", "00000005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("9112 7.1", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n"),
        ("9112 7.1.1", "5;a=b\r\nhello\r\n0;c=\"d e\"\r\n\r\n", "hello"),
        ("9112 7.1.1", "5 ; a = b\r\nhello\r\n0\t;x\r\n\r\n", "hello"),
        ("9112 7.1.2", "1\r\na\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n", "a"),
    ] {
        assert_eq!(content(body), expected, "RFC {section}: {body:?}");
    }
}

#[test]
fn refused_bodies() {
    for (section, body, error) in [
        ("9112 7.1", "\r\n", ChunkError::Size),
        ("9112 7.1", "g\r\n", ChunkError::Size),
        ("9112 7.1", "0x5\r\n", ChunkError::Size),
        ("9112 7.1", "+5\r\n", ChunkError::Size),
        ("9112 7.1", "-5\r\n", ChunkError::Size),
        ("9112 7.1", " 5\r\n", ChunkError::Size),
        ("9112 7.1", "5_0\r\n", ChunkError::Size),
        ("9112 7.1", "8000000000000000\r\n", ChunkError::Size),
        ("9112 7.1", "ffffffffffffffff\r\n", ChunkError::Size),
        ("9112 7.1", "10000000000000005\r\n", ChunkError::Size),
        ("9112 7.1", "00000000000000000\r\n", ChunkError::Size),
        ("9112 7.1", "5\nhello", ChunkError::Size),
        ("9112 7.1", "5\rhello", ChunkError::LineEnd),
        ("9112 7.1", "5\r\nhello\n0\r\n\r\n", ChunkError::LineEnd),
        ("9112 7.1", "5\r\nhello\r0\r\n\r\n", ChunkError::LineEnd),
        ("9112 7.1", "5\r\nhello!\r\n", ChunkError::LineEnd),
        ("9112 7.1", "5\r\nhello0\r\n\r\n", ChunkError::LineEnd),
        ("9112 7.1", "5 \r\nhello\r\n", ChunkError::Extension),
        ("9112 7.1.1", "5;a\nhello\r\n", ChunkError::LineEnd),
        ("9112 7.1.1", "5;a\0b\r\n", ChunkError::Extension),
        ("9112 7.1.1", "5 a\r\n", ChunkError::Extension),
        ("9112 7.1.2", "0\r\n\n", ChunkError::LineEnd),
        ("9112 7.1.2", "0\r\nX\r\n\r\n", ChunkError::Trailer),
        ("9112 7.1.2", "0\r\nX : y\r\n\r\n", ChunkError::Trailer),
        ("9112 7.1.2", "0\r\n X: y\r\n\r\n", ChunkError::Trailer),
        ("9112 7.1.2", "0\r\nX: a\0\r\n\r\n", ChunkError::Trailer),
        ("9112 7.1.2", "0\r\nX: y\n\r\n", ChunkError::LineEnd),
        ("9112 7.1.2", "0\r\n\rX", ChunkError::LineEnd),
    ] {
        assert_eq!(decode([body.as_bytes()]), Err(error), "RFC {section}: {body:?}");
    }
}

#[test]
fn lengths_at_and_past_each_limit() {
    let extension = |length: usize| format!("1;{}\r\na\r\n", "x".repeat(length - 1));
    let most = limits::HTTP_CHUNK_EXTENSION_BYTES_MAX;
    let end = "0\r\n\r\n";
    assert_eq!(content(&format!("{}{end}", extension(most))), "a");
    let past = decode([extension(most + 1).as_bytes()]);
    assert_eq!(past, Err(ChunkError::LongExtension));
    // Many short ones come up against the limit of all together.
    let count = limits::HTTP_CHUNK_EXTENSIONS_BYTES_MAX / 64;
    let many = extension(64).repeat(count);
    assert_eq!(content(&format!("{many}{end}")).len(), count);
    let past = decode([extension(64).repeat(count + 1).as_bytes()]);
    assert_eq!(past, Err(ChunkError::LongExtension));
    let trailer = |length: usize| format!("0\r\nX:{}\r\n\r\n", "y".repeat(length - 4));
    // The bytes that count: name to CR, then the last CR.
    assert_eq!(content(&trailer(limits::HTTP_TRAILER_BYTES_MAX)), "");
    let past = decode([trailer(limits::HTTP_TRAILER_BYTES_MAX + 1).as_bytes()]);
    assert_eq!(past, Err(ChunkError::LongTrailer));
    // The largest chunk is one that a length may have.
    let mut decoder = Decoder::new();
    let largest = decoder.decode(b"7fffffffffffffff\r\nx");
    assert_eq!(largest, Ok(Step::Data { skip: 18, length: 1 }));
}

#[test]
fn cut_at_every_byte() {
    let body = b"5;a=b\r\nhello\r\n3\r\n\r\n!\r\n0\r\nX: y\r\n\r\nGET /";
    for cut in 0..body.len() {
        let pieces = [&body[..cut], &body[cut..]];
        let (content, left) = decode(pieces).unwrap().unwrap();
        assert_eq!(content, b"hello\r\n!", "cut at {cut}");
        assert!(left <= 5);
    }
    let bytes: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(decode(bytes).unwrap().unwrap().0, b"hello\r\n!");
    for end in 0..body.len() - 5 {
        assert_eq!(decode([&body[..end]]), Ok(None), "cut at {end}");
    }
}

proptest! {
    #[test]
    fn any_content_comes_back(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut body = Vec::new();
        for chunk in &chunks {
            body.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
            body.extend_from_slice(chunk);
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"0\r\n\r\n");
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len())).collect();
        ends.extend([0, body.len()]);
        ends.sort_unstable();
        let pieces = ends.windows(2).map(|pair| &body[pair[0]..pair[1]]);
        prop_assert_eq!(decode(pieces).unwrap(), Some((chunks.concat(), 0)));
    }

    #[test]
    fn flipped_bits_and_any_bytes_do_not_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), bit in any::<prop::sample::Index>(),
    ) {
        let _ = decode([&bytes[..]]);
        let mut body = b"5;a=b\r\nhello\r\n3\r\n\r\n!\r\n0\r\nX: y\r\n\r\n".to_vec();
        let bit = bit.index(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        let _ = decode([&body[..]]);
    }

    /// Whatever comes, the content is a part of it: nothing is made up and nothing is sent twice.
    #[test]
    fn content_is_never_longer_than_its_body(text in "[0-9a-f;\r\n]{0,60}") {
        if let Ok(Some((content, left))) = decode([text.as_bytes()]) {
            prop_assert!(content.len() + left < text.len());
        }
    }
}
