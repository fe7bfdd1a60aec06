//! What a [`GroupStore`] must do.

use super::{Source, WEIRD};
use crate::error::MetaError;
use crate::store::GroupStore;

/// Runs every check, each on a database of its own.
///
/// # Panics
/// When the store breaks a rule.
pub fn group_store<S>(fresh: impl Fn() -> S)
where
    S: Source<Store: GroupStore>,
{
    let source = fresh();
    source.block_on(names(&source));
    let source = fresh();
    source.block_on(routes(&source));
    let source = fresh();
    source.block_on(limits(&source));
    race(&fresh());
}

async fn names<S: Source<Store: GroupStore>>(source: &S) {
    let mut store = source.open().await;
    assert!(store.groups().await.unwrap().is_empty());
    for group in ["group002", "Group002", "group001"] {
        assert!(store.add_group(group).await.unwrap(), "{group}");
    }
    assert!(!store.add_group("group001").await.unwrap(), "a second time is not new");
    let expected = ["Group002", "group001", "group002"];
    assert_eq!(store.groups().await.unwrap(), expected, "byte order, by bytes apart");
    assert_eq!(source.open().await.groups().await.unwrap(), expected, "another connection");
}

async fn routes<S: Source<Store: GroupStore>>(source: &S) {
    let mut store = source.open().await;
    store.add_group("one").await.unwrap();
    store.add_group("two").await.unwrap();
    assert_eq!(store.route("tnvideo", "tnv001").await.unwrap(), None);
    for (index, user) in WEIRD.iter().chain(&[""]).enumerate() {
        let group = ["one", "two"][index % 2];
        let other = ["two", "one"][index % 2];
        assert_eq!(store.route("app", user).await.unwrap(), None, "{user:?} is nobody else");
        assert_eq!(store.route_or_insert("app", user, group).await.unwrap(), group);
        assert_eq!(store.route_or_insert("app", user, other).await.unwrap(), group, "stands");
        assert_eq!(store.route_or_insert("app", user, "none").await.unwrap(), group, "stands");
        assert_eq!(store.route("App", user).await.unwrap(), None, "another app");
    }
    let mut again = source.open().await;
    for (index, user) in WEIRD.iter().enumerate() {
        let group = ["one", "two"][index % 2];
        assert_eq!(again.route("app", user).await.unwrap().as_deref(), Some(group), "{user:?}");
    }
    match store.route_or_insert("app", "nobody", "none").await {
        Err(MetaError::UnknownGroup { group }) => assert_eq!(group, "none"),
        other => panic!("an unknown group gave {other:?}"),
    }
    assert_eq!(store.route("app", "nobody").await.unwrap(), None, "nothing was recorded");
}

async fn limits<S: Source<Store: GroupStore>>(source: &S) {
    let mut store = source.open().await;
    let (group, app) = ("g".repeat(16), "a".repeat(15));
    store.add_group(&group).await.unwrap();
    let users = ["u".repeat(128), "\u{1F600}".repeat(63)];
    for user in &users {
        assert_eq!(store.route_or_insert(&app, user, &group).await.unwrap(), group);
        assert_eq!(store.route(&app, user).await.unwrap().as_ref(), Some(&group));
    }
    let long = "u".repeat(129);
    let wide = "\u{1F600}".repeat(64); // 256 bytes
    for (app, user, group) in [
        ("", "u", "g"),
        ("a123456789012345", "u", "g"),
        ("a", long.as_str(), "g"),
        ("a", wide.as_str(), "g"),
        ("a", "u\0", "g"),
        ("a", "u", ""),
        ("a", "u", "g1234567890123456"),
        ("a\0", "u", "g"),
        ("a", "u", "g\0"),
    ] {
        let refused = store.route_or_insert(app, user, group).await;
        assert!(matches!(refused, Err(MetaError::Text(_))), "{app:?} {user:?}: {refused:?}");
    }
    assert!(matches!(store.add_group("").await, Err(MetaError::Text(_))));
}

/// Many trackers meet the same new users at once.
fn race<S: Source<Store: GroupStore>>(source: &S) {
    const THREADS: usize = 8;
    const USERS: usize = 10;
    let groups: Vec<String> = (0..THREADS).map(|index| format!("group{index}")).collect();
    source.block_on(async {
        let mut store = source.open().await;
        for group in &groups {
            store.add_group(group).await.unwrap();
        }
    });
    let answers: Vec<Vec<String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = groups
            .iter()
            .map(|group| scope.spawn(move || source.block_on(ask(source, group, USERS))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for answer in &answers {
        assert_eq!(answer, &answers[0], "everybody is given the same group");
    }
}

async fn ask<S: Source<Store: GroupStore>>(source: &S, group: &str, users: usize) -> Vec<String> {
    let mut store = source.open().await;
    let mut given = Vec::new();
    for user in 0..users {
        let user = format!("user{user}");
        loop {
            match store.route_or_insert("app", &user, group).await {
                Ok(group) => break given.push(group),
                Err(error) if error.retryable() => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
    given
}
