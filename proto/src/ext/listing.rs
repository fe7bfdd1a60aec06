//! LIST (202), USAGE (207): which files there are of a user or of an app, and how much they are.

use crate::{
    body::{BodyError, Fields, LAYOUT_VERSION, put_optional, put_short, put_u64},
    ext::{FileStat, FileStatus},
    name::{AppId, FileId, UserId},
};

pub use crate::limits::LIST_ENTRIES_MAX;

/// The version that LIST and its reply begin with. In the first one a user was named, and files came by their ids.
const LIST_VERSION: u8 = 2;

/// Which files are named, by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusFilter {
    /// Those that can be read.
    Normal,
    /// Those that are deleted.
    Deleted,
    /// Both.
    All,
}

impl StatusFilter {
    /// Whether a file in this state is named.
    pub const fn takes(self, status: FileStatus) -> bool {
        match self {
            Self::All => true,
            Self::Normal => matches!(status, FileStatus::Normal),
            Self::Deleted => matches!(status, FileStatus::Deleted),
        }
    }
}

/// Files of an app, or of one of its users, in some states, uploaded in some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Selection {
    /// The application.
    pub app: AppId,
    /// The user; none: all of the app.
    pub user: Option<UserId>,
    /// In which states.
    pub filter: StatusFilter,
    /// Uploaded in this second or later, seconds since 1970.
    pub since: Option<u64>,
    /// Uploaded before this second.
    pub until: Option<u64>,
}

impl Selection {
    /// All files of a user.
    pub const fn of_user(app: AppId, user: UserId) -> Self {
        Self { user: Some(user), ..Self::of_app(app) }
    }

    /// All files of an app.
    pub const fn of_app(app: AppId) -> Self {
        Self { app, user: None, filter: StatusFilter::All, since: None, until: None }
    }

    fn read(fields: &mut Fields<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            app: AppId::from_bytes(fields.short("app id")?)?,
            user: fields.optional("user id", |f| Ok(UserId::from_bytes(f.short("user id")?)?))?,
            filter: match fields.u8("status filter")? {
                0 => StatusFilter::Normal,
                1 => StatusFilter::Deleted,
                2 => StatusFilter::All,
                _ => return Err(BodyError::Value { field: "status filter" }),
            },
            since: fields.optional("first time", |f| f.u64("first time"))?,
            until: fields.optional("end of time", |f| f.u64("end of time"))?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_short(out, self.app.as_bytes());
        put_optional(out, self.user.as_ref(), |out, user| put_short(out, user.as_bytes()));
        out.push(match self.filter {
            StatusFilter::Normal => 0,
            StatusFilter::Deleted => 1,
            StatusFilter::All => 2,
        });
        put_optional(out, self.since, put_u64);
        put_optional(out, self.until, put_u64);
    }
}

/// Bytes of the id in a [`Cursor`].
pub const CURSOR_FILE_BYTES_MAX: usize = 255;

/// Where a listing or a count goes on: as a reply gave it, for the same selection. It stays good; what was uploaded
/// since comes behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// A second, since 1970.
    pub time: u64,
    /// Which part of the metadata.
    pub part: u8,
    /// A place in that second.
    pub order: u64,
    /// The id of a file, at most [`CURSOR_FILE_BYTES_MAX`]: what a row has, be it an id that no version gives.
    pub file: String,
}

impl Cursor {
    fn read(fields: &mut Fields<'_>) -> Result<Self, BodyError> {
        let (time, part) = (fields.u64("cursor's time")?, fields.u8("cursor's part")?);
        let order = fields.u64("cursor's order")?;
        let file = std::str::from_utf8(fields.short("cursor's file id")?)
            .map_err(|_| BodyError::Value { field: "cursor's file id" })?;
        Ok(Self { time, part, order, file: file.to_owned() })
    }

    fn write(&self, out: &mut Vec<u8>) {
        put_u64(out, self.time);
        out.push(self.part);
        put_u64(out, self.order);
        put_short(out, self.file.as_bytes());
    }
}

/// LIST: files in the order of their times, a page at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Which files.
    pub of: Selection,
    /// Where the page before ended; none for the first page.
    pub after: Option<Cursor>,
    /// Entries wanted, 1 to [`LIST_ENTRIES_MAX`].
    pub limit: u16,
}

impl List {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::of_version(body, LIST_VERSION)?;
        let of = Selection::read(&mut fields)?;
        let after = fields.optional("cursor", Cursor::read)?;
        let limit = fields.u16("limit")?;
        if limit == 0 || usize::from(limit) > LIST_ENTRIES_MAX {
            return Err(BodyError::Value { field: "limit" });
        }
        fields.finish()?;
        Ok(Self { of, after, limit })
    }

    /// Appends the request's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LIST_VERSION);
        self.of.write(out);
        put_optional(out, self.after.as_ref(), |out, cursor| cursor.write(out));
        out.extend_from_slice(&self.limit.to_be_bytes());
    }
}

/// An entry of a [`ListReply`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Whose file it is.
    pub user: UserId,
    /// Its id.
    pub file: FileId,
    /// What is known of it.
    pub stat: FileStat,
}

/// LIST's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListReply {
    /// Where the next page begins; none where nothing follows.
    pub next: Option<Cursor>,
    /// Files that are not in the page although they belong there: their rows name them, or their places, as no version does.
    pub left_out: u16,
    /// The files, [`LIST_ENTRIES_MAX`] at most.
    pub files: Vec<Listed>,
}

impl ListReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong; a count past the limit before anything is kept.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::of_version(body, LIST_VERSION)?;
        let next = fields.optional("cursor", Cursor::read)?;
        let left_out = fields.u16("files left out")?;
        let count = usize::from(fields.u16("count")?);
        if count > LIST_ENTRIES_MAX {
            return Err(BodyError::Value { field: "count" });
        }
        let mut files = Vec::new();
        for _ in 0..count {
            let user = UserId::from_bytes(fields.short("user id")?)?;
            let file = FileId::from_bytes(fields.short("file id")?)?;
            files.push(Listed { user, file, stat: FileStat::read(&mut fields)? });
        }
        fields.finish()?;
        Ok(Self { next, left_out, files })
    }

    /// Appends the reply's body. It has at most [`LIST_ENTRIES_MAX`] files, or a reader refuses it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!(self.files.len() <= LIST_ENTRIES_MAX, "no more than were asked for");
        out.push(LIST_VERSION);
        put_optional(out, self.next.as_ref(), |out, cursor| cursor.write(out));
        out.extend_from_slice(&self.left_out.to_be_bytes());
        out.extend_from_slice(&(self.files.len() as u16).to_be_bytes());
        for entry in &self.files {
            put_short(out, entry.user.as_bytes());
            put_short(out, entry.file.as_bytes());
            entry.stat.write(out);
        }
    }
}

/// USAGE: how many files, and how many bytes. A node may stop early, so that no request runs for hours: then ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Usage {
    /// Of which files.
    pub of: Selection,
    /// Where the count before ended; none for the first one.
    pub after: Option<Cursor>,
}

impl Usage {
    /// Reads a request's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let of = Selection::read(&mut fields)?;
        let after = fields.optional("cursor", Cursor::read)?;
        fields.finish()?;
        Ok(Self { of, after })
    }

    /// Appends the request's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        self.of.write(out);
        put_optional(out, self.after.as_ref(), |out, cursor| cursor.write(out));
    }
}

/// Files, and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many files.
    pub files: u64,
    /// How many bytes they have together.
    pub bytes: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.files = self.files.saturating_add(other.files);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// USAGE's reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageReply {
    /// Where the count goes on; none: it is whole.
    pub next: Option<Cursor>,
    /// Files that can be read.
    pub normal: Tally,
    /// Files that are deleted and not purged yet.
    pub deleted: Tally,
}

impl UsageReply {
    /// Reads a reply's body.
    ///
    /// # Errors
    /// [`BodyError`] with the first thing that is wrong.
    pub fn decode(body: &[u8]) -> Result<Self, BodyError> {
        let mut fields = Fields::versioned(body)?;
        let next = fields.optional("cursor", Cursor::read)?;
        let mut tally = || -> Result<Tally, BodyError> {
            Ok(Tally { files: fields.u64("count of files")?, bytes: fields.u64("bytes")? })
        };
        let (normal, deleted) = (tally()?, tally()?);
        fields.finish()?;
        Ok(Self { next, normal, deleted })
    }

    /// Appends the reply's body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(LAYOUT_VERSION);
        put_optional(out, self.next.as_ref(), |out, cursor| cursor.write(out));
        for Tally { files, bytes } in [self.normal, self.deleted] {
            put_u64(out, files);
            put_u64(out, bytes);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ext::{REPLY_BYTES_MAX, REQUEST_BYTES_MAX, tests::harden, tests::stat};

    /// Every text at its longest.
    fn longest() -> (Selection, Cursor) {
        let of = Selection {
            app: AppId::parse(&"a".repeat(15)).unwrap(),
            user: Some(UserId::parse(&"用".repeat(85)).unwrap()),
            filter: StatusFilter::All,
            since: Some(1),
            until: Some(u64::MAX),
        };
        (of, Cursor { time: 1_710_188_042, part: 3, order: 1 << 40, file: "\n".repeat(255) })
    }

    #[test]
    fn requests_come_back() {
        let app = AppId::parse("tnvideo").unwrap();
        let (of, cursor) = longest();
        for (of, after) in [
            (of, Some(cursor)),
            (Selection::of_app(app), None),
            (Selection::of_user(app, UserId::EMPTY), None),
        ] {
            let list = List { of, after: after.clone(), limit: 1000 };
            let mut bytes = Vec::new();
            list.encode(&mut bytes);
            assert!(bytes.len() as u64 <= REQUEST_BYTES_MAX);
            assert_eq!(List::decode(&bytes).unwrap(), list);
            harden(&bytes, List::decode);
            let usage = Usage { of, after };
            let mut bytes = Vec::new();
            usage.encode(&mut bytes);
            assert_eq!(Usage::decode(&bytes).unwrap(), usage);
            harden(&bytes, Usage::decode);
        }
    }

    #[test]
    fn a_limit_outside_one_to_a_thousand_is_refused() {
        for (limit, legal) in
            [(0, false), (1, true), (1000, true), (1001, false), (u16::MAX, false)]
        {
            let list = List { of: longest().0, after: None, limit };
            let mut bytes = Vec::new();
            list.encode(&mut bytes);
            assert_eq!(List::decode(&bytes).is_ok(), legal, "{limit}");
        }
    }

    #[test]
    fn replies_come_back() {
        for next in [None, Some(longest().1)] {
            let normal = Tally { files: 3, bytes: 1 << 50 };
            let reply = UsageReply { next, normal, deleted: Tally::default() };
            let mut bytes = Vec::new();
            reply.encode(&mut bytes);
            assert_eq!(UsageReply::decode(&bytes).unwrap(), reply);
            harden(&bytes, UsageReply::decode);
        }
    }

    #[test]
    fn the_longest_list_fits_its_limit() {
        let (of, cursor) = longest();
        let file = FileId::parse(&"f".repeat(127)).unwrap();
        let entry = Listed { user: of.user.unwrap(), file, stat: stat(true) };
        let mut reply =
            ListReply { next: Some(cursor), left_out: 7, files: vec![entry; LIST_ENTRIES_MAX] };
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        assert!(bytes.len() as u64 <= REPLY_BYTES_MAX, "{}", bytes.len());
        assert_eq!(ListReply::decode(&bytes).unwrap(), reply);
        reply.files.truncate(2);
        let mut bytes = Vec::new();
        reply.encode(&mut bytes);
        harden(&bytes, ListReply::decode);
    }
}
