//! Random sequences of uploads, deletes, restores, purges, aborted uploads, refused rows, repairs and restarts, judged
//! by a model in memory.
#![allow(clippy::unwrap_used)]

mod kit;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kit::{
    Node, config, content,
    faulty::{self, Wrong},
    files, key, put_as, quick_folder, request, until,
};
use proptest::prelude::*;
use reel_engine::{
    metadata::wait,
    record::State,
    store::{ChangeError, Changed, Conflict, Lookup, Outcome, Status, Stores, UploadError},
};
use reel_meta::Selection;

/// Two users whose rows share a table (so that ids clash) and one apart.
const USERS: [&str; 3] = ["tnv001", "alice", "tnv002"];

#[derive(Debug, Clone)]
enum Step {
    Put {
        user: usize,
        file: u8,
        seed: u64,
        large: bool,
    },
    Abort {
        user: usize,
        file: u8,
    },
    Delete {
        user: usize,
        file: u8,
    },
    Restore {
        user: usize,
        file: u8,
    },
    Purge {
        user: usize,
        file: u8,
    },
    /// The next write of a row is refused: what asks for it is cut short there.
    Refuse,
    Repair,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (user, file) = (0_usize..3, 0_u8..2);
    prop_oneof![
        6 => (user.clone(), file.clone(), 0_u64..2, prop::bool::weighted(0.1))
            .prop_map(|(user, file, seed, large)| Step::Put { user, file, seed, large }),
        1 => (user.clone(), file.clone()).prop_map(|(user, file)| Step::Abort { user, file }),
        3 => (user.clone(), file.clone()).prop_map(|(user, file)| Step::Delete { user, file }),
        2 => (user.clone(), file.clone()).prop_map(|(user, file)| Step::Restore { user, file }),
        2 => (user, file).prop_map(|(user, file)| Step::Purge { user, file }),
        3 => Just(Step::Refuse),
        2 => Just(Step::Repair),
        1 => Just(Step::Restart),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Kept {
    bytes: Vec<u8>,
    deleted: bool,
    path_id: u64,
    /// The record says this and the row does not: nobody was told.
    cut_short: Option<State>,
}

#[derive(Debug, Default)]
struct Model {
    /// (user, file) → what is kept.
    files: BTreeMap<(usize, u8), Kept>,
    /// Every path id that was ever acknowledged.
    ids: BTreeSet<u64>,
}

impl Model {
    /// Whoever else holds this id in the same table.
    fn other_owner(&self, user: usize, file: u8) -> bool {
        let shares = |other: usize| (user < 2) == (other < 2);
        self.files.keys().any(|(other, id)| *id == file && *other != user && shares(*other))
    }

    fn put(
        &mut self,
        at: (usize, u8),
        bytes: Vec<u8>,
        result: Result<reel_engine::store::Stored, UploadError>,
    ) {
        let expected = match self.files.get(&at) {
            _ if self.other_owner(at.0, at.1) => Err(Conflict::OtherOwner),
            Some(kept) if kept.deleted => Err(Conflict::Deleted),
            Some(kept) if kept.bytes != bytes => Err(Conflict::OtherContent),
            Some(_) => Ok(Outcome::Same),
            None => Ok(Outcome::New),
        };
        match (expected, result) {
            // Refused: nothing is left of it.
            (_, Err(UploadError::Metadata { unknown: false, .. })) => {}
            (Ok(outcome), Ok(stored)) => {
                assert_eq!(stored.outcome, outcome);
                let path_id = stored.path_id.get();
                if outcome == Outcome::New {
                    assert!(self.ids.insert(path_id), "path id {path_id} twice");
                    self.files.insert(at, Kept { bytes, deleted: false, path_id, cut_short: None });
                } else {
                    let kept = self.files.get_mut(&at).unwrap();
                    assert_eq!(kept.path_id, path_id);
                    kept.cut_short = None;
                }
            }
            (Err(conflict), Err(UploadError::Conflict(got))) => assert_eq!(got, conflict),
            (expected, got) => panic!("expected {expected:?}, got {got:?}"),
        }
    }

    /// What a delete (`true`) or restore must answer.
    fn set_deleted(&mut self, at: (usize, u8), deleted: bool, got: Result<Changed, ChangeError>) {
        match (self.files.get_mut(&at), got) {
            (None, Err(ChangeError::Unknown)) => {}
            (Some(kept), Ok(changed)) => {
                let same = kept.deleted == deleted;
                assert_eq!(changed, if same { Changed::Already } else { Changed::Done });
                kept.deleted = deleted;
                if kept.cut_short != Some(State::Purging) {
                    kept.cut_short = None;
                }
            }
            (Some(kept), Err(ChangeError::Metadata { .. })) => {
                kept.cut_short = Some(if deleted { State::Deleted } else { State::Normal });
            }
            (Some(kept), Err(ChangeError::Purging)) => {
                assert_eq!((kept.cut_short, deleted), (Some(State::Purging), false));
            }
            (kept, got) => panic!("{kept:?}: {got:?}"),
        }
    }

    fn purge(&mut self, at: (usize, u8), got: Result<Changed, ChangeError>) {
        match (self.files.get_mut(&at), got) {
            (None, Err(ChangeError::Unknown)) => {}
            (Some(kept), Err(ChangeError::NotDeleted)) => assert!(!kept.deleted),
            (Some(kept), Err(ChangeError::Metadata { .. })) => {
                kept.cut_short = Some(State::Purging)
            }
            (Some(kept), Ok(Changed::Done)) => {
                assert!(kept.deleted);
                self.files.remove(&at);
            }
            (kept, got) => panic!("{kept:?}: {got:?}"),
        }
    }

    /// What was cut short ends one way: deleted stays deleted, and a purge is finished.
    fn repair(&mut self) {
        self.files.retain(|_, kept| kept.cut_short != Some(State::Purging));
        for kept in self.files.values_mut() {
            kept.deleted |= kept.cut_short.take().is_some();
        }
    }
}

fn name(file: u8) -> String {
    format!("f{file}")
}

fn open(folder: &std::path::Path) -> (Node, faulty::Shared) {
    let (metadata, script) = faulty::metadata(&folder.join("storage.db"));
    let stores = Stores::open(&config(&[&folder.join("store")]), metadata.clone()).unwrap();
    (Node::serve(stores, metadata, 0), script)
}

fn take(step: &Step, node: &Node, script: &faulty::Shared, model: &mut Model) {
    let stores = &node.stores;
    match *step {
        Step::Put { user, file, seed, large } => {
            let bytes = content(seed, if large { 1_500_000 } else { 500 });
            let result = put_as(stores, key(USERS[user], &name(file)), &bytes);
            model.put((user, file), bytes, result);
        }
        Step::Abort { user, file } => {
            let upload = request(key(USERS[user], &name(file)), Some(9_000_000));
            let mut upload = wait(stores.begin(upload)).unwrap();
            wait(upload.write(Bytes::from(content(3, 2_000_000)))).unwrap();
        }
        Step::Delete { user, file } => {
            let got = wait(stores.delete(key(USERS[user], &name(file))));
            model.set_deleted((user, file), true, got);
        }
        Step::Restore { user, file } => {
            let got = wait(stores.restore(key(USERS[user], &name(file))));
            model.set_deleted((user, file), false, got);
        }
        Step::Purge { user, file } => {
            let got = wait(stores.purge(key(USERS[user], &name(file))));
            model.purge((user, file), got);
        }
        Step::Refuse => script.lock().unwrap().writes.push_back(Wrong::Refused),
        Step::Repair | Step::Restart => {
            script.lock().unwrap().writes.clear();
            // Not before the aborted are gone: repair takes no notice of who is at work at this age.
            until("nothing is under way", || stores.status()[0].open_files == 0);
            stores.repair(0, std::time::Duration::ZERO).unwrap();
            model.repair();
        }
    }
}

/// Everything that can be seen agrees with the model: lookups, bytes, lists, and the files on the disk.
fn compare(node: &Node, model: &Model, store: &std::path::Path) {
    for (user, name_of_user) in USERS.iter().enumerate() {
        for file in 0..3 {
            let key = key(name_of_user, &name(file));
            let found = wait(node.stores.stat(Lookup::Owned(key))).unwrap();
            let kept = model.files.get(&(user, file));
            assert_eq!(found.is_some(), kept.is_some());
            let (Some(found), Some(kept)) = (found, kept) else { continue };
            assert_eq!(found.path_id.get(), kept.path_id);
            assert_eq!(found.status == Status::Deleted, kept.deleted);
            let bytes = std::fs::read(store.join(found.relative.as_str())).unwrap();
            assert!(bytes == kept.bytes);
        }
        let owner = key(name_of_user, "x");
        let of = Selection::of_user(owner.app.as_str(), *name_of_user);
        let listed = wait(node.stores.list(of.clone(), None, 100)).unwrap();
        assert!(listed.next.is_none() && listed.left_out == 0);
        let kept = || model.files.iter().filter(|((of, _), _)| *of == user).map(|(_, kept)| kept);
        assert_eq!(listed.files.len(), kept().count());
        let (totals, next) = wait(node.stores.total(of, None)).unwrap();
        assert!(next.is_none());
        for (tally, deleted) in [(totals.normal, false), (totals.deleted, true)] {
            let sizes = kept().filter(|kept| kept.deleted == deleted).map(|kept| kept.bytes.len());
            let (files, bytes) = sizes.fold((0, 0), |(n, sum), size| (n + 1, sum + size as u64));
            assert_eq!((tally.files, tally.bytes), (files, bytes));
        }
    }
    until("only kept files are on the disk", || files(store).len() == model.files.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_ends_as_the_model_says(steps in prop::collection::vec(step(), 1..40)) {
        let folder = quick_folder();
        let store = folder.path().join("store");
        let mut model = Model::default();
        let (mut node, mut script) = open(folder.path());
        for step in &steps {
            take(step, &node, &script, &mut model);
            if matches!(step, Step::Repair | Step::Restart) {
                compare(&node, &model, &store);
            }
            if matches!(step, Step::Restart) {
                node.close();
                (node, script) = open(folder.path());
            }
        }
        compare(&node, &model, &store);
        node.close();
    }
}
