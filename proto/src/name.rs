//! Names of apps, groups, users, files, hosts: inline, `Copy`, checked once and for ever.
//!
//! A value of one of these types keeps the limits of the tables and the wire (see [`crate::limits`]), so nothing behind
//! a decoder checks a length again. They live in caches and cross threads by the million: no allocation, no lifetime.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
};

use crate::limits;

/// A text that may not be used as this kind of name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} {fault}")]
pub struct NameError {
    /// The kind of name: `app id`, `file id`…
    pub what: &'static str,
    /// What is wrong with it.
    pub fault: NameFault,
}

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No bytes where at least one is needed.
    #[error("is empty")]
    Empty,
    /// More bytes than the limit.
    #[error("has {got} bytes, {max} at most")]
    TooLong {
        /// Bytes of the text.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// More characters than the limit.
    #[error("has {got} characters, {max} at most")]
    TooManyChars {
        /// Characters of the text.
        got: usize,
        /// The limit.
        max: usize,
    },
    /// Not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// A character that this kind of name may not have.
    #[error("must not contain {0:?}")]
    Character(char),
}

macro_rules! inline_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, empty: $empty:literal, ..=$max:expr, $check:expr, $show:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $name {
            length: u8,
            bytes: [u8; $max],
        }

        impl $name {
            /// Most bytes of one.
            pub const BYTES_MAX: usize = $max;

            /// Checks `text`.
            ///
            /// # Errors
            /// [`NameError`] with the first limit that it breaks.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                let fail = |fault| Err(NameError { what: $what, fault });
                if text.is_empty() && !$empty {
                    return fail(NameFault::Empty);
                }
                if text.len() > $max {
                    return fail(NameFault::TooLong { got: text.len(), max: $max });
                }
                let check: fn(&str) -> Result<(), NameFault> = $check;
                if let Err(fault) = check(text) {
                    return fail(fault);
                }
                let mut bytes = [0; $max];
                bytes[..text.len()].copy_from_slice(text.as_bytes());
                // $max <= 255, so the length fits.
                Ok(Self { length: text.len() as u8, bytes })
            }

            /// Checks `bytes` as UTF-8, then as [`Self::parse`].
            ///
            /// # Errors
            /// [`NameError`] with the first limit that it breaks.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
                if bytes.len() > $max {
                    let fault = NameFault::TooLong { got: bytes.len(), max: $max };
                    return Err(NameError { what: $what, fault });
                }
                match std::str::from_utf8(bytes) {
                    Ok(text) => Self::parse(text),
                    Err(_) => Err(NameError { what: $what, fault: NameFault::NotUtf8 }),
                }
            }

            /// Its bytes: cheaper than [`Self::as_str`] where the text is only compared or copied.
            pub fn as_bytes(&self) -> &[u8] {
                &self.bytes[..usize::from(self.length)]
            }

            /// Its text. Checks UTF-8 again (some nanoseconds), which spares an `unsafe` here.
            pub fn as_str(&self) -> &str {
                std::str::from_utf8(self.as_bytes()).unwrap_or_default()
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.as_bytes() == other.as_bytes()
            }
        }

        impl Eq for $name {}

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                self.as_bytes().cmp(other.as_bytes())
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.as_bytes().hash(state);
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let show: fn(&str, &mut fmt::Formatter<'_>) -> fmt::Result = $show;
                show(self.as_str(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(self.as_str(), f)
            }
        }
    };
}

inline_name!(
    /// An application: 1–15 of `[A-Za-z0-9]`.
    AppId, "app id", empty: false, ..=limits::APP_BYTES_MAX, alphanumeric, plain
);
inline_name!(
    /// A group of storage nodes that hold the same files: 1–16 of `[A-Za-z0-9]`.
    GroupName, "group name", empty: false, ..=limits::GROUP_BYTES_MAX, alphanumeric, plain
);
inline_name!(
    /// A user of an app: 0–128 characters and at most 255 bytes of UTF-8, no NUL (the wire could not carry it).
    ///
    /// `Display` escapes it for logs; use [`UserId::as_str`] for the text itself.
    UserId, "user id", empty: true, ..=limits::USER_BYTES_MAX, user, escaped
);
inline_name!(
    /// What a client calls a file: 1–127 bytes of UTF-8 without control characters and `/`.
    ///
    /// `Display` escapes it for logs; use [`FileId::as_str`] for the text itself. Never part of a path or an SQL text.
    FileId, "file id", empty: false, ..=limits::FILE_BYTES_MAX, file, escaped
);
inline_name!(
    /// A storage node's host name: 1–128 printable ASCII characters, no space (it stands in error texts and GROUPS lines).
    HostName, "host name", empty: false, ..=limits::HOST_BYTES_MAX, printable, plain
);
inline_name!(
    /// A storage node's version text: 0–6 printable ASCII characters, no space.
    Version, "version", empty: true, ..=limits::VERSION_BYTES_MAX, printable, plain
);
inline_name!(
    /// A sequence's key at the ID node: 1–64 bytes of UTF-8 without control characters. `Display` escapes it.
    IdKey, "id key", empty: false, ..=limits::ID_KEY_BYTES_MAX, no_control, escaped
);

impl UserId {
    /// The empty user id, which is legal.
    pub const EMPTY: Self = Self { length: 0, bytes: [0; limits::USER_BYTES_MAX] };
}

fn alphanumeric(text: &str) -> Result<(), NameFault> {
    refuse(text, |c| !c.is_ascii_alphanumeric())
}

fn printable(text: &str) -> Result<(), NameFault> {
    refuse(text, |c| !c.is_ascii_graphic())
}

fn no_control(text: &str) -> Result<(), NameFault> {
    refuse(text, char::is_control)
}

fn file(text: &str) -> Result<(), NameFault> {
    refuse(text, |c| c.is_control() || c == '/')
}

fn user(text: &str) -> Result<(), NameFault> {
    let chars = text.chars().count();
    if chars > limits::USER_CHARS_MAX {
        return Err(NameFault::TooManyChars { got: chars, max: limits::USER_CHARS_MAX });
    }
    refuse(text, |c| c == '\0')
}

fn refuse(text: &str, bad: impl Fn(char) -> bool) -> Result<(), NameFault> {
    text.chars().find(|&c| bad(c)).map_or(Ok(()), |c| Err(NameFault::Character(c)))
}

fn plain(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.pad(text)
}

fn escaped(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    fmt::Display::fmt(&text.escape_debug(), f)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_at_and_past_each_limit() {
        assert!(AppId::parse(&"a".repeat(15)).is_ok());
        assert!(AppId::parse(&"a".repeat(16)).is_err());
        assert!(AppId::parse("").is_err());
        assert!(GroupName::parse(&"g".repeat(16)).is_ok());
        assert!(GroupName::parse(&"g".repeat(17)).is_err());
        assert!(FileId::parse(&"f".repeat(127)).is_ok());
        assert!(FileId::parse(&"f".repeat(128)).is_err());
        assert!(FileId::parse("").is_err());
        assert!(HostName::parse(&"h".repeat(128)).is_ok());
        assert!(HostName::parse(&"h".repeat(129)).is_err());
        assert!(HostName::parse("").is_err());
        assert!(Version::parse("").is_ok());
        assert!(Version::parse("123456").is_ok());
        assert!(Version::parse("1234567").is_err());
        assert!(IdKey::parse(&"k".repeat(64)).is_ok());
        assert!(IdKey::parse(&"k".repeat(65)).is_err());
        assert!(UserId::parse(&"u".repeat(100_000)).is_err());
    }

    #[test]
    fn users_are_counted_in_characters_and_in_bytes() {
        assert_eq!(UserId::parse("").unwrap(), UserId::EMPTY);
        assert!(UserId::parse(&"u".repeat(128)).is_ok());
        assert_eq!(
            UserId::parse(&"u".repeat(129)).unwrap_err().fault,
            NameFault::TooManyChars { got: 129, max: 128 }
        );
        // 85 characters of 3 bytes are 255 bytes: the last that fit.
        assert!(UserId::parse(&"用".repeat(85)).is_ok());
        assert_eq!(
            UserId::parse(&"用".repeat(86)).unwrap_err().fault,
            NameFault::TooLong { got: 258, max: 255 }
        );
    }

    #[test]
    fn characters_that_are_refused() {
        for bad in ["a b", "a-b", "a_b", "a\0", "ä", "../data"] {
            assert!(AppId::parse(bad).is_err(), "{bad:?}");
            assert!(GroupName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["a/b", "a\nb", "a\0b", "\u{7f}", "a\u{85}b"] {
            assert!(FileId::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["a b", "..", "film 电影.mp4", "'; drop table t_file_01; --", "%2f"] {
            assert_eq!(FileId::parse(good).unwrap().as_str(), good);
        }
        assert!(UserId::parse("a\0b").is_err());
        assert!(HostName::parse("vm 1").is_err());
        assert_eq!(FileId::from_bytes(b"\xff").unwrap_err().fault, NameFault::NotUtf8);
    }

    #[test]
    fn logs_get_escaped_text() {
        let file = FileId::parse("a\u{202e}b\"").unwrap();
        assert_eq!(file.to_string(), "a\\u{202e}b\\\"");
        assert_eq!(UserId::parse("a\nb").unwrap().to_string(), "a\\nb");
        assert_eq!(format!("{:?}", FileId::parse("a").unwrap()), "\"a\"");
        let error = FileId::parse("a\nb").unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn order_and_equality_go_by_bytes() {
        let parse = |text| FileId::parse(text).unwrap();
        assert!(parse("aB") != parse("Ab"));
        assert!(parse("abc") != parse("abc "));
        assert!(parse("B") < parse("a"));
        assert!(parse("a") < parse("ab"));
    }

    proptest! {
        #[test]
        fn what_is_parsed_comes_back(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            if let Ok(user) = UserId::parse(&text) {
                prop_assert_eq!(user.as_str(), &text);
                prop_assert_eq!(user, UserId::from_bytes(text.as_bytes()).unwrap());
            }
            if let Ok(file) = FileId::from_bytes(&bytes) {
                prop_assert_eq!(file.as_bytes(), &bytes[..]);
            }
        }
    }
}
