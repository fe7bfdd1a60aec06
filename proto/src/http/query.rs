//! Targets of the media HTTP: `/files/ID`, `/files`, and their parameters, decoded once.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    limits,
    name::{AppId, FileId, NameError, UserId},
};

/// Where the server makes ids, and what stands before one.
pub const FILES: &str = "/files";

/// What RFC 3986 section 2.3 leaves unescaped.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A target that cannot be read: 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// `%` without two hexadecimal digits (RFC 3986 section 2.1), or what they spell is not UTF-8.
    #[error("malformed escape in the target")]
    Escape,
    /// A parameter that we read stands twice.
    #[error("parameter {name} stands twice")]
    Twice {
        /// Its name.
        name: &'static str,
    },
    /// A parameter is longer than its limit, or there are too many.
    #[error("too many or too long parameters")]
    TooLong,
    /// A name breaks its limits.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `/files/ID`
    File(FileId),
    /// `/files`: where a POST makes one.
    Files,
    /// `*`: the server itself, of OPTIONS.
    Server,
    /// Nothing: 404.
    Nothing,
}

impl Route {
    /// Reads a path, still escaped.
    ///
    /// # Errors
    /// [`QueryError`]: a malformed escape, or an id that no file can have.
    pub fn parse(path: &str) -> Result<Self, QueryError> {
        // The absolute form of `OPTIONS *` has no path at all (RFC 9112 section 3.2.4).
        if path == "*" || path.is_empty() {
            return Ok(Self::Server);
        }
        let Some(rest) = path.strip_prefix(FILES) else { return Ok(Self::Nothing) };
        match rest.strip_prefix('/') {
            None if rest.is_empty() => Ok(Self::Files),
            None | Some("") => Ok(Self::Nothing),
            // One segment. An id has no slash, so an escaped one (%2F) is refused below.
            Some(id) if id.contains('/') => Ok(Self::Nothing),
            Some(id) => Ok(Self::File(FileId::parse(&decode(id)?)?)),
        }
    }
}

/// The parameters that we read; others are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Query {
    /// `app=`
    pub app: Option<AppId>,
    /// `user=`
    pub user: Option<UserId>,
    /// `download=NAME`: to be saved under this name. Empty: under its own.
    pub download: Option<String>,
    /// `name=NAME` of an upload: the file's original name.
    pub name: Option<String>,
}

impl Query {
    /// Reads a query, still escaped, without its `?`. A `+` is a plus: this is a URL, not a form.
    ///
    /// # Errors
    /// [`QueryError`]; an empty `app` is a [`NameError`], an empty `user` is the empty user.
    pub fn parse(query: &str) -> Result<Self, QueryError> {
        let mut parsed = Self::default();
        for (index, parameter) in query.split('&').enumerate() {
            if index == limits::HTTP_QUERY_PARAMETERS_MAX {
                return Err(QueryError::TooLong);
            }
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match &*decode(name)? {
                "app" => set(&mut parsed.app, "app", AppId::parse(&decode(value)?)?)?,
                "user" => set(&mut parsed.user, "user", UserId::parse(&decode(value)?)?)?,
                "download" => set(&mut parsed.download, "download", bounded(value)?)?,
                "name" => set(&mut parsed.name, "name", bounded(value)?)?,
                _ => {}
            }
        }
        Ok(parsed)
    }
}

fn set<T>(slot: &mut Option<T>, name: &'static str, value: T) -> Result<(), QueryError> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(QueryError::Twice { name }),
    }
}

fn bounded(value: &str) -> Result<String, QueryError> {
    let value = decode(value)?;
    if value.len() > limits::HTTP_DOWNLOAD_NAME_BYTES_MAX {
        return Err(QueryError::TooLong);
    }
    Ok(value.into_owned())
}

/// Decodes percent escapes, once. Strict, where the library would leave a malformed escape as it stands.
///
/// # Errors
/// [`QueryError::Escape`]
pub fn decode(text: &str) -> Result<Cow<'_, str>, QueryError> {
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr(b'%', rest) {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => rest = &rest[at + 3..],
            _ => return Err(QueryError::Escape),
        }
    }
    percent_encoding::percent_decode_str(text).decode_utf8().map_err(|_| QueryError::Escape)
}

/// The path of a file: `/files/` and its id, escaped (for `Location` and URLs).
pub fn path_of(file: &FileId) -> String {
    format!("{FILES}/{}", escape(file.as_str()))
}

/// Escapes a text as one segment of a path or one value of a query.
pub fn escape(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, RESERVED)
}
