//! Tells every tracker that this node is there: carries out what `peers` decides.
//!
//! Each tracker has a task and a connection of its own, so one that hangs delays no beat to the others.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use reel_node::{
    ControlContext, Drain,
    caller::{CallError, Connection, Tokio},
};
use reel_proto::{
    command,
    name::Version,
    tracker::{Beat, Join},
};
use tokio::task::JoinHandle;

use super::{blocks::resolve_host, until};
use crate::{
    metrics::Serve,
    peers::{Action, Membership, Message},
    service::{Shared, reachable},
    thread::now,
};

/// Time for a tracker to take a connection or to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Replies to joins and beats are empty or an error text.
const REPLY_BYTES_MAX: usize = 4096;

/// Our version as a join tells it: at most 6 bytes.
const VERSION: &str = "2.0";

/// Starts the conversation with every tracker; each ends with the drain.
pub(super) fn all(shared: &Arc<Shared>, cx: &ControlContext) -> Vec<JoinHandle<()>> {
    let Some(node) = Node::new(shared, cx) else { return Vec::new() };
    let node = Arc::new(node);
    shared
        .config
        .trackers
        .iter()
        .map(|tracker| {
            let conversation = Conversation {
                node: node.clone(),
                shared: shared.clone(),
                tracker: tracker.clone(),
                membership: Membership::new(shared.config.beat_interval.0),
                connection: None,
                counted: false,
            };
            tokio::task::spawn_local(conversation.run(cx.drain.clone()))
        })
        .collect()
}

/// What this node says of itself.
struct Node {
    join: Join,
    beat: Beat,
}

impl Node {
    fn new(shared: &Shared, cx: &ControlContext) -> Option<Self> {
        let bound = |index: usize| cx.addresses.get(index).map(|listen| listen.addr);
        let binary = bound(0)?;
        let advertised = reachable(shared.config.advertise, binary);
        let (group, host) = (shared.names.group, shared.names.host);
        Some(Self {
            join: Join {
                version: Version::parse(VERSION).ok()?,
                group,
                host,
                port: advertised.unwrap_or(binary).port(),
                started_at: shared.started_at,
                joined_at: 0,
            },
            beat: Beat { group, host },
        })
    }
}

/// The conversation with one tracker.
struct Conversation {
    node: Arc<Node>,
    shared: Arc<Shared>,
    tracker: String,
    membership: Membership,
    connection: Option<Connection<Tokio>>,
    /// Whether this tracker is among the active ones that are counted.
    counted: bool,
}

impl Conversation {
    async fn run(mut self, drain: Drain) {
        loop {
            let step = match self.membership.next(Instant::now()) {
                Action::Wait(at) => until(&drain, tokio::time::sleep_until(at.into())).await,
                Action::Connect => until(&drain, self.connect()).await,
                Action::Send(message) => until(&drain, self.send(message)).await,
            };
            self.count();
            if step.is_none() {
                return;
            }
        }
    }

    async fn connect(&mut self) {
        self.connection = None;
        let result = match resolve_host(&self.tracker).await {
            Some(address) => Connection::open(address, REPLY_BYTES_MAX, CALL_DEADLINE)
                .await
                .map_err(|error| error.to_string()),
            None => Err("it has no address".to_owned()),
        };
        match result {
            Ok(connection) => {
                self.connection = Some(connection);
                self.membership.connected();
            }
            Err(error) => {
                tracing::debug!(tracker = self.tracker, error, "no connection to a tracker");
                self.membership.lost(Instant::now());
            }
        }
    }

    async fn send(&mut self, message: Message) {
        let (command, body) = self.request(message);
        let Some(connection) = &mut self.connection else {
            self.membership.lost(Instant::now());
            return;
        };
        let result = connection.call(command, &body, CALL_DEADLINE).await;
        let now = Instant::now();
        let outcome = match &result {
            Ok(_) => 0,
            Err(CallError::Remote { .. }) => 1,
            Err(_) => 2,
        };
        let cell = self.shared.registry.shared();
        cell.add(Serve::BEATS.at([message as usize, outcome]), 1);
        match result {
            Ok(_) => {
                self.membership.accepted(message, now);
                if matches!(message, Message::Join | Message::JoinExt) {
                    tracing::info!(tracker = self.tracker, ?message, "joined");
                }
            }
            Err(CallError::Remote { error, .. }) => {
                self.connection = None;
                if self.membership.refused(message, now) {
                    tracing::warn!(tracker = self.tracker, ?message, %error, "refused");
                }
            }
            Err(error) => {
                self.connection = None;
                tracing::warn!(tracker = self.tracker, ?message, %error, "lost a tracker");
                self.membership.lost(now);
            }
        }
    }

    fn request(&self, message: Message) -> (u8, Vec<u8>) {
        let mut body = Vec::new();
        match message {
            Message::Join | Message::JoinExt => {
                Join { joined_at: now(), ..self.node.join }.encode(&mut body);
                (command::JOIN, body)
            }
            Message::Beat | Message::Report => {
                self.node.beat.encode(&mut body);
                (command::BEAT, body)
            }
        }
    }

    /// Keeps the number of trackers that took our last beat.
    fn count(&mut self) {
        let active = self.membership.is_active();
        if active == self.counted {
            return;
        }
        self.counted = active;
        let count = &self.shared.trackers_active;
        if active {
            count.fetch_add(1, Ordering::Relaxed);
        } else {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        let level = i64::try_from(count.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        self.shared.registry.shared().set(Serve::TRACKERS, level);
    }
}
