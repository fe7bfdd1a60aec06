//! The media HTTP of a storage node: one connection, request after request.
//!
//! The driver in `node` reads requests and frames answers; the rules of RFC 9110 are pure functions in `proto`. Here a
//! request meets the stores: which file, who may, what it answers.

use std::rc::Rc;

use reel_node::{
    Accepted,
    access::{HttpWriteRule, WriteRequest},
    http::{
        ServerConn,
        media::{answer_error, answer_options, answer_other_method},
        socket::SendError,
    },
    pooled::Pooled,
};
use reel_proto::{
    http::{
        head::{Method, RequestHead},
        query::{Query, Route},
        response::{ALLOW_FILE, ALLOW_FILES, write_field},
    },
    name::FileId,
    storage::FileRef,
};

use crate::{
    metrics::{Kind, Outcome, Tally},
    store::{Lookup, LookupError},
    thread::Thread,
};

mod delete;
mod fields;
mod get;
mod put;

/// What a connection past the limit is told.
pub(crate) const TOO_MANY_CONNECTIONS: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    Content-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n";

/// Methods of the server as a whole.
const ALLOW_SERVER: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// How an answered request is counted. An error: the peer is gone.
type Answered = Result<Outcome, SendError>;

/// Serves a connection to its end.
pub(crate) async fn serve(thread: Rc<Thread>, accepted: Accepted) {
    let mut conn = ServerConn::new(accepted, thread.http.clone());
    while let Some(head) = conn.next_request().await {
        let mut tally = Tally::start(&thread.cell, kind_of(head.method));
        // In a place of its own: a connection's task is as large as the largest thing it ever waits for, and most
        // connections only wait for a request.
        if let Ok(outcome) = Pooled::new(answer(&thread, &mut conn, &head)).await {
            tally.ends(outcome);
        }
        drop(tally);
        conn.recycle(head);
        if !conn.finish().await {
            return;
        }
    }
}

fn kind_of(method: Method) -> Kind {
    match method {
        Method::Get => Kind::HttpGet,
        Method::Head => Kind::HttpHead,
        Method::Put | Method::Post => Kind::HttpPut,
        Method::Delete => Kind::HttpDelete,
        Method::Options => Kind::HttpOptions,
        Method::Refused | Method::Unknown => Kind::Other,
    }
}

async fn answer(thread: &Rc<Thread>, conn: &mut ServerConn, head: &RequestHead) -> Answered {
    let route = match Route::parse(head.path()) {
        Ok(route) => route,
        Err(error) => return refuse(conn, 400, &error.to_string()).await,
    };
    let query = match Query::parse(head.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(error) => return refuse(conn, 400, &error.to_string()).await,
    };
    match (route, head.method) {
        (Route::File(file), Method::Get | Method::Head) => {
            get::get(thread, conn, head, &query, file).await
        }
        // Boxed, as all that is rare or long, so that what serves a read is small.
        (Route::File(file), Method::Put) => {
            Box::pin(put::put(thread, conn, head, &query, file)).await
        }
        (Route::Files, Method::Post) => Box::pin(put::post(thread, conn, head, &query)).await,
        (Route::File(file), Method::Delete) => {
            Box::pin(delete::delete(thread, conn, head, &query, file)).await
        }
        (Route::File(_), Method::Options) => options(conn, ALLOW_FILE).await,
        (Route::Files, Method::Options) => options(conn, ALLOW_FILES).await,
        (Route::Server, Method::Options) => options(conn, ALLOW_SERVER).await,
        (Route::File(_), method) => other_method(conn, method, ALLOW_FILE).await,
        (Route::Files, method) => other_method(conn, method, ALLOW_FILES).await,
        (_, Method::Refused | Method::Unknown) => {
            other_method(conn, head.method, ALLOW_SERVER).await
        }
        (Route::Server | Route::Nothing, _) => refuse(conn, 404, "nothing is here").await,
    }
}

async fn options(conn: &mut ServerConn, allow: &str) -> Answered {
    answer_options(conn, allow).await.map(|_| Outcome::Ok)
}

async fn other_method(conn: &mut ServerConn, method: Method, allow: &str) -> Answered {
    answer_other_method(conn, method, allow).await.map(|_| Outcome::Refused)
}

/// An answer in words to what is not done.
async fn refuse(conn: &mut ServerConn, status: u16, text: &str) -> Answered {
    refuse_with(conn, status, text, |_| {}).await
}

/// As [`refuse`], with further fields. 503 always says when to try again.
async fn refuse_with(
    conn: &mut ServerConn,
    status: u16,
    text: &str,
    fields: impl FnOnce(&mut Vec<u8>),
) -> Answered {
    let all = |out: &mut Vec<u8>| {
        if status == 503 {
            write_field(out, "Retry-After", "1");
        }
        fields(out);
    };
    answer_error(conn, status, text, all).await?;
    Ok(if status == 500 { Outcome::Error } else { Outcome::Refused })
}

/// An answer to a lookup that the metadata did not give.
async fn lookup_failed(conn: &mut ServerConn, file: &FileId, error: &LookupError) -> Answered {
    // A reader is not told which servers there are, and as whom we come to them.
    const TEXT: &str = "the metadata does not answer";
    if error.retryable() {
        tracing::debug!(%file, %error, "a lookup has to wait");
        return refuse(conn, 503, TEXT).await;
    }
    tracing::error!(%file, %error, "a lookup failed");
    refuse(conn, 503, TEXT).await.map(|_| Outcome::Error)
}

/// What a request for a file sees: with an app or a user only theirs, else the older of two.
fn lookup_of(thread: &Thread, query: &Query, file: FileId) -> Lookup {
    if query.app.is_none() && query.user.is_none() {
        return Lookup::Any(file);
    }
    Lookup::Owned(owner_of(thread, query, file))
}

/// The file that a write is for: names that the request leaves out are the defaults.
fn owner_of(thread: &Thread, query: &Query, file: FileId) -> FileRef {
    let names = &thread.shared.names;
    FileRef { app: query.app.unwrap_or(names.app), user: query.user.unwrap_or(names.user), file }
}

/// Whether the request may write to `owner`; else it has been answered.
async fn may_write(
    thread: &Thread,
    conn: &mut ServerConn,
    head: &RequestHead,
    owner: &FileRef,
) -> Result<Option<Outcome>, SendError> {
    let text =
        |name| head.header(name).map(|value| std::str::from_utf8(value).unwrap_or("\u{FFFD}"));
    let request = WriteRequest {
        local: conn.local(),
        peer: conn.peer(),
        host: head.host(),
        origin: text("origin"),
        authorization: head.header("authorization"),
        forwarded: head.headers().any(|(name, _)| HttpWriteRule::is_forwarding_header(name)),
        app: owner.app.as_str(),
        user: owner.user.as_str(),
    };
    let Err(refusal) = thread.shared.writes.check(&request) else { return Ok(None) };
    let fields = |out: &mut Vec<u8>| {
        if refusal.status() == 401 {
            write_field(out, "WWW-Authenticate", "Bearer");
        }
    };
    refuse_with(conn, refusal.status(), &refusal.to_string(), fields).await.map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer's future is moved into its place, so its bytes are copied for each request.
    #[test]
    fn an_answer_is_not_large() {
        fn size<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
            size_of::<F>()
        }
        let bytes = size(|thread: &'static Rc<Thread>, conn: &'static mut ServerConn, head| {
            answer(thread, conn, head)
        });
        assert!(bytes <= 4096, "{bytes} bytes");
    }
}
