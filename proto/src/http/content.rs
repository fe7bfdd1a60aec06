//! Media types: from the uploader, from a name, from the first bytes; and which of them a browser must not open.

use super::syntax;
use crate::limits;

/// Of content about which nothing is known.
pub const UNKNOWN: &str = "application/octet-stream";

/// Bytes of a file's begin that [`of_bytes`] looks at.
pub const SNIFF_BYTES: usize = 192;

/// Types by the end of a name: media and what comes with it, lower case.
const BY_ENDING: &[(&str, &str)] = &[
    ("3gp", "video/3gpp"),
    ("aac", "audio/aac"),
    ("avi", "video/x-msvideo"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("flac", "audio/flac"),
    ("flv", "video/x-flv"),
    ("gif", "image/gif"),
    ("heic", "image/heic"),
    ("htm", "text/html"),
    ("html", "text/html"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript"),
    ("json", "application/json"),
    ("m2ts", "video/mp2t"),
    ("m3u8", "application/vnd.apple.mpegurl"),
    ("m4a", "audio/mp4"),
    ("m4s", "video/iso.segment"),
    ("m4v", "video/mp4"),
    ("mid", "audio/midi"),
    ("mkv", "video/x-matroska"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpd", "application/dash+xml"),
    ("mpeg", "video/mpeg"),
    ("mpg", "video/mpeg"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("srt", "application/x-subrip"),
    ("svg", "image/svg+xml"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("ts", "video/mp2t"),
    ("txt", "text/plain"),
    ("vtt", "text/vtt"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webp", "image/webp"),
    ("wmv", "video/x-ms-wmv"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
];

/// Types by the first bytes: offset, bytes, type. The WHATWG's MIME sniffing standard, section 6, and formats of media.
const BY_BYTES: &[(usize, &[u8], &str)] = &[
    (0, b"\x1A\x45\xDF\xA3", "video/webm"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xFF\xFB", "audio/mpeg"),
    (0, b"fLaC", "audio/flac"),
    (8, b"WAVE", "audio/wav"),
    (8, b"AVI ", "video/x-msvideo"),
    (8, b"WEBP", "image/webp"),
    (0, b"FLV\x01", "video/x-flv"),
    (0, b"\x00\x00\x01\xBA", "video/mpeg"),
    (0, b"\x89PNG\r\n\x1A\n", "image/png"),
    (0, b"\xFF\xD8\xFF", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"#EXTM3U", "application/vnd.apple.mpegurl"),
    (0, b"WEBVTT", "text/vtt"),
    (0, b"PK\x03\x04", "application/zip"),
];

/// The type of a stored file: what the uploader said, else by its name, else by its first bytes, else unknown.
///
/// `begin` is asked only when it is needed. A type that is not well-formed counts as none.
pub fn choose<'a>(
    stored: Option<&'a str>,
    name: Option<&str>,
    begin: impl FnOnce() -> Option<&'a str>,
) -> &'a str {
    stored
        .filter(|stored| is_media_type(stored) && *stored != UNKNOWN)
        .or_else(|| name.and_then(of_name))
        .or_else(begin)
        .unwrap_or(UNKNOWN)
}

/// The type by the ending of a name.
pub fn of_name(name: &str) -> Option<&'static str> {
    let (_, ending) = name.rsplit_once('.')?;
    let found = BY_ENDING.iter().find(|(known, _)| known.eq_ignore_ascii_case(ending));
    found.map(|&(_, media_type)| media_type)
}

/// The type by the first bytes of the content. Never an active one: a text is not looked into.
pub fn of_bytes(begin: &[u8]) -> Option<&'static str> {
    if begin.get(4..8) == Some(b"ftyp") {
        return Some(match begin.get(8..12) {
            Some(b"qt  ") => "video/quicktime",
            Some(b"M4A " | b"M4B ") => "audio/mp4",
            Some(b"avif" | b"avis") => "image/avif",
            Some(b"heic" | b"heix" | b"mif1") => "image/heic",
            _ => "video/mp4",
        });
    }
    if begin.first() == Some(&0x47)
        && begin.get(188).is_none_or(|&byte| byte == 0x47)
        && begin.len() > 188
    {
        return Some("video/mp2t");
    }
    let matches = |&&(offset, bytes, _): &&(usize, &[u8], &str)| {
        begin.get(offset..offset + bytes.len()) == Some(bytes)
    };
    BY_BYTES.iter().find(matches).map(|&(_, _, media_type)| media_type)
}

/// Whether a text is a media type (RFC 9110 section 8.3.1): `type/subtype`, then parameters of tokens and quoted strings.
///
/// To the letter, since a browser reads a field that breaks it in its own way: in `image/png;,text/html` it finds two
/// types and takes the last one, an active one that [`is_active`] did not see.
pub fn is_media_type(text: &str) -> bool {
    if text.len() > limits::CONTENT_TYPE_BYTES_MAX {
        return false;
    }
    let (essence, parameters) = text.split_at(text.find(';').unwrap_or(text.len()));
    let Some((kind, subtype)) = essence.trim_end_matches([' ', '\t']).split_once('/') else {
        return false;
    };
    syntax::is_token(kind.as_bytes())
        && syntax::is_token(subtype.as_bytes())
        && are_parameters(parameters.as_bytes())
}

/// `*( OWS ";" OWS [ token "=" ( token / quoted-string ) ] )` in ASCII (RFC 9110 section 5.6.6).
fn are_parameters(text: &[u8]) -> bool {
    let mut rest = syntax::trim(text);
    while let [b';', after @ ..] = rest {
        rest = syntax::trim(after);
        let name = token_length(rest);
        if name == 0 {
            // An empty parameter.
            continue;
        }
        let Some(value) = rest[name..].strip_prefix(b"=") else { return false };
        let length = if value.first() == Some(&b'"') {
            quoted_length(value)
        } else {
            Some(token_length(value)).filter(|&length| length > 0)
        };
        let Some(length) = length else { return false };
        rest = syntax::trim(&value[length..]);
    }
    rest.is_empty()
}

fn token_length(text: &[u8]) -> usize {
    text.iter().position(|&byte| !syntax::is_token_byte(byte)).unwrap_or(text.len())
}

/// Bytes of the quoted string that `text` begins with, its quotes included (RFC 9110 section 5.6.4).
fn quoted_length(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    for (at, &byte) in text.iter().enumerate().skip(1) {
        match byte {
            b'"' if !escaped => return Some(at + 1),
            b'\t' | b' '..=b'~' => escaped = byte == b'\\' && !escaped,
            _ => return None,
        }
    }
    None
}

/// Longest media type, without its parameters, that may be passive: the longest that is registered has 73.
const ESSENCE_BYTES_MAX: usize = 96;

/// Whether a browser could run something in content of this type: such a file is only ever saved, never opened.
///
/// Decided by what is known to be passive, not by what is known to be active: new active types appear.
pub fn is_active(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().as_bytes();
    let mut lower = [0; ESSENCE_BYTES_MAX];
    // What is longer than every one that is known is none of them.
    let Some(lower) = lower.get_mut(..essence.len()) else { return true };
    lower.copy_from_slice(essence);
    lower.make_ascii_lowercase();
    let passive = match std::str::from_utf8(lower).unwrap_or_default().split_once('/') {
        // A list of segments, which players fetch; what follows says what other XML is.
        Some(("application", "dash+xml")) => true,
        // SVG runs scripts; other XML may be given a stylesheet that does, whatever it calls itself.
        Some((_, subtype)) if subtype == "xml" || subtype.ends_with("+xml") => false,
        Some(("video" | "audio" | "font" | "image", _)) => true,
        Some(("text", subtype)) => matches!(subtype, "plain" | "vtt" | "csv" | "markdown"),
        Some(("application", subtype)) => matches!(
            subtype,
            "octet-stream"
                | "json"
                | "pdf"
                | "zip"
                | "vnd.apple.mpegurl"
                | "x-mpegurl"
                | "x-subrip"
                | "ogg"
                | "mp4"
        ),
        _ => false,
    };
    !passive
}
