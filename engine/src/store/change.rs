//! What a delete, a restore or a purge does to a file's record and row. Decisions only; the keeper carries them out.
//!
//! The record is the truth that both the row and a later repair follow, so it is changed first, durably. A change
//! that was cut short leaves the two in different states, and nobody was told. Whoever is told of a state later is
//! told of it only after both say so: each answer is decided here, from both.

use reel_meta::{FileRow, FileStatus, RowRef, StatusChange};

use super::api::ChangeError;
use crate::record::{Record, State};

/// What is asked of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Delete,
    Restore,
    Purge,
    /// The same content was uploaded and the row was normal: the record must say so too before that is acknowledged.
    Confirm,
    /// Sweep or repair found row and record in different states. Nobody waits for a state of their own.
    Agree,
}

/// What to do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Write this record, durably.
    pub(crate) record: Option<Box<Record>>,
    /// Then the row.
    pub(crate) step: Step,
}

/// What to do with the row, once the record is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It says so already.
    Keep,
    /// Change its state.
    Set(StatusChange),
    /// Remove it, if it is deleted still; then the file.
    Remove(RowRef),
    /// It is gone already: remove the file.
    Unlink,
}

impl Step {
    /// Whether a row changes: only then does a journal hear of it.
    pub(crate) fn changes_row(&self) -> bool {
        matches!(self, Self::Set(_) | Self::Remove(_))
    }
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

/// Decides on a change of a file. `row`: the row that names its place, as the keeper just read it.
pub(crate) fn plan(
    kind: Kind,
    row: Option<&FileRow>,
    found: &Found,
    now: u64,
) -> Result<Plan, ChangeError> {
    let record = match found {
        Found::Record(record) => Some(record),
        Found::None | Found::Doubtful => None,
    };
    let state = record.map(|record| record.state);
    let Some(row) = row else {
        // A purge that was cut short after its row. Nothing else is to be done to a file without one.
        return match (kind, state) {
            (Kind::Purge | Kind::Agree, Some(State::Purging)) => {
                Ok(Plan { record: None, step: Step::Unlink })
            }
            _ => Err(ChangeError::Unknown),
        };
    };
    let Some(wanted) = wanted(kind, row.status, state)? else {
        return Ok(Plan { record: None, step: Step::Keep });
    };
    let deleted = row.status == FileStatus::Deleted;
    // Retention runs from the moment at which readers lose the file, not from a delete that was cut short; and not from before
    // the file was last changed, as by a clock that is behind.
    let lost_at = now.max(row.updated_at);
    let deleted_at = if deleted { row.deleted_at.unwrap_or(lost_at) } else { lost_at };
    let differs =
        |record: &Record| record.state != wanted || (wanted == State::Deleted && !deleted);
    let record = record.filter(|record| differs(record)).map(|record| {
        let mut next = record.clone();
        next.state = wanted;
        match wanted {
            State::Normal => next.deleted_at = None,
            State::Deleted => next.deleted_at = Some(deleted_at),
            State::Purging => {}
        }
        next
    });
    let set = |status, deleted_at| {
        // A background pass never moves the row's time of change.
        let changed_at = (kind != Kind::Agree).then_some(now);
        Step::Set(StatusChange { row: row.reference(), status, deleted_at, changed_at })
    };
    let step = match wanted {
        State::Purging => Step::Remove(row.reference()),
        State::Deleted if !deleted => set(FileStatus::Deleted, Some(deleted_at)),
        State::Normal if deleted => set(FileStatus::Normal, None),
        State::Deleted | State::Normal => Step::Keep,
    };
    Ok(Plan { record, step })
}

/// The state that record and row are to have in the end; `None`: nothing is to be done.
fn wanted(
    kind: Kind,
    row: FileStatus,
    record: Option<State>,
) -> Result<Option<State>, ChangeError> {
    Ok(match (kind, row, record) {
        // Deleted enough; the purge that was cut short will be finished.
        (Kind::Delete, FileStatus::Deleted, Some(State::Purging)) => None,
        (Kind::Delete, ..) => Some(State::Deleted),
        (Kind::Restore, FileStatus::Deleted, Some(State::Purging)) => {
            return Err(ChangeError::Purging);
        }
        (Kind::Restore, ..) | (Kind::Confirm, FileStatus::Normal, _) => Some(State::Normal),
        (Kind::Confirm, FileStatus::Deleted, _) => return Err(ChangeError::Unknown),
        (Kind::Purge, FileStatus::Normal, _) => return Err(ChangeError::NotDeleted),
        (Kind::Purge, FileStatus::Deleted, _) => Some(State::Purging),
        (Kind::Agree, _, None) => None,
        // A purge needs a deleted row, so this one was restored since, and somebody was told: it won.
        (Kind::Agree, FileStatus::Normal, Some(State::Purging | State::Normal)) => {
            Some(State::Normal)
        }
        (Kind::Agree, FileStatus::Deleted, Some(State::Purging)) => Some(State::Purging),
        // Neither a delete nor a restore that was cut short was acknowledged, and what was told to be deleted never
        // comes back by itself.
        (Kind::Agree, ..) => Some(State::Deleted),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use reel_proto::{
        name::{AppId, FileId, UserId},
        path::PathId,
    };

    use super::*;

    const NOW: u64 = 9;

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
            deleted_at: (state != State::Normal).then_some(4),
            expires_at: None,
            name: None,
            content_type: None,
        }))
    }

    fn row(status: FileStatus) -> FileRow {
        FileRow {
            table: 2,
            file: "f".into(),
            app: "tnvideo".into(),
            user: "tnv001".into(),
            status,
            file_path: "k/000/000/000/1_001".into(),
            size: 0,
            created_at: 1,
            updated_at: 1,
            checksum: None,
            name: None,
            content_type: None,
            deleted_at: (status == FileStatus::Deleted).then_some(5),
            expires_at: None,
        }
    }

    /// The state and time to write into the record; what becomes of the row; or why not.
    fn decided(
        kind: Kind,
        status: Option<FileStatus>,
        found: &Found,
    ) -> (Option<(State, Option<u64>)>, &'static str) {
        let row = status.map(row);
        match plan(kind, row.as_ref(), found, NOW) {
            Ok(Plan { record, step }) => {
                let step = match step {
                    Step::Keep => "keep",
                    Step::Unlink => "unlink",
                    Step::Remove(_) => "remove",
                    Step::Set(StatusChange { status: FileStatus::Normal, deleted_at, .. }) => {
                        assert_eq!(deleted_at, None);
                        "normal"
                    }
                    Step::Set(StatusChange { deleted_at, changed_at, .. }) => {
                        assert_eq!(deleted_at, Some(NOW));
                        assert_eq!(changed_at, (kind != Kind::Agree).then_some(NOW));
                        "deleted"
                    }
                };
                (record.map(|record| (record.state, record.deleted_at)), step)
            }
            Err(ChangeError::Unknown) => (None, "unknown"),
            Err(ChangeError::Purging) => (None, "purging"),
            Err(ChangeError::NotDeleted) => (None, "not deleted"),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn a_clock_that_is_behind_begins_no_retention_before_the_last_change() {
        let row = FileRow { updated_at: NOW + 5, ..row(FileStatus::Normal) };
        let plan = plan(Kind::Delete, Some(&row), &found(State::Normal), NOW).unwrap();
        let Step::Set(StatusChange { deleted_at, .. }) = plan.step else { panic!("{plan:?}") };
        assert_eq!(deleted_at, Some(NOW + 5));
        assert_eq!(plan.record.unwrap().deleted_at, Some(NOW + 5));
    }

    #[test]
    fn the_whole_table() {
        use {FileStatus::Deleted as Gone, FileStatus::Normal as There, Kind::*, State::*};
        let write = |state, at| Some((state, at));
        let cases = [
            // Row and record agree.
            (Delete, There, Normal, write(Deleted, Some(NOW)), "deleted"),
            (Delete, Gone, Deleted, None, "keep"),
            (Restore, Gone, Deleted, write(Normal, None), "normal"),
            (Restore, There, Normal, None, "keep"),
            (Purge, Gone, Deleted, write(Purging, Some(4)), "remove"),
            (Purge, There, Normal, None, "not deleted"),
            (Confirm, There, Normal, None, "keep"),
            (Confirm, Gone, Deleted, None, "unknown"),
            (Agree, There, Normal, None, "keep"),
            (Agree, Gone, Deleted, None, "keep"),
            // A delete was cut short after its record.
            (Delete, There, Deleted, write(Deleted, Some(NOW)), "deleted"),
            (Restore, There, Deleted, write(Normal, None), "keep"),
            (Purge, There, Deleted, None, "not deleted"),
            (Confirm, There, Deleted, write(Normal, None), "keep"),
            (Agree, There, Deleted, write(Deleted, Some(NOW)), "deleted"),
            // A restore was.
            (Delete, Gone, Normal, write(Deleted, Some(5)), "keep"),
            (Restore, Gone, Normal, None, "normal"),
            (Purge, Gone, Normal, write(Purging, None), "remove"),
            (Confirm, Gone, Normal, None, "unknown"),
            (Agree, Gone, Normal, write(Deleted, Some(5)), "keep"),
            // A purge was.
            (Delete, Gone, Purging, None, "keep"),
            (Restore, Gone, Purging, None, "purging"),
            (Purge, Gone, Purging, None, "remove"),
            (Confirm, Gone, Purging, None, "unknown"),
            (Agree, Gone, Purging, None, "remove"),
            // A purge was, and a restore won.
            (Delete, There, Purging, write(Deleted, Some(NOW)), "deleted"),
            (Restore, There, Purging, write(Normal, None), "keep"),
            (Purge, There, Purging, None, "not deleted"),
            (Confirm, There, Purging, write(Normal, None), "keep"),
            (Agree, There, Purging, write(Normal, None), "keep"),
        ];
        for (kind, status, state, record, step) in cases {
            assert_eq!(
                decided(kind, Some(status), &found(state)),
                (record, step),
                "{kind:?} of a row {status:?} and a record {state:?}"
            );
        }
    }

    #[test]
    fn without_a_row_or_a_record() {
        use {FileStatus::Deleted as Gone, FileStatus::Normal as There, Kind::*};
        for kind in [Delete, Restore, Confirm] {
            assert_eq!(decided(kind, None, &found(State::Purging)), (None, "unknown"));
        }
        for kind in [Purge, Agree] {
            assert_eq!(decided(kind, None, &found(State::Purging)), (None, "unlink"));
            assert_eq!(decided(kind, None, &found(State::Deleted)), (None, "unknown"));
        }
        for other in [Found::None, Found::Doubtful] {
            assert_eq!(decided(Delete, Some(There), &other), (None, "deleted"));
            assert_eq!(decided(Restore, Some(Gone), &other), (None, "normal"));
            assert_eq!(decided(Purge, Some(Gone), &other), (None, "remove"));
            assert_eq!(decided(Confirm, Some(There), &other), (None, "keep"));
            assert_eq!(decided(Agree, Some(Gone), &other), (None, "keep"));
            assert_eq!(decided(Purge, None, &other), (None, "unknown"));
        }
    }
}
