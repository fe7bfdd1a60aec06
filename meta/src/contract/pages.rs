//! Pages of a [`FileStore`]: complete, in order, and never larger than asked.

use super::Source;
use super::files::{deletion, insert_all, new_file, row_of};
use crate::page::{Selection, StatusFilter, Tally, Totals};
use crate::row::{FileRow, FileStatus, NewFile, StatusChange};
use crate::store::FileStore;
use crate::{PAGE_ROWS_MAX, TOTAL_ROWS_MAX};

/// Files of three users, one in each table, and of two apps: many in one second, some alone in theirs, ids in no order of time.
/// A third of them are deleted. In the order of a listing.
async fn listed<S: FileStore>(store: &mut S) -> Vec<FileRow> {
    let mut ids: Vec<String> = (0..25).map(|index| format!("{index:02}")).collect();
    ids.extend(["A", "a", "B", "b", "a ", "\u{e9}", "\u{1F600}"].map(str::to_owned));
    let mut rows = Vec::new();
    for app in ["tnvideo", "tnphoto"] {
        for user in ["tnv001", "alice", "tnv003"] {
            let new = |(index, id): (usize, &String)| NewFile {
                app: app.to_owned(),
                size: 1 << index,
                ..new_file(user, &format!("{app}{user}{id}"), [10, 30, 20, 10][index % 4])
            };
            let new: Vec<NewFile> = ids.iter().enumerate().map(new).collect();
            insert_all(store, &new).await;
            rows.extend(new.iter().map(row_of));
        }
    }
    for row in rows.iter_mut().step_by(3) {
        store.set_status(&[deletion(row.reference(), 40)]).await.unwrap();
        let deleted = store.get(None, &row.file).await.unwrap().unwrap();
        assert_eq!((deleted.status, deleted.deleted_at), (FileStatus::Deleted, Some(40)));
        *row = deleted;
    }
    rows.sort_by_key(in_time);
    rows
}

/// By time; within a second a store has an order of its own.
fn in_time(row: &FileRow) -> (u64, u8, String) {
    (row.created_at, row.table, row.file.clone())
}

/// Selections of all kinds, and which rows they have.
fn selections() -> Vec<Selection> {
    let mut selections = Vec::new();
    for of in [
        Selection::of_user("tnvideo", "tnv001"),
        Selection::of_user("tnphoto", "alice"),
        Selection::of_user("tnphoto", "nobody"),
        Selection::of_app("tnvideo"),
        Selection::of_app("tnmusic"),
    ] {
        for filter in [StatusFilter::Normal, StatusFilter::Deleted, StatusFilter::Any] {
            for (since, until) in [
                (0, u64::MAX),
                (0, 20),
                (10, 20),
                (20, 30),
                (11, 31),
                (30, u64::MAX),
                (31, 90),
                (20, 20),
                (30, 10),
            ] {
                selections.push(Selection { filter, since, until, ..of.clone() });
            }
        }
    }
    selections
}

fn has(of: &Selection, row: &FileRow) -> bool {
    of.app == row.app
        && of.user.as_ref().is_none_or(|user| *user == row.user)
        && of.filter.takes(row.status)
        && (of.since..of.until).contains(&row.created_at)
}

pub(super) async fn of_a_listing<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let rows = listed(&mut store).await;
    for of in selections() {
        let expected: Vec<&FileRow> = rows.iter().filter(|row| has(&of, row)).collect();
        for limit in [2, 10, 1000] {
            let mut found: Vec<FileRow> = Vec::new();
            let mut after = None;
            loop {
                let (rows, next) = store.list(&of, after.as_ref(), limit).await.unwrap();
                assert!(rows.len() == limit || next.is_none(), "a page with more after it is full");
                assert!(next.is_none() || next > after, "cursors go on");
                found.extend(rows);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert!(found.is_sorted_by_key(|row| (row.created_at, row.table)), "{of:?}");
            found.sort_by_key(in_time);
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{of:?}, {limit} a page");
        }
    }
    let of = Selection::of_app("tnvideo");
    assert_eq!(store.list(&of, None, 0).await.unwrap(), (Vec::new(), None));
    // Where a row was that is not there any more.
    let (rows, _) = store.list(&of, None, 1000).await.unwrap();
    let (_, after_first) = store.list(&of, None, 1).await.unwrap();
    store.remove(&[crate::Removal { row: rows[0].reference(), only: None }]).await.unwrap();
    let (rest, _) = store.list(&of, after_first.as_ref(), 1000).await.unwrap();
    assert_eq!(rest, rows[1..]);
    for limits in [Selection::of_user("", "u"), Selection::of_user("a", "u".repeat(129))] {
        assert!(matches!(store.list(&limits, None, 1).await, Err(crate::MetaError::Text(_))));
        assert!(matches!(store.total(&limits, None, 1).await, Err(crate::MetaError::Text(_))));
    }
}

pub(super) async fn of_a_total<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let rows = listed(&mut store).await;
    for of in selections() {
        let mut expected = Totals::default();
        for row in rows.iter().filter(|row| has(&of, row)) {
            expected.add(row.status, row.size);
        }
        for limit in [2, 7, usize::MAX] {
            let mut found = Totals::default();
            let mut after = None;
            loop {
                let (some, next) = store.total(&of, after.as_ref(), limit).await.unwrap();
                let Tally { files, .. } = some.normal;
                assert!(files + some.deleted.files <= limit.min(TOTAL_ROWS_MAX) as u64);
                found += some;
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(found, expected, "{of:?}, {limit} at once");
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
