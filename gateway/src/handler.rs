//! One client connection: which request is which, who may, and what was counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use reel_node::Accepted;
use reel_node::access::{HttpWriteRule, Refusal, WriteRequest};
use reel_node::http::{ServerConn, media};
use reel_proto::http::head::{Framing, Method, RequestHead};
use reel_proto::http::query::{Query, Route};
use reel_proto::http::response::{ALLOW_FILE, ALLOW_FILES, write_field};
use reel_proto::name::{AppId, FileId, UserId};

use crate::config::Mode;
use crate::edge::EdgeThread;
use crate::metrics::{BROKEN, Edge, class_index, method_index};
use crate::proxy::{self, Asked, Cut, Outcome};
use crate::status::Failure;
use crate::upload;

/// Serves a connection to its end.
pub(crate) async fn serve(thread: Rc<EdgeThread>, accepted: Accepted) {
    let mut conn = ServerConn::new(accepted, Arc::clone(&thread.http_limits));
    while let Some(head) = conn.next_request().await {
        let started = Instant::now();
        let method = method_index(head.method);
        let counted = InFlight::new(&thread);
        // In a box of its own: the connection's task is as large as the largest thing it ever
        // waits for, and most connections only wait for a request.
        let outcome = Box::pin(answer(&thread, &mut conn, &head)).await;
        drop(counted);
        count(&thread, method, outcome, started);
        if outcome.is_err() {
            conn.abort();
        }
        if !conn.finish().await {
            break;
        }
    }
}

fn count(thread: &EdgeThread, method: usize, outcome: Outcome, started: Instant) {
    let result = match outcome {
        Ok(status) => class_index(status),
        Err(cut) => {
            thread.metrics.add(Edge::CUT.at([usize::from(cut == Cut::ByClient)]), 1);
            BROKEN
        }
    };
    thread.metrics.add(Edge::REQUESTS.at([method, result]), 1);
    let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    thread.metrics.observe(Edge::LATENCY.at([method]), micros);
}

/// Counts a request under way, also when its task is dropped.
struct InFlight<'a>(&'a EdgeThread);

impl<'a> InFlight<'a> {
    fn new(thread: &'a EdgeThread) -> Self {
        thread.metrics.raise(Edge::IN_FLIGHT, 1);
        Self(thread)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.lower(Edge::IN_FLIGHT, 1);
    }
}

async fn answer(thread: &EdgeThread, conn: &mut ServerConn, head: &RequestHead) -> Outcome {
    let route = match Route::parse(head.path()) {
        Ok(route) => route,
        Err(error) => return say(conn, 400, &error.to_string()).await,
    };
    let query = match Query::parse(head.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(error) => return say(conn, 400, &error.to_string()).await,
    };
    let methods = match route {
        Route::File(_) => ALLOW_FILE,
        Route::Files => ALLOW_FILES,
        Route::Server => ALLOW_ANY,
        Route::Nothing if matches!(head.method, Method::Refused | Method::Unknown) => ALLOW_ANY,
        Route::Nothing => return say(conn, 404, "nothing is here").await,
    };
    if head.method == Method::Options {
        let answered = media::answer_options(conn, methods).await;
        return answered.map(|()| 204).map_err(|_| Cut::ByClient);
    }
    if !methods.split(", ").any(|known| known == head.method()) {
        let answered = media::answer_other_method(conn, head.method, methods).await;
        return answered.map_err(|_| Cut::ByClient);
    }
    let file = match route {
        Route::File(file) => Some(file),
        _ => None,
    };
    let owned = Question {
        app: query.app.or(Some(thread.default_app())),
        user: query.user.or(Some(thread.default_user())),
        file,
    };
    if head.method.is_read() {
        // Without an owner the file id decides. Of one who is named in part, a storage node fills in the rest, too.
        let question = match (query.app, query.user) {
            (None, None) => Question { app: None, user: None, file },
            _ => owned,
        };
        return pass_on(thread, conn, head, &question).await;
    }
    let question = owned;
    write(thread, conn, head, &question).await
}

/// What is asked of the trackers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) app: Option<AppId>,
    pub(crate) user: Option<UserId>,
    pub(crate) file: Option<FileId>,
}

/// Methods of the server as a whole (`OPTIONS *`).
const ALLOW_ANY: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

async fn say(conn: &mut ServerConn, status: u16, text: &str) -> Outcome {
    media::answer_error(conn, status, text, |_| {})
        .await
        .map(|()| status)
        .map_err(|_| Cut::ByClient)
}

/// Applies the write rule and the limits of uploads, then routes.
async fn write(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    question: &Question,
) -> Outcome {
    if let Err(refusal) = may_write(thread, conn, head, question) {
        return refuse_write(conn, refusal).await;
    }
    if head.method != Method::Delete {
        match head.framing {
            Framing::None => return say(conn, 411, "a length or chunked coding is needed").await,
            Framing::Length(length) if length > thread.upload_max() => {
                return upload::too_large(conn).await;
            }
            Framing::Length(_) | Framing::Chunked => {}
        }
    }
    pass_on(thread, conn, head, question).await
}

fn may_write(
    thread: &EdgeThread,
    conn: &ServerConn,
    head: &RequestHead,
    question: &Question,
) -> Result<(), Refusal> {
    let text = |name| head.header(name).and_then(|value| std::str::from_utf8(value).ok());
    // An Origin or Host that is no text is nobody's: it must not pass for an absent one.
    let origin = head.header("origin").map(|_| text("origin").unwrap_or("null"));
    thread.write_rule().check(&WriteRequest {
        local: conn.local(),
        peer: conn.peer(),
        host: head.host(),
        origin,
        authorization: head.header("authorization"),
        forwarded: head.headers().any(|(name, _)| HttpWriteRule::is_forwarding_header(name)),
        app: question.app.as_ref().map_or("", AppId::as_str),
        user: question.user.as_ref().map_or("", UserId::as_str),
    })
}

async fn refuse_write(conn: &mut ServerConn, refusal: Refusal) -> Outcome {
    let status = refusal.status();
    let fields = |out: &mut Vec<u8>| {
        if status == 401 {
            write_field(out, "WWW-Authenticate", "Bearer");
        }
    };
    media::answer_error(conn, status, &refusal.to_string(), fields)
        .await
        .map(|()| status)
        .map_err(|_| Cut::ByClient)
}

/// Finds the nodes and passes the request to one of them, or sends the client there.
async fn pass_on(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    question: &Question,
) -> Outcome {
    let is_write = !head.method.is_read();
    // An upload goes where its user's files go, and its user may be new.
    let uploads = matches!(head.method, Method::Put | Method::Post);
    let question = &Question { file: question.file.filter(|_| !uploads), ..*question };
    let nodes = match thread.locate(question).await {
        Ok(nodes) => nodes,
        // What a storage node says: an app that nobody knows has no files.
        Err(Failure::Unknown) if !is_write => return say(conn, 404, "no such file").await,
        Err(failure) => return failure.answer(conn).await.map_err(|_| Cut::ByClient),
    };
    let order = thread.order(&nodes, is_write);
    if thread.mode() == Mode::Redirect {
        return redirect(conn, head, &order).await;
    }
    // Nodes with tokens take writes through proxies; those without would refuse, see `Forward`.
    let via = !is_write || thread.write_rule().has_tokens();
    let outcome = match head.method {
        Method::Put | Method::Post => upload::pass(thread, conn, head, question, &order, via).await,
        _ => proxy::pass(thread, conn, &Asked { head, question, order: &order, via }).await,
    };
    // Perhaps the file is elsewhere by now: ask again next time.
    if matches!(outcome, Ok(404 | 502 | 504)) {
        thread.forget(question);
    }
    outcome
}

/// 307 keeps the method and the body (RFC 9110 section 15.4.8).
async fn redirect(conn: &mut ServerConn, head: &RequestHead, order: &[SocketAddr]) -> Outcome {
    let Some(node) = order.first() else { return say(conn, 503, "no storage node").await };
    let location = format!("http://{node}{}", head.path_and_query());
    let fields = |out: &mut Vec<u8>| {
        write_field(out, "Location", &location);
        write_field(out, "Cache-Control", "no-store");
        out.extend_from_slice(media::CORS);
    };
    conn.respond(307, fields, b"").await.map(|()| 307).map_err(|_| Cut::ByClient)
}

#[cfg(test)]
mod tests {
    use super::serve;

    fn size_of_future<A, B, F>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// An idle connection holds this and its socket: 10,000 of them must stay below 100 MiB with
    /// all that the kernel and the runtime keep beside it.
    #[test]
    fn an_idle_connection_is_small() {
        let bytes = size_of_future(serve);
        assert!(bytes <= 2048, "{bytes} bytes");
    }
}
