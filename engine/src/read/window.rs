//! The pieces of one response that are being read or wait to be sent, in their order.
//!
//! How many there are at once follows who waits for whom: more while the peer waits for the disk, fewer while the disk
//! waits for the peer. So a slow peer ends with one piece beside the one that it is being sent, and a fast one keeps the
//! disk busy. Times are compared, not waits: a socket takes a slow peer's bytes in bursts, and within one of them the
//! disk looks slow.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{
    future::LocalBoxFuture,
    stream::{FuturesOrdered, StreamExt},
};

use super::{OpenFile, ReadError, Reader, cold::Piece, direct::Plan};
use crate::admission::Permit;

type Flight<'a> = LocalBoxFuture<'a, Result<Piece, ReadError>>;

/// The reads of one range.
pub(crate) struct Window<'a> {
    reader: &'a Reader,
    file: &'a OpenFile,
    flying: FuturesOrdered<Flight<'a>>,
    landed: VecDeque<Result<Piece, ReadError>>,
    /// Its reads go through the page cache.
    through: bool,
    /// Where the next read begins.
    next: u64,
    end: u64,
    /// How many pieces to have, flying and landed.
    depth: usize,
    depth_max: usize,
    /// How much longer the peer waited for the disk than the disk for the peer, in µs; what is long ago counts less.
    balance_us: i64,
}

impl<'a> Window<'a> {
    /// A window without a read, over the bytes from `next` to `end`.
    pub(super) fn new(
        reader: &'a Reader,
        file: &'a OpenFile,
        through: bool,
        next: u64,
        end: u64,
    ) -> Self {
        let depth_max = reader.ahead_max;
        Self {
            reader,
            file,
            flying: FuturesOrdered::new(),
            landed: VecDeque::new(),
            through,
            next,
            end,
            depth: depth_max,
            depth_max,
            balance_us: 0,
        }
    }

    /// Starts the read that was planned for the window's beginning.
    pub(super) fn start(&mut self, plan: Plan, permit: Permit) {
        self.next += plan.length as u64;
        self.flying.push_back(Box::pin(self.reader.read(self.file, plan, permit)));
    }

    /// Starts reads up to the depth: only with memory that is free at once and that nobody will miss, and up to where
    /// the page cache has the file again.
    pub(super) fn fill(&mut self) {
        while self.flying.len() + self.landed.len() < self.depth && self.next < self.end {
            let length = self.end - self.next;
            if self.reader.hot_bytes(self.file, self.next, length).is_some() {
                return;
            }
            let plan = self.reader.pieces.plan(self.file, self.next, length, self.through);
            let Some(permit) = self.reader.budget.try_take_spare(plan.block_bytes() as u64) else {
                return;
            };
            self.start(plan, self.reader.counted(self.file, permit));
        }
    }

    /// The next piece; `None` when nothing is being read.
    pub(super) async fn next(&mut self) -> Option<Result<Piece, ReadError>> {
        let mut since = None;
        let next = poll_fn(|cx| {
            self.land(cx);
            if let Some(piece) = self.landed.pop_front() {
                return Poll::Ready(Some(piece));
            }
            if self.flying.is_empty() {
                return Poll::Ready(None);
            }
            since.get_or_insert_with(Instant::now);
            Poll::Pending
        })
        .await;
        if let Some(since) = since {
            self.balance_us += micros(since.elapsed());
            if self.balance_us > 0 {
                // The reads that this asks for start at the next fill.
                self.depth = (self.depth + 1).min(self.depth_max);
            }
        }
        next
    }

    /// Runs `send` to its end, and the reads beside it. Pinned by the caller: by value it would be in there twice.
    pub(super) async fn beside<T>(&mut self, mut send: Pin<&mut impl Future<Output = T>>) -> T {
        let mut since = None;
        let outcome = poll_fn(|cx| {
            self.land(cx);
            let outcome = send.as_mut().poll(cx);
            if outcome.is_pending() && self.flying.is_empty() {
                since.get_or_insert_with(Instant::now);
            }
            outcome
        })
        .await;
        self.balance_us -= self.balance_us / 8;
        if let Some(since) = since {
            self.balance_us -= micros(since.elapsed());
        }
        if self.balance_us < 0 {
            self.depth = (self.depth - 1).max(1);
        }
        outcome
    }

    /// Drives the reads, and takes what is there.
    fn land(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(piece)) = self.flying.poll_next_unpin(cx) {
            self.landed.push_back(piece);
        }
    }
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX / 2)
}
