//! PUT and POST: uploads over HTTP, with a length or chunked.
//!
//! What can be refused is refused before the body is asked for: a client that waits for `100 Continue` then never
//! sends it. A piece is taken from the socket only when the one before it has been written.

use std::rc::Rc;

use reel_node::http::{BodyError, ServerConn, media::CORS};
use reel_proto::{
    http::{
        content, disposition,
        etag::ETag,
        head::{Framing, RequestHead},
        precondition::{self, Outcome as Precondition},
        query::{Query, escape, path_of},
        response::write_field,
    },
    limits::{CONTENT_TYPE_BYTES_MAX, ORIGINAL_NAME_BYTES_MAX},
    name::FileId,
    storage::FileRef,
};

use super::{
    Answered, delete::has_preconditions, fields, lookup_failed, may_write, owner_of, refuse,
};
use crate::{
    metrics::{Outcome, Serve},
    store::{self, Fault, Lookup, Stored, UploadError, UploadRequest},
    thread::{Thread, now},
};

/// Why an upload did not come to its end.
enum Failed {
    /// Nobody is left to answer.
    Gone,
    /// The body breaks its framing or does not come: the status that says so, and words.
    Body(u16, String),
    /// More than the node takes.
    TooLarge,
    /// The store's reason.
    Store(UploadError),
}

/// POST /files: the server makes the id.
pub(super) async fn post(
    thread: &Rc<Thread>,
    conn: &mut ServerConn,
    head: &RequestHead,
    query: &Query,
) -> Answered {
    match new_id() {
        Some(file) => put(thread, conn, head, query, file).await,
        None => refuse(conn, 500, "no random numbers").await,
    }
}

/// Seconds as deployed clients begin theirs, then 96 random bits.
fn new_id() -> Option<FileId> {
    let mut random = [0; 12];
    getrandom::fill(&mut random).ok()?;
    let mut text = format!("{:08x}", now());
    for byte in random {
        text.push_str(&format!("{byte:02x}"));
    }
    FileId::parse(&text).ok()
}

pub(super) async fn put(
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
    if head.fields().has("content-range") {
        // RFC 9110 section 14.5: else a part would be stored as the whole.
        return refuse(conn, 400, "a part of a file cannot be put").await;
    }
    if head.fields().all("content-encoding").any(|coding| !coding.eq_ignore_ascii_case(b"identity"))
    {
        return refuse(conn, 415, "content is stored as it comes: send it without a coding").await;
    }
    let max = thread.shared.config.upload_max.0;
    let size = match head.framing {
        Framing::None => return refuse(conn, 411, "a length or chunked coding is needed").await,
        Framing::Length(length) if length > max => {
            return refuse(conn, 413, &format!("at most {max} bytes are taken")).await;
        }
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    if has_preconditions(head) {
        let current = match thread.find(&Lookup::Owned(owner)).await {
            Ok(record) => record.map(|record| fields::validators(&record)),
            Err(error) => return lookup_failed(conn, &file, &error).await,
        };
        let judged = precondition::evaluate(head.method, head.fields(), current.as_ref());
        if !matches!(judged, Precondition::Proceed { .. }) {
            return refuse(conn, 412, "a precondition failed").await;
        }
    }
    let request = UploadRequest {
        key: owner,
        size,
        name: name_of(query),
        content_type: type_of(head),
        expires_at: None,
    };
    let Some(permit) = thread.admit_upload(size) else {
        return refuse(conn, 503, "too much is under way").await;
    };
    let result = receive(thread, conn, request, max).await;
    drop(permit);
    match result {
        Ok(stored) => stored_answer(conn, &location_of(&owner, query), &owner, &stored).await,
        Err(failed) => failed_answer(conn, &owner, failed).await,
    }
}

/// The name to keep: cut down to its last component, and to what a record holds.
fn name_of(query: &Query) -> Option<String> {
    let name = disposition::clean(query.name.as_deref()?);
    (!name.is_empty() && name.len() <= ORIGINAL_NAME_BYTES_MAX).then_some(name)
}

/// The type to keep: one that is none is as good as none.
fn type_of(head: &RequestHead) -> Option<String> {
    let text = std::str::from_utf8(head.fields().only("content-type")?).ok()?;
    let good = content::is_media_type(text) && text.len() <= CONTENT_TYPE_BYTES_MAX;
    good.then(|| text.to_owned())
}

async fn receive(
    thread: &Rc<Thread>,
    conn: &mut ServerConn,
    request: UploadRequest,
    max: u64,
) -> Result<Stored, Failed> {
    let mut upload = thread.stores().begin(request).await.map_err(Failed::Store)?;
    let mut received = 0;
    loop {
        let piece = match conn.body().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return Err(body_failed(&error)),
        };
        received += piece.len() as u64;
        if received > max {
            return Err(Failed::TooLarge);
        }
        thread.cell.add(Serve::BYTES_IN, piece.len() as u64);
        let written = thread.in_time(upload.write(piece), UploadError::Late);
        written.await.map_err(Failed::Store)?;
    }
    thread.in_time(upload.finish(), UploadError::Late).await.map_err(Failed::Store)
}

fn body_failed(error: &BodyError) -> Failed {
    match error.status() {
        Some(status) => Failed::Body(status, error.to_string()),
        None => Failed::Gone,
    }
}

/// Where the file is now, for the one who stored it: an owner that the request named is named here too.
fn location_of(owner: &FileRef, query: &Query) -> String {
    let mut path = path_of(&owner.file);
    if query.app.is_some() || query.user.is_some() {
        let (app, user) = (escape(owner.app.as_str()), escape(owner.user.as_str()));
        path.push_str(&format!("?app={app}&user={user}"));
    }
    path
}

async fn stored_answer(
    conn: &mut ServerConn,
    path: &str,
    owner: &FileRef,
    stored: &Stored,
) -> Answered {
    let status = match stored.outcome {
        store::Outcome::New => 201,
        store::Outcome::Same => 200,
    };
    let etag = ETag::of_file(stored.path_id, stored.size);
    let content = serde_json::json!({
        "id": owner.file.as_str(),
        "path": path,
        "size": stored.size,
        "checksum": format!("{:016x}", stored.checksum),
        "created_at": stored.created_at,
    });
    let fields = |out: &mut Vec<u8>| {
        write_field(out, "Location", path);
        write_field(out, "ETag", etag.as_bytes());
        write_field(out, "Content-Type", "application/json");
        write_field(out, "X-Content-Type-Options", "nosniff");
        out.extend_from_slice(CORS);
    };
    conn.respond(status, fields, format!("{content}\n").as_bytes()).await.map(|()| Outcome::Ok)
}

async fn failed_answer(conn: &mut ServerConn, owner: &FileRef, failed: Failed) -> Answered {
    let error = match failed {
        Failed::Gone => {
            conn.abort();
            return Ok(Outcome::Broken);
        }
        Failed::Body(status, text) => return refuse(conn, status, &text).await,
        Failed::TooLarge => return refuse(conn, 413, "more than is taken").await,
        Failed::Store(error) => error,
    };
    let outcome = match error.fault() {
        Fault::Client | Fault::Busy => Outcome::Refused,
        Fault::Node => {
            tracing::error!(file = %owner.file, user = %owner.user, %error, "an upload failed");
            Outcome::Error
        }
    };
    refuse(conn, error.http_status(), &error.to_string()).await.map(|_| outcome)
}
