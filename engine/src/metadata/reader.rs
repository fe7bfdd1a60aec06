//! A reader: lookups and pages on a connection of its own, one after the other.

use async_channel::Receiver;
use reel_meta::{FileStore, TOTAL_ROWS_MAX};

use super::{Owned, Read, StorePlace, reply};

/// Answers until the queue is closed and empty.
pub(super) async fn run(mut store: impl FileStore, queue: Receiver<Read>) {
    while let Ok(command) = queue.recv().await {
        match command {
            Read::Get(table, file, answer) => reply(&answer, store.get(table, &file).await),
            Read::GetOwned(Owned { app, user, file }, answer) => {
                reply(&answer, store.get_owned(&app, &user, &file).await);
            }
            Read::List(of, after, limit, answer) => {
                reply(&answer, store.list(&of, after.as_ref(), limit).await);
            }
            Read::Total(of, after, answer) => {
                reply(&answer, store.total(&of, after.as_ref(), TOTAL_ROWS_MAX).await);
            }
            Read::DeletedBefore(time, after, limit, answer) => {
                reply(&answer, store.deleted_before(time, after.as_ref(), limit).await);
            }
            Read::ExpiredBefore(time, after, limit, answer) => {
                reply(&answer, store.expired_before(time, after.as_ref(), limit).await);
            }
            Read::Scan(after, limit, answer) => {
                reply(&answer, store.scan(after.as_ref(), limit).await);
            }
            Read::Count(answer) => reply(&answer, store.count().await),
            Read::Expected(StorePlace { node, path }, answer) => {
                reply(&answer, store.expected_store(&node, &path).await);
            }
        }
    }
}
