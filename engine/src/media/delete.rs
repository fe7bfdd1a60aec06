//! DELETE of a file: soft, by app and user.

use std::rc::Rc;

use reel_node::http::{ServerConn, media::CORS};
use reel_proto::{
    http::{
        head::RequestHead,
        precondition::{self, Outcome as Precondition},
        query::Query,
    },
    name::FileId,
};

use super::{Answered, fields, lookup_failed, may_write, owner_of, refuse};
use crate::{
    metrics::Outcome,
    store::{ChangeError, Changed, Lookup},
    thread::Thread,
};

pub(super) async fn delete(
    thread: &Rc<Thread>,
    conn: &mut ServerConn,
    head: &RequestHead,
    query: &Query,
    file: FileId,
) -> Answered {
    let owner = owner_of(thread, query, file);
    if let Some(outcome) = may_write(thread, conn, head, &owner).await? {
        return Ok(outcome);
    }
    if has_preconditions(head) {
        let record = match thread.find(&Lookup::Owned(owner)).await {
            Ok(Some(record)) => record,
            Ok(None) => return refuse(conn, 404, "no such file").await,
            Err(error) => return lookup_failed(conn, &file, &error).await,
        };
        let current = fields::validators(&record);
        let judged = precondition::evaluate(head.method, head.fields(), Some(&current));
        if !matches!(judged, Precondition::Proceed { .. }) {
            return refuse(conn, 412, "a precondition failed").await;
        }
    }
    match thread.in_time(thread.stores().delete(owner), ChangeError::Late).await {
        Ok(Changed::Done) => {
            let fields = |out: &mut Vec<u8>| out.extend_from_slice(CORS);
            conn.respond(204, fields, b"").await.map(|()| Outcome::Ok)
        }
        // Over HTTP a deleted file does not exist.
        Ok(Changed::Already) | Err(ChangeError::Unknown | ChangeError::Purging) => {
            refuse(conn, 404, "no such file").await
        }
        Err(
            error @ (ChangeError::ReadOnly
            | ChangeError::Busy
            | ChangeError::Late
            | ChangeError::NotDeleted
            | ChangeError::Adopting
            | ChangeError::Metadata { retryable: true, .. }),
        ) => refuse(conn, 503, &error.to_string()).await,
        Err(error @ (ChangeError::Disk(_) | ChangeError::Metadata { .. })) => {
            tracing::error!(%file, user = %owner.user, %error, "a delete failed");
            refuse(conn, 500, "the file could not be deleted").await
        }
    }
}

/// Whether the request asks for a state of the file: only then it is looked up before it is changed.
pub(super) fn has_preconditions(head: &RequestHead) -> bool {
    ["if-match", "if-none-match", "if-unmodified-since"].iter().any(|name| head.fields().has(name))
}
