//! STAT (201), RESTORE (203), PURGE (204): what is stored of a file, and its way back or out.

use crate::{
    body::{BodyError, Fields, LAYOUT_VERSION, put_flag, put_optional, put_short, put_text},
    name::{AppId, UserId},
    storage::{FILE_REF_LEN, FileRef},
};

/// The body of STAT and RESTORE: version, then the 400 bytes of a [`FileRef`]. RESTORE answers nothing but success.
pub fn encode_file(file: &FileRef, out: &mut Vec<u8>) {
    out.push(LAYOUT_VERSION);
    file.encode(out);
}

/// Reads the body of STAT or RESTORE.
///
/// # Errors
/// [`BodyError`] with the first thing that is wrong.
pub fn decode_file(body: &[u8]) -> Result<FileRef, BodyError> {
    let mut fields = Fields::versioned(body)?;
    let file = FileRef::decode(fields.take(FILE_REF_LEN, "file")?)?;
    fields.finish()?;
    Ok(file)
}

/// State of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileStatus {
    /// It can be read.
    Normal,
    /// It can be restored until the purge.
    Deleted,
}

impl FileStatus {
    fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Deleted => 1,
        }
    }

    fn of(number: u8) -> Result<Self, BodyError> {
        match number {
            0 => Ok(Self::Normal),
            1 => Ok(Self::Deleted),
            _ => Err(BodyError::Value { field: "status" }),
        }
    }
}

/// Everything that a store knows of a file: STAT's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStat {
    /// The number that names its place.
    pub path_id: u64,
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME of the content. None: an old row, whose content nobody has read through yet.
    pub checksum: Option<u64>,
    /// When it was uploaded, seconds since 1970.
    pub created_at: u64,
    /// Its state.
    pub status: FileStatus,
    /// When it was deleted, seconds since 1970.
    pub deleted_at: Option<u64>,
    /// When the store may remove it, seconds since 1970.
    pub expires_at: Option<u64>,
    /// Its original name, at most 255 bytes.
    pub name: Option<String>,
    /// Its content type, at most 255 bytes.
    pub content_type: Option<String>,
    /// The id key of its store path, at most 64 bytes.
    pub store: String,
}

impl FileStat {
    /// Reads STAT's reply.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let stat = Self::read(&mut fields)?;
        fields.finish()?;
        Ok(stat)
    }

    /// Appends STAT's reply.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        self.write(out);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, BodyError> {
        let text =
            |field| move |fields: &mut Fields<'_>| fields.short_text(field).map(str::to_owned);
        Ok(Self {
            path_id: fields.u64("path id")?,
            size: fields.u64("size")?,
            checksum: fields.optional("checksum", |f| f.u64("checksum"))?,
            created_at: fields.u64("creation time")?,
            status: FileStatus::of(fields.u8("status")?)?,
            deleted_at: fields.optional("deletion time", |f| f.u64("deletion time"))?,
            expires_at: fields.optional("expiry time", |f| f.u64("expiry time"))?,
            name: fields.optional("name", text("name"))?,
            content_type: fields.optional("content type", text("content type"))?,
            store: fields.short_text("store")?.to_owned(),
        })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let number = |out: &mut Vec<u8>, value: u64| out.extend_from_slice(&value.to_be_bytes());
        number(out, self.path_id);
        number(out, self.size);
        put_optional(out, self.checksum, number);
        number(out, self.created_at);
        out.push(self.status.number());
        put_optional(out, self.deleted_at, number);
        put_optional(out, self.expires_at, number);
        put_optional(out, self.name.as_deref(), put_text);
        put_optional(out, self.content_type.as_deref(), put_text);
        put_text(out, &self.store);
    }
}

/// PURGE: removes deleted files for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purge {
    /// One deleted file.
    File(FileRef),
    /// Every deleted file of a user.
    AllDeleted {
        /// The application.
        app: AppId,
        /// The user.
        user: UserId,
    },
}

impl Purge {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let purge = match fields.u8("kind of purge")? {
            0 => Self::File(FileRef::decode(fields.take(FILE_REF_LEN, "file")?)?),
            1 => Self::AllDeleted {
                app: AppId::from_bytes(fields.short("app id")?)?,
                user: UserId::from_bytes(fields.short("user id")?)?,
            },
            _ => return Err(BodyError::Value { field: "kind of purge" }),
        };
        fields.finish()?;
        Ok(purge)
    }

    /// Appends the request's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        match self {
            Self::File(file) => {
                out.push(0);
                file.encode(out);
            }
            Self::AllDeleted { app, user } => {
                out.push(1);
                put_short(out, app.as_bytes());
                put_short(out, user.as_bytes());
            }
        }
    }
}

/// PURGE's reply. A node may stop early, so that no request runs for hours: then ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeReply {
    /// Files removed.
    pub purged: u64,
    /// Whether deleted files are left.
    pub more: bool,
}

impl PurgeReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let reply = Self { purged: fields.u64("purged")?, more: fields.flag("more")? };
        fields.finish()?;
        Ok(reply)
    }

    /// Appends the reply's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        out.extend_from_slice(&self.purged.to_be_bytes());
        put_flag(out, self.more);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ext::tests::{harden, stat};
    use crate::name::FileId;

    fn file() -> FileRef {
        FileRef {
            app: AppId::parse("tnvideo").unwrap(),
            user: UserId::parse("tnv001").unwrap(),
            file: FileId::parse("id").unwrap(),
        }
    }

    #[test]
    fn requests_come_back() {
        let mut bytes = Vec::new();
        encode_file(&file(), &mut bytes);
        assert_eq!(decode_file(&bytes).unwrap(), file());
        harden(&bytes, decode_file);
        for purge in [
            Purge::File(file()),
            Purge::AllDeleted { app: file().app, user: UserId::parse("").unwrap() },
        ] {
            let mut bytes = Vec::new();
            purge.encode(&mut bytes);
            assert_eq!(Purge::decode(&bytes).unwrap(), purge);
            harden(&bytes, Purge::decode);
        }
    }

    #[test]
    fn replies_come_back() {
        for full in [false, true] {
            let mut bytes = Vec::new();
            stat(full).encode(&mut bytes);
            assert_eq!(FileStat::decode(&bytes).unwrap(), stat(full));
            harden(&bytes, FileStat::decode);
        }
        let reply = PurgeReply { purged: 3, more: true };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert_eq!(PurgeReply::decode(&bytes).unwrap(), reply);
        harden(&bytes, PurgeReply::decode);
    }
}
