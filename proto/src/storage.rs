//! The deployed system's requests to a storage node: UPLOAD, FILESIZE, DOWNLOAD, DELETE.

use crate::{
    body::{BodyError, Fields, exactly},
    limits,
    name::{AppId, FileId, UserId},
    text,
};

/// Bytes of the app id's field.
pub const APP_WIDTH: usize = limits::APP_BYTES_MAX + 1;
/// Bytes of the user id's field.
pub const USER_WIDTH: usize = limits::USER_BYTES_MAX + 1;
/// Bytes of the file id's field.
pub const FILE_WIDTH: usize = limits::FILE_BYTES_MAX + 1;
/// Bytes of a [`FileRef`], the whole body of FILESIZE and DELETE.
pub const FILE_REF_LEN: usize = APP_WIDTH + USER_WIDTH + FILE_WIDTH;
/// Bytes of an UPLOAD's body before its content.
pub const UPLOAD_HEAD_LEN: usize = FILE_REF_LEN + 8;
/// Bytes of a DOWNLOAD's body.
pub const DOWNLOAD_LEN: usize = FILE_REF_LEN + 16;

/// A user's file: body of FILESIZE and DELETE, first 400 bytes of UPLOAD and DOWNLOAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileRef {
    /// Its application.
    pub app: AppId,
    /// Its user.
    pub user: UserId,
    /// What the client calls it.
    pub file: FileId,
}

impl FileRef {
    /// Reads a body of exactly 400 bytes.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        exactly(body, FILE_REF_LEN)?;
        Self::read(&mut Fields::new(body))
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            app: AppId::from_bytes(fields.text(APP_WIDTH, "app id")?)?,
            user: UserId::from_bytes(fields.text(USER_WIDTH, "user id")?)?,
            file: FileId::from_bytes(fields.text(FILE_WIDTH, "file id")?)?,
        })
    }

    /// Appends the 400 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        text::pad(out, self.app.as_bytes(), APP_WIDTH);
        text::pad(out, self.user.as_bytes(), USER_WIDTH);
        text::pad(out, self.file.as_bytes(), FILE_WIDTH);
    }
}

/// What comes before an UPLOAD's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UploadHead {
    /// The file to be.
    pub file: FileRef,
    /// Bytes of content that follow.
    pub size: u64,
}

impl UploadHead {
    /// Reads the first 408 bytes of a body of `body_length` bytes.
    ///
    /// # Errors
    /// [`BodyError`]; a negative size is [`BodyError::Value`], one other than body length − 408 [`BodyError::Length`].
    pub fn decode(head: &[u8], body_length: u64) -> Result<Self, BodyError> {
        exactly(head, UPLOAD_HEAD_LEN)?;
        let mut fields = Fields::new(head);
        let file = FileRef::read(&mut fields)?;
        let size = fields.u64("size")?;
        if i64::try_from(size).is_err() {
            return Err(BodyError::Value { field: "size" });
        }
        if body_length.checked_sub(UPLOAD_HEAD_LEN as u64) != Some(size) {
            let want = size.saturating_add(UPLOAD_HEAD_LEN as u64);
            return Err(BodyError::Length { want, got: body_length });
        }
        Ok(Self { file, size })
    }

    /// Appends the 408 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.file.encode(out);
        out.extend_from_slice(&self.size.to_be_bytes());
    }

    /// Body length of the whole frame. `None` past [`limits::UPLOAD_BYTES_MAX`].
    pub fn body_length(&self) -> Option<u64> {
        (self.size <= limits::UPLOAD_BYTES_MAX).then(|| self.size + UPLOAD_HEAD_LEN as u64)
    }
}

/// A DOWNLOAD's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Download {
    /// The file.
    pub file: FileRef,
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted; 0 = to the end.
    pub size: u64,
}

impl Download {
    /// Reads a body of exactly 416 bytes.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong. Whether the range fits the file is [`resolve`]'s.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        exactly(body, DOWNLOAD_LEN)?;
        let mut fields = Fields::new(body);
        Ok(Self {
            file: FileRef::read(&mut fields)?,
            offset: fields.u64("offset")?,
            size: fields.u64("size")?,
        })
    }

    /// Appends the 416 bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.file.encode(out);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
    }
}

/// A range that the file does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} bytes from {} are not all within a file of {file_size} bytes",
    size.cast_signed(),
    offset.cast_signed()
)]
pub struct OutOfRange {
    /// First byte asked for.
    pub offset: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes of the file.
    pub file_size: u64,
}

/// Bytes to send for a DOWNLOAD of `size` bytes (0 = to the end) from `offset` of a file of `file_size` bytes.
///
/// Offset = file size with size 0 is legal and gives none.
///
/// # Errors
/// [`OutOfRange`] for an offset past the end or a length past the end. A negative number of an old client is a huge
/// one here and ends there too.
pub fn resolve(offset: u64, size: u64, file_size: u64) -> Result<u64, OutOfRange> {
    match file_size.checked_sub(offset) {
        Some(left) if size == 0 => Ok(left),
        Some(left) if size <= left => Ok(size),
        _ => Err(OutOfRange { offset, size, file_size }),
    }
}

/// A FILESIZE reply's body.
pub fn encode_size(size: u64) -> [u8; 8] {
    size.to_be_bytes()
}

/// Reads a FILESIZE reply's body.
///
/// # Errors
/// [`BodyError::Length`] where it is not 8 bytes, [`BodyError::Value`] where it is negative.
pub fn decode_size(body: &[u8]) -> Result<u64, BodyError> {
    exactly(body, 8)?;
    let size = Fields::new(body).u64("size")?;
    if i64::try_from(size).is_err() {
        return Err(BodyError::Value { field: "size" });
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_numbers_are_told_as_they_came() {
        let told = |offset: i64, size: i64| {
            let outcome = resolve(offset.cast_unsigned(), size.cast_unsigned(), 5);
            outcome.err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!(told(-1, 0), "0 bytes from -1 are not all within a file of 5 bytes");
        assert_eq!(told(0, -2), "-2 bytes from 0 are not all within a file of 5 bytes");
        let mut head = vec![b'a'; UPLOAD_HEAD_LEN];
        for nul in [15, 271, 399] {
            head[nul] = 0;
        }
        // The user id is too long otherwise.
        head[116] = 0;
        head[UPLOAD_HEAD_LEN - 8..].fill(0xFF);
        assert_eq!(UploadHead::decode(&head, 413), Err(BodyError::Value { field: "size" }));
    }
}
