//! What becomes of a file that sweep or repair has found: decisions only.

use reel_meta::{FileRow, FileStatus};

use crate::{record::State, store::inspect::Seal};

/// What the row of a file that was found names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// This very place.
    Here,
    /// Another one of this node, or there is no row.
    Elsewhere,
    /// A place by a prefix that no store path of this node answers to. It may well be this one: an alias that the
    /// configuration lacks.
    Unknown,
}

/// What is known of a file that was found.
#[derive(Debug, Clone)]
pub(super) struct Facts<'a> {
    /// Its attribute.
    pub(super) seal: &'a Seal,
    /// The row of the record's file id, where there is a good record.
    pub(super) row: Option<&'a FileRow>,
    /// What it names.
    pub(super) named: Named,
    /// Whether size and checksum are those of the record; `None`: not looked at yet.
    pub(super) whole: Option<bool>,
    /// It lies in a block of ids that this node held, and was begun before the start.
    pub(super) ours: bool,
}

/// What to do with a file that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Record and row agree, or nothing here is ours to judge.
    Leave,
    /// A row names it, as far as anybody can tell.
    LeaveNamed,
    /// Read its content first and decide again.
    Read,
    /// An upload that never ended: nobody was told that it is there.
    Remove,
    /// Complete, and its row is missing: make it.
    Adopt,
    /// Record and row say different states: a change that was cut short. `store::change` says which of them follows.
    Agree,
    /// Being purged: remove the row if it is still there, then the file.
    FinishPurge,
    /// Nothing to be sure of: keep it, out of the way.
    Quarantine,
}

/// The whole of what sweep and repair decide.
pub(super) fn decide(facts: &Facts<'_>) -> Action {
    let record = match facts.seal {
        // Unsealed: in our own blocks it is an upload that was cut short. Elsewhere it is a file taken over, or
        // nobody knows whose.
        Seal::None if facts.ours => return Action::Remove,
        Seal::None => return Action::Leave,
        Seal::Doubtful(_) => return Action::Quarantine,
        Seal::Good(record) => record,
    };
    match (facts.named, facts.row) {
        (Named::Unknown, _) => Action::LeaveNamed,
        (Named::Here, Some(row))
            if state_of(row) == State::Normal && record.state != State::Normal =>
        {
            Action::Agree
        }
        _ if record.state == State::Purging => Action::FinishPurge,
        (Named::Here, Some(row)) if state_of(row) != record.state => Action::Agree,
        (Named::Here, _) => Action::Leave,
        // Another file has the id: this one lost a race, or was replaced. It is not adopted over the row.
        (Named::Elsewhere, Some(_)) => Action::Quarantine,
        (Named::Elsewhere, None) => match facts.whole {
            None => Action::Read,
            Some(true) => Action::Adopt,
            Some(false) => Action::Quarantine,
        },
    }
}

fn state_of(row: &FileRow) -> State {
    match row.status {
        FileStatus::Normal => State::Normal,
        FileStatus::Deleted => State::Deleted,
    }
}
