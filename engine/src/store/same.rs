//! The same file id again: what an upload means when its id has a row already. Decisions only.

use std::io;

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

/// What the file of that row turned out to be, read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OldFile {
    /// Bytes.
    pub(crate) size: u64,
    /// CRC-64/NVME.
    pub(crate) checksum: u64,
    /// Its record says that it is deleted or being purged, though the row is normal.
    pub(crate) marked: bool,
}

/// What to do after the look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Row and file agree and are what was uploaded: success, and the new copy goes.
    Same,
    /// As [`Self::Same`], but a delete was cut short after its record, or a purge was, and a repair would follow the
    /// record: it must say "normal", durably, before success.
    Confirm,
    /// The row's file is lost or damaged: the new copy takes its place.
    WriteAgain,
    /// Another file.
    Conflict(Conflict),
}

/// Judges by the row, at the time `now`.
pub(crate) fn by_row(mine: &NewFile, row: &FileRow, now: u64) -> Judgement {
    let other = if (&row.app, &row.user) != (&mine.app, &mine.user) {
        Some(Conflict::OtherOwner)
    } else if row.status != FileStatus::Normal {
        Some(Conflict::Deleted)
    } else if row.expires_at.is_some_and(|expires| expires <= now) {
        // To a reader it does not exist, so it is nothing that an upload could be acknowledged by.
        Some(Conflict::Expired)
    } else if row.size != mine.size || (row.checksum.is_some() && row.checksum != mine.checksum) {
        Some(Conflict::OtherContent)
    } else if row.expires_at.is_some_and(|row| mine.expires_at.is_none_or(|mine| mine > row)) {
        // It would go before the time for which this one was promised.
        Some(Conflict::ExpiresEarlier)
    } else {
        None
    };
    other.map_or(Judgement::LookAtFile, Judgement::Conflict)
}

/// Judges by the file, after [`by_row`] said to look.
pub(crate) fn by_file(mine: &NewFile, row: &FileRow, old: OldFile) -> Verdict {
    if old.size != row.size {
        Verdict::WriteAgain
    } else if Some(old.checksum) == mine.checksum {
        if old.marked { Verdict::Confirm } else { Verdict::Same }
    } else if row.checksum.is_none() {
        // Nothing says that the file ever was anything else: it is another file, not a damaged one.
        Verdict::Conflict(Conflict::OtherContent)
    } else {
        Verdict::WriteAgain
    }
}

/// Whether a file that could not be read is lost, so that the same content may take its place. Only what is said of
/// the file itself counts: a want of descriptors or of rights is this node's, and the file may be whole. Bad sectors
/// of a file whose content is not known do not make other content the same. What a mount does not read now (`is_shared`) its
/// servers may have whole.
pub(crate) fn is_lost(error: &io::Error, row: &FileRow, is_shared: bool) -> bool {
    let is_unreadable = error.raw_os_error() == Some(libc::EIO) && !is_shared;
    error.kind() == io::ErrorKind::NotFound || (is_unreadable && row.checksum.is_some())
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
            deleted_at: None,
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
        let judge = |row: FileRow| by_row(&mine(), &row, 100);
        assert_eq!(judge(row()), Judgement::LookAtFile);
        assert_eq!(judge(FileRow { checksum: None, ..row() }), Judgement::LookAtFile);
        let expires = |at| FileRow { expires_at: Some(at), ..row() };
        assert_eq!(judge(expires(101)), Judgement::Conflict(Conflict::ExpiresEarlier));
        for (of_mine, of_row, is_kept_so_long) in [
            (101, Some(101), true),
            (101, Some(102), true),
            (101, None, true),
            (102, Some(101), false),
        ] {
            let mine = NewFile { expires_at: Some(of_mine), ..mine() };
            let judged = by_row(&mine, &FileRow { expires_at: of_row, ..row() }, 100);
            assert_eq!(judged == Judgement::LookAtFile, is_kept_so_long, "{judged:?}");
        }
        for (other, why) in [
            (FileRow { user: "tnv002".into(), ..row() }, Conflict::OtherOwner),
            (FileRow { app: "other".into(), ..row() }, Conflict::OtherOwner),
            (FileRow { status: FileStatus::Deleted, ..row() }, Conflict::Deleted),
            (FileRow { expires_at: Some(100), ..row() }, Conflict::Expired),
            (FileRow { size: 6, ..row() }, Conflict::OtherContent),
            (FileRow { checksum: Some(78), ..row() }, Conflict::OtherContent),
        ] {
            assert_eq!(judge(other), Judgement::Conflict(why));
        }
    }

    #[test]
    fn by_the_file() {
        let judge = |row: &FileRow, old| by_file(&mine(), row, old);
        let good = OldFile { size: 5, checksum: 77, marked: false };
        let rotten = OldFile { checksum: 78, ..good };
        let short = OldFile { size: 4, checksum: 79, ..good };
        assert_eq!(judge(&row(), good), Verdict::Same);
        assert_eq!(judge(&row(), OldFile { marked: true, ..good }), Verdict::Confirm);
        for old in [rotten, short] {
            assert_eq!(judge(&row(), old), Verdict::WriteAgain);
        }
        let unknown = FileRow { checksum: None, ..row() };
        assert_eq!(judge(&unknown, good), Verdict::Same);
        assert_eq!(judge(&unknown, rotten), Verdict::Conflict(Conflict::OtherContent));
        assert_eq!(judge(&unknown, short), Verdict::WriteAgain);
    }

    #[test]
    fn what_this_node_lacks_loses_no_file() {
        let (known, unknown) = (row(), FileRow { checksum: None, ..row() });
        for (code, of_known, of_unknown) in [
            (libc::ENOENT, true, true),
            (libc::EIO, true, false),
            (libc::EMFILE, false, false),
            (libc::ENFILE, false, false),
            (libc::ENOMEM, false, false),
            (libc::EACCES, false, false),
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(
                (is_lost(&error, &known, false), is_lost(&error, &unknown, false)),
                (of_known, of_unknown),
                "{error}"
            );
            assert_eq!(is_lost(&error, &known, true), code == libc::ENOENT, "{error}");
        }
    }
}
