//! Dates, media types, names: how a file presents itself to a browser.

use proptest::prelude::*;
use reel_proto::{
    http::{
        content::{self, UNKNOWN, choose, is_active, is_media_type, of_bytes, of_name},
        date,
        disposition::{Kind, clean, value},
        response,
    },
    limits,
};

#[test]
fn dates() {
    assert_eq!(
        date::format(784_111_777).as_str(),
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "RFC 9110 5.6.7"
    );
    for text in [
        "Sun, 06 Nov 1994 08:49:37 GMT",
        "Sunday, 06-Nov-94 08:49:37 GMT",
        "Sun Nov  6 08:49:37 1994",
    ] {
        assert_eq!(date::parse(text.as_bytes()), Some(784_111_777), "RFC 9110 5.6.7: {text}");
    }
    for text in ["", "now", "Sun, 06 Nov 1994 08:49:37", "Sun, 32 Nov 1994 08:49:37 GMT", "\u{ff}"]
    {
        assert_eq!(date::parse(text.as_bytes()), None, "{text}");
    }
    assert_eq!(date::format(u64::MAX).as_str(), "Fri, 31 Dec 9999 23:59:59 GMT");
}

#[test]
fn dispositions() {
    for (section, name, expected) in [
        ("6266 4.2", None, "attachment"),
        ("6266 4.3", Some("film.mp4"), "attachment; filename=\"film.mp4\""),
        ("6266 4.3", Some("a film.mp4"), "attachment; filename=\"a film.mp4\""),
        (
            "8187 3.2",
            Some("用户.mp4"),
            "attachment; filename=\"__.mp4\"; filename*=UTF-8''%E7%94%A8%E6%88%B7.mp4",
        ),
        ("8187 3.2.1", Some("a'b*(c).mp4"), "attachment; filename=\"a'b*(c).mp4\""),
        (
            "8187 3.2.1",
            Some("é'*(%).mp4"),
            "attachment; filename=\"_'*(_).mp4\"; filename*=UTF-8''%C3%A9%27%2A%28%25%29.mp4",
        ),
        (
            "6266 D",
            Some("100%.mp4"),
            "attachment; filename=\"100_.mp4\"; filename*=UTF-8''100%25.mp4",
        ),
        (
            "9110 5.6.4",
            Some("a\"b.mp4"),
            "attachment; filename=\"a_b.mp4\"; filename*=UTF-8''a%22b.mp4",
        ),
        ("6266 4.3", Some("../../etc/passwd"), "attachment; filename=\"passwd\""),
        ("6266 4.3", Some("C:\\dir\\film.mp4"), "attachment; filename=\"film.mp4\""),
        ("6266 4.3", Some(".."), "attachment"),
        ("6266 4.3", Some("dir/"), "attachment"),
        ("9112 11.1", Some("a\r\nX-Evil: 1.mp4"), "attachment; filename=\"aX-Evil: 1.mp4\""),
        ("6266 7", Some("\u{202e}4pm.exe"), "attachment; filename=\"4pm.exe\""),
    ] {
        assert_eq!(value(Kind::Attachment, name), expected, "RFC {section}: {name:?}");
    }
    assert_eq!(value(Kind::Inline, Some("a.mp4")), "inline; filename=\"a.mp4\"");
    assert!(clean(&"用".repeat(1000)).len() <= limits::HTTP_DOWNLOAD_NAME_BYTES_MAX);
}

#[test]
fn media_types() {
    for (text, legal) in [
        ("video/mp4", true),
        ("video/mp4; codecs=\"avc1.42E01E\"", true),
        ("text/plain;charset=utf-8", true),
        ("video", false),
        ("video/", false),
        ("/mp4", false),
        ("video/mp4\r\nX: y", false),
        ("video/mp4; a=\"\r\n\"", false),
        ("video mp4/x", false),
        ("video/mp4/x", false),
        ("video/mp4 ; a=b;c=\"d, \\\" e\"", true),
        ("video/mp4;", true),
        ("video/mp4; ; a=b", true),
        ("video/mp4; a", false),
        ("video/mp4; a=", false),
        ("video/mp4; a=\"b", false),
        ("video/mp4; a=\"b\\\"", false),
        ("video/mp4; a=\"b\"c", false),
        // Browsers take the last type of such a list (Fetch, "extract a MIME type"): it would be run.
        ("video/mp4;,text/html", false),
        ("video/mp4; a=b,text/html", false),
        ("video/mp4; a=\"b\",text/html", false),
        ("", false),
    ] {
        assert_eq!(is_media_type(text), legal, "RFC 9110 8.3.1: {text:?}");
    }
    assert!(!is_media_type(&format!("a/{}", "b".repeat(254))));
    assert!(is_media_type(&format!("a/{}", "b".repeat(253))));
}

#[test]
fn the_type_is_the_uploaders_else_the_names_else_the_contents() {
    let none = || None;
    assert_eq!(choose(Some("video/mp4"), Some("a.webm"), none), "video/mp4");
    assert_eq!(choose(Some("nonsense"), Some("a.webm"), none), "video/webm");
    assert_eq!(choose(Some(UNKNOWN), Some("a.MKV"), none), "video/x-matroska");
    assert_eq!(choose(None, Some("a"), || Some("audio/ogg")), "audio/ogg");
    assert_eq!(choose(None, Some("a.unknown"), none), UNKNOWN);
    assert_eq!(choose(None, None, none), UNKNOWN);
    assert_eq!(of_name("archive.tar.mp4"), Some("video/mp4"));
    assert_eq!(of_name("mp4"), None);
}

#[test]
fn types_by_the_first_bytes() {
    for (begin, expected) in [
        (&b"\0\0\0\x20ftypisom\0\0\0\0"[..], Some("video/mp4")),
        (b"\0\0\0\x14ftypqt  ", Some("video/quicktime")),
        (b"\0\0\0\x20ftypM4A ", Some("audio/mp4")),
        (b"\x1A\x45\xDF\xA3\x01", Some("video/webm")),
        (b"OggS\0", Some("audio/ogg")),
        (b"RIFF\0\0\0\0WAVEfmt ", Some("audio/wav")),
        (b"RIFF\0\0\0\0WEBPVP8 ", Some("image/webp")),
        (b"ID3\x04", Some("audio/mpeg")),
        (b"\x89PNG\r\n\x1A\n", Some("image/png")),
        (b"<html><script>", None),
        (b"<svg onload=", None),
        (b"", None),
        (b"\0\0\0\x20ftyp", Some("video/mp4")),
    ] {
        assert_eq!(of_bytes(begin), expected, "{begin:?}");
    }
    let mut stream = vec![0; 376];
    (stream[0], stream[188]) = (0x47, 0x47);
    assert_eq!(of_bytes(&stream), Some("video/mp2t"));
    assert_eq!(of_bytes(b"Great work"), None);
    const { assert!(content::SNIFF_BYTES > 188) };
}

#[test]
fn what_a_browser_could_run_is_saved_and_never_opened() {
    for passive in [
        "video/mp4",
        "AUDIO/ogg",
        "image/png",
        "text/plain; charset=utf-8",
        "text/vtt",
        UNKNOWN,
        "application/dash+xml",
        "font/woff2",
    ] {
        assert!(!is_active(passive), "{passive}");
    }
    for active in [
        "text/html",
        "TEXT/HTML; charset=x",
        "image/svg+xml",
        "application/xhtml+xml",
        "text/xml",
        "application/xml",
        "video/x+xml",
        "audio/xml",
        "font/a+xml; charset=utf-8",
        "text/javascript",
        "application/javascript",
        "application/x-new-thing",
        "multipart/x-mixed-replace",
        "message/rfc822",
        "",
        "text",
        "text/html;",
    ] {
        assert!(is_active(active), "{active}");
    }
    assert!(response::CONTENT_SECURITY_POLICY.contains("sandbox"));
    assert!(!response::CONTENT_SECURITY_POLICY.contains("allow-scripts"));
}

proptest! {
    #[test]
    fn a_disposition_is_one_line_of_ascii(name in "\\PC{0,80}|[\\x00-\\xff]{0,80}") {
        let shown = value(Kind::Attachment, Some(&name));
        prop_assert!(shown.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{}", shown);
        prop_assert!(shown.matches('"').count().is_multiple_of(2));
    }

    #[test]
    fn any_bytes_have_a_type_or_none(bytes in any::<Vec<u8>>(), text in "\\PC*") {
        if let Some(found) = of_bytes(&bytes) {
            prop_assert!(!is_active(found));
        }
        let _ = (of_name(&text), is_media_type(&text), is_active(&text), date::parse(&bytes));
    }

    #[test]
    fn dates_come_back(time in 0u64..253_402_300_800) {
        prop_assert_eq!(date::parse(date::format(time).as_bytes()), Some(time));
    }
}
