//! PUT (205) and GET (206): content with its checksum, in both directions.

use crate::{
    body::{BodyError, Fields, LAYOUT_VERSION, exactly, put_flag, put_short},
    limits,
    storage::{FILE_REF_LEN, FileRef},
};

/// Bytes of a PUT's head before its two texts, with the length of the first text.
const PUT_BEFORE_TEXTS: usize = 1 + FILE_REF_LEN + 8 + 8;
/// Fewest bytes of a PUT's body: its head with both texts empty, no content, the trailer.
pub const PUT_FIXED_LEN: usize = PUT_BEFORE_TEXTS + 2 + PUT_TRAILER_LEN;
/// Most bytes of a PUT's head: enough of the body to decode it.
pub const PUT_HEAD_BYTES_MAX: usize =
    PUT_BEFORE_TEXTS + 1 + limits::ORIGINAL_NAME_BYTES_MAX + 1 + limits::CONTENT_TYPE_BYTES_MAX;
/// Bytes after a PUT's content: its CRC-64/NVME.
pub const PUT_TRAILER_LEN: usize = 8;
/// Bytes of a GET's reply before its content.
pub const GET_HEAD_LEN: usize = 1 + 8 + 1 + 8 + 8 + 8;

/// What comes before a PUT's content: `version[1]` `file[400]` `size[8]` `expiry[8]` (0 = never) name (short) type (short).
/// After the content comes its `checksum[8]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutHead<'a> {
    /// The file to be.
    pub file: FileRef,
    /// Bytes of content that follow.
    pub size: u64,
    /// When the store may remove it, seconds since 1970.
    pub expires_at: Option<u64>,
    /// Its original name, 1 to 255 bytes.
    pub name: Option<&'a str>,
    /// Its content type, 1 to 255 bytes.
    pub content_type: Option<&'a str>,
}

impl<'a> PutHead<'a> {
    /// Reads the head from the beginning of a body of `body_length` bytes; gives it and the bytes that it took, or
    /// `None` when more are needed ([`PUT_HEAD_BYTES_MAX`] are always enough).
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong; a size that does not fit the body is [`BodyError::Length`].
    pub fn decode(bytes: &'a [u8], body_length: u64) -> Result<Option<(Self, usize)>, BodyError> {
        let whole = bytes.len() as u64 >= body_length;
        match Self::read(bytes) {
            Ok((head, used)) => {
                let around = (used + PUT_TRAILER_LEN) as u64;
                if body_length.checked_sub(around) != Some(head.size) {
                    let want = head.size.saturating_add(around);
                    return Err(BodyError::Length { want, got: body_length });
                }
                Ok(Some((head, used)))
            }
            Err(BodyError::Cut { .. }) if !whole && bytes.len() < PUT_HEAD_BYTES_MAX => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read(bytes: &'a [u8]) -> Result<(Self, usize), BodyError> {
        let mut fields = Fields::versioned(bytes)?;
        let file = FileRef::decode(fields.take(FILE_REF_LEN, "file")?)?;
        let size = fields.u64("size")?;
        let expires_at = fields.u64("expiry time")?;
        let name = fields.short_text("name")?;
        let content_type = fields.short_text("content type")?;
        let head = Self {
            file,
            size,
            expires_at: (expires_at > 0).then_some(expires_at),
            name: (!name.is_empty()).then_some(name),
            content_type: (!content_type.is_empty()).then_some(content_type),
        };
        Ok((head, bytes.len() - fields.left()))
    }

    /// Appends the head. Texts must be [`crate::body::fits_short`]; a longer one would be cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        self.file.encode(out);
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.expires_at.unwrap_or(0).to_be_bytes());
        put_short(out, self.name.unwrap_or_default().as_bytes());
        put_short(out, self.content_type.unwrap_or_default().as_bytes());
    }

    /// Length of the whole body: head, content, trailer. `None` past [`limits::UPLOAD_BYTES_MAX`].
    pub fn body_length(&self) -> Option<u64> {
        let texts = self.name.map_or(0, str::len) + self.content_type.map_or(0, str::len);
        let around = (PUT_FIXED_LEN + texts) as u64;
        let limit = limits::UPLOAD_BYTES_MAX.checked_sub(around)?;
        (self.size <= limit).then(|| around + self.size)
    }
}

/// What a PUT came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PutOutcome {
    /// The file is there now.
    New,
    /// The same file with the same content was there already.
    Same,
}

/// PUT's reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutReply {
    /// What it came to.
    pub outcome: PutOutcome,
    /// The number that names the file's place.
    pub path_id: u64,
    /// Bytes of content.
    pub size: u64,
    /// CRC-64/NVME of the content, as the node computed it.
    pub checksum: u64,
}

impl PutReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let outcome = match fields.u8("outcome")? {
            0 => PutOutcome::New,
            1 => PutOutcome::Same,
            _ => return Err(BodyError::Value { field: "outcome" }),
        };
        let reply = Self {
            outcome,
            path_id: fields.u64("path id")?,
            size: fields.u64("size")?,
            checksum: fields.u64("checksum")?,
        };
        fields.finish()?;
        Ok(reply)
    }

    /// Appends the reply's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        out.push(match self.outcome {
            PutOutcome::New => 0,
            PutOutcome::Same => 1,
        });
        for number in [self.path_id, self.size, self.checksum] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// GET: `version[1]` `file[400]` `offset[8]` `size[8]`; size 0 = to the end, as in DOWNLOAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Get {
    /// The file.
    pub file: FileRef,
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted; 0 = to the end. Resolved by [`crate::storage::resolve`].
    pub size: u64,
}

impl Get {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let get = Self {
            file: FileRef::decode(fields.take(FILE_REF_LEN, "file")?)?,
            offset: fields.u64("offset")?,
            size: fields.u64("size")?,
        };
        fields.finish()?;
        Ok(get)
    }

    /// Appends the request's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        self.file.encode(out);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
    }
}

/// What comes before the content of a GET's reply, [`GET_HEAD_LEN`] bytes: `version[1]` file `size[8]` whether the
/// checksum is `known[1]` `checksum[8]` path `id[8]` `length[8]`. The reply's body is as long as this and the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetHead {
    /// Bytes of the whole file.
    pub file_size: u64,
    /// CRC-64/NVME of the whole file, where the store knows it.
    pub checksum: Option<u64>,
    /// The number that names the file's place.
    pub path_id: u64,
    /// Bytes of content that follow.
    pub length: u64,
}

impl GetHead {
    /// Reads the first [`GET_HEAD_LEN`] bytes of a body of `body_length` bytes.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong; a length that does not fit the body is
    /// [`BodyError::Length`].
    pub fn decode(head: &[u8], body_length: u64) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(head)?;
        exactly(head, GET_HEAD_LEN)?;
        let file_size = fields.u64("file size")?;
        let known = fields.flag("whether the checksum is known")?;
        let checksum = fields.u64("checksum")?;
        let path_id = fields.u64("path id")?;
        let length = fields.u64("length")?;
        if body_length.checked_sub(GET_HEAD_LEN as u64) != Some(length) {
            let want = length.saturating_add(GET_HEAD_LEN as u64);
            return Err(BodyError::Length { want, got: body_length });
        }
        Ok(Self { file_size, checksum: known.then_some(checksum), path_id, length })
    }

    /// Appends the head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        out.extend_from_slice(&self.file_size.to_be_bytes());
        put_flag(out, self.checksum.is_some());
        for number in [self.checksum.unwrap_or(0), self.path_id, self.length] {
            out.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// Length of the whole reply's body.
    pub const fn body_length(&self) -> u64 {
        self.length.saturating_add(GET_HEAD_LEN as u64)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        ext::tests::harden,
        name::{AppId, FileId, UserId},
    };

    fn file() -> FileRef {
        FileRef {
            app: AppId::parse("tnvideo").unwrap(),
            user: UserId::parse("tnv001").unwrap(),
            file: FileId::parse("id").unwrap(),
        }
    }

    #[test]
    fn a_put_head_comes_back_from_any_number_of_pieces() {
        let longest = "片".repeat(85);
        for (name, content_type, expires_at) in
            [(None, None, None), (Some(longest.as_str()), Some("video/mp4"), Some(9))]
        {
            let head = PutHead { file: file(), size: 1000, expires_at, name, content_type };
            let mut bytes = Vec::new();
            head.encode(&mut bytes);
            let length = head.body_length().unwrap();
            assert_eq!(length, (bytes.len() + 1000 + 8) as u64);
            let used = bytes.len();
            bytes.extend_from_slice(&[7; 300]);
            for end in 0..used {
                let more = PutHead::decode(&bytes[..end], length);
                // The version byte must be there to be judged.
                assert!(end == 0 || more == Ok(None), "{end}: {more:?}");
            }
            for end in used..bytes.len() {
                assert_eq!(PutHead::decode(&bytes[..end], length), Ok(Some((head, used))));
            }
            for wrong in [0, length - 1, length + 1, u64::MAX] {
                assert!(PutHead::decode(&bytes, wrong).is_err(), "{wrong}");
            }
            for bit in 0..used * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let _ = PutHead::decode(&flipped, length);
            }
        }
    }

    #[test]
    fn a_put_at_its_limits() {
        let head =
            PutHead { file: file(), size: 0, expires_at: None, name: None, content_type: None };
        assert_eq!(head.body_length(), Some(PUT_FIXED_LEN as u64));
        let most = limits::UPLOAD_BYTES_MAX - PUT_FIXED_LEN as u64;
        assert!(PutHead { size: most, ..head }.body_length().is_some());
        assert_eq!(PutHead { size: most + 1, ..head }.body_length(), None);
        assert_eq!(PutHead { size: u64::MAX, ..head }.body_length(), None);
        // A body that ends inside its head never gets more bytes.
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        assert!(PutHead::decode(&bytes[..100], 100).is_err());
    }

    #[test]
    fn replies_and_get_come_back() {
        for outcome in [PutOutcome::New, PutOutcome::Same] {
            let reply = PutReply { outcome, path_id: 1, size: 2, checksum: u64::MAX };
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            assert_eq!(PutReply::decode(&bytes).unwrap(), reply);
            harden(&bytes, PutReply::decode);
        }
        let get = Get { file: file(), offset: 3, size: u64::MAX };
        let mut bytes = Vec::new();
        get.encode(&mut bytes);
        assert_eq!(Get::decode(&bytes).unwrap(), get);
        harden(&bytes, Get::decode);
        for checksum in [None, Some(0), Some(5)] {
            let head = GetHead { file_size: 9, checksum, path_id: 7, length: 4 };
            let mut bytes = Vec::new();
            head.encode(&mut bytes);
            assert_eq!(bytes.len(), GET_HEAD_LEN);
            assert_eq!(GetHead::decode(&bytes, head.body_length()).unwrap(), head);
            harden(&bytes, |bytes| GetHead::decode(bytes, head.body_length()));
            assert!(GetHead::decode(&bytes, head.body_length() + 1).is_err());
        }
    }
}
