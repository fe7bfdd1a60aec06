//! What a [`FileStore`] must remember of the stores that nodes had at their paths.

use super::{Source, WEIRD};
use crate::row::ExpectedStore;
use crate::store::FileStore;

fn store(uuid: &str, created_at: u64) -> Option<ExpectedStore> {
    Some(ExpectedStore { uuid: uuid.to_owned(), created_at })
}

pub(super) async fn are_remembered<S: Source<Store: FileStore>>(source: &S) {
    let mut here = source.open().await;
    assert_eq!(here.expected_store("node", "/srv/one").await.unwrap(), None);
    here.expect_store("node", "/srv/one", "first", 7).await.unwrap();
    let mut there = source.open().await;
    assert_eq!(there.expected_store("node", "/srv/one").await.unwrap(), store("first", 7));
    assert_eq!(there.expected_store("node", "/srv/two").await.unwrap(), None, "another path");
    assert_eq!(there.expected_store("other", "/srv/one").await.unwrap(), None, "another node");
    here.expect_store("node", "/srv/one", "first", 8).await.unwrap();
    assert_eq!(here.expected_store("node", "/srv/one").await.unwrap(), store("first", 7));
    here.expect_store("other", "/srv/one", "first", 9).await.unwrap();
    here.expect_store("node", "/srv/one", "second", 10).await.unwrap();
    assert_eq!(here.expected_store("node", "/srv/one").await.unwrap(), store("second", 10));
    assert_eq!(here.expected_store("other", "/srv/one").await.unwrap(), store("first", 9));
}

pub(super) async fn are_told_apart_by_bytes<S: Source<Store: FileStore>>(source: &S) {
    let mut here = source.open().await;
    for (index, text) in (1..).zip(WEIRD) {
        here.expect_store(text, text, &index.to_string(), index).await.unwrap();
    }
    for (index, text) in (1..).zip(WEIRD) {
        let found = here.expected_store(text, text).await.unwrap();
        assert_eq!(found, store(&index.to_string(), index), "{text:?}");
    }
}

pub(super) async fn have_limits<S: Source<Store: FileStore>>(source: &S) {
    let mut here = source.open().await;
    let (node, path, uuid) = ("n".repeat(128), "p".repeat(512), "u".repeat(36));
    here.expect_store(&node, &path, &uuid, 1).await.unwrap();
    assert_eq!(here.expected_store(&node, &path).await.unwrap(), store(&uuid, 1));
    for (node, path, uuid) in [
        ("n".repeat(129), path.clone(), uuid.clone()),
        (String::new(), path.clone(), uuid.clone()),
        (node.clone(), "p".repeat(513), uuid.clone()),
        (node.clone(), String::new(), uuid.clone()),
        (node.clone(), "p\0".to_owned(), uuid.clone()),
        (node.clone(), path.clone(), "u".repeat(37)),
        (node.clone(), path.clone(), String::new()),
    ] {
        assert!(here.expect_store(&node, &path, &uuid, 2).await.is_err(), "{node} {path} {uuid}");
    }
    assert_eq!(here.expected_store(&node, &path).await.unwrap(), store(&uuid, 1));
}
