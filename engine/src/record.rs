//! The record that seals a file: who owns it, what it is and in which state, so that the disks alone are the truth.
//!
//! It is the value of the extended attribute `user.reel` ([`ATTRIBUTE`]). Pure encoding and decoding, no IO.
//! docs/store-format.md draws it byte by byte:
//!
//! ```text
//!  0  2  magic "RL"
//!  2  1  version, 1
//!  3  1  state: 0 normal, 1 deleted, 2 purging
//!  4  2  length of the whole record, CRC included
//!  6  2  flags: bit 0 deleted_at is set, bit 1 expires_at is set, bit 2 a name, bit 3 a content type
//!  8  8  path id
//! 16  8  size of the content in bytes
//! 24  8  CRC-64/NVME of the content
//! 32  8  created_at, seconds since 1970
//! 40  8  deleted_at, seconds since 1970, else 0
//! 48  8  expires_at, seconds since 1970, else 0
//! 56  5  lengths in bytes of app, user, file id, name, content type
//! 61  3  zero
//! 64  n  the five texts, one after the other
//!  +  8  CRC-64/NVME of everything before it
//! ```
//!
//! All numbers are big-endian. The fixed part has a fixed length so that a change of state never changes the
//! length of the record: a soft delete on a full disk rewrites the attribute where it is.

use reel_proto::{
    checksum::Crc64,
    name::{AppId, FileId, NameError, UserId},
    path::PathId,
};

/// Name of the extended attribute that holds the record.
pub const ATTRIBUTE: &str = "user.reel";

/// Longest record in bytes. What is longer is not ours.
pub const LEN_MAX: usize = 2048;

/// Longest original name and longest content type, in bytes: their lengths are one byte each.
pub const TEXT_LEN_MAX: usize = 255;

/// Longest record that this version writes: five texts of the longest length that one byte says.
pub const WRITTEN_LEN_MAX: usize = FIXED_LEN + 5 * TEXT_LEN_MAX + CRC_LEN;

const MAGIC: [u8; 2] = *b"RL";
const VERSION: u8 = 1;
const FIXED_LEN: usize = 64;
const CRC_LEN: usize = 8;

const FLAG_DELETED_AT: u16 = 1;
const FLAG_EXPIRES_AT: u16 = 1 << 1;
const FLAG_NAME: u16 = 1 << 2;
const FLAG_CONTENT_TYPE: u16 = 1 << 3;
const FLAGS_KNOWN: u16 = FLAG_DELETED_AT | FLAG_EXPIRES_AT | FLAG_NAME | FLAG_CONTENT_TYPE;

/// Where a file stands in its life. Only ever moves normal ⇄ deleted → purging.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Readable.
    Normal,
    /// Softly deleted: not readable, can be restored until it is purged.
    Deleted,
    /// On its way out: its row may be gone already; repair finishes the purge and never adopts it.
    Purging,
}

/// Everything that is needed to make a file's row again, and to judge its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The number that names the file's place. A record found at another place was copied there by someone else.
    pub path_id: PathId,
    /// The application that owns the file.
    pub app: AppId,
    /// The user that owns the file; picks the table of its row.
    pub user: UserId,
    /// The name of the file to the outside.
    pub file: FileId,
    /// Bytes of content.
    pub size: u64,
    /// CRC-64/NVME of the content.
    pub checksum: u64,
    /// Seconds since 1970; also part of the file's name on disk.
    pub created_at: u64,
    /// Where the file stands.
    pub state: State,
    /// When it was deleted, seconds since 1970.
    pub deleted_at: Option<u64>,
    /// When its owner wants it gone, seconds since 1970.
    pub expires_at: Option<u64>,
    /// Its name at the uploader, at most [`TEXT_LEN_MAX`] bytes.
    pub name: Option<String>,
    /// Its media type, at most [`TEXT_LEN_MAX`] bytes.
    pub content_type: Option<String>,
}

/// Why bytes are not a record. None of these is ever grounds to remove a file: it is doubtful, so it is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than its fixed part, than its own length field, or longer than [`LEN_MAX`].
    #[error("a record of {len} bytes cannot be right")]
    Length {
        /// Bytes given.
        len: usize,
    },
    /// Does not start with the magic: not written by us.
    #[error("not a record: wrong magic")]
    Magic,
    /// Written by a newer version of this program.
    #[error("record version {version} is not known")]
    Version {
        /// The version found.
        version: u8,
    },
    /// Its bytes are not those that were written.
    #[error("the record's own checksum does not match")]
    Checksum,
    /// A field holds what no writer of this version writes, though the checksum matches.
    #[error("the record's {field} is not legal")]
    Field {
        /// Which field.
        field: &'static str,
    },
}

impl From<NameError> for RecordError {
    fn from(_: NameError) -> Self {
        Self::Field { field: "app, user or file id" }
    }
}

impl Record {
    /// The bytes to store, at most [`LEN_MAX`] of them.
    ///
    /// # Errors
    /// [`RecordError::Field`] for a name or content type that is longer than [`TEXT_LEN_MAX`]; callers refuse
    /// such an upload before it begins.
    pub fn encode(&self) -> Result<Vec<u8>, RecordError> {
        let name = self.name.as_deref().unwrap_or_default();
        let content_type = self.content_type.as_deref().unwrap_or_default();
        let texts = [
            (self.app.as_str(), "app"),
            (self.user.as_str(), "user"),
            (self.file.as_str(), "file id"),
            (name, "name"),
            (content_type, "content type"),
        ];
        let mut lengths = [0_u8; 5];
        let mut total = FIXED_LEN + CRC_LEN;
        for (slot, (text, field)) in lengths.iter_mut().zip(texts) {
            *slot = u8::try_from(text.len()).map_err(|_| RecordError::Field { field })?;
            total += text.len();
        }
        // WRITTEN_LEN_MAX = 64 + 5 × 255 + 8 = 1347 at most, so the length always fits its two bytes and LEN_MAX.
        let total = u16::try_from(total).map_err(|_| RecordError::Length { len: total })?;
        let mut out = Vec::with_capacity(usize::from(total));
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.push(self.state.code());
        out.extend_from_slice(&total.to_be_bytes());
        out.extend_from_slice(&self.flags().to_be_bytes());
        for number in [
            self.path_id.get(),
            self.size,
            self.checksum,
            self.created_at,
            self.deleted_at.unwrap_or(0),
            self.expires_at.unwrap_or(0),
        ] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&lengths);
        out.extend_from_slice(&[0; 3]);
        for (text, _) in texts {
            out.extend_from_slice(text.as_bytes());
        }
        let crc = crc_of(&out);
        out.extend_from_slice(&crc.to_be_bytes());
        Ok(out)
    }

    /// Reads a record back. `bytes` is the whole attribute.
    ///
    /// # Errors
    /// Any [`RecordError`]; no input panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let body = checked_body(bytes)?;
        let mut fields = Fields { bytes: body, at: 3 };
        let state = State::from_code(fields.u8()?).ok_or(RecordError::Field { field: "state" })?;
        fields.at = 6;
        let flags = fields.u16()?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(RecordError::Field { field: "flags" });
        }
        let path_id =
            PathId::new(fields.u64()?).map_err(|_| RecordError::Field { field: "path id" })?;
        let size = fields.u64()?;
        let checksum = fields.u64()?;
        let created_at = fields.u64()?;
        let deleted_at = optional(flags & FLAG_DELETED_AT != 0, fields.u64()?, "deleted_at")?;
        let expires_at = optional(flags & FLAG_EXPIRES_AT != 0, fields.u64()?, "expires_at")?;
        let mut lengths = [0_u8; 5];
        lengths.copy_from_slice(fields.take(5)?);
        if fields.take(3)? != [0; 3] {
            return Err(RecordError::Field { field: "reserved bytes" });
        }
        let [app, user, file, name, content_type] = lengths.map(usize::from);
        let app = AppId::from_bytes(fields.take(app)?)?;
        let user = UserId::from_bytes(fields.take(user)?)?;
        let file = FileId::from_bytes(fields.take(file)?)?;
        let name = text(flags & FLAG_NAME != 0, fields.take(name)?, "name")?;
        let content_type =
            text(flags & FLAG_CONTENT_TYPE != 0, fields.take(content_type)?, "content type")?;
        if fields.at != body.len() {
            return Err(RecordError::Length { len: bytes.len() });
        }
        Ok(Self {
            path_id,
            app,
            user,
            file,
            size,
            checksum,
            created_at,
            state,
            deleted_at,
            expires_at,
            name,
            content_type,
        })
    }

    fn flags(&self) -> u16 {
        let mut flags = 0;
        for (set, flag) in [
            (self.deleted_at.is_some(), FLAG_DELETED_AT),
            (self.expires_at.is_some(), FLAG_EXPIRES_AT),
            (self.name.is_some(), FLAG_NAME),
            (self.content_type.is_some(), FLAG_CONTENT_TYPE),
        ] {
            if set {
                flags |= flag;
            }
        }
        flags
    }
}

impl State {
    fn code(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Deleted => 1,
            Self::Purging => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Normal),
            1 => Some(Self::Deleted),
            2 => Some(Self::Purging),
            _ => None,
        }
    }
}

/// The record without its CRC, once length, magic, version and CRC are in order.
fn checked_body(bytes: &[u8]) -> Result<&[u8], RecordError> {
    let len = bytes.len();
    if !(FIXED_LEN + CRC_LEN..=LEN_MAX).contains(&len) {
        return Err(RecordError::Length { len });
    }
    if bytes[..2] != MAGIC {
        return Err(RecordError::Magic);
    }
    // The version before the checksum: a later version may well compute it over something else.
    if bytes[2] != VERSION {
        return Err(RecordError::Version { version: bytes[2] });
    }
    if usize::from(u16::from_be_bytes([bytes[4], bytes[5]])) != len {
        return Err(RecordError::Length { len });
    }
    let (body, crc) = bytes.split_at(len - CRC_LEN);
    if crc != crc_of(body).to_be_bytes() {
        return Err(RecordError::Checksum);
    }
    Ok(body)
}

fn crc_of(bytes: &[u8]) -> u64 {
    let mut crc = Crc64::new();
    crc.update(bytes);
    crc.finish()
}

fn optional(set: bool, value: u64, field: &'static str) -> Result<Option<u64>, RecordError> {
    match (set, value) {
        (true, value) => Ok(Some(value)),
        (false, 0) => Ok(None),
        (false, _) => Err(RecordError::Field { field }),
    }
}

fn text(set: bool, bytes: &[u8], field: &'static str) -> Result<Option<String>, RecordError> {
    if !set {
        return if bytes.is_empty() { Ok(None) } else { Err(RecordError::Field { field }) };
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(RecordError::Field { field }),
    }
}

/// A cursor that answers with an error where a slice would panic.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], RecordError> {
        let whole = RecordError::Length { len: self.bytes.len() };
        let end = self.at.checked_add(len).ok_or(whole.clone())?;
        let taken = self.bytes.get(self.at..end).ok_or(whole)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, RecordError> {
        let mut bytes = [0; 2];
        bytes.copy_from_slice(self.take(2)?);
        Ok(u16::from_be_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_be_bytes(bytes))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> Record {
        Record {
            path_id: PathId::new(0x0102_0304).unwrap(),
            app: AppId::parse("tnvideo").unwrap(),
            user: UserId::parse("tnv001").unwrap(),
            file: FileId::parse("film 电影").unwrap(),
            size: 5,
            checksum: 0x1122_3344_5566_7788,
            created_at: 0x65F1_560C,
            state: State::Normal,
            deleted_at: None,
            expires_at: Some(0x6600_0000),
            name: Some("film.mp4".into()),
            content_type: Some("video/mp4".into()),
        }
    }

    #[test]
    fn golden_bytes() {
        let bytes = sample().encode().unwrap();
        let mut expected = b"RL\x01\x00".to_vec();
        expected.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        expected.extend_from_slice(&[0, 0b1110]);
        expected.extend_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 5]);
        expected.extend_from_slice(&[0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0x65, 0xF1, 0x56, 0x0C]);
        expected.extend_from_slice(&[0; 8]);
        expected.extend_from_slice(&[0, 0, 0, 0, 0x66, 0, 0, 0]);
        expected.extend_from_slice(&[7, 6, 11, 8, 9, 0, 0, 0]);
        expected.extend_from_slice("tnvideotnv001film 电影film.mp4video/mp4".as_bytes());
        assert_eq!(bytes[..bytes.len() - 8], expected[..]);
        assert_eq!(Record::decode(&bytes).unwrap(), sample());
    }

    #[test]
    fn a_change_of_state_keeps_the_length() {
        let mut record = sample();
        let before = record.encode().unwrap().len();
        record.state = State::Deleted;
        record.deleted_at = Some(1);
        assert_eq!(record.encode().unwrap().len(), before);
    }

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let bytes = sample().encode().unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_and_every_tail_is_noticed() {
        let bytes = sample().encode().unwrap();
        for len in 0..bytes.len() {
            assert!(Record::decode(&bytes[..len]).is_err(), "length {len}");
        }
        let mut longer = bytes;
        longer.push(0);
        assert!(Record::decode(&longer).is_err());
        assert!(Record::decode(&[0; LEN_MAX + 1]).is_err());
    }

    #[test]
    fn texts_at_and_past_their_limit() {
        let mut record = sample();
        record.name = Some("n".repeat(TEXT_LEN_MAX));
        let bytes = record.encode().unwrap();
        assert!(bytes.len() <= LEN_MAX);
        assert_eq!(Record::decode(&bytes).unwrap(), record);
        record.name = Some("n".repeat(TEXT_LEN_MAX + 1));
        assert_eq!(record.encode(), Err(RecordError::Field { field: "name" }));
    }

    #[test]
    fn a_newer_version_says_so() {
        let mut bytes = sample().encode().unwrap();
        bytes[2] = 2;
        assert_eq!(Record::decode(&bytes), Err(RecordError::Version { version: 2 }));
    }

    proptest! {
        #[test]
        fn round_trip(
            id in 0_u64..512 * 512 * 512 * 512,
            app in "[a-zA-Z0-9]{1,15}",
            user in "[a-z用户]{0,60}",
            file in "[a-zA-Z0-9 _.电影-]{1,40}",
            numbers in prop::array::uniform3(any::<u64>()),
            state in 0_u8..3,
            times in prop::array::uniform2(prop::option::of(any::<u64>())),
            name in prop::option::of("[^\\x00]{0,60}"),
            kind in prop::option::of("[a-z/+]{0,100}"),
        ) {
            let record = Record {
                path_id: PathId::new(id).unwrap(),
                app: AppId::parse(&app).unwrap(),
                user: UserId::parse(&user).unwrap(),
                file: FileId::parse(&file).unwrap(),
                size: numbers[0],
                checksum: numbers[1],
                created_at: numbers[2],
                state: State::from_code(state).unwrap(),
                deleted_at: times[0],
                expires_at: times[1],
                name,
                content_type: kind,
            };
            let bytes = record.encode().unwrap();
            prop_assert!(bytes.len() <= LEN_MAX);
            prop_assert_eq!(Record::decode(&bytes).unwrap(), record);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..2100)) {
            let _ = Record::decode(&bytes);
        }
    }
}
