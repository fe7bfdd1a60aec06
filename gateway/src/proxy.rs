//! A request without a body, passed to a node and its answer passed back.
//!
//! Until the first byte of an answer has gone to the client, anything may be tried again: a
//! fresh connection where a kept one had been closed, then the group's other nodes. From then on
//! only what is a file's content goes on, see [`Rest`]: the next node is asked for the bytes that
//! the client has not got yet. Where that fails too the client's connection is closed, because
//! nothing else tells it that what it has is not the whole.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reel_node::http::splice::TransferError;
use reel_node::http::{ServerConn, UpstreamConn, UpstreamError, media};
use reel_proto::http::head::{Framing, Method, RequestHead, ResponseHead};

use crate::continuation::Rest;
use crate::edge::EdgeThread;
use crate::forward::{self, Forward};
use crate::handler::Question;
use crate::metrics::Edge;
use crate::status::Failure;

/// The shortest time that a node gets to answer while others could be tried instead.
const TRY_MIN: Duration = Duration::from_secs(1);

/// Pause before an answer's rest is asked for once more, after every node has failed to give it;
/// doubles up to the longest.
const ROUND_PAUSE_MIN: Duration = Duration::from_millis(100);
const ROUND_PAUSE_MAX: Duration = Duration::from_secs(1);

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

/// A request without a body, as often as it may have to be sent.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) head: &'a RequestHead,
    pub(crate) question: &'a Question,
    /// The nodes, in the order in which to try them.
    pub(crate) order: &'a [SocketAddr],
    pub(crate) via: bool,
}

impl Asked<'_> {
    fn write(&self, out: &mut Vec<u8>, rest: Option<&Rest<'_>>) {
        let host = self.order.first().map(ToString::to_string).unwrap_or_default();
        let forward = Forward { host: &host, framing: Framing::None, via: self.via, rest };
        forward::request(out, self.head, &forward);
    }
}

/// Passes a GET, HEAD or DELETE on.
pub(crate) async fn pass(thread: &EdgeThread, conn: &mut ServerConn, asked: &Asked<'_>) -> Outcome {
    let mut request = thread.buffer();
    asked.write(&mut request, None);
    let mut unanswered = false;
    let mut answer = first_answer(thread, asked, asked.order, &request, &mut unanswered).await;
    if answer.is_err() {
        let is_write = !asked.head.method.is_read();
        let others = thread.others(asked.question, asked.order, is_write).await;
        if !others.is_empty() {
            answer = first_answer(thread, asked, &others, &request, &mut unanswered).await;
        }
    }
    thread.give_buffer(request);
    match answer {
        Ok(answer) => {
            thread.count_failover(asked.order, answer.conn.node());
            // Whoever died may have deleted it: what was asked for is so.
            if unanswered && asked.head.method == Method::Delete && answer.head.status == 404 {
                drop(answer);
                let fields = |out: &mut Vec<u8>| out.extend_from_slice(media::CORS);
                return conn
                    .respond(204, fields, b"")
                    .await
                    .map(|()| 204)
                    .map_err(|_| Cut::ByClient);
            }
            give(thread, conn, answer, Some(asked)).await
        }
        Err(failure) => failure.answer(conn).await.map_err(|_| Cut::ByClient),
    }
}

/// The first usable answer of the nodes, tried in order. What a node says of itself is usable only
/// from the last one: that it drains or is full (503), or that it cannot read its copy (500).
/// `unanswered` is set where a node got the request, perhaps, and gave no answer.
async fn first_answer(
    thread: &EdgeThread,
    asked: &Asked<'_>,
    order: &[SocketAddr],
    request: &[u8],
    unanswered: &mut bool,
) -> Result<Answer, Failure> {
    let until = Instant::now() + thread.answer_timeout();
    let is_read = asked.head.method.is_read();
    let mut last = Failure::NoNode;
    let count = order.len();
    for (index, node) in order.iter().copied().enumerate() {
        let others = count - index - 1;
        let left = until.saturating_duration_since(Instant::now());
        let mut share = left / u32::try_from(others + 1).unwrap_or(u32::MAX);
        if is_read && others > 0 {
            share = share.min(thread.switch_after());
        }
        match try_node(thread, node, request, share.max(TRY_MIN), unanswered).await {
            Ok(answer) if answer.head.status == 503 && others > 0 => {
                last = Failure::NodesBusy;
            }
            Ok(answer) if answer.head.status == 500 && is_read && others > 0 => {
                tracing::warn!(%node, "a storage node cannot read its copy: another one is asked");
            }
            Ok(answer) => return Ok(answer),
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
    unanswered: &mut bool,
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
        let answer: Result<Answer, UpstreamError> = answer.await;
        match &answer {
            Ok(_) => thread.node_answered(node),
            Err(error) => {
                *unanswered |= !error.nothing_sent();
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

/// Gives a node's answer to the client. `asked`: what may be asked again of others when the node
/// dies in the middle; nothing after an upload, whose answers are short.
pub(crate) async fn give(
    thread: &EdgeThread,
    conn: &mut ServerConn,
    answer: Answer,
    asked: Option<&Asked<'_>>,
) -> Outcome {
    let Answer { conn: mut upstream, head } = answer;
    let was_head = asked.is_some_and(|asked| asked.head.method == Method::Head);
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
    let mut again = asked
        .filter(|asked| asked.head.method == Method::Get)
        .and_then(|asked| Some(Again::new(asked, Rest::of(&head, length)?)));
    let pace = match &again {
        Some(again) if again.asked.order.len() > 1 => thread.switching_pace(),
        _ => thread.pace(),
    };
    loop {
        let before = upstream.missing();
        let ended = upstream.pass_on(conn, pace).await;
        let moved = before - upstream.missing();
        thread.metrics.add(Edge::BYTES_OUT, moved);
        let error = match ended {
            Ok(()) => {
                upstream.release();
                return Ok(status);
            }
            Err(TransferError::Destination(_)) => return Err(Cut::ByClient),
            Err(TransferError::Source(error)) => UpstreamError::Broken(error),
            Err(TransferError::Ended { .. }) => UpstreamError::Closed,
        };
        let node = upstream.node();
        thread.node_failed(node, &error);
        drop(upstream);
        let next = match &mut again {
            Some(again) => again.elsewhere(thread, node, moved).await,
            None => None,
        };
        let Some(next) = next else {
            tracing::warn!(
                %node, client = %conn.peer(), %error,
                "a storage node died in the middle of an answer, and nobody can go on with it: the \
                 client's connection is closed"
            );
            return Err(Cut::ByNode);
        };
        tracing::info!(
            %node, next = %next.node(), client = %conn.peer(), %error,
            "a storage node died in the middle of an answer: another one goes on with it"
        );
        thread.metrics.add(Edge::CONTINUED, 1);
        upstream = next;
    }
}

/// The rest of an answer, to be had from whoever has it.
struct Again<'a> {
    asked: &'a Asked<'a>,
    rest: Rest<'a>,
    /// When the client last got a byte, or might have.
    progress: Instant,
    /// Before the next round: none after progress.
    pause: Duration,
}

impl<'a> Again<'a> {
    fn new(asked: &'a Asked<'a>, rest: Rest<'a>) -> Self {
        Self { asked, rest, progress: Instant::now(), pause: Duration::ZERO }
    }

    /// A connection on which the rest comes, after `failed` has given `moved` bytes more. `None`:
    /// nobody could be found while the client may be kept waiting, or the file is gone.
    async fn elsewhere(
        &mut self,
        thread: &EdgeThread,
        failed: SocketAddr,
        moved: u64,
    ) -> Option<UpstreamConn> {
        self.rest.passed(moved);
        if moved > 0 {
            self.progress = Instant::now();
            self.pause = Duration::ZERO;
        }
        let mut order = self.asked.order.to_vec();
        // It may be back already, but the others are the better bet.
        order.sort_by_key(|node| *node == failed);
        let mut request = thread.buffer();
        self.asked.write(&mut request, Some(&self.rest));
        let found = loop {
            if !self.pause.is_zero() {
                if self.progress.elapsed() + self.pause >= thread.pace().window {
                    break None;
                }
                monoio::time::sleep(self.pause).await;
                // The group may have other nodes by now.
                thread.forget(self.asked.question);
                if let Ok(nodes) = thread.locate(self.asked.question).await {
                    order = thread.order(&nodes, false);
                }
            }
            self.pause = (self.pause * 2).clamp(ROUND_PAUSE_MIN, ROUND_PAUSE_MAX);
            match self.round(thread, &order, &request).await {
                Round::Goes(conn) => break Some(conn),
                Round::Gone => break None,
                Round::Failed => {}
            }
        };
        thread.give_buffer(request);
        found
    }

    async fn round(&self, thread: &EdgeThread, order: &[SocketAddr], request: &[u8]) -> Round {
        for node in order.iter().copied() {
            let Ok(mut answer) =
                try_node(thread, node, request, thread.switch_after(), &mut false).await
            else {
                continue;
            };
            if self.rest.is_brought_by(&answer.head)
                && answer.conn.content_length(&answer.head, false).is_ok()
            {
                return Round::Goes(answer.conn);
            }
            // Deleted meanwhile, or another file under its id: no node has the rest of this one.
            if matches!(answer.head.status, 404 | 410 | 412) {
                return Round::Gone;
            }
            tracing::debug!(%node, status = answer.head.status, "no rest of an answer from here");
        }
        Round::Failed
    }
}

/// What came of asking every node once.
enum Round {
    Goes(UpstreamConn),
    Gone,
    Failed,
}
