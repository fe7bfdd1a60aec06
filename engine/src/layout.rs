//! From a row to a place and back: which store path a `file_path` names, and what a row says about its file.
//!
//! No IO. A row's `file_path` is the store's id key (or, in a database taken over, an old prefix such as `../data`),
//! a `/`, and the relative path of the 512-way layout (`reel_proto::path`).

use std::collections::HashMap;

use reel_meta::{FileRow, FileStatus};
use reel_proto::{
    name::{AppId, FileId, UserId},
    path::{PathId, RelativePath},
};

use crate::store::{FileKey, Located, LookupError, Status};

/// The prefixes of `file_path` that this node's store paths answer to.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    stores: HashMap<String, usize>,
}

/// Two store paths of one node claim the same prefix: a row could not be told which of them it means.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("store paths {first} and {second} both answer to the prefix {prefix:?}")]
pub struct PrefixTaken {
    /// The prefix.
    pub prefix: String,
    /// Index of the store path that had it.
    pub first: usize,
    /// Index of the one that wants it too.
    pub second: usize,
}

impl Layout {
    /// Adds a prefix, an id key or an alias, of a store path.
    ///
    /// # Errors
    /// [`PrefixTaken`].
    pub fn add(&mut self, prefix: &str, store: usize) -> Result<(), PrefixTaken> {
        match self.stores.insert(prefix.to_owned(), store) {
            Some(first) if first != store => {
                Err(PrefixTaken { prefix: prefix.to_owned(), first, second: store })
            }
            _ => Ok(()),
        }
    }

    /// The store path and the place that a `file_path` names; `None` where it is no place of this node.
    pub fn place(&self, file_path: &str) -> Option<(usize, PathId, RelativePath)> {
        let (prefix, id, time) = PathId::parse_file_path(file_path).ok()?;
        Some((*self.stores.get(prefix)?, id, id.relative(time)))
    }

    /// Whether a `file_path` names this place of this store path, under whichever of its prefixes. The only way to
    /// compare places: one place has as many texts as its store path has prefixes.
    pub fn names(&self, file_path: &str, store: usize, relative: &str) -> bool {
        self.place(file_path)
            .is_some_and(|(index, _, place)| index == store && place.as_str() == relative)
    }

    /// Everything a reader needs to know of a row.
    ///
    /// # Errors
    /// [`LookupError::Unplaced`] where the row names no store path of this node, or carries names that no version wrote.
    pub fn locate(&self, row: FileRow) -> Result<Located, LookupError> {
        let placed = self.place(&row.file_path).zip(key(&row));
        let Some(((store, path_id, relative), key)) = placed else {
            return Err(LookupError::Unplaced(row.file_path));
        };
        Ok(Located {
            key,
            store,
            path_id,
            relative,
            file_path: row.file_path,
            size: row.size,
            checksum: row.checksum,
            created_at: row.created_at,
            status: match row.status {
                FileStatus::Normal => Status::Normal,
                FileStatus::Deleted => Status::Deleted,
            },
            deleted_at: row.deleted_at,
            expires_at: row.expires_at,
            name: row.name,
            content_type: row.content_type,
        })
    }
}

/// The text for the column `file_path`.
pub fn file_path(id_key: &str, relative: &RelativePath) -> String {
    format!("{id_key}/{relative}")
}

/// Whose it is and what it is called; `None`: by names that no version accepts.
pub(crate) fn key(row: &FileRow) -> Option<FileKey> {
    Some(FileKey {
        app: AppId::parse(&row.app).ok()?,
        user: UserId::parse(&row.user).ok()?,
        file: FileId::parse(&row.file).ok()?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_aliases_name_a_store() {
        let mut layout = Layout::default();
        layout.add("/data/a", 0).unwrap();
        layout.add("../data", 1).unwrap();
        layout.add("../data", 1).unwrap();
        let relative = PathId::new(512).unwrap().relative(0x65F1_560C);
        let (store, id, back) = layout.place(&file_path("/data/a", &relative)).unwrap();
        assert_eq!((store, id.get(), back), (0, 512, relative));
        assert_eq!(layout.place("../data/000/000/001/65F1560C_000").unwrap().0, 1);
        for text in ["../data/000/000/001/65F1560C_000", "/data/b/000/000/001/65F1560C_000"] {
            assert!(!layout.names(text, 0, relative.as_str()), "{text}");
        }
        assert!(layout.names("../data/000/000/001/65F1560C_000", 1, relative.as_str()));
        assert!(!layout.names("../data/000/000/001/65F1560D_000", 1, relative.as_str()));
        for nowhere in ["/data/b/000/000/001/65F1560C_000", "/data/a/000/000/65F1560C_000", "", "x"]
        {
            assert!(layout.place(nowhere).is_none(), "{nowhere}");
        }
        let taken = layout.add("/data/a", 1).unwrap_err();
        assert_eq!((taken.first, taken.second), (0, 1));
    }
}
