//! The same file id again: what an upload means when its id has a row already. Decisions only.

use reel_meta::{FileRow, FileStatus, NewFile};

use super::api::Conflict;

/// What the row alone says about an upload whose insert it refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Another file.
    Conflict(Conflict),
    /// The row promises the same bytes. Whether the disk keeps that promise has to be looked at.
    LookAtFile,
}

/// What the file of that row turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OldFile {
    /// Read to its end: this size and checksum.
    Read {
        /// Bytes.
        size: u64,
        /// CRC-64/NVME.
        checksum: u64,
    },
    /// Not there, or it cannot be read.
    Lost,
}

/// What to do after the look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Row and file agree and are what was uploaded: success, and the new copy goes.
    Same,
    /// The row's file is lost or damaged: the new copy takes its place.
    WriteAgain,
    /// Another file.
    Conflict(Conflict),
}

/// Judges by the row.
pub(crate) fn by_row(mine: &NewFile, row: &FileRow) -> Judgement {
    let other = if (&row.app, &row.user) != (&mine.app, &mine.user) {
        Some(Conflict::OtherOwner)
    } else if row.status != FileStatus::Normal {
        Some(Conflict::Deleted)
    } else if row.size != mine.size || (row.checksum.is_some() && row.checksum != mine.checksum) {
        Some(Conflict::OtherContent)
    } else {
        None
    };
    other.map_or(Judgement::LookAtFile, Judgement::Conflict)
}

/// Judges by the file, after [`by_row`] said to look.
pub(crate) fn by_file(mine: &NewFile, row: &FileRow, old: OldFile) -> Verdict {
    match old {
        OldFile::Read { size, checksum } if size == row.size => {
            if Some(checksum) == mine.checksum {
                Verdict::Same
            } else if row.checksum.is_none() {
                // Nothing says that the file ever was anything else: it is another file, not a damaged one.
                Verdict::Conflict(Conflict::OtherContent)
            } else {
                Verdict::WriteAgain
            }
        }
        _ => Verdict::WriteAgain,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn mine() -> NewFile {
        NewFile {
            file: "f".into(),
            app: "tnvideo".into(),
            user: "tnv001".into(),
            file_path: "k/000/000/000/1_001".into(),
            size: 5,
            created_at: 1,
            checksum: Some(77),
            name: None,
            content_type: None,
            expires_at: None,
        }
    }

    fn row() -> FileRow {
        FileRow {
            table: 2,
            file: "f".into(),
            app: "tnvideo".into(),
            user: "tnv001".into(),
            status: FileStatus::Normal,
            file_path: "k/000/000/000/1_000".into(),
            size: 5,
            created_at: 1,
            updated_at: 1,
            checksum: Some(77),
            name: None,
            content_type: None,
            deleted_at: None,
            expires_at: None,
        }
    }

    #[test]
    fn by_the_row() {
        let judge = |row: FileRow| by_row(&mine(), &row);
        assert_eq!(judge(row()), Judgement::LookAtFile);
        assert_eq!(judge(FileRow { checksum: None, ..row() }), Judgement::LookAtFile);
        for (other, why) in [
            (FileRow { user: "tnv002".into(), ..row() }, Conflict::OtherOwner),
            (FileRow { app: "other".into(), ..row() }, Conflict::OtherOwner),
            (FileRow { status: FileStatus::Deleted, ..row() }, Conflict::Deleted),
            (FileRow { size: 6, ..row() }, Conflict::OtherContent),
            (FileRow { checksum: Some(78), ..row() }, Conflict::OtherContent),
        ] {
            assert_eq!(judge(other), Judgement::Conflict(why));
        }
    }

    #[test]
    fn by_the_file() {
        let judge = |row: &FileRow, old| by_file(&mine(), row, old);
        let good = OldFile::Read { size: 5, checksum: 77 };
        let rotten = OldFile::Read { size: 5, checksum: 78 };
        let short = OldFile::Read { size: 4, checksum: 79 };
        assert_eq!(judge(&row(), good), Verdict::Same);
        for old in [rotten, short, OldFile::Lost] {
            assert_eq!(judge(&row(), old), Verdict::WriteAgain);
        }
        let unknown = FileRow { checksum: None, ..row() };
        assert_eq!(judge(&unknown, good), Verdict::Same);
        assert_eq!(judge(&unknown, rotten), Verdict::Conflict(Conflict::OtherContent));
        assert_eq!(judge(&unknown, short), Verdict::WriteAgain);
    }
}
