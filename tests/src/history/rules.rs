//! What must be true of all operations together. A pure function of them, so that each rule is shown a history that breaks it.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use reel_client::FileId;

use super::operations::{Act, Operation, Outcome};

/// How long a deleted file may still be served by other nodes: what is promised, and what a busy machine may add between a
/// client's clock and a node's.
pub const DELETED_SERVED_MAX: Duration = Duration::from_secs(2 + 1);

/// Faults that are named; the rest is only counted.
const SHOWN_MAX: usize = 20;

/// What a judgement found to be right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Operations.
    pub operations: usize,
    /// Acknowledged uploads that are read from every node.
    pub stored: usize,
    /// Acknowledged deletes.
    pub deleted: usize,
    /// Reads under way whose bytes were right.
    pub read: usize,
    /// Uploads and deletes of unknown outcome that were done.
    pub unknown_done: usize,
    /// Those that were not.
    pub unknown_undone: usize,
}

/// All that is known of a file.
#[derive(Default)]
struct Story<'a> {
    upload: Option<&'a Operation>,
    delete: Option<&'a Operation>,
    reads: Vec<&'a Operation>,
    /// By node.
    last: HashMap<usize, &'a Operation>,
}

/// A broken rule, and the operation by which it is seen.
struct Fault(String);

impl Fault {
    fn new(rule: &str, operation: &dyn fmt::Display) -> Self {
        Self(format!("{rule}: {operation}"))
    }
}

/// Judges all operations on a store of so many nodes, each of which was asked for each file at the end.
///
/// # Errors
/// Names the operations that are wrong.
pub fn judge(operations: &[Operation], nodes: usize) -> Result<Verdict> {
    let mut stories: HashMap<FileId, Story<'_>> = HashMap::new();
    let mut faults = Vec::new();
    for operation in operations {
        if matches!(operation.outcome, Outcome::Wrong(_)) {
            faults.push(Fault::new("wrong bytes", operation));
        }
        let story = stories.entry(operation.file).or_default();
        match operation.act {
            Act::Upload(_) => story.upload = Some(operation),
            Act::Delete => story.delete = Some(operation),
            Act::Read => story.reads.push(operation),
            Act::Last(node) => drop(story.last.insert(node, operation)),
            // That somebody uploaded it, and where it is.
            Act::List => {}
        }
    }
    path_ids(operations, &mut faults);
    let mut verdict = Verdict { operations: operations.len(), ..Verdict::default() };
    for (file, story) in &stories {
        match story.upload {
            Some(upload) => story.judge(upload, nodes, &mut verdict, &mut faults),
            None => faults.push(Fault::new("nobody uploaded it", file)),
        }
    }
    if faults.is_empty() {
        return Ok(verdict);
    }
    let shown: Vec<_> = faults.iter().take(SHOWN_MAX).map(|Fault(text)| text.as_str()).collect();
    bail!("{} faults in {} operations:\n{}", faults.len(), operations.len(), shown.join("\n"))
}

/// No number of a place names two files, and no file is in two places.
fn path_ids(operations: &[Operation], faults: &mut Vec<Fault>) {
    let (mut files, mut places) = (HashMap::new(), HashMap::new());
    for operation in operations {
        let Outcome::Done { path_id: Some(path_id) } = operation.outcome else { continue };
        if *files.entry(path_id).or_insert(operation.file) != operation.file {
            faults.push(Fault::new("a path id of another file", operation));
        }
        if *places.entry(operation.file).or_insert(path_id) != path_id {
            faults.push(Fault::new("it had another path id", operation));
        }
    }
}

impl Story<'_> {
    fn judge(
        &self,
        upload: &Operation,
        nodes: usize,
        verdict: &mut Verdict,
        faults: &mut Vec<Fault>,
    ) {
        let acknowledged = matches!(upload.outcome, Outcome::Done { .. });
        for read in &self.reads {
            match self.judge_read(read, acknowledged.then_some(upload.end)) {
                Some(rule) => faults.push(Fault::new(rule, *read)),
                None => verdict.read += usize::from(is_done(read)),
            }
        }
        let Some(last) = self.judge_last(upload, nodes, faults) else { return };
        let deleted = self.delete.map(is_done);
        match (acknowledged, deleted) {
            (true, None) if last => verdict.stored += 1,
            (true, None) => faults.push(Fault::new("an acknowledged upload is lost", upload)),
            (true, Some(true)) if !last => verdict.deleted += 1,
            (_, Some(true)) if last => {
                faults.extend(
                    self.delete.map(|it| Fault::new("an acknowledged delete is undone", it)),
                );
            }
            // Asked for, and not acknowledged: done is being there for an upload, being away for a delete.
            (_, deleted) if last == deleted.is_none() => verdict.unknown_done += 1,
            _ => verdict.unknown_undone += 1,
        }
    }

    /// The rule that a read under way breaks.
    fn judge_read(&self, read: &Operation, stored: Option<Duration>) -> Option<&'static str> {
        let stored = stored.is_some_and(|at| read.begin > at);
        // One that was not acknowledged may come into force at any time.
        let may_be_deleted = self.delete.is_some_and(|delete| delete.begin < read.end);
        if read.outcome == Outcome::Absent && stored && !may_be_deleted {
            return Some("an acknowledged file is not there");
        }
        let deleted = self.delete.filter(|delete| is_done(delete));
        if is_done(read) && deleted.is_some_and(|it| read.begin > it.end + DELETED_SERVED_MAX) {
            return Some("a deleted file is served");
        }
        None
    }

    /// Whether all nodes have the file, when all is over; none: a fault.
    fn judge_last(
        &self,
        upload: &Operation,
        nodes: usize,
        faults: &mut Vec<Fault>,
    ) -> Option<bool> {
        let mut there = Vec::new();
        for node in 0..nodes {
            match self.last.get(&node) {
                Some(last) if is_done(last) => there.push(true),
                Some(last) if last.outcome == Outcome::Absent => there.push(false),
                Some(last) => {
                    faults.push(Fault::new("a node cannot say whether it is there", *last))
                }
                None => faults.push(Fault::new("a node was not asked for it at the end", upload)),
            }
        }
        let first = *there.first()?;
        if there.iter().any(|it| *it != first) {
            let missing = (0..nodes).filter_map(|node| self.last.get(&node));
            let missing = missing.filter(|last| last.outcome == Outcome::Absent);
            faults.extend(missing.map(|last| Fault::new("other nodes have it", *last)));
            return None;
        }
        (there.len() == nodes).then_some(first)
    }
}

fn is_done(operation: &Operation) -> bool {
    matches!(operation.outcome, Outcome::Done { .. })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::seed::Content;

    const NODES: usize = 2;

    /// A history in which every second something happens, and takes half of it.
    #[derive(Default)]
    struct Made(Vec<Operation>);

    impl Made {
        fn then(mut self, act: Act, file: &str, outcome: Outcome) -> Self {
            let begin = Duration::from_secs(self.0.len() as u64);
            let end = begin + Duration::from_millis(500);
            let (client, file) = ("client".to_owned(), FileId::parse(file).unwrap());
            self.0.push(Operation { begin, end, client, act, file, outcome });
            self
        }

        fn upload(self, file: &str, outcome: Outcome) -> Self {
            self.then(Act::Upload(Content { seed: 1, size: 1 }), file, outcome)
        }

        fn last(self, file: &str, outcomes: [Outcome; NODES]) -> Self {
            let [one, other] = outcomes;
            self.then(Act::Last(0), file, one).then(Act::Last(1), file, other)
        }

        fn judge(&self) -> Result<Verdict> {
            judge(&self.0, NODES)
        }

        fn breaks(&self, rule: &str) {
            let error = self.judge().unwrap_err().to_string();
            assert!(error.contains(rule), "{rule}: {error}");
        }
    }

    fn done() -> Outcome {
        Outcome::Done { path_id: None }
    }

    fn at(path_id: u64) -> Outcome {
        Outcome::Done { path_id: Some(path_id) }
    }

    fn failed() -> Outcome {
        Outcome::Failed("the connection broke".to_owned())
    }

    const ABSENT: Outcome = Outcome::Absent;

    #[test]
    fn a_good_history_is_good() {
        let made = Made::default()
            .upload("a", at(1))
            .upload("b", at(2))
            .upload("c", failed())
            .upload("d", failed())
            .then(Act::Read, "a", done())
            .then(Act::Read, "c", ABSENT)
            .then(Act::Delete, "b", done())
            .then(Act::Read, "b", done())
            .then(Act::Read, "b", failed())
            .then(Act::List, "a", at(1))
            .last("a", [done(), done()])
            .last("b", [ABSENT, ABSENT])
            .last("c", [done(), done()])
            .last("d", [ABSENT, ABSENT]);
        let verdict = made.judge().unwrap();
        let expected = Verdict {
            operations: made.0.len(),
            stored: 1,
            deleted: 1,
            read: 2,
            unknown_done: 1,
            unknown_undone: 1,
        };
        assert_eq!(verdict, expected);
    }

    // A checker that finds nothing must be noticed: for each rule a history that breaks it, and no other.
    #[test]
    fn an_upload_that_is_lost_is_found() {
        let made = Made::default().upload("a", done());
        made.breaks("a node was not asked for it");
        let made = made.last("a", [ABSENT, ABSENT]);
        made.breaks("an acknowledged upload is lost");
        Made::default()
            .upload("a", done())
            .last("a", [done(), ABSENT])
            .breaks("other nodes have it");
        Made::default().upload("a", done()).last("a", [done(), failed()]).breaks("cannot say");
        let made = Made::default().upload("a", done()).then(Act::Read, "a", ABSENT);
        made.last("a", [done(), done()]).breaks("an acknowledged file is not there");
    }

    #[test]
    fn an_upload_of_unknown_outcome_that_is_half_there_is_found() {
        let made = Made::default().upload("a", failed());
        made.last("a", [done(), ABSENT]).breaks("other nodes have it");
        let made = Made::default().upload("a", failed());
        made.last("a", [Outcome::Wrong("half".to_owned()), ABSENT]).breaks("wrong bytes");
    }

    #[test]
    fn a_wrong_byte_is_found_also_under_way() {
        let wrong = Outcome::Wrong("at 7".to_owned());
        let made = Made::default().upload("a", done()).then(Act::Read, "a", wrong);
        made.last("a", [done(), done()])
            .breaks("wrong bytes: 1.000-1.500 client read a WRONG: at 7");
    }

    #[test]
    fn a_deleted_file_that_is_served_is_found() {
        let deleted = || Made::default().upload("a", done()).then(Act::Delete, "a", done());
        deleted().last("a", [done(), done()]).breaks("an acknowledged delete is undone");
        let soon = deleted().then(Act::Read, "a", done()).last("a", [ABSENT, ABSENT]);
        soon.judge().unwrap();
        let mut late = deleted();
        for _ in 0..DELETED_SERVED_MAX.as_secs() {
            late = late.then(Act::Read, "a", ABSENT);
        }
        let late = late.then(Act::Read, "a", done()).last("a", [ABSENT, ABSENT]);
        late.breaks("a deleted file is served");
    }

    #[test]
    fn a_path_id_that_comes_twice_is_found() {
        let made = Made::default().upload("a", at(1)).upload("b", at(1));
        let made = made.last("a", [done(), done()]).last("b", [done(), done()]);
        made.breaks("a path id of another file");
        let made = Made::default().upload("a", at(1)).then(Act::List, "a", at(2));
        made.last("a", [done(), done()]).breaks("it had another path id");
    }

    #[test]
    fn a_file_that_nobody_uploaded_is_found() {
        Made::default().then(Act::List, "a", at(1)).breaks("nobody uploaded it");
    }
}
