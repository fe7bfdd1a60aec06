//! Text is data: what a [`FileStore`] must do with ids, users and names of any form.

use super::files::{deletion, insert_all, new_file, row_of};
use super::{Source, WEIRD};
use crate::page::{Selection, StatusFilter};
use crate::row::{InsertOutcome, NewFile, Removal};
use crate::store::FileStore;

pub(super) async fn are_data<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let rows: Vec<NewFile> = WEIRD
        .iter()
        .enumerate()
        .map(|(index, text)| NewFile {
            file_path: format!("{text}/000/000/000/1_{index:03X}"),
            name: Some((*text).to_owned()),
            content_type: Some((*text).to_owned()),
            ..new_file("tnv001", text, 1)
        })
        .collect();
    insert_all(&mut store, &rows).await;
    for row in &rows {
        assert_eq!(store.get(None, &row.file).await.unwrap(), Some(row_of(row)));
    }
    for text in WEIRD {
        let owned = NewFile { file: format!("of {text}"), ..new_file(text, "", 2) };
        insert_all(&mut store, std::slice::from_ref(&owned)).await;
        let of = Selection::of_user("tnvideo", text);
        let (listed, _) = store.list(&of, None, 10).await.unwrap();
        assert_eq!(listed, [row_of(&owned)], "the files of {text:?} and nobody else's");
    }
    for row in &rows {
        let reference = row_of(row).reference();
        store.set_status(&[deletion(reference.clone(), 3)]).await.unwrap();
        let of = Selection::of_user("tnvideo", "tnv001").in_state(StatusFilter::Deleted);
        let (listed, _) = store.list(&of, None, 100).await.unwrap();
        assert_eq!(listed.len(), 1, "{:?} alone was deleted", row.file);
        store.remove(&[Removal { row: reference, only: None }]).await.unwrap();
        assert_eq!(store.get(None, &row.file).await.unwrap(), None);
    }
}

pub(super) async fn have_limits<S: Source<Store: FileStore>>(source: &S) {
    let mut store = source.open().await;
    let at = NewFile {
        file: "f".repeat(127),
        app: "a".repeat(15),
        user: "\u{7528}".repeat(85), // 255 bytes
        file_path: "p".repeat(512),
        name: Some("n".repeat(255)),
        content_type: Some("c".repeat(255)),
        ..new_file("", "", 1)
    };
    insert_all(&mut store, std::slice::from_ref(&at)).await;
    assert_eq!(store.get(None, &at.file).await.unwrap(), Some(row_of(&at)));
    let past = [
        NewFile { file: "f".repeat(128), ..at.clone() },
        NewFile { file: String::new(), ..at.clone() },
        NewFile { app: "a".repeat(16), ..at.clone() },
        NewFile { app: String::new(), ..at.clone() },
        NewFile { user: "u".repeat(129), ..at.clone() },
        NewFile { user: "\u{7528}".repeat(86), ..at.clone() },
        NewFile { user: "u\0".to_owned(), ..at.clone() },
        NewFile { file_path: "p".repeat(513), ..at.clone() },
        NewFile { file_path: String::new(), ..at.clone() },
        NewFile { name: Some("n".repeat(256)), ..at.clone() },
        NewFile { name: Some("\0".to_owned()), ..at.clone() },
        NewFile { content_type: Some("c".repeat(256)), ..at.clone() },
    ];
    for (index, outcome) in store.insert(&past).await.unwrap().into_iter().enumerate() {
        assert!(matches!(outcome, InsertOutcome::Refused(_)), "{index}: {outcome:?}");
    }
}
