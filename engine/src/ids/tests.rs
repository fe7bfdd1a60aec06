#![allow(clippy::unwrap_used, clippy::single_range_in_vec_init)]

use proptest::prelude::*;

use super::*;

fn ledger(mark: u64, refill_below: u64) -> Ledger {
    let mut ledger = Ledger::new(refill_below);
    ledger.resume(MarkState { mark, held: Vec::new() });
    ledger
}

/// Admits a block, as if its mark were written at once, and offers it.
fn offer(ledger: &mut Ledger, range: Range<u64>, occupied: BTreeSet<u64>) {
    let next = ledger.admit(&range).unwrap();
    ledger.offer(range, occupied, &next.state);
}

#[test]
fn a_block_below_the_mark_is_never_believed() {
    let mut ledger = ledger(1000, 10);
    assert_eq!(
        ledger.admit(&(999..1500)),
        Err(BlockError::BelowMark { start: 999, end: 1500, mark: 1000 })
    );
    assert!(ledger.admit(&(0..100)).unwrap_err().to_string().contains("moved up"));
    let state = MarkState { mark: 1100, held: vec![1000..1100] };
    assert_eq!(ledger.admit(&(1000..1100)), Ok(NextMark { state, sync_first: false }));
}

#[test]
fn nothing_is_taken_before_it_is_offered_nor_asked_before_the_mark_is_known() {
    assert!(!Ledger::new(10).wants(), "nobody knows yet what was given before");
    let mut ledger = ledger(0, 10);
    assert!(ledger.wants());
    let next = ledger.admit(&(0..20)).unwrap();
    assert_eq!(ledger.take(), None);
    ledger.offer(0..20, BTreeSet::new(), &next.state);
    assert!(!ledger.wants());
    assert_eq!(ledger.take().unwrap().get(), 0);
    for _ in 0..10 {
        ledger.take().unwrap();
    }
    assert!(ledger.wants(), "nine are fewer than ten");
}

#[test]
fn occupied_places_are_skipped() {
    let mut ledger = ledger(0, 1);
    offer(&mut ledger, 0..5, BTreeSet::from([0, 1, 3, 4, 77]));
    assert_eq!(ledger.take().unwrap().get(), 2);
    assert_eq!(ledger.take(), None);
    offer(&mut ledger, 5..6, BTreeSet::from([5]));
    assert_eq!(ledger.take(), None);
    assert_eq!(ledger.left(), 0);
}

#[test]
fn the_last_id_and_no_further() {
    let mut ledger = ledger(END - 2, 10);
    assert!(matches!(ledger.admit(&(END - 2..END + 1)), Err(BlockError::PastEnd { .. })));
    offer(&mut ledger, END - 2..END, BTreeSet::new());
    assert_eq!(ledger.take().unwrap().get(), END - 2);
    assert_eq!(ledger.take().unwrap().get(), END - 1);
    assert_eq!(ledger.take(), None);
    assert!(!ledger.wants(), "there is nothing to ask for");
}

#[test]
fn a_block_is_held_until_its_last_id_is_settled() {
    let mut ledger = ledger(0, 1);
    offer(&mut ledger, 0..2, BTreeSet::new());
    let first = ledger.take().unwrap();
    let second = ledger.take().unwrap();
    ledger.settle(second, true);
    assert_eq!(ledger.held(), vec![0..2]);
    assert!(!ledger.next_mark().sync_first);
    ledger.settle(first, false);
    let next = ledger.admit(&(2..4)).unwrap();
    assert_eq!((next.state.held, next.sync_first), (vec![2..4], true));
}

#[test]
fn an_unlink_while_a_mark_is_written_is_not_forgotten() {
    let mut ledger = ledger(0, 1);
    offer(&mut ledger, 0..1, BTreeSet::new());
    let id = ledger.take().unwrap();
    let next = ledger.admit(&(1..2)).unwrap();
    assert_eq!((&next.state.held, next.sync_first), (&vec![0..1, 1..2], false));
    // The mark that names the block is being written: what is unlinked now is not durable with it.
    ledger.settle(id, true);
    ledger.offer(1..2, BTreeSet::new(), &next.state);
    let next = ledger.admit(&(2..3)).unwrap();
    assert_eq!((next.state.held, next.sync_first), (vec![1..2, 2..3], true));
}

#[test]
fn what_an_earlier_run_held_is_in_every_mark_until_it_is_swept() {
    let mut ledger = Ledger::new(10);
    ledger.resume(MarkState { mark: 100, held: vec![0..10, 50..60] });
    offer(&mut ledger, 100..110, BTreeSet::new());
    assert_eq!(ledger.held(), vec![0..10, 50..60, 100..110]);
    assert_eq!(ledger.earlier(), [0..10, 50..60]);
    ledger.swept(vec![50..60]);
    assert_eq!(ledger.next_mark().state, MarkState { mark: 110, held: vec![50..60, 100..110] });
    ledger.swept(Vec::new());
    assert_eq!(ledger.next_mark().state, MarkState { mark: 110, held: vec![100..110] });
}

#[test]
fn slow_uploads_never_use_up_the_room_for_held_blocks() {
    let mut ledger = ledger(0, 1);
    let mut slow = Vec::new();
    for index in 0..1000 {
        offer(&mut ledger, index * 8..index * 8 + 8, BTreeSet::new());
        let ids: Vec<_> = (0..8).map(|_| ledger.take().unwrap()).collect();
        for (at, id) in ids.into_iter().enumerate() {
            // Every third block keeps one open, the others none.
            if index % 3 == 0 && at == 4 { slow.push(id) } else { ledger.settle(id, true) }
        }
        let held = ledger.admit(&(index * 8 + 8..index * 8 + 16)).unwrap().state.held;
        assert!(held.len() <= HELD_MAX && held.is_sorted_by(|a, b| a.end <= b.start));
        assert!(slow.iter().all(|id| held.iter().any(|block| block.contains(&id.get()))));
    }
    for id in slow {
        ledger.settle(id, false);
    }
    assert!(ledger.held().is_empty());
}

#[test]
fn blocks_with_ids_of_other_nodes_between_are_never_held_as_one() {
    let mut ledger = ledger(0, 1);
    for index in 0..HELD_MAX as u64 {
        offer(&mut ledger, index * 2..index * 2 + 1, BTreeSet::new());
        ledger.take().unwrap();
    }
    let next = HELD_MAX as u64 * 2;
    assert_eq!(ledger.admit(&(next..next + 1)), Err(BlockError::TooManyHeld));
    ledger.settle(PathId::new(14).unwrap(), false);
    assert!(ledger.admit(&(next..next + 1)).is_ok());
}

#[derive(Debug, Clone)]
enum Step {
    Block { skip: i64, len: u64, settled_meanwhile: Option<usize> },
    Take,
    Settle(usize),
    Crash,
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let block = (-2_i64..3, 1_u64..6, prop::option::of(any::<usize>()));
    prop_oneof![
        6 => block.prop_map(|(skip, len, settled_meanwhile)| {
            Step::Block { skip, len, settled_meanwhile }
        }),
        9 => Just(Step::Take),
        6 => any::<usize>().prop_map(Step::Settle),
        1 => Just(Step::Crash),
        1 => Just(Step::Sweep),
    ]
}

/// The uploads of a test: what is open, and what was unlinked and may come back with a power loss.
#[derive(Default)]
struct Uploads {
    open: Vec<PathId>,
    unlinked: Vec<PathId>,
}

impl Uploads {
    fn settle(&mut self, ledger: &mut Ledger, index: usize) {
        if !self.open.is_empty() {
            let id = self.open.swap_remove(index % self.open.len());
            let discarded = index.is_multiple_of(2);
            ledger.settle(id, discarded);
            if discarded {
                self.unlinked.push(id);
            }
        }
    }
}

proptest! {
    /// An ID node that gives any blocks at all, crashes at any moment: no id twice, every id below the durable
    /// mark, every file that a power loss could leave inside a held block.
    #[test]
    fn never_an_id_twice(steps in prop::collection::vec(step(), 1..600)) {
        let mut durable = MarkState::default();
        let mut ledger = ledger(0, 4);
        let mut given = BTreeSet::new();
        let mut uploads = Uploads::default();
        let mut unswept: Vec<PathId> = Vec::new();
        for step in steps {
            match step {
                Step::Block { skip, len, settled_meanwhile } => {
                    let start = durable.mark.saturating_add_signed(skip);
                    if let Ok(next) = ledger.admit(&(start..start + len)) {
                        if next.sync_first {
                            uploads.unlinked.clear();
                        }
                        if let Some(index) = settled_meanwhile {
                            uploads.settle(&mut ledger, index);
                        }
                        durable = next.state;
                        ledger.offer(start..start + len, BTreeSet::new(), &durable);
                    }
                }
                Step::Take => {
                    if let Some(id) = ledger.take() {
                        prop_assert!(given.insert(id.get()), "{} twice", id.get());
                        prop_assert!(id.get() < durable.mark);
                        uploads.open.push(id);
                    }
                }
                Step::Settle(index) => uploads.settle(&mut ledger, index),
                Step::Crash => {
                    unswept.append(&mut uploads.open);
                    unswept.append(&mut uploads.unlinked);
                    ledger = Ledger::new(4);
                    ledger.resume(durable.clone());
                }
                Step::Sweep => {
                    ledger.swept(Vec::new());
                    unswept.clear();
                }
            }
            prop_assert!(durable.held.len() <= HELD_MAX);
            for id in unswept.iter().chain(&uploads.open).chain(&uploads.unlinked) {
                prop_assert!(
                    durable.held.iter().any(|held| held.contains(&id.get())),
                    "{} may be left and is in no held block", id.get()
                );
            }
        }
    }
}
