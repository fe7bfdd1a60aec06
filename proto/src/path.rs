//! Path ids and the 512-way four-level layout: number ↔ relative path, both ways, without allocation.
//!
//! A path id is four base-512 digits a b c d; its file lies at `a/b/c/T_d`, each digit as three upper-case hex digits,
//! T the time of its upload in seconds since 1970, upper-case hex without padding (layout-and-tables).

use std::fmt;

/// Digits of a path id.
const DIGITS: u32 = 4;
/// Bits of a digit: 512 entries a directory.
const DIGIT_BITS: u32 = 9;
/// Bytes of the longest relative path: `xxx/xxx/xxx/` + 16 hex digits + `_xxx`.
const RELATIVE_BYTES_MAX: usize = 12 + 16 + 4;

/// A number that is not a path id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("path id {id} is past the last one, {}", PathId::MAX.get())]
pub struct PathIdError {
    /// The number.
    pub id: u64,
}

/// A text that is not the path of a file in the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a path of the 512-way layout")]
pub struct PathTextError;

/// The number that names a file's place on a store path: below 512⁴ = 68,719,476,736.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(u64);

impl PathId {
    /// The last one: 512⁴ − 1.
    pub const MAX: Self = Self((1 << (DIGITS * DIGIT_BITS)) - 1);

    /// How many there are: 512⁴.
    pub const COUNT: u64 = Self::MAX.0 + 1;

    /// Checks a number.
    ///
    /// # Errors
    /// [`PathIdError`] past [`PathId::MAX`]: reported, never wrapped.
    pub const fn new(id: u64) -> Result<Self, PathIdError> {
        if id > Self::MAX.0 { Err(PathIdError { id }) } else { Ok(Self(id)) }
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Its four digits, the highest first, each below 512.
    pub const fn digits(self) -> [u16; 4] {
        const MASK: u64 = (1 << DIGIT_BITS) - 1;
        [
            ((self.0 >> (3 * DIGIT_BITS)) & MASK) as u16,
            ((self.0 >> (2 * DIGIT_BITS)) & MASK) as u16,
            ((self.0 >> DIGIT_BITS) & MASK) as u16,
            (self.0 & MASK) as u16,
        ]
    }

    /// Where its file lies below the store path, if it was uploaded at `time` (seconds since 1970).
    pub fn relative(self, time: u64) -> RelativePath {
        let mut path = RelativePath { length: 0, bytes: [0; RELATIVE_BYTES_MAX] };
        let [a, b, c, d] = self.digits();
        for digit in [a, b, c] {
            path.push_digit(digit);
            path.push(b'/');
        }
        let hex_digits = (64 - time.leading_zeros()).div_ceil(4).max(1);
        for place in (0..hex_digits).rev() {
            path.push(upper_hex((time >> (4 * place)) as u8 & 0xF));
        }
        path.push(b'_');
        path.push_digit(d);
        path
    }

    /// Reads a relative path back: the path id and the time of the upload.
    ///
    /// Takes exactly what [`PathId::relative`] writes: upper case, digits up to `1FF`, a time without leading zeros.
    ///
    /// # Errors
    /// [`PathTextError`] for anything else.
    pub fn parse_relative(path: &str) -> Result<(Self, u64), PathTextError> {
        let mut parts = path.split('/');
        let mut digit = || parts.next().and_then(parse_digit).ok_or(PathTextError);
        let directory = (digit()? << DIGIT_BITS | digit()?) << DIGIT_BITS | digit()?;
        let name = parts.next().ok_or(PathTextError)?;
        if parts.next().is_some() {
            return Err(PathTextError);
        }
        let (last, time) = Self::parse_name(name)?;
        Ok((Self(directory << DIGIT_BITS | last), time))
    }

    /// Reads a file name `T_d`: the last digit and the time of the upload.
    ///
    /// # Errors
    /// [`PathTextError`] where it is not one.
    pub fn parse_name(name: &str) -> Result<(u64, u64), PathTextError> {
        let (time, digit) = name.split_once('_').ok_or(PathTextError)?;
        let digit = parse_digit(digit).ok_or(PathTextError)?;
        let padded = time.len() > 1 && time.starts_with('0');
        if time.is_empty() || time.len() > 16 || padded || !time.bytes().all(is_upper_hex) {
            return Err(PathTextError);
        }
        let time = u64::from_str_radix(time, 16).map_err(|_| PathTextError)?;
        Ok((digit, time))
    }

    /// Splits a row's `file_path`: the store's prefix (its id key, or an old `../data`), path id, time of the upload.
    ///
    /// # Errors
    /// [`PathTextError`] where it does not end in a relative path behind a `/`.
    pub fn parse_file_path(file_path: &str) -> Result<(&str, Self, u64), PathTextError> {
        let (at, _) = file_path.rmatch_indices('/').nth(3).ok_or(PathTextError)?;
        let (id, time) = Self::parse_relative(&file_path[at + 1..])?;
        Ok((&file_path[..at], id, time))
    }
}

impl TryFrom<u64> for PathId {
    type Error = PathIdError;

    fn try_from(id: u64) -> Result<Self, PathIdError> {
        Self::new(id)
    }
}

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// A file's place below its store path, as `000/000/000/65F1560C_001`. Inline: no allocation to open a file.
#[derive(Clone, Copy)]
pub struct RelativePath {
    length: u8,
    bytes: [u8; RELATIVE_BYTES_MAX],
}

impl RelativePath {
    /// The whole text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }

    /// Its directory, `000/000/000`.
    pub fn directory(&self) -> &str {
        &self.as_str()[..11]
    }

    /// Its file name, `65F1560C_001`.
    pub fn name(&self) -> &str {
        &self.as_str()[12..]
    }

    fn push(&mut self, byte: u8) {
        self.bytes[usize::from(self.length)] = byte;
        self.length += 1;
    }

    fn push_digit(&mut self, digit: u16) {
        self.push(upper_hex((digit >> 8) as u8 & 0xF));
        self.push(upper_hex((digit >> 4) as u8 & 0xF));
        self.push(upper_hex(digit as u8 & 0xF));
    }
}

impl AsRef<str> for RelativePath {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<std::path::Path> for RelativePath {
    fn as_ref(&self) -> &std::path::Path {
        self.as_str().as_ref()
    }
}

impl PartialEq for RelativePath {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for RelativePath {}

impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

fn upper_hex(nibble: u8) -> u8 {
    b"0123456789ABCDEF"[usize::from(nibble & 0xF)]
}

fn is_upper_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

fn parse_digit(text: &str) -> Option<u64> {
    if text.len() != 3 || !text.bytes().all(is_upper_hex) {
        return None;
    }
    u64::from_str_radix(text, 16).ok().filter(|&digit| digit < 1 << DIGIT_BITS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TIME: u64 = 0x65F1_560C;

    #[test]
    fn examples_of_the_specification() {
        for (id, path) in [
            (0, "000/000/000/65F1560C_000"),
            (1, "000/000/000/65F1560C_001"),
            (511, "000/000/000/65F1560C_1FF"),
            (512, "000/000/001/65F1560C_000"),
            (262_144, "000/001/000/65F1560C_000"),
            (134_217_728, "001/000/000/65F1560C_000"),
            (68_719_476_735, "1FF/1FF/1FF/65F1560C_1FF"),
        ] {
            let id = PathId::new(id).unwrap();
            assert_eq!(id.relative(TIME).as_str(), path);
            assert_eq!(PathId::parse_relative(path), Ok((id, TIME)));
        }
    }

    #[test]
    fn an_id_past_the_last_is_an_error() {
        assert_eq!(PathId::COUNT, 68_719_476_736);
        assert_eq!(PathId::MAX.get(), 68_719_476_735);
        for id in [PathId::COUNT, PathId::COUNT + 1, u64::MAX] {
            assert_eq!(PathId::new(id), Err(PathIdError { id }));
        }
    }

    #[test]
    fn parts_of_a_path() {
        let path = PathId::new(513).unwrap().relative(0);
        assert_eq!(path.as_str(), "000/000/001/0_001");
        assert_eq!((path.directory(), path.name()), ("000/000/001", "0_001"));
        assert_eq!(PathId::MAX.relative(u64::MAX).as_str(), "1FF/1FF/1FF/FFFFFFFFFFFFFFFF_1FF");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "000/000/000",
            "000/000/000/",
            "000/000/000/65F1560C",
            "000/000/000/_001",
            "000/000/000/65f1560c_001",
            "000/000/000/065F1560C_001",
            "000/000/000/65F1560C_200",
            "000/000/000/65F1560C_01",
            "000/000/200/65F1560C_001",
            "00/000/000/65F1560C_001",
            "+00/000/000/65F1560C_001",
            "000/000/000/+5F1560C_001",
            "000/000/000/11111111111111111_001",
            "000/000/000/65F1560C_001/",
            "000/000/000/000/65F1560C_001",
            "../000/000/65F1560C_001",
            "用/000/000/65F1560C_001",
        ] {
            assert_eq!(PathId::parse_relative(text), Err(PathTextError), "{text}");
        }
    }

    #[test]
    fn a_rows_path_names_store_and_id() {
        let one = PathId::new(1).unwrap();
        assert_eq!(
            PathId::parse_file_path("../data/000/000/000/65F1560C_001"),
            Ok(("../data", one, TIME))
        );
        assert_eq!(
            PathId::parse_file_path("/srv/用/000/000/000/65F1560C_001"),
            Ok(("/srv/用", one, TIME))
        );
        assert_eq!(PathId::parse_file_path("000/000/000/65F1560C_001"), Err(PathTextError));
    }

    proptest! {
        #[test]
        fn round_trip(id in 0..PathId::COUNT, time in any::<u64>()) {
            let id = PathId::new(id).unwrap();
            let path = id.relative(time);
            prop_assert_eq!(PathId::parse_relative(path.as_str()), Ok((id, time)));
            let row = format!("key/{path}");
            prop_assert_eq!(PathId::parse_file_path(&row), Ok(("key", id, time)));
        }

        #[test]
        fn any_text_is_refused_or_comes_back(text in "[0-9A-F/_]{0,40}|\\PC*") {
            if let Ok((id, time)) = PathId::parse_relative(&text) {
                let path = id.relative(time);
                prop_assert_eq!(path.as_str(), text.as_str());
            }
        }
    }
}
