//! ID_GET, the deployed system's request for one number of a key.

use crate::{
    body::{BodyError, Fields, exactly},
    limits,
    name::IdKey,
    text,
};

/// ID_GET: the next number of `key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdGet {
    /// The sequence, by the text of a store path.
    pub key: IdKey,
}

impl IdGet {
    /// Reads the request: a key and its NUL in at most 65 bytes. What follows the NUL is ignored.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        const MAX: usize = limits::ID_KEY_BYTES_MAX + 1;
        if body.len() > MAX {
            return Err(BodyError::Length { want: MAX as u64, got: body.len() as u64 });
        }
        let key = text::read(body).map_err(|fault| BodyError::Text { field: "key", fault })?;
        Ok(Self { key: IdKey::from_bytes(key)? })
    }

    /// Appends the request: the key and one NUL, not padded.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.key.as_bytes());
        out.push(0);
    }
}

/// The reply's body: the number.
pub fn encode_id(id: u64) -> [u8; 8] {
    id.to_be_bytes()
}

/// Reads the reply's body. Whether the number is a path id is for [`crate::path::PathId::new`] to say.
///
/// # Errors
/// [`BodyError::Length`] where it is not 8 bytes.
pub fn decode_id(body: &[u8]) -> Result<u64, BodyError> {
    exactly(body, 8)?;
    Fields::new(body).u64("id")
}
