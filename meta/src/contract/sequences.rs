//! What a [`SequenceStore`] must do.

use std::ops::Range;

use super::{Source, WEIRD};
use crate::PATH_ID_END;
use crate::error::MetaError;
use crate::row::Sequence;
use crate::store::SequenceStore;

/// Runs every check, each on a database of its own.
///
/// # Panics
/// When the store breaks a rule.
pub fn sequence_store<S>(fresh: impl Fn() -> S)
where
    S: Source<Store: SequenceStore>,
{
    let source = fresh();
    source.block_on(blocks(&source));
    let source = fresh();
    source.block_on(keys(&source));
    let source = fresh();
    source.block_on(end(&source));
    concurrent(&fresh());
}

async fn blocks<S: Source<Store: SequenceStore>>(source: &S) {
    let mut store = source.open().await;
    assert_eq!(store.peek("../data").await.unwrap(), None);
    assert_eq!(store.take("../data", 100, 0).await.unwrap(), 0..100);
    assert_eq!(store.take("../data", 100, 0).await.unwrap(), 100..200);
    drop(store);
    let mut store = source.open().await;
    assert_eq!(store.peek("../data").await.unwrap(), Some(200), "the start of the next block");
    assert_eq!(store.take("../data", 1, 0).await.unwrap(), 200..201);
    assert_eq!(store.take("../data", 10, 150).await.unwrap(), 201..211, "never moved down");
    assert_eq!(store.take("../data", 10, 5000).await.unwrap(), 5000..5010, "moved up");
    assert_eq!(store.take("../data", 10, 5010).await.unwrap(), 5010..5020);
    assert_eq!(store.take("new", 10, 77).await.unwrap(), 77..87, "also a key that is new");
    assert!(matches!(store.take("../data", 0, 0).await, Err(MetaError::EmptyBlock)));
    let all = store.sequences().await.unwrap();
    let expected =
        [("../data", 5020), ("new", 87)].map(|(key, next)| Sequence { key: key.to_owned(), next });
    assert_eq!(all, expected);
}

async fn keys<S: Source<Store: SequenceStore>>(source: &S) {
    let mut store = source.open().await;
    for (index, key) in WEIRD.iter().enumerate() {
        let count = index as u64 + 1;
        assert_eq!(store.take(key, count, 0).await.unwrap(), 0..count, "{key:?} is its own");
    }
    for (index, key) in WEIRD.iter().enumerate() {
        assert_eq!(store.peek(key).await.unwrap(), Some(index as u64 + 1), "{key:?}");
    }
    let longest = "k".repeat(64);
    assert_eq!(store.take(&longest, 1, 0).await.unwrap(), 0..1);
    for key in ["", "a\0b", &"k".repeat(65)] {
        assert!(matches!(store.take(key, 1, 0).await, Err(MetaError::Text(_))), "{key:?}");
        assert!(matches!(store.peek(key).await, Err(MetaError::Text(_))), "{key:?}");
    }
    let mut sorted: Vec<&str> = WEIRD.iter().copied().chain([longest.as_str()]).collect();
    sorted.sort_unstable();
    let all = store.sequences().await.unwrap();
    assert_eq!(all.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(), sorted);
}

async fn end<S: Source<Store: SequenceStore>>(source: &S) {
    let mut store = source.open().await;
    let last = PATH_ID_END - 30;
    assert_eq!(store.take("k", 20, last).await.unwrap(), last..last + 20);
    assert_eq!(store.take("k", 20, 0).await.unwrap(), last + 20..PATH_ID_END, "what is left");
    for at_least in [0, PATH_ID_END, u64::MAX] {
        let refused = store.take("k", 1, at_least).await;
        assert!(matches!(refused, Err(MetaError::Exhausted { .. })), "{refused:?}");
    }
    let refused = store.take("other", u64::MAX, PATH_ID_END).await;
    assert!(matches!(refused, Err(MetaError::Exhausted { .. })), "{refused:?}");
    assert_eq!(store.peek("other").await.unwrap(), None, "a refusal moves nothing");
    assert_eq!(store.take("other", u64::MAX, 3).await.unwrap(), 3..PATH_ID_END);
}

/// Several ID nodes on one database.
fn concurrent<S: Source<Store: SequenceStore>>(source: &S) {
    const THREADS: usize = 4;
    const BLOCKS: usize = 25;
    let mut taken: Vec<Range<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| scope.spawn(|| source.block_on(take_blocks(source, BLOCKS))))
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    taken.sort_unstable_by_key(|block| block.start);
    for pair in taken.windows(2) {
        assert_eq!(pair[0].end, pair[1].start, "no id twice, none left out");
    }
    assert_eq!(taken[0].start, 0);
    assert_eq!(taken.len(), THREADS * BLOCKS);
}

async fn take_blocks<S: Source<Store: SequenceStore>>(
    source: &S,
    blocks: usize,
) -> Vec<Range<u64>> {
    let mut store = source.open().await;
    let mut taken = Vec::new();
    while taken.len() < blocks {
        match store.take("k", 7, 0).await {
            Ok(block) => taken.push(block),
            Err(error) if error.retryable() => {}
            Err(error) => panic!("{error}"),
        }
    }
    taken
}
