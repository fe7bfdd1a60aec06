//! Fetches blocks of path ids from the ID nodes, ahead of the uploads that use them.
//!
//! The store side says what it wants and makes its mark durable before it uses what came; here bytes move, by one task for
//! each store path. One ID node is asked until it fails, then the next. An ID node of the deployed system knows no blocks: its ids come one by one.

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use reel_node::{
    Drain,
    caller::{CallError, TokioCaller},
};
use reel_proto::{
    command,
    idgen::{IdGet, decode_id},
    name::IdKey,
    peer::{IdBlock, IdBlockReply},
};

use super::{may_be_unknown, seal, until};
use crate::{
    metrics::Serve,
    service::Shared,
    store::{BlockRefused, BlockRequest},
};

/// Time for an ID node to answer; it may have to make its database durable first.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Pause after every ID node has failed, doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Ids drawn one by one for a block, from an ID node that knows no blocks: enough for a second of uploads, few enough
/// that the first upload does not wait for a thousand round trips.
const SINGLE_IDS: u64 = 64;

/// Ids drawn in a row to bring an old ID node's sequence up to a store's mark, before it counts as failed.
const CATCH_UP_MAX: u64 = 100_000;

/// Why an ID node gave no block.
#[derive(Debug, thiserror::Error)]
enum BlockFault {
    #[error("{0} has no address")]
    Unresolved(String),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the answer is no block")]
    Malformed,
    #[error("block {start}..{end} has more than the {asked} ids that were asked for")]
    TooLarge { start: u64, end: u64, asked: u64 },
    #[error("the sequence is at {at}, below the store's mark {mark}: it must be moved up")]
    Behind { at: u64, mark: u64 },
}

/// Fetches the blocks of one store path, until `finished`: uploads that drain still need ids.
pub(super) async fn refill(shared: Arc<Shared>, store: usize, finished: Drain) {
    let mut source =
        Source { shared: shared.clone(), caller: TokioCaller::default(), first: 0, in_hand: None };
    let mut pause = PAUSE_MIN;
    while let Some(request) = until(&finished, shared.stores.block_wanted(store)).await {
        // A person has to look once, not every two seconds.
        let first_failure = pause == PAUSE_MIN;
        let filled = until(&finished, source.fill(&request, first_failure)).await;
        let Some(filled) = filled else { return };
        let cell = shared.registry.shared();
        if filled {
            cell.add(Serve::ID_BLOCKS.at([0]), 1);
            pause = PAUSE_MIN;
            continue;
        }
        cell.add(Serve::ID_BLOCKS.at([1]), 1);
        if until(&finished, tokio::time::sleep(pause)).await.is_none() {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// What became of a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Given {
    /// Its ids are in use.
    Accepted,
    /// Not yet: it waits for the disk.
    Kept,
    /// It is none to use.
    Refused,
}

/// The ID nodes, as one store path asks them.
struct Source {
    shared: Arc<Shared>,
    caller: TokioCaller,
    /// The one that worked last.
    first: usize,
    /// A block that the disk would not take yet. It is tried again: with a new one each time, a disk that refuses
    /// its mark for a day would burn tens of millions of ids.
    in_hand: Option<Range<u64>>,
}

impl Source {
    /// Fetches a block and gives it to the store. `false`: no ID node had one, or the store could not use it.
    async fn fill(&mut self, request: &BlockRequest, loud: bool) -> bool {
        if let Some(block) = self.in_hand.take() {
            match self.give(request, block, loud).await {
                Given::Refused => {}
                other => return matches!(other, Given::Accepted),
            }
        }
        let idgens = self.shared.config.idgens.clone();
        for turn in 0..idgens.len() {
            let index = (self.first + turn) % idgens.len();
            let idgen = &idgens[index];
            match self.fetch_from(idgen, request).await {
                Ok(block) => {
                    let last = self.first;
                    self.first = index;
                    match self.give(request, block, loud).await {
                        // The fault is the ID node's: the next may be better.
                        Given::Refused => self.first = last,
                        other => return matches!(other, Given::Accepted),
                    }
                }
                Err(error) => {
                    tracing::warn!(%idgen, key = request.key, %error, "no path ids");
                }
            }
        }
        false
    }

    async fn give(&mut self, request: &BlockRequest, block: Range<u64>, loud: bool) -> Given {
        let arrived = self.shared.stores.block_arrived(request.store, block.clone()).await;
        let Err(error) = arrived else { return Given::Accepted };
        let (idgen, key) = (&self.shared.config.idgens[self.first], &request.key);
        let Range { start, end } = block;
        if loud {
            tracing::error!(%idgen, key, start, end, %error, "a block of path ids cannot be used");
        } else {
            tracing::debug!(%idgen, key, start, end, %error, "a block of path ids cannot be used");
        }
        if matches!(error, BlockRefused::Block(_)) {
            return Given::Refused;
        }
        self.in_hand = Some(block);
        Given::Kept
    }

    async fn fetch_from(
        &self,
        idgen: &str,
        request: &BlockRequest,
    ) -> Result<Range<u64>, BlockFault> {
        let address = resolve(idgen).await?;
        let key = IdKey::parse(&request.key).map_err(|_| BlockFault::Malformed)?;
        match self.block(address, key, request).await {
            Err(BlockFault::Call(CallError::Remote { error, .. })) if may_be_unknown(&error) => {
                tracing::debug!(idgen, %error, "no blocks of ids here: they are drawn one by one");
                self.singles(address, key, request).await
            }
            other => other,
        }
    }

    async fn block(
        &self,
        address: SocketAddr,
        key: IdKey,
        request: &BlockRequest,
    ) -> Result<Range<u64>, BlockFault> {
        let ask = IdBlock { key, count: request.count, at_least: request.at_least };
        let mut payload = Vec::new();
        ask.encode(&mut payload);
        let body = seal(&self.shared, command::ID_BLOCK, &payload);
        let reply = self.caller.call(address, command::ID_BLOCK, &body, CALL_DEADLINE).await?;
        let block = IdBlockReply::decode(&reply).map_err(|_| BlockFault::Malformed)?;
        let (start, end) = (block.start, block.end);
        // All of it would go into the mark, and be read through for files.
        if end.saturating_sub(start) > request.count {
            return Err(BlockFault::TooLarge { start, end, asked: request.count });
        }
        Ok(start..end)
    }

    /// Ids one by one, as many as follow each other without a gap.
    async fn singles(
        &self,
        address: SocketAddr,
        key: IdKey,
        request: &BlockRequest,
    ) -> Result<Range<u64>, BlockFault> {
        let mut first = self.single(address, key).await?;
        let mut drawn = 1;
        while first < request.at_least {
            if drawn >= CATCH_UP_MAX {
                return Err(BlockFault::Behind { at: first, mark: request.at_least });
            }
            first = self.single(address, key).await?;
            drawn += 1;
        }
        let mut block = first..first + 1;
        while block.end - block.start < request.count.min(SINGLE_IDS) {
            match self.single(address, key).await {
                Ok(id) if id == block.end => block.end += 1,
                // A gap: another node draws from the same sequence. That id is thrown away, as after a restart.
                Ok(_) | Err(_) => break,
            }
        }
        Ok(block)
    }

    async fn single(&self, address: SocketAddr, key: IdKey) -> Result<u64, BlockFault> {
        let mut body = Vec::new();
        IdGet { key }.encode(&mut body);
        let reply = self.caller.call(address, command::ID_GET, &body, CALL_DEADLINE).await?;
        decode_id(&reply).map_err(|_| BlockFault::Malformed)
    }
}

/// The address of `host:port`. Asked anew each time: a name may have moved.
pub(super) async fn resolve_host(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    tokio::net::lookup_host(text).await.ok()?.next()
}

async fn resolve(text: &str) -> Result<SocketAddr, BlockFault> {
    resolve_host(text).await.ok_or_else(|| BlockFault::Unresolved(text.to_owned()))
}
