//! What a [`FileStore`] must do with single rows; pages and texts have files of their own.

use reel_proto::table::table_of_user;

use super::{Source, pages, stores, texts};
use crate::MetaError;
use crate::row::{
    Adoption, Change, FileRow, FileStatus, InsertOutcome, NewFile, Relocation, Removal, RowRef,
    StatusChange, TableCount,
};
use crate::store::FileStore;

/// Runs every check, each on a database of its own.
///
/// # Panics
/// When the store breaks a rule.
pub fn file_store<S>(fresh: impl Fn() -> S)
where
    S: Source<Store: FileStore>,
{
    macro_rules! check {
        ($($check:path),* $(,)?) => {
            $({
                let source = fresh();
                source.block_on($check(&source));
            })*
        };
    }
    check!(
        a_row_comes_back_as_it_went_in,
        the_insert_decides,
        a_refused_row_harms_no_other,
        only_the_owner_sees_a_file,
        the_older_row_wins_across_tables,
        states_change_for_the_row_that_is_meant,
        removal_looks_at_path_and_state,
        a_row_that_moves_stays_what_it_is,
        a_row_gets_what_it_lacks_and_keeps_the_rest,
        changes_of_a_transaction_are_one,
        an_index_is_written_as_it_is,
        texts::are_data,
        texts::have_limits,
        pages::of_a_listing,
        pages::of_a_total,
        pages::of_deleted_files,
        pages::of_expired_files,
        pages::of_everything,
        stores::are_remembered,
        stores::are_told_apart_by_bytes,
        stores::have_limits,
    );
    inserts_race(&fresh());
}

/// A new file with nothing special about it.
pub(super) fn new_file(user: &str, file: &str, created_at: u64) -> NewFile {
    NewFile {
        file: file.to_owned(),
        app: "tnvideo".to_owned(),
        user: user.to_owned(),
        file_path: format!("/data/000/000/000/{created_at:X}_001"),
        size: 7,
        created_at,
        checksum: None,
        name: None,
        content_type: None,
        expires_at: None,
        deleted_at: None,
    }
}

/// The row that a new file becomes.
pub(super) fn row_of(new: &NewFile) -> FileRow {
    FileRow {
        table: table_of_user(new.user.as_bytes()),
        file: new.file.clone(),
        app: new.app.clone(),
        user: new.user.clone(),
        status: if new.deleted_at.is_some() { FileStatus::Deleted } else { FileStatus::Normal },
        file_path: new.file_path.clone(),
        size: new.size,
        created_at: new.created_at,
        updated_at: new.deleted_at.unwrap_or(new.created_at),
        checksum: new.checksum,
        name: new.name.clone(),
        content_type: new.content_type.clone(),
        deleted_at: new.deleted_at,
        expires_at: new.expires_at,
    }
}

pub(super) async fn insert_all<S: FileStore>(store: &mut S, rows: &[NewFile]) {
    let outcomes = store.insert(rows).await.unwrap();
    assert_eq!(outcomes.len(), rows.len());
    for (row, outcome) in rows.iter().zip(outcomes) {
        assert_eq!(outcome, InsertOutcome::Inserted, "{row:?}");
    }
}

pub(super) fn deletion(row: RowRef, at: u64) -> StatusChange {
    StatusChange { row, status: FileStatus::Deleted, deleted_at: Some(at), changed_at: Some(at) }
}

async fn a_row_comes_back_as_it_went_in<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let plain = new_file("tnv001", "plain", 1_710_000_000);
    let full = NewFile {
        size: i64::MAX as u64,
        checksum: Some(0xFFFF_0000_1234_5678),
        name: Some("holiday.mp4".to_owned()),
        content_type: Some("video/mp4".to_owned()),
        expires_at: Some(4_102_444_800),
        ..new_file("tnv002", "full", 1_710_000_001)
    };
    let empty = NewFile {
        size: 0,
        checksum: Some(0),
        name: Some(String::new()),
        ..new_file("", "empty", 1_710_000_002)
    };
    // Found again after a crash, and deleted before it: no moment in which it could be read.
    let gone =
        NewFile { deleted_at: Some(1_710_000_009), ..new_file("tnv001", "gone", 1_710_000_003) };
    let rows = [plain, full, empty, gone];
    insert_all(&mut store, &rows).await;
    assert!(store.insert(&[]).await.unwrap().is_empty());
    let mut again = source.open().await;
    for new in &rows {
        let expected = Some(row_of(new));
        let table = table_of_user(new.user.as_bytes());
        assert_eq!(store.get(None, &new.file).await.unwrap(), expected);
        assert_eq!(store.get(Some(table), &new.file).await.unwrap(), expected);
        assert_eq!(store.get(Some(table % 3 + 1), &new.file).await.unwrap(), None);
        assert_eq!(store.get_owned("tnvideo", &new.user, &new.file).await.unwrap(), expected);
        assert_eq!(again.get(None, &new.file).await.unwrap(), expected, "another connection");
    }
    assert_eq!(store.get(None, "unknown").await.unwrap(), None);
    assert_eq!(store.get(Some(4), "plain").await.unwrap(), None);
}

async fn the_insert_decides<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let first = new_file("tnv001", "same", 10);
    insert_all(&mut store, std::slice::from_ref(&first)).await;
    // tnv001 and carol's neighbours in table 2: the id is unique in the table, not per user.
    let neighbour =
        NewFile { file_path: "/data/other".to_owned(), ..new_file("alice", "same", 11) };
    assert_eq!(table_of_user("alice".as_bytes()), table_of_user("tnv001".as_bytes()));
    let again = NewFile { size: 99, ..first.clone() };
    let fresh = new_file("tnv001", "fresh", 12);
    let twice = NewFile { size: 1, ..fresh.clone() };
    let outcomes = store.insert(&[neighbour, again, fresh.clone(), twice]).await.unwrap();
    let exists = |new: &NewFile| InsertOutcome::Exists(Box::new(row_of(new)));
    assert_eq!(
        outcomes,
        [exists(&first), exists(&first), InsertOutcome::Inserted, exists(&fresh)],
        "also within one call"
    );
    store.set_status(&[deletion(row_of(&first).reference(), 20)]).await.unwrap();
    let outcomes = store.insert(std::slice::from_ref(&first)).await.unwrap();
    assert!(
        matches!(&outcomes[0], InsertOutcome::Exists(row) if row.status == FileStatus::Deleted),
        "a deleted file keeps its id: {outcomes:?}"
    );
}

async fn a_refused_row_harms_no_other<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let good = new_file("tnv001", "good", 10);
    let bad = new_file("tnv001", "b\0d", 10);
    let long = new_file("tnv001", &"x".repeat(128), 10);
    let late = new_file("bob", "late", 11);
    let outcomes = store.insert(&[good, bad, long, late]).await.unwrap();
    assert!(matches!(outcomes[0], InsertOutcome::Inserted), "{outcomes:?}");
    assert!(matches!(outcomes[1], InsertOutcome::Refused(_)), "{outcomes:?}");
    assert!(matches!(outcomes[2], InsertOutcome::Refused(_)), "{outcomes:?}");
    assert!(matches!(outcomes[3], InsertOutcome::Inserted), "{outcomes:?}");
    assert!(store.get(None, "good").await.unwrap().is_some());
    assert!(store.get(None, "late").await.unwrap().is_some());
    assert!(matches!(store.get(None, "b\0d").await, Err(MetaError::Text(_))));
}

async fn only_the_owner_sees_a_file<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    insert_all(&mut store, &[new_file("tnv001", "f", 10)]).await;
    assert!(store.get_owned("tnvideo", "tnv001", "f").await.unwrap().is_some());
    // alice's files lie in the same table, bob's in another.
    for (app, user) in
        [("tnvideo", "alice"), ("tnvideo", "bob"), ("tnvideO", "tnv001"), ("tnvideo", "TNV001")]
    {
        assert_eq!(store.get_owned(app, user, "f").await.unwrap(), None, "{app} {user}");
    }
}

async fn the_older_row_wins_across_tables<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let users = ["tnv003", "tnv001", "tnv002"];
    for (oldest, user) in users.iter().enumerate() {
        let file = format!("file{oldest}");
        let rows: Vec<NewFile> = (0..3)
            .map(|index| new_file(users[(oldest + index) % 3], &file, 100 + index as u64))
            .collect();
        insert_all(&mut store, &rows).await;
        let row = store.get(None, &file).await.unwrap().unwrap();
        assert_eq!(row.user, *user);
        store.set_status(&[deletion(row.reference(), 200)]).await.unwrap();
        let row = store.get(None, &file).await.unwrap().unwrap();
        assert_eq!((row.user.as_str(), row.status), (*user, FileStatus::Deleted), "whatever state");
        store.remove(&[Removal { row: row.reference(), only: None }]).await.unwrap();
        let next = store.get(None, &file).await.unwrap().unwrap();
        assert_eq!(next.user, users[(oldest + 1) % 3], "then the next");
    }
    let same_second = [("bob", "/b"), ("tnv003", "/c"), ("alice", "/a")];
    let rows = same_second
        .map(|(user, path)| NewFile { file_path: path.to_owned(), ..new_file(user, "tie", 500) });
    insert_all(&mut store, &rows).await;
    let row = store.get(None, "tie").await.unwrap().unwrap();
    assert_eq!(row.user, "alice", "the lower path where the seconds are equal");
}

async fn states_change_for_the_row_that_is_meant<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let new = NewFile { checksum: Some(5), ..new_file("tnv001", "f", 10) };
    let other = new_file("tnv001", "F", 10);
    insert_all(&mut store, &[new.clone(), other.clone()]).await;
    let row = row_of(&new);
    let reference = row.reference();
    let elsewhere = RowRef { path: "/data/elsewhere".to_owned(), ..reference.clone() };
    let neighbour = RowRef { user: "alice".to_owned(), ..reference.clone() };
    let unknown = RowRef { file: "unknown".to_owned(), ..reference.clone() };
    let done = store
        .set_status(&[
            deletion(elsewhere, 20),
            deletion(reference.clone(), 21),
            deletion(neighbour, 22),
            deletion(unknown, 23),
        ])
        .await
        .unwrap();
    assert_eq!(done, [Change::Missing, Change::Applied, Change::Missing, Change::Missing]);
    let deleted = FileRow {
        status: FileStatus::Deleted,
        deleted_at: Some(21),
        updated_at: 21,
        ..row.clone()
    };
    assert_eq!(store.get(None, "f").await.unwrap().as_ref(), Some(&deleted));
    assert_eq!(store.get(None, "F").await.unwrap(), Some(row_of(&other)), "not touched");
    let again = store.set_status(&[deletion(reference.clone(), 21)]).await.unwrap();
    assert_eq!(again, [Change::Applied], "as asked already");
    let restore = StatusChange {
        row: reference,
        status: FileStatus::Normal,
        deleted_at: None,
        changed_at: Some(30),
    };
    assert_eq!(store.set_status(&[restore]).await.unwrap(), [Change::Applied]);
    let restored = FileRow { updated_at: 30, ..row };
    assert_eq!(store.get(None, "f").await.unwrap().as_ref(), Some(&restored));
    let quietly = StatusChange { changed_at: None, ..deletion(restored.reference(), 40) };
    store.set_status(&[quietly]).await.unwrap();
    let found = store.get(None, "f").await.unwrap().unwrap();
    assert_eq!((found.deleted_at, found.updated_at), (Some(40), 30), "a background pass");
}

async fn removal_looks_at_path_and_state<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let new = new_file("tnv001", "f", 10);
    insert_all(&mut store, std::slice::from_ref(&new)).await;
    let row = row_of(&new).reference();
    let elsewhere = RowRef { path: "/data/elsewhere".to_owned(), ..row.clone() };
    let purge = Removal { row: row.clone(), only: Some(FileStatus::Deleted) };
    let done =
        store.remove(&[Removal { row: elsewhere, only: None }, purge.clone()]).await.unwrap();
    assert_eq!(done, [Change::Missing, Change::Missing], "another path; not deleted");
    assert!(store.get(None, "f").await.unwrap().is_some());
    store.set_status(&[deletion(row.clone(), 20)]).await.unwrap();
    let only_normal = Removal { row, only: Some(FileStatus::Normal) };
    assert_eq!(store.remove(&[only_normal]).await.unwrap(), [Change::Missing]);
    assert_eq!(
        store.remove(&[purge.clone(), purge]).await.unwrap(),
        [Change::Applied, Change::Missing]
    );
    assert_eq!(store.get(None, "f").await.unwrap(), None);
    insert_all(&mut store, &[new]).await;
}

async fn a_row_that_moves_stays_what_it_is<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let normal = NewFile { checksum: Some(5), ..new_file("tnv001", "normal", 10) };
    let gone = NewFile { deleted_at: Some(12), ..new_file("tnv002", "gone", 11) };
    insert_all(&mut store, &[normal.clone(), gone.clone()]).await;
    let to = |row: RowRef, path: &str| {
        let (status, deleted_at) = (FileStatus::Normal, None);
        Relocation { row, status, deleted_at, path: path.to_owned() }
    };
    let deleted = |row: RowRef, at: u64, path: &str| Relocation {
        status: FileStatus::Deleted,
        deleted_at: Some(at),
        ..to(row, path)
    };
    let elsewhere = RowRef { path: "/data/elsewhere".to_owned(), ..row_of(&normal).reference() };
    let done = store
        .relocate(&[
            to(row_of(&normal).reference(), "/b/1"),
            to(row_of(&gone).reference(), "/b/4"),
            deleted(row_of(&gone).reference(), 11, "/b/5"),
            deleted(row_of(&gone).reference(), 12, "/b/2"),
            to(elsewhere, "/b/3"),
        ])
        .await
        .unwrap();
    let missing = Change::Missing;
    assert_eq!(done, [Change::Applied, missing, missing, Change::Applied, missing]);
    for new in [&normal, &gone] {
        assert!(store.was_left(&new.file_path).await.unwrap());
    }
    assert!(
        !store.was_left("/b/1").await.unwrap() && !store.was_left("/data/elsewhere").await.unwrap()
    );
    for (new, path) in [(normal, "/b/1"), (gone, "/b/2")] {
        let moved = FileRow { file_path: path.to_owned(), ..row_of(&new) };
        assert_eq!(store.get(None, &new.file).await.unwrap(), Some(moved));
    }
}

async fn a_row_gets_what_it_lacks_and_keeps_the_rest<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let bare = new_file("tnv001", "bare", 10);
    let whole =
        NewFile { checksum: Some(u64::MAX), deleted_at: Some(5), ..new_file("tnv002", "w", 11) };
    let gone = new_file("tnv003", "gone", 12);
    insert_all(&mut store, &[bare.clone(), whole.clone(), gone.clone()]).await;
    // As an old node deletes.
    let deleted = StatusChange { deleted_at: None, ..deletion(row_of(&gone).reference(), 20) };
    store.set_status(&[deleted]).await.unwrap();
    let adoption = |new: &NewFile, status, deleted_at| {
        let row = row_of(new).reference();
        Adoption { row, status, checksum: 1 << 63, deleted_at }
    };
    let (normal, not) = (FileStatus::Normal, FileStatus::Deleted);
    let mut elsewhere = adoption(&bare, normal, None);
    elsewhere.row.path = "/data/elsewhere".to_owned();
    let adoptions = [
        adoption(&bare, not, Some(30)),
        elsewhere,
        adoption(&bare, normal, None),
        adoption(&whole, not, Some(30)),
        adoption(&gone, not, Some(30)),
        adoption(&gone, not, Some(40)),
    ];
    let (missing, applied) = (Change::Missing, Change::Applied);
    let expected = [missing, missing, applied, applied, applied, applied];
    for _ in 0..2 {
        assert_eq!(store.adopt(&adoptions).await.unwrap(), expected);
        let with = |new: &NewFile| FileRow { checksum: Some(1 << 63), ..row_of(new) };
        assert_eq!(store.get(None, "bare").await.unwrap(), Some(with(&bare)));
        assert_eq!(store.get(None, "w").await.unwrap(), Some(row_of(&whole)));
        let found = store.get(None, "gone").await.unwrap().unwrap();
        let time = (found.status, found.deleted_at, found.updated_at, found.checksum);
        assert_eq!(time, (not, Some(30), 20, Some(1 << 63)));
    }
}

async fn changes_of_a_transaction_are_one<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let mut other = source.open().await;
    let (one, two) = (new_file("tnv001", "one", 10), new_file("tnv002", "two", 11));
    let removal = |new: &NewFile| Removal { row: row_of(new).reference(), only: None };
    insert_all(&mut store, std::slice::from_ref(&one)).await;

    store.begin(None).await.unwrap();
    insert_all(&mut store, std::slice::from_ref(&two)).await;
    assert_eq!(store.remove(&[removal(&one)]).await.unwrap(), [Change::Applied]);
    assert_eq!(other.get(None, "two").await.unwrap(), None, "not committed");
    store.roll_back().await;
    assert_eq!(store.get(None, "two").await.unwrap(), None);
    assert!(store.get(None, "one").await.unwrap().is_some());

    store.begin(None).await.unwrap();
    // What came before in the same transaction counts.
    insert_all(&mut store, std::slice::from_ref(&two)).await;
    let again = store.insert(std::slice::from_ref(&two)).await.unwrap();
    assert!(matches!(again.as_slice(), [InsertOutcome::Exists(_)]));
    let reference = row_of(&two).reference();
    assert_eq!(store.set_status(&[deletion(reference, 12)]).await.unwrap(), [Change::Applied]);
    assert_eq!(store.remove(&[removal(&one)]).await.unwrap(), [Change::Applied]);
    store.commit().await.unwrap();
    for store in [&mut store, &mut other] {
        assert_eq!(store.get(None, "one").await.unwrap(), None);
        let two = store.get(None, "two").await.unwrap().unwrap();
        assert_eq!(two.status, FileStatus::Deleted);
    }

    // None is open: nothing to end.
    store.roll_back().await;
    assert!(store.commit().await.is_err());
    insert_all(&mut store, &[one]).await;
}

async fn an_index_is_written_as_it_is<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    insert_all(&mut store, &[new_file("tnv001", "f", 10)]).await;
    let over = FileRow {
        status: FileStatus::Deleted,
        size: 12,
        checksum: Some(u64::MAX),
        deleted_at: Some(50),
        updated_at: 51,
        name: Some("n".to_owned()),
        ..row_of(&new_file("tnv001", "f", 11))
    };
    let fresh = row_of(&new_file("bob", "f", 12));
    let rows = [over, FileRow { table: 1, ..fresh.clone() }];
    store.upsert(&rows).await.unwrap();
    store.upsert(&rows).await.unwrap();
    assert_eq!(store.get(Some(2), "f").await.unwrap().as_ref(), Some(&rows[0]));
    assert_eq!(store.get(Some(3), "f").await.unwrap(), Some(fresh.clone()), "the user's table");
    let count = |normal, deleted| TableCount { normal, deleted };
    assert_eq!(store.count().await.unwrap(), [count(0, 0), count(0, 1), count(1, 0)]);
    let bad = FileRow { file: "a\0".to_owned(), ..fresh.clone() };
    let other = FileRow { file: "other".to_owned(), ..fresh };
    assert!(matches!(store.upsert(&[other, bad]).await, Err(MetaError::Text(_))));
    assert_eq!(store.get(None, "other").await.unwrap(), None, "nothing was written");
}

/// Several storage nodes get an upload of the same ids at once: one of them wins each.
fn inserts_race<S: Source<Store: FileStore>>(source: &S) {
    const THREADS: u64 = 4;
    const FILES: u64 = 20;
    let wins: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|index| scope.spawn(move || source.block_on(insert_ids(source, index, FILES))))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(wins, FILES, "one winner for each id");
}

async fn insert_ids<S: Source<Store: FileStore>>(source: &S, index: u64, files: u64) -> u64 {
    let mut store = source.open().await;
    let mut wins = 0;
    for file in 0..files {
        let row = NewFile { size: index, ..new_file("tnv001", &format!("file{file}"), 10) };
        let outcome = loop {
            match store.insert(std::slice::from_ref(&row)).await {
                Ok(mut outcomes) => break outcomes.remove(0),
                Err(error) if error.retryable() => {}
                Err(error) => panic!("{error}"),
            }
        };
        let standing = store.get(None, &row.file).await.unwrap().unwrap();
        match outcome {
            InsertOutcome::Inserted => {
                wins += 1;
                assert_eq!(standing.size, index);
            }
            InsertOutcome::Exists(found) => assert_eq!(*found, standing, "the winner's row"),
            InsertOutcome::Refused(error) => panic!("{error}"),
        }
    }
    wins
}
