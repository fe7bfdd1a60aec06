//! Trackers: what a data thread asks them, and what the control thread knows of them.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use reel_node::caller::{CallError, MonoioCaller};
use reel_proto::command;
use reel_proto::ext::{Locate, Located, node_flag};
use reel_proto::refusal::Refusal;
use serde_json::json;

use crate::handler::Question;
use crate::locations::Node;
use crate::service::Gateway;
use crate::status::Failure;

/// The shortest time that a tracker gets to answer while others could be asked instead.
const SHARE_MIN: Duration = Duration::from_millis(200);

/// The trackers as one data thread calls them.
pub(crate) struct TrackerClient {
    caller: MonoioCaller,
    trackers: TrackerStates,
    timeout: Duration,
}

impl TrackerClient {
    /// Without connections.
    pub(crate) fn new(gateway: &Gateway) -> Self {
        Self {
            caller: MonoioCaller::default(),
            trackers: gateway.trackers().clone(),
            timeout: gateway.config().locate_timeout.0,
        }
    }

    /// Asks the trackers, from a random one on, until one knows nodes.
    pub(crate) async fn locate(
        &self,
        question: &Question,
        random: u64,
    ) -> Result<Rc<[Node]>, Failure> {
        let mut body = Vec::with_capacity(64);
        Locate { app: question.app, user: question.user, file: question.file }.encode(&mut body);
        let known: Vec<_> = self.trackers.addresses().collect();
        let count = known.len();
        let until = Instant::now() + self.timeout;
        let mut last = Failure::NoTracker;
        for index in 0..count {
            let start = (random % count as u64) as usize;
            let tracker = known[(start + index) % count];
            let left = until.saturating_duration_since(Instant::now());
            let others = u32::try_from(count - index).unwrap_or(u32::MAX);
            let share = (left / others).max(SHARE_MIN);
            match self.caller.call(tracker, command::LOCATE, &body, share).await {
                Ok(answer) => match nodes_of(&answer) {
                    Some(nodes) if !nodes.is_empty() => return Ok(nodes),
                    Some(_) => last = Failure::NoNode,
                    None => tracing::warn!(%tracker, "malformed answer to LOCATE"),
                },
                Err(CallError::Remote { error, .. }) => {
                    match Refusal::of(error.number) {
                        Refusal::NoSuchFile | Refusal::UnknownApp | Refusal::Malformed => {
                            return Err(Failure::Unknown);
                        }
                        Refusal::NoActiveNode => last = Failure::NoNode,
                        _ => {}
                    }
                    tracing::debug!(%tracker, text = ?error.text, "a tracker refused LOCATE");
                }
                Err(error) => tracing::debug!(%tracker, %error, "a tracker did not answer"),
            }
        }
        Err(last)
    }
}

/// The nodes of an answer that serve HTTP.
fn nodes_of(answer: &[u8]) -> Option<Rc<[Node]>> {
    let located = Located::decode(answer).ok()?;
    let node = |address, flags: u8| Node {
        address,
        read_only: flags & node_flag::READ_ONLY != 0,
        busy: flags & node_flag::BUSY != 0,
    };
    let media = located.nodes.iter().filter_map(|it| Some(node(it.media?, it.flags)));
    Some(media.collect())
}

/// The trackers as the control thread knows them: where they are, and how the last announcement
/// to each went.
#[derive(Clone)]
pub(crate) struct TrackerStates(Arc<[Tracker]>);

struct Tracker {
    /// As configured, `host:port`.
    name: String,
    /// What the name stands for, once it is known.
    address: ArcSwapOption<SocketAddr>,
    state: AtomicU8,
}

/// The last word of a tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum TrackerState {
    /// Not asked yet.
    Unknown,
    /// It took the announcement.
    Active,
    /// It answers, but refuses: it does not know the command, or our signature.
    Refuses,
    /// It does not answer.
    Silent,
}

impl TrackerStates {
    /// Nothing is known yet but the addresses that are configured as such.
    pub(crate) fn new(names: &[String]) -> Self {
        let tracker = |name: &String| Tracker {
            name: name.clone(),
            address: ArcSwapOption::from(name.parse().ok().map(Arc::new)),
            state: AtomicU8::new(TrackerState::Unknown as u8),
        };
        Self(names.iter().map(tracker).collect())
    }

    /// What is configured as the tracker of this index.
    pub(crate) fn name(&self, index: usize) -> &str {
        &self.0[index].name
    }

    /// The trackers whose addresses are known.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|tracker| tracker.address.load().as_deref().copied())
    }

    /// Looks the name of a tracker up, if it is one; what was known stays when that fails.
    pub(crate) async fn resolve(&self, index: usize) -> Option<SocketAddr> {
        let tracker = &self.0[index];
        if let Ok(address) = tracker.name.parse() {
            return Some(address);
        }
        let found = tokio::net::lookup_host(&tracker.name).await.ok().and_then(|mut it| it.next());
        if let Some(address) = found {
            tracker.address.store(Some(Arc::new(address)));
        }
        tracker.address.load().as_deref().copied()
    }

    /// Keeps the last word of a tracker; gives the one before.
    pub(crate) fn set(&self, index: usize, state: TrackerState) -> TrackerState {
        let before = self.0[index].state.swap(state as u8, Ordering::Relaxed);
        Self::state(before)
    }

    const fn state(value: u8) -> TrackerState {
        match value {
            1 => TrackerState::Active,
            2 => TrackerState::Refuses,
            3 => TrackerState::Silent,
            _ => TrackerState::Unknown,
        }
    }

    fn states(&self) -> impl Iterator<Item = (&str, TrackerState)> {
        let state = |tracker: &Tracker| Self::state(tracker.state.load(Ordering::Relaxed));
        self.0.iter().map(move |tracker| (tracker.name.as_str(), state(tracker)))
    }

    /// Trackers that took the last announcement.
    pub(crate) fn active(&self) -> usize {
        self.states().filter(|(_, state)| *state == TrackerState::Active).count()
    }

    /// Whether any tracker answers: then files can be found, announced or not.
    pub(crate) fn any_answers(&self) -> bool {
        let answers = |state| matches!(state, TrackerState::Active | TrackerState::Refuses);
        self.states().any(|(_, state)| answers(state))
    }

    /// For `/status`.
    pub(crate) fn status(&self) -> serde_json::Value {
        let name = |state| match state {
            TrackerState::Unknown => "unknown",
            TrackerState::Active => "active",
            TrackerState::Refuses => "refuses",
            TrackerState::Silent => "silent",
        };
        let each = |(tracker, state)| json!({ "tracker": tracker, "state": name(state) });
        self.states().map(each).collect()
    }
}
