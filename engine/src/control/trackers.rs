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
    ext::node_flag,
    name::{IdKey, Version},
    peer::{DrainNode, JoinExt, Report, StoreIdentity, StoreReport, StoreState},
    tracker::{Beat, Join},
};
use tokio::{sync::watch, task::JoinHandle};

use super::{blocks::resolve_host, may_be_unknown, seal, until};
use crate::{
    metrics::Serve,
    peers::{Action, Membership, Message},
    service::{BINARY_LISTENER, HTTP_LISTENER, Shared, reachable},
    store::{Health, PathStatus},
    thread::now,
};

/// Time for a tracker to take a connection or to answer.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Time for a tracker to hear of the drain.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// Replies to joins and beats are empty or an error text.
const REPLY_BYTES_MAX: usize = 4096;

/// Our version as a join tells it: at most 6 bytes.
const VERSION: &str = env!("CARGO_PKG_VERSION");

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
                drained: shared.drained.watch(),
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
    join: JoinExt,
    beat: Beat,
}

impl Node {
    /// `None` only without addresses or with a version that no field holds.
    fn new(shared: &Shared, cx: &ControlContext) -> Option<Self> {
        let bound = |index: usize| cx.addresses.get(index).map(|listen| listen.addr);
        let (group, host) = (shared.names.group, shared.names.host);
        let stores = shared.stores.status();
        let join = JoinExt {
            version: Version::parse(VERSION).ok()?,
            group,
            host,
            started_at: shared.started_at,
            joined_at: 0,
            advertised: reachable(shared.config.advertise, bound(BINARY_LISTENER)?),
            media_port: Some(match shared.config.http_advertise_port {
                Some(port) => port,
                None => bound(HTTP_LISTENER)?.port(),
            }),
            flags: 0,
            stores: stores.iter().filter_map(identity).collect(),
        };
        Some(Self { join, beat: Beat { group, host } })
    }

    /// The join as a deployed tracker knows it.
    fn deployed_join(&self) -> Join {
        let JoinExt { version, group, host, started_at, advertised, .. } = self.join;
        Join { version, group, host, port: advertised.port(), started_at, joined_at: now() }
    }
}

fn identity(status: &PathStatus) -> Option<StoreIdentity> {
    let digits: String = status.uuid.chars().filter(|c| *c != '-').collect();
    let uuid = u128::from_str_radix(&digits, 16).ok()?.to_be_bytes();
    Some(StoreIdentity { uuid, key: IdKey::parse(&status.id_key).ok()? })
}

fn flags(shared: &Shared, stores: &[PathStatus]) -> u8 {
    let takes_uploads = stores.iter().any(|store| store.health == Health::Ok);
    let read_only = if takes_uploads { 0 } else { node_flag::READ_ONLY };
    let draining = if shared.drained.is_on() { node_flag::DRAINING } else { 0 };
    read_only | draining
}

fn report(shared: &Shared) -> Report {
    let stores = shared.stores.status();
    let load = u32::try_from(shared.registry.level(Serve::IN_FLIGHT)).unwrap_or(0);
    let of = |store: &PathStatus| StoreReport {
        capacity: store.total_bytes,
        free: store
            .free_bytes
            .saturating_sub(store.reserve_bytes)
            .saturating_sub(store.promised_bytes),
        state: match store.health {
            Health::Ok => StoreState::Ok,
            Health::Full => StoreState::Full,
            Health::ReadOnly => StoreState::ReadOnly,
            Health::Hung => StoreState::Hung,
            Health::Away => StoreState::Away,
        },
    };
    // As in the join: a store whose identity cannot be told is in neither.
    let told = stores.iter().filter(|store| identity(store).is_some());
    Report { flags: flags(shared, &stores), load, stores: told.map(of).collect() }
}

/// The conversation with one tracker.
struct Conversation {
    node: Arc<Node>,
    shared: Arc<Shared>,
    tracker: String,
    /// What trackers must hear of at once.
    drained: watch::Receiver<bool>,
    membership: Membership,
    connection: Option<Connection<Tokio>>,
    /// Whether this tracker is among the active ones that are counted.
    counted: bool,
}

impl Conversation {
    async fn run(mut self, drain: Drain) {
        loop {
            let step = match self.membership.next(Instant::now()) {
                Action::Wait(at) => until(&drain, self.wait(at)).await,
                Action::Connect => until(&drain, self.connect()).await,
                Action::Send(message) => until(&drain, self.send(message)).await,
            };
            self.count();
            if step.is_none() {
                return self.announce_drain().await;
            }
        }
    }

    /// Waits for this moment, or until an operator drains the node, or no longer. A change during another step is noticed
    /// here, after it.
    async fn wait(&mut self, at: Instant) {
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {}
            Ok(()) = self.drained.changed() => self.membership.report_now(Instant::now()),
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
                    tracing::info!(tracker = self.tracker, command = ?message, "joined");
                }
            }
            Err(CallError::Remote { error, .. }) => {
                if message != Message::Report {
                    self.connection = None;
                }
                if self.membership.refused(message, may_be_unknown(&error), now) {
                    tracing::warn!(tracker = self.tracker, command = ?message, %error, "refused");
                } else {
                    tracing::info!(tracker = self.tracker, command = ?message, %error, "joining anew");
                }
            }
            Err(error) => {
                self.connection = None;
                tracing::warn!(tracker = self.tracker, command = ?message, %error, "lost a tracker");
                self.membership.lost(now);
            }
        }
    }

    fn request(&self, message: Message) -> (u8, Vec<u8>) {
        let mut body = Vec::new();
        match message {
            Message::Join => {
                self.node.deployed_join().encode(&mut body);
                (command::JOIN, body)
            }
            Message::Beat => {
                self.node.beat.encode(&mut body);
                (command::BEAT, body)
            }
            Message::JoinExt => {
                let flags = flags(&self.shared, &self.shared.stores.status());
                JoinExt { joined_at: now(), flags, ..self.node.join.clone() }.encode(&mut body);
                (command::JOIN_EXT, seal(&self.shared, command::JOIN_EXT, &body))
            }
            Message::Report => {
                report(&self.shared).encode(&mut body);
                (command::REPORT, seal(&self.shared, command::REPORT, &body))
            }
        }
    }

    /// Asks the tracker to hand this node to no more clients. A courtesy: without it they find out by themselves.
    async fn announce_drain(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        if !self.membership.reports() {
            return;
        }
        let mut payload = Vec::new();
        DrainNode { on: true }.encode(&mut payload);
        let body = seal(&self.shared, command::DRAIN, &payload);
        if let Err(error) = connection.call(command::DRAIN, &body, DRAIN_DEADLINE).await {
            tracing::debug!(tracker = self.tracker, %error, "a tracker did not hear of the drain");
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
