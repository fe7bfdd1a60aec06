//! A file's record as a data thread keeps it: all its text in one allocation, small enough for millions.

use reel_proto::{name::FileId, path::PathId};

use crate::store::{Located, Place};

/// What an allocation costs beside its bytes: the allocator's header and its rounding up, on average.
const ALLOCATION_BYTES: usize = 16;

/// The texts of a record, in their order.
#[derive(Clone, Copy)]
enum Text {
    File,
    App,
    User,
    Name,
    ContentType,
}

/// A readable file. Immutable: a change of the file makes a new epoch, and this one stale.
#[derive(Debug)]
pub(crate) struct Record {
    /// All texts, one after another.
    text: Box<str>,
    epoch: u64,
    path_id: PathId,
    size: u64,
    checksum: u64,
    created_at: u64,
    /// The time in its file name, which with the path id gives its place.
    place_time: u64,
    /// `u64::MAX`: never.
    expires_at: u64,
    /// Where each text ends. At most 127 + 15 + 255 + 255 + 255 bytes.
    ends: [u16; 5],
    store: u16,
    has_checksum: bool,
    has_name: bool,
    has_content_type: bool,
}

impl Record {
    /// The record of a file that was looked up after its epoch was `epoch`.
    pub(crate) fn new(located: &Located, epoch: u64) -> Self {
        let texts = [
            located.key.file.as_str(),
            located.key.app.as_str(),
            located.key.user.as_str(),
            located.name.as_deref().unwrap_or(""),
            located.content_type.as_deref().unwrap_or(""),
        ];
        let mut ends = [0; 5];
        let mut end = 0_usize;
        for (index, text) in texts.iter().enumerate() {
            end += text.len();
            ends[index] = u16::try_from(end).unwrap_or(u16::MAX);
        }
        Self {
            text: texts.concat().into(),
            epoch,
            path_id: located.path_id,
            size: located.size,
            checksum: located.checksum.unwrap_or(0),
            created_at: located.created_at,
            place_time: PathId::parse_relative(located.relative.as_str())
                .map_or(located.created_at, |(_, time)| time),
            expires_at: located.expires_at.unwrap_or(u64::MAX),
            ends,
            store: u16::try_from(located.store).unwrap_or(u16::MAX),
            has_checksum: located.checksum.is_some(),
            has_name: located.name.is_some(),
            has_content_type: located.content_type.is_some(),
        }
    }

    /// What it costs on the heap, in bytes: its own allocation with its two counts, and its text.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + 2 * size_of::<usize>() + self.text.len() + 2 * ALLOCATION_BYTES
    }

    fn text(&self, which: Text) -> &str {
        let index = which as usize;
        let start = if index == 0 { 0 } else { usize::from(self.ends[index - 1]) };
        self.text.get(start..usize::from(self.ends[index])).unwrap_or("")
    }

    /// The epoch before the lookup that made it.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The file id, as text.
    pub(crate) fn file(&self) -> &str {
        self.text(Text::File)
    }

    /// The file id.
    pub(crate) fn file_id(&self) -> Option<FileId> {
        FileId::parse(self.file()).ok()
    }

    /// The application.
    pub(crate) fn app(&self) -> &str {
        self.text(Text::App)
    }

    /// The user.
    pub(crate) fn user(&self) -> &str {
        self.text(Text::User)
    }

    /// Index of its store path.
    pub(crate) fn store(&self) -> u16 {
        self.store
    }

    /// The number of its place.
    pub(crate) fn path_id(&self) -> PathId {
        self.path_id
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// CRC-64/NVME of the content, where it is known.
    pub(crate) fn checksum(&self) -> Option<u64> {
        self.has_checksum.then_some(self.checksum)
    }

    /// Seconds since 1970.
    pub(crate) fn created_at(&self) -> u64 {
        self.created_at
    }

    /// When its owner wants it gone.
    pub(crate) fn expires_at(&self) -> Option<u64> {
        (self.expires_at != u64::MAX).then_some(self.expires_at)
    }

    /// Its name at the uploader.
    pub(crate) fn name(&self) -> Option<&str> {
        self.has_name.then(|| self.text(Text::Name))
    }

    /// Its media type.
    pub(crate) fn content_type(&self) -> Option<&str> {
        self.has_content_type.then(|| self.text(Text::ContentType))
    }

    /// Whether both name the same place: then they have the same content, for ever.
    pub(crate) fn same_place(&self, other: &Self) -> bool {
        (self.path_id, self.store) == (other.path_id, other.store)
    }

    /// Where it lies.
    pub(crate) fn place(&self) -> Place {
        Place {
            store: usize::from(self.store),
            path_id: self.path_id,
            relative: self.path_id.relative(self.place_time),
            size: self.size,
            checksum: self.checksum(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reel_proto::name::{AppId, UserId};

    use super::*;
    use crate::store::{FileKey, Status};

    fn located(user: &str, name: Option<&str>) -> Located {
        let path_id = PathId::new(513).unwrap();
        Located {
            key: FileKey {
                app: AppId::parse("tnvideo").unwrap(),
                user: UserId::parse(user).unwrap(),
                file: FileId::parse("65f1560c0a1b2c0123456789abcdef000112").unwrap(),
            },
            store: 3,
            path_id,
            relative: path_id.relative(0x65F1_560C),
            file_path: "/data/000/000/001/65F1560C_001".to_owned(),
            size: 1 << 40,
            checksum: None,
            created_at: 0x65F1_560D,
            status: Status::Normal,
            deleted_at: None,
            expires_at: Some(7),
            name: name.map(str::to_owned),
            content_type: Some("video/mp4".to_owned()),
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let located = located("tnv001", Some("a film.mp4"));
        let record = Record::new(&located, 9);
        assert_eq!(record.file_id(), Some(located.key.file));
        assert_eq!((record.app(), record.user()), ("tnvideo", "tnv001"));
        assert_eq!(record.name(), Some("a film.mp4"));
        assert_eq!(record.content_type(), Some("video/mp4"));
        assert_eq!((record.checksum(), record.expires_at()), (None, Some(7)));
        assert_eq!((record.epoch(), record.size()), (9, 1 << 40));
        let place = record.place();
        assert_eq!((place.store, place.size), (3, 1 << 40));
        assert_eq!(place.relative.as_str(), located.relative.as_str());
        let empty = Record::new(&super::tests::located("", None), 9);
        assert_eq!((empty.user(), empty.name()), ("", None));
        assert_eq!(empty.content_type(), Some("video/mp4"));
    }

    /// The stated bound: 300 bytes of cache for a known file, as deployed clients name them.
    #[test]
    fn a_known_file_costs_at_most_300_bytes() {
        let record = Record::new(&located("tnv001", Some("holiday-2024-03-11.mp4")), 0);
        let bytes = record.bytes() + crate::cache::ENTRY_BYTES;
        assert!(bytes <= 300, "{bytes}");
    }
}
