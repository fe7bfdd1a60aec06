//! The error reply: its form, its limit, and what a malformed one becomes.

use proptest::prelude::*;
use reel_proto::{
    frame::{HEADER_LEN, Header, STATUS_FAILED, decode_error, error_reply},
    limits::ERROR_TEXT_BYTES_MAX,
};

fn header(reply: &[u8]) -> Header {
    Header::decode(reply[..HEADER_LEN].try_into().unwrap()).unwrap()
}

#[test]
fn an_empty_text_is_left_out() {
    assert_eq!(error_reply(102, "vm", ""), b"\0\0\0\0\0\0\0\x02\x66\xFD\xFF\xFF");
    assert_eq!(decode_error(b"\xFF\xFF").text, "");
}

#[test]
fn a_long_text_is_cut_at_a_character() {
    let room = ERROR_TEXT_BYTES_MAX - "[vm] \0".len();
    for (text, length) in [
        ("x".repeat(room), ERROR_TEXT_BYTES_MAX),
        ("x".repeat(room + 1), ERROR_TEXT_BYTES_MAX),
        ("用".repeat(1000), ERROR_TEXT_BYTES_MAX - room % 3),
    ] {
        let reply = error_reply(100, "vm", &text);
        assert_eq!(header(&reply).length as usize, 2 + length);
        assert_eq!(reply.len(), HEADER_LEN + 2 + length);
        let back = decode_error(&reply[HEADER_LEN..]);
        assert!(back.text.ends_with(text.chars().next().unwrap()));
    }
}

#[test]
fn a_quoted_text_cannot_end_the_description_or_break_a_log() {
    let reply = error_reply(100, "vm", "bad\0name\nand\r\x1b[31mmore");
    let error = decode_error(&reply[HEADER_LEN..]);
    assert_eq!(error.text, "[vm] bad name and  [31mmore");
    let foreign = decode_error(b"\xFF\xFFline\nbreak\x1b\0");
    assert!(!foreign.to_string().contains(['\n', '\x1b']), "{foreign}");
}

#[test]
fn a_malformed_error_is_an_error_all_the_same() {
    assert_eq!(decode_error(b"").number, -1);
    assert_eq!(decode_error(b"\xFF").number, -1);
    assert_eq!(decode_error(b"\xFF\xFE\xFF\xFE").text, "\u{FFFD}\u{FFFD}");
    let endless = [7; 100_000];
    assert!(decode_error(&endless).text.len() <= ERROR_TEXT_BYTES_MAX);
}

proptest! {
    #[test]
    fn any_text_fits_and_comes_back(host in "[a-z]{1,128}", text in "\\PC{1,600}") {
        let reply = error_reply(101, &host, &text);
        prop_assert_eq!(header(&reply).status, STATUS_FAILED);
        prop_assert_eq!(header(&reply).length as usize, reply.len() - HEADER_LEN);
        prop_assert!(reply.len() <= HEADER_LEN + 2 + ERROR_TEXT_BYTES_MAX);
        prop_assert_eq!(reply.last(), Some(&0));
        let error = decode_error(&reply[HEADER_LEN..]);
        let whole = format!("[{host}] {text}");
        prop_assert!(whole.starts_with(&error.text));
    }

    #[test]
    fn any_body_is_read(body in any::<Vec<u8>>()) {
        let _ = decode_error(&body).to_string();
    }
}
