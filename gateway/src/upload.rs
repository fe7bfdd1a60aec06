//! A request with a body (PUT, POST), streamed to a node.
//!
//! The node is asked first (`Expect: 100-continue`) and only then is the client's body touched,
//! which is also when the client gets its own 100. So until a node has agreed, the next one can be
//! tried, and a refusal (conflict, full, no rights) costs no content. From the first byte of the
//! body on there is one node and one try.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use reel_node::http::splice::TransferError;
use reel_node::http::{BodyError, ServerConn, UpstreamConn, UpstreamError, media};
use reel_proto::http::head::{Framing, Method, RequestHead};

use crate::edge::EdgeThread;
use crate::forward::{self, Forward};
use crate::handler::Question;
use crate::metrics::Edge;
use crate::proxy::{Answer, Cut, Outcome, give, try_index};
use crate::status::Failure;

/// Bytes of a body that go through the kernel before the node is listened to again: a refusal in
/// the middle stops the rest, and is read before the node gives up on reading ours.
const SEGMENT_BYTES: u64 = 512 * 1024;

/// How a body went.
enum Sent {
    /// All of it went out: the node's answer is to be read.
    Whole,
    /// The node spoke up before: its answer is to be read, and its connection still owes it a part of the body.
    Answered,
    /// The client failed.
    Client(BodyError),
    /// The client sends more than is taken.
    TooLarge,
    /// The node failed.
    Node(UpstreamError),
}

/// Streams an upload. `request` has passed the write rule.
pub(crate) async fn pass(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    question: &Question,
    order: &[SocketAddr],
    via: bool,
) -> Outcome {
    let mut request = thread.buffer();
    let host = order.first().map(ToString::to_string).unwrap_or_default();
    forward::request(
        &mut request,
        head,
        &Forward { host: &host, framing: head.framing, via, rest: None },
    );
    // A POST of no content is done as soon as its head is read, and twice if it is sent twice.
    let repeatable = head.method != Method::Post || head.framing.has_body();
    let mut willing = first_willing(thread, order, &request, repeatable).await;
    if willing.is_err() && repeatable {
        let others = thread.others(question, order, true).await;
        if !others.is_empty() {
            willing = first_willing(thread, &others, &request, repeatable).await;
        }
    }
    thread.give_buffer(request);
    let answer = match willing {
        Ok(answer) => answer,
        Err(failure) => return failure.answer(conn).await.map_err(|_| Cut::ByClient),
    };
    thread.count_failover(order, answer.conn.node());
    if answer.head.status != 100 {
        return give(thread, conn, answer, None).await;
    }
    let mut upstream = answer.conn;
    let chunked = matches!(head.framing, Framing::Chunked);
    match stream(thread, conn, &mut upstream, chunked).await {
        Sent::Whole => {}
        Sent::Answered => upstream.owe(),
        Sent::Client(error) => {
            // The node sees its connection end in the middle and drops what it has.
            drop(upstream);
            let Some(status) = error.status() else { return Err(Cut::ByClient) };
            let text = error.to_string();
            return media::answer_error(conn, status, &text, |_| {})
                .await
                .map(|()| status)
                .map_err(|_| Cut::ByClient);
        }
        Sent::TooLarge => {
            drop(upstream);
            return too_large(conn).await;
        }
        Sent::Node(error) => {
            thread.metrics.add(Edge::TRIES.at([try_index(&error, false)]), 1);
            thread.node_failed(upstream.node(), &error);
            return Failure::of(&error).answer(conn).await.map_err(|_| Cut::ByClient);
        }
    }
    match thread.final_head(&mut upstream, thread.answer_timeout()).await {
        Ok(head) => give(thread, conn, Answer { conn: upstream, head }, None).await,
        Err(error) => {
            thread.metrics.add(Edge::TRIES.at([try_index(&error, false)]), 1);
            tracing::warn!(
                node = %upstream.node(), %error,
                "a storage node gave no answer to an upload: the client is told 502 or 504 and \
                 may send it again under the same id"
            );
            thread.node_failed(upstream.node(), &error);
            Failure::of(&error).answer(conn).await.map_err(|_| Cut::ByClient)
        }
    }
}

/// Answers an upload beyond the limit.
pub(crate) async fn too_large(conn: &mut ServerConn) -> Outcome {
    media::answer_error(conn, 413, "the upload is larger than this gateway takes", |_| {})
        .await
        .map(|()| 413)
        .map_err(|_| Cut::ByClient)
}

/// The first node that says 100, or anything final but that it is busy (503) or full (507).
/// `repeatable`: whether the request may be sent again though the node may have read it.
async fn first_willing(
    thread: &EdgeThread,
    order: &[SocketAddr],
    request: &[u8],
    repeatable: bool,
) -> Result<Answer, Failure> {
    let mut last = Failure::NoNode;
    for (index, node) in order.iter().enumerate() {
        let may_go_on = repeatable && index + 1 < order.len();
        let limit = if may_go_on { thread.switch_after() } else { Duration::MAX };
        let limit = limit.min(thread.answer_timeout());
        match ask(thread, *node, request, !repeatable, limit).await {
            Ok(answer) if matches!(answer.head.status, 503 | 507) && may_go_on => {
                last = Failure::NodesBusy;
            }
            Ok(answer) => return Ok(answer),
            Err(UpstreamError::Busy) => return Err(Failure::Busy),
            Err(error) if !repeatable && !error.nothing_sent() => return Err(Failure::of(&error)),
            Err(error) => last = last.after(&error),
        }
    }
    Err(last)
}

/// Asks one node whether it takes the upload, and waits so long for what it says; `fresh`: on a
/// new connection only.
async fn ask(
    thread: &EdgeThread,
    node: SocketAddr,
    request: &[u8],
    mut fresh: bool,
    limit: Duration,
) -> Result<Answer, UpstreamError> {
    loop {
        let mut reused = false;
        let answer = async {
            let mut conn = thread.pool.get(node, fresh).await?;
            reused = conn.is_reused();
            conn.send(request, false, thread.pace()).await?;
            let head = conn.answer(thread.head_limits(), limit).await?;
            Ok(Answer { conn, head })
        };
        let answer = answer.await;
        match &answer {
            Ok(_) => thread.node_answered(node),
            Err(error) => {
                thread.metrics.add(Edge::TRIES.at([try_index(error, reused)]), 1);
                if reused && error.is_stale() && !fresh {
                    thread.pool.forget(node);
                    fresh = true;
                    continue;
                }
                thread.node_failed(node, error);
            }
        }
        return answer;
    }
}

/// Moves the client's body to the node: one with a length through the kernel, a chunked one piece
/// by piece, since its framing is checked and written anew.
async fn stream(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    upstream: &mut UpstreamConn,
    chunked: bool,
) -> Sent {
    let mut total = 0_u64;
    let mut line = Vec::with_capacity(20);
    loop {
        // An answer in the middle of a body is a refusal: the rest is not wanted.
        if upstream.has_input() {
            // A node that has a body of known length whole may be faster than this loop.
            return if !chunked && conn.body_is_whole() { Sent::Whole } else { Sent::Answered };
        }
        // A length was held against the limit before.
        if !chunked {
            match upstream.take_body(conn, SEGMENT_BYTES, thread.pace()).await {
                Ok(0) => {}
                Ok(moved) => {
                    thread.metrics.add(Edge::BYTES_IN, moved);
                    continue;
                }
                Err(TransferError::Destination(error)) => {
                    return node_stopped(upstream, error.into()).await;
                }
                Err(error) => return Sent::Client(client_stopped(&error)),
            }
        }
        let piece = match conn.body().await {
            Ok(Some(piece)) => piece,
            Ok(None) => break,
            Err(error) => return Sent::Client(error),
        };
        total += piece.len() as u64;
        if total > thread.upload_max() {
            return Sent::TooLarge;
        }
        let sent = if chunked {
            line.clear();
            chunk_line(&mut line, piece.len());
            send_all(thread, upstream, &[&line, &piece, b"\r\n"]).await
        } else {
            upstream.send(&piece, false, thread.pace()).await
        };
        thread.metrics.add(Edge::BYTES_IN, piece.len() as u64);
        if let Err(error) = sent {
            return node_stopped(upstream, error).await;
        }
    }
    if chunked && let Err(error) = upstream.send(b"0\r\n\r\n", false, thread.pace()).await {
        return node_stopped(upstream, error).await;
    }
    Sent::Whole
}

/// What a transfer says of the client's part, as a read of its body would.
fn client_stopped(error: &TransferError) -> BodyError {
    match error {
        TransferError::Source(error) if error.kind() == ErrorKind::TimedOut => BodyError::TooSlow,
        _ => BodyError::Gone,
    }
}

async fn send_all(
    thread: &EdgeThread,
    upstream: &UpstreamConn,
    parts: &[&[u8]],
) -> Result<(), UpstreamError> {
    for (index, part) in parts.iter().enumerate() {
        upstream.send(part, index + 1 < parts.len(), thread.pace()).await?;
    }
    Ok(())
}

/// A node that stops reading may have answered before it did.
async fn node_stopped(upstream: &mut UpstreamConn, error: UpstreamError) -> Sent {
    monoio::time::sleep(Duration::from_millis(1)).await;
    if upstream.has_answer_bytes() { Sent::Answered } else { Sent::Node(error) }
}

/// `SIZE\r\n` of a chunk, in hexadecimal (RFC 9112 section 7.1).
fn chunk_line(out: &mut Vec<u8>, length: usize) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (length >> (4 * place)) & 0xF;
        out.push(b"0123456789abcdef"[digit]);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::chunk_line;

    #[test]
    fn chunk_lines_are_hexadecimal() {
        for length in [0, 1, 9, 10, 15, 16, 255, 256, 4096, 65_535, 262_144, usize::MAX] {
            let mut line = Vec::new();
            chunk_line(&mut line, length);
            assert_eq!(line, format!("{length:x}\r\n").into_bytes());
        }
    }
}
