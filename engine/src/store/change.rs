//! What a delete, a restore or a purge does to a file's record. Decisions only; the keeper carries them out.
//!
//! The record is the truth that both the row and a later repair follow, so it is changed first, durably.

use super::api::ChangeError;
use crate::record::{Record, State};

/// What is asked of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Delete,
    Restore,
    Purge,
}

/// What to do before the row is changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Write this record, durably, then change the row.
    Write(Box<Record>),
    /// The record says so already, or there is none: change the row alone.
    RowOnly,
}

/// What was found in the attribute of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// A good record of this very file.
    Record(Box<Record>),
    /// No record (a file taken over) or no file at all.
    None,
    /// Something that is not a record of this file. It is left as it is; the row alone changes.
    Doubtful,
}

/// Decides on a change of a file whose row was found in the state that the change needs.
pub(crate) fn plan(kind: Kind, found: &Found, now: u64) -> Result<Plan, ChangeError> {
    let Found::Record(record) = found else { return Ok(Plan::RowOnly) };
    let mut next = record.clone();
    match (kind, record.state) {
        (Kind::Delete | Kind::Restore, State::Purging) => return Err(ChangeError::Purging),
        // A change that was cut short after its record: the row follows now.
        (Kind::Delete, State::Deleted)
        | (Kind::Restore, State::Normal)
        | (Kind::Purge, State::Purging) => return Ok(Plan::RowOnly),
        (Kind::Delete, State::Normal) => {
            next.state = State::Deleted;
            next.deleted_at = Some(now);
        }
        (Kind::Restore, State::Deleted) => {
            next.state = State::Normal;
            next.deleted_at = None;
        }
        // Normal here: a restore that was cut short after its record. Its row still says deleted, and nobody was
        // told that the file is back.
        (Kind::Purge, State::Deleted | State::Normal) => next.state = State::Purging,
    }
    Ok(Plan::Write(next))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reel_proto::{
        name::{AppId, FileId, UserId},
        path::PathId,
    };

    use super::*;

    fn found(state: State) -> Found {
        Found::Record(Box::new(Record {
            path_id: PathId::new(1).unwrap(),
            app: AppId::parse("tnvideo").unwrap(),
            user: UserId::parse("tnv001").unwrap(),
            file: FileId::parse("f").unwrap(),
            size: 0,
            checksum: 0,
            created_at: 1,
            state,
            deleted_at: None,
            expires_at: None,
            name: None,
            content_type: None,
        }))
    }

    #[test]
    fn the_whole_table() {
        use {Kind::*, State::*};
        let next = |kind, state| match plan(kind, &found(state), 9) {
            Ok(Plan::Write(record)) => Some((record.state, record.deleted_at)),
            Ok(Plan::RowOnly) => None,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(next(Delete, Normal), Some((Deleted, Some(9))));
        assert_eq!(next(Delete, Deleted), None);
        assert_eq!(next(Restore, Deleted), Some((Normal, None)));
        assert_eq!(next(Restore, Normal), None);
        assert_eq!(next(Purge, Deleted).unwrap().0, Purging);
        assert_eq!(next(Purge, Normal).unwrap().0, Purging);
        assert_eq!(next(Purge, Purging), None);
        for kind in [Delete, Restore] {
            assert!(matches!(plan(kind, &found(Purging), 9), Err(ChangeError::Purging)));
        }
        for other in [Found::None, Found::Doubtful] {
            assert_eq!(plan(Delete, &other, 9).unwrap(), Plan::RowOnly);
        }
    }
}
