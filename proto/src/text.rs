//! Fixed-width text fields: the text up to a NUL, any bytes after it.
//!
//! Deployed clients leave garbage after the NUL, so a reader ignores the tail. A field without a NUL is malformed and
//! is never read past its end. A writer pads with NUL, so that nothing of our memory goes out.

use std::ffi::CStr;

/// What is wrong with a text field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// No NUL inside the field's width.
    #[error("text without its NUL in a field of {width} bytes")]
    Unterminated {
        /// Bytes of the field.
        width: usize,
    },
    /// The text and its NUL do not fit the field, or the text itself holds a NUL.
    #[error("text of {length} bytes does not fit a field of {width} bytes")]
    DoesNotFit {
        /// Bytes of the text.
        length: usize,
        /// Bytes of the field.
        width: usize,
    },
}

/// The text of `field`: what comes before its first NUL.
///
/// # Errors
/// [`TextError::Unterminated`] where the field has no NUL; also for an empty field.
pub fn read(field: &[u8]) -> Result<&[u8], TextError> {
    CStr::from_bytes_until_nul(field)
        .map(CStr::to_bytes)
        .map_err(|_| TextError::Unterminated { width: field.len() })
}

/// Appends `text` to `out`, padded with NUL to `width` bytes, at least one NUL.
///
/// # Errors
/// [`TextError::DoesNotFit`], with `out` unchanged.
pub fn write(out: &mut Vec<u8>, text: &[u8], width: usize) -> Result<(), TextError> {
    if text.len() >= width || text.contains(&0) {
        return Err(TextError::DoesNotFit { length: text.len(), width });
    }
    pad(out, text, width);
    Ok(())
}

/// As [`write()`], for a text whose type already keeps it shorter than `width` and free of NUL.
pub(crate) fn pad(out: &mut Vec<u8>, text: &[u8], width: usize) {
    debug_assert!(text.len() < width && !text.contains(&0), "a name's type keeps its length");
    out.extend_from_slice(text);
    out.resize(out.len() + width.saturating_sub(text.len()), 0);
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tail_of_garbage_is_ignored() {
        assert_eq!(read(b"tnvideo\0\xff\xfe\0rest").unwrap(), b"tnvideo");
        assert_eq!(read(b"\0garbage").unwrap(), b"");
        assert_eq!(read(b"exactly\0").unwrap(), b"exactly");
    }

    #[test]
    fn a_field_without_nul_is_malformed() {
        assert_eq!(read(b"tnvideo"), Err(TextError::Unterminated { width: 7 }));
        assert_eq!(read(b""), Err(TextError::Unterminated { width: 0 }));
    }

    #[test]
    fn a_writer_pads_with_nul_and_keeps_room_for_one() {
        let mut out = vec![9];
        write(&mut out, b"abc", 6).unwrap();
        assert_eq!(out, b"\x09abc\0\0\0");
        write(&mut out, b"abc", 4).unwrap();
        assert_eq!(write(&mut out, b"abcd", 4), Err(TextError::DoesNotFit { length: 4, width: 4 }));
        assert_eq!(write(&mut out, b"a\0b", 8), Err(TextError::DoesNotFit { length: 3, width: 8 }));
        assert_eq!(out, b"\x09abc\0\0\0abc\0");
    }

    proptest! {
        #[test]
        fn round_trip_with_any_tail(
            text in proptest::collection::vec(1u8..=255, 0..64),
            tail in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let mut field = Vec::new();
            write(&mut field, &text, text.len() + 1).unwrap();
            field.extend_from_slice(&tail);
            prop_assert_eq!(read(&field).unwrap(), &text[..]);
        }
    }
}
