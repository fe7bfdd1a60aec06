//! A request without a body, passed to a node and its answer passed back.
//!
//! Until the first byte of an answer has gone to the client, anything may be tried again: a
//! fresh connection where a kept one had been closed, then the group's other nodes. From then on
//! the answer is this node's; if the node dies the client's connection is closed, because nothing
//! else tells it that what it has is not the whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reel_node::http::splice::TransferError;
use reel_node::http::{ServerConn, UpstreamConn, UpstreamError};
use reel_proto::http::head::{Framing, Method, RequestHead, ResponseHead};

use crate::edge::EdgeThread;
use crate::forward::{self, Forward};
use crate::metrics::Edge;
use crate::status::Failure;

/// The shortest time that a node gets to answer while others could be tried instead.
const TRY_MIN: Duration = Duration::from_secs(1);

/// How an answer ended: its status, or that it was cut.
pub(crate) type Outcome = Result<u16, Cut>;

/// The answer did not reach the client whole; its connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The storage node's fault.
    ByNode,
    /// The client went away or does not read.
    ByClient,
}

/// Index of the `result` label of a try.
pub(crate) const fn try_index(error: &UpstreamError, reused: bool) -> usize {
    match error {
        error if reused && error.is_stale() => 1,
        UpstreamError::Connect(_) | UpstreamError::Busy => 2,
        UpstreamError::Timeout => 3,
        UpstreamError::Send(_) | UpstreamError::Closed | UpstreamError::Broken(_) => 4,
        UpstreamError::Malformed(_) => 5,
    }
}

/// A node's answer whose head has come.
pub(crate) struct Answer {
    pub(crate) conn: UpstreamConn,
    pub(crate) head: ResponseHead,
}

/// Passes a GET, HEAD or DELETE on.
pub(crate) async fn pass(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    head: &RequestHead,
    order: &[SocketAddr],
    via: bool,
) -> Outcome {
    let mut request = thread.buffer();
    let host = order.first().map(ToString::to_string).unwrap_or_default();
    forward::request(&mut request, head, &Forward { host: &host, framing: Framing::None, via });
    let answer = first_answer(thread, order, &request).await;
    thread.give_buffer(request);
    match answer {
        Ok(answer) => give(thread, conn, answer, head.method == Method::Head).await,
        Err(failure) => failure.answer(conn).await.map_err(|_| Cut::ByClient),
    }
}

/// The first usable answer of the nodes, tried in order. 503 is usable only from the last one:
/// a node that drains or is full says so before it has begun.
async fn first_answer(
    thread: &EdgeThread,
    order: &[SocketAddr],
    request: &[u8],
) -> Result<Answer, Failure> {
    let until = Instant::now() + thread.answer_timeout();
    let mut last = Failure::NoNode;
    let count = order.len();
    for (index, node) in order.iter().copied().enumerate() {
        let others = count - index - 1;
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(others + 1).unwrap_or(u32::MAX);
        match try_node(thread, node, request, share.max(TRY_MIN)).await {
            Ok(answer) if answer.head.status == 503 && others > 0 => {
                last = Failure::NodesBusy;
            }
            Ok(answer) => {
                if index > 0 {
                    thread.metrics.add(Edge::FAILOVERS, 1);
                }
                return Ok(answer);
            }
            Err(UpstreamError::Busy) => return Err(Failure::Busy),
            Err(error) => {
                tracing::debug!(%node, %error, "a storage node gave no answer");
                last = last.after(&error);
            }
        }
    }
    Err(last)
}

/// One node: on a kept connection if there is one, and again on a fresh one if that was stale.
async fn try_node(
    thread: &EdgeThread,
    node: SocketAddr,
    request: &[u8],
    deadline: Duration,
) -> Result<Answer, UpstreamError> {
    let mut fresh = false;
    loop {
        let mut reused = false;
        let answer = async {
            let mut conn = thread.pool.get(node, fresh).await?;
            reused = conn.is_reused();
            conn.send(request, false, thread.pace()).await?;
            let head = thread.final_head(&mut conn, deadline).await?;
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

/// Gives a node's answer to the client.
pub(crate) async fn give(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    answer: Answer,
    was_head: bool,
) -> Outcome {
    let Answer { conn: mut upstream, head } = answer;
    let length = match upstream.content_length(&head, was_head) {
        Ok(length) => length,
        Err(error) => {
            tracing::warn!(node = %upstream.node(), %error, "a storage node's answer is refused");
            return Failure::BadGateway.answer(conn).await.map_err(|_| Cut::ByClient);
        }
    };
    let told = match head.framing {
        Framing::Length(told) if !matches!(head.status, 204 | 304) => Some(told),
        _ => None,
    };
    let status = head.status;
    conn.start_forwarded(status, told, |out| forward::answer(out, &head))
        .await
        .map_err(|_| Cut::ByClient)?;
    match upstream.pass_on(conn, thread.pace()).await {
        Ok(()) => {
            thread.metrics.add(Edge::BYTES_OUT, length);
            upstream.release();
            Ok(status)
        }
        Err(TransferError::Destination(_)) => Err(Cut::ByClient),
        Err(error @ (TransferError::Source(_) | TransferError::Ended { .. })) => {
            tracing::warn!(
                node = %upstream.node(), client = %conn.peer(), %error,
                "a storage node died in the middle of an answer: the client's connection is closed"
            );
            Err(Cut::ByNode)
        }
    }
}
