//! `Content-Disposition` (RFC 6266): under which name a browser saves a file, and whether it shows it at all.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::limits;

/// What RFC 8187 section 3.2.1 leaves unescaped (`attr-char`).
const EXTENDED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'!')
    .remove(b'#')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b'-')
    .remove(b'.')
    .remove(b'^')
    .remove(b'_')
    .remove(b'`')
    .remove(b'|')
    .remove(b'~');

/// What a browser is to do with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Show or play it.
    Inline,
    /// Save it.
    Attachment,
}

/// The value of a `Content-Disposition` field.
///
/// A name is cut down to its last path component, without control characters. In ASCII it stands as `filename`; one
/// that does not fit there stands as `filename*` too (RFC 6266 section 4.3), and `filename` has `_` in those places.
pub fn value(kind: Kind, name: Option<&str>) -> String {
    let kind = match kind {
        Kind::Inline => "inline",
        Kind::Attachment => "attachment",
    };
    let Some(name) = name.map(clean).filter(|name| !name.is_empty()) else {
        return kind.to_owned();
    };
    // `%` as well: some browsers decode it in `filename` (RFC 6266 appendix D).
    let fits = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | '%');
    let plain: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if plain == name {
        return format!("{kind}; filename=\"{plain}\"");
    }
    let extended = utf8_percent_encode(&name, EXTENDED);
    format!("{kind}; filename=\"{plain}\"; filename*=UTF-8''{extended}")
}

/// The last component of a name (RFC 6266 section 4.3), without control and format characters at its edges, and never
/// `.` or `..`; at most [`limits::HTTP_DOWNLOAD_NAME_BYTES_MAX`] bytes.
pub fn clean(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    // Bidirectional overrides make `gpj.exe` look like `exe.jpg`.
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::new();
    for c in last.trim().chars().filter(|&c| !hidden(c)) {
        if out.len() + c.len_utf8() > limits::HTTP_DOWNLOAD_NAME_BYTES_MAX {
            break;
        }
        out.push(c);
    }
    if matches!(out.as_str(), "." | "..") { String::new() } else { out }
}
