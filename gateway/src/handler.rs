//! One client connection: which request is which, who may, and what was counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use reel_node::Accepted;
use reel_node::access::{HttpWriteRule, Refusal, WriteRequest};
use reel_node::http::{ServerConn, media};
use reel_proto::http::head::{Framing, RequestHead};
use reel_proto::http::query::{Target, TargetError};

use crate::config::Mode;
use crate::edge::EdgeThread;
use crate::metrics::{BROKEN, Edge, class_index, method_index};
use crate::proxy::{self, Cut, Outcome};
use crate::upload;

/// Serves a connection to its end.
pub(crate) async fn serve(thread: Rc<EdgeThread>, accepted: Accepted) {
    let mut conn = ServerConn::new(accepted, Arc::clone(&thread.http_limits));
    while let Some(head) = conn.next_request().await {
        let started = Instant::now();
        let method = method_index(head.method());
        let counted = InFlight::new(&thread);
        let outcome = answer(&thread, &mut conn, &head).await;
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
        thread.metrics.add_level(Edge::IN_FLIGHT, 1);
        Self(thread)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.add_level(Edge::IN_FLIGHT, -1);
    }
}

async fn answer(thread: &EdgeThread, conn: &mut ServerConn, head: &RequestHead) -> Outcome {
    let done = |status: u16| move |()| status;
    let methods = match Target::parse(head) {
        Ok(Target::File { .. }) => media::FILE_METHODS,
        Ok(Target::Collection { .. }) => media::COLLECTION_METHODS,
        Ok(Target::Server) => "GET, HEAD, PUT, POST, DELETE, OPTIONS",
        Err(error) => return bad_target(conn, &error).await,
    };
    let method = head.method();
    if method == "OPTIONS" {
        let answered = media::answer_options(conn, methods).await;
        return answered.map(done(204)).map_err(|_| Cut::ByClient);
    }
    if !methods.split(", ").any(|known| known == method) {
        let answered = media::answer_other_method(conn, method, methods).await;
        let status = if media::is_known_method(method) { 405 } else { 501 };
        return answered.map(done(status)).map_err(|_| Cut::ByClient);
    }
    if let Some((status, text)) = expectation(head) {
        return say(conn, status, text).await;
    }
    match Target::parse(head) {
        Ok(Target::File { id, app, user }) if matches!(method, "GET" | "HEAD") => {
            let question = Question { app: app.as_deref(), user: user.as_deref(), file: Some(&id) };
            route(thread, conn, head, &question, true).await
        }
        Ok(Target::File { id, app, user }) => {
            let app = app.as_deref().unwrap_or(thread.default_app());
            let user = user.as_deref().unwrap_or(thread.default_user());
            let question = Question { app: Some(app), user: Some(user), file: Some(&id) };
            write(thread, conn, head, &question).await
        }
        Ok(Target::Collection { app, user }) => {
            let app = app.as_deref().unwrap_or(thread.default_app());
            let user = user.as_deref().unwrap_or(thread.default_user());
            let question = Question { app: Some(app), user: Some(user), file: None };
            write(thread, conn, head, &question).await
        }
        Ok(Target::Server) | Err(_) => say(conn, 404, "not found").await,
    }
}

/// What is asked of the trackers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) app: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
    pub(crate) file: Option<&'a str>,
}

async fn say(conn: &mut ServerConn, status: u16, text: &str) -> Outcome {
    media::answer_error(conn, status, text, |_| {})
        .await
        .map(|()| status)
        .map_err(|_| Cut::ByClient)
}

async fn bad_target(conn: &mut ServerConn, error: &TargetError) -> Outcome {
    say(conn, error.status(), &error.to_string()).await
}

/// RFC 9110 section 10.1.1: an expectation that we do not know is refused.
fn expectation(head: &RequestHead) -> Option<(u16, &'static str)> {
    (head.header("expect").is_some() && !head.expect_continue)
        .then_some((417, "only 100-continue can be expected"))
}

/// Applies the write rule and the limits of uploads, then routes.
async fn write(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    question: &Question<'_>,
) -> Outcome {
    if let Err(refusal) = may_write(thread, conn, head, question) {
        return refuse_write(conn, refusal).await;
    }
    if head.method() != "DELETE" {
        match head.framing {
            Framing::None => return say(conn, 411, "an upload needs a Content-Length").await,
            Framing::Length(length) if length > thread.upload_max() => {
                return upload::too_large(conn).await;
            }
            Framing::Length(_) | Framing::Chunked => {}
        }
    }
    route(thread, conn, head, question, false).await
}

fn may_write(
    thread: &EdgeThread,
    conn: &ServerConn,
    head: &RequestHead,
    question: &Question<'_>,
) -> Result<(), Refusal> {
    let text = |name| head.header(name).and_then(|value| std::str::from_utf8(value).ok());
    // An Origin or Host that is no text is nobody's: it must not pass for an absent one.
    let origin = head.header("origin").map(|_| text("origin").unwrap_or("null"));
    thread.write_rule().check(&WriteRequest {
        local: conn.local(),
        peer: conn.peer(),
        host: text("host"),
        origin,
        authorization: head.header("authorization"),
        forwarded: head.headers().any(|(name, _)| HttpWriteRule::is_forwarding_header(name)),
        app: question.app.unwrap_or_default(),
        user: question.user.unwrap_or_default(),
    })
}

async fn refuse_write(conn: &mut ServerConn, refusal: Refusal) -> Outcome {
    let status = refusal.status();
    let fields = |out: &mut Vec<u8>| {
        if status == 401 {
            media::field(out, "WWW-Authenticate", b"Bearer");
        }
    };
    media::answer_error(conn, status, &refusal.to_string(), fields)
        .await
        .map(|()| status)
        .map_err(|_| Cut::ByClient)
}

/// Finds the nodes and passes the request to one of them, or the client.
async fn route(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    question: &Question<'_>,
    is_read: bool,
) -> Outcome {
    let nodes = match thread.locate(question).await {
        Ok(nodes) => nodes,
        Err(failure) => return failure.answer(conn).await.map_err(|_| Cut::ByClient),
    };
    if thread.mode() == Mode::Redirect {
        return redirect(thread, conn, head, &nodes).await;
    }
    // Nodes with tokens take writes through proxies; those without would refuse them, see Forward.
    let via = is_read || thread.write_rule().has_tokens();
    let outcome = match head.method() {
        "PUT" | "POST" => upload::pass(thread, conn, head, &nodes, via).await,
        _ => proxy::pass(thread, conn, head, &nodes, via).await,
    };
    // Perhaps the file is elsewhere by now: ask again next time.
    if matches!(outcome, Ok(404 | 502 | 504)) {
        thread.forget(question);
    }
    outcome
}

/// 307 keeps the method and the body (RFC 9110 section 15.4.8).
async fn redirect(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    nodes: &[SocketAddr],
) -> Outcome {
    let order = thread.order(nodes);
    let Some(node) = order.first() else { return say(conn, 503, "no storage node").await };
    let location = format!("http://{node}{}", head.path_and_query());
    let fields = |out: &mut Vec<u8>| {
        media::field(out, "Location", location.as_bytes());
        media::field(out, "Cache-Control", b"no-store");
        out.extend_from_slice(media::CORS);
    };
    conn.respond(307, fields, b"").await.map(|()| 307).map_err(|_| Cut::ByClient)
}
