//! Pages of a [`FileStore`]: complete, in order, and never larger than asked.

use super::Source;
use super::files::{deletion, insert_all, new_file, row_of};
use crate::PAGE_ROWS_MAX;
use crate::row::{FileRow, FileStatus, NewFile, StatusChange, StatusFilter};
use crate::store::FileStore;

pub(super) async fn of_a_user<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let mut ids: Vec<String> = (0..25).map(|index| format!("{index:02}")).collect();
    ids.extend(["A", "a", "B", "b", "a ", "\u{e9}", "\u{1F600}"].map(str::to_owned));
    for user in ["tnv001", "alice", "bob"] {
        let rows: Vec<NewFile> =
            ids.iter().map(|id| new_file(user, &format!("{user}{id}"), 10)).collect();
        insert_all(&mut store, &rows).await;
    }
    ids.sort_unstable(); // by bytes
    let expected: Vec<String> = ids.iter().map(|id| format!("tnv001{id}")).collect();
    let all = collect(&mut store, StatusFilter::Any, 10).await;
    assert_eq!(all.iter().map(|row| row.file.clone()).collect::<Vec<_>>(), expected);

    let deletions: Vec<StatusChange> =
        all.iter().step_by(3).map(|row| deletion(row.reference(), 20)).collect();
    store.set_status(&deletions).await.unwrap();
    for (filter, status) in
        [(StatusFilter::Normal, FileStatus::Normal), (StatusFilter::Deleted, FileStatus::Deleted)]
    {
        let rows = collect(&mut store, filter, 4).await;
        assert!(rows.iter().all(|row| row.status == status));
        let count = if status == FileStatus::Deleted {
            deletions.len()
        } else {
            all.len() - deletions.len()
        };
        assert_eq!(rows.len(), count);
    }
    let rest = store.list("tnvideo", "tnv001", StatusFilter::Any, Some("tnv001b"), 100).await;
    let rest: Vec<String> = rest.unwrap().rows.into_iter().map(|row| row.file).collect();
    assert_eq!(rest, ["tnv001\u{e9}", "tnv001\u{1F600}"], "after is exclusive");
    let other = store.list("other", "tnv001", StatusFilter::Any, None, 100).await.unwrap();
    assert!(other.rows.is_empty() && !other.more, "another app");
    let none = store.list("tnvideo", "tnv001", StatusFilter::Any, None, 0).await.unwrap();
    assert!(none.rows.is_empty() && none.more);
}

/// All pages of `tnv001`, looked at as they come.
async fn collect<S: FileStore>(store: &mut S, filter: StatusFilter, limit: usize) -> Vec<FileRow> {
    let mut rows: Vec<FileRow> = Vec::new();
    loop {
        let after = rows.last().map(|row| row.file.clone());
        let page = store.list("tnvideo", "tnv001", filter, after.as_deref(), limit).await.unwrap();
        assert!(page.rows.len() == limit || !page.more, "a page with more after it is full");
        rows.extend(page.rows);
        if !page.more {
            return rows;
        }
    }
}

pub(super) async fn of_deleted_files<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let mut expected = Vec::new();
    for index in 0..30_u64 {
        let user = ["tnv001", "tnv002", "tnv003"][index as usize % 3];
        let new = new_file(user, &format!("f{:02}", (index * 7) % 30), 10);
        insert_all(&mut store, std::slice::from_ref(&new)).await;
        // Several at the same second, in several tables and in one.
        let at = 100 + index / 6;
        match index {
            4 => continue, // not deleted
            5 => {
                let by_an_old_node =
                    StatusChange { deleted_at: None, ..deletion(row_of(&new).reference(), at) };
                store.set_status(&[by_an_old_node]).await.unwrap();
            }
            _ => {
                store.set_status(&[deletion(row_of(&new).reference(), at)]).await.unwrap();
                if at < 104 {
                    expected.push((at, row_of(&new).table, new.file));
                }
            }
        }
    }
    expected.sort();
    for limit in [1, 4, 100] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.deleted_before(104, after.as_ref(), limit).await.unwrap();
            after = page.rows.last().and_then(FileRow::deleted_cursor).or(after);
            found.extend(
                page.rows.into_iter().map(|row| (row.deleted_at.unwrap(), row.table, row.file)),
            );
            if !page.more {
                break;
            }
        }
        assert_eq!(found, expected, "the oldest first, each once, {limit} a page");
    }
    assert!(store.deleted_before(100, None, 10).await.unwrap().rows.is_empty(), "before, not at");
}

pub(super) async fn of_expired_files<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let mut expected = Vec::new();
    for index in 0..30_u64 {
        let user = ["tnv001", "tnv002", "tnv003"][index as usize % 3];
        // Several at the same second, in several tables and in one; some never.
        let expires_at = (index % 7 != 3).then_some(100 + index / 6);
        let id = format!("f{:02}", (index * 7) % 30);
        let new = NewFile { expires_at, ..new_file(user, &id, 10) };
        insert_all(&mut store, std::slice::from_ref(&new)).await;
        match expires_at {
            _ if index == 8 => {
                store.set_status(&[deletion(row_of(&new).reference(), 20)]).await.unwrap();
            }
            Some(at) if at <= 103 => expected.push((at, row_of(&new).table, new.file)),
            _ => {}
        }
    }
    expected.sort();
    for limit in [1, 4, 100] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.expired_before(103, after.as_ref(), limit).await.unwrap();
            after = page.rows.last().and_then(FileRow::expiry_cursor).or(after);
            found.extend(
                page.rows.into_iter().map(|row| (row.expires_at.unwrap(), row.table, row.file)),
            );
            if !page.more {
                break;
            }
        }
        assert_eq!(found, expected, "the oldest first, each once, {limit} a page");
    }
    assert!(store.expired_before(99, None, 10).await.unwrap().rows.is_empty());
}

pub(super) async fn of_everything<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let rows: Vec<NewFile> = (0..PAGE_ROWS_MAX + 40)
        .map(|index| new_file(["tnv001", "tnv002", "tnv003"][index % 3], &format!("{index:05}"), 1))
        .collect();
    insert_all(&mut store, &rows).await;
    let mut expected: Vec<(u8, String)> =
        rows.iter().map(|row| (row_of(row).table, row.file.clone())).collect();
    expected.sort();
    for limit in [7, 347, usize::MAX] {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let page = store.scan(after.as_ref(), limit).await.unwrap();
            assert!(page.rows.len() <= limit.min(PAGE_ROWS_MAX));
            after = page.rows.last().map(FileRow::scan_cursor);
            found.extend(page.rows.into_iter().map(|row| (row.table, row.file)));
            if !page.more {
                break;
            }
        }
        assert_eq!(found, expected, "{limit} a page");
    }
    let counts = store.count().await.unwrap();
    assert_eq!(counts.iter().map(|count| count.normal).sum::<u64>(), rows.len() as u64);
}
