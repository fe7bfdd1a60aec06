//! Tells every tracker about this gateway, again and again, on the control thread.
//!
//! A tracker names the gateways that it has heard of lately to clients. Whether it took the
//! announcement or not, an answer shows that files can be found: that is what `/readyz` says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reel_node::ControlContext;
use reel_node::caller::{CallError, TokioCaller};
use reel_proto::command;
use reel_proto::ext::Locate;

use crate::metrics::Edge;
use crate::service::Gateway;
use crate::trackers::TrackerState;

/// For one announcement.
const DEADLINE: Duration = Duration::from_secs(3);

/// Time to the next try at a tracker that does not answer: a gateway that starts beside its
/// tracker is ready soon after it.
const RETRY: Duration = Duration::from_millis(200);
/// Longest; doubles up to it.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// Announces until the drain, each tracker on a task of its own, so that a silent one holds up
/// no other. `address`: what clients are to be told; `None` only asks whether they answer.
pub(crate) async fn run(gateway: &Arc<Gateway>, address: Option<SocketAddr>, cx: &ControlContext) {
    let trackers = gateway.config().trackers.iter().enumerate();
    let tasks: Vec<_> = trackers
        .map(|(index, tracker)| {
            let gateway = Arc::clone(gateway);
            tokio::task::spawn_local(beat(gateway, index, *tracker, address))
        })
        .collect();
    cx.drain.wait().await;
    for task in tasks {
        task.abort();
    }
}

async fn beat(
    gateway: Arc<Gateway>,
    index: usize,
    tracker: SocketAddr,
    address: Option<SocketAddr>,
) {
    let caller = TokioCaller::default();
    let mut retry = RETRY;
    loop {
        let state = tell(&gateway, &caller, tracker, address).await;
        let before = gateway.trackers().set(index, state);
        if before != state {
            log_change(tracker, state);
        }
        let counters = gateway.registry().shared();
        let result = match state {
            TrackerState::Active => 0,
            TrackerState::Refuses => 1,
            TrackerState::Unknown | TrackerState::Silent => 2,
        };
        counters.add(Edge::BEATS.at([result]), 1);
        let active = i64::try_from(gateway.trackers().active()).unwrap_or(i64::MAX);
        counters.set(Edge::TRACKERS, active);
        if state == TrackerState::Silent {
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
        } else {
            retry = RETRY;
            tokio::time::sleep(gateway.config().beat_interval.0).await;
        }
    }
}

async fn tell(
    _gateway: &Gateway,
    caller: &TokioCaller,
    tracker: SocketAddr,
    _address: Option<SocketAddr>,
) -> TrackerState {
    let mut body = Vec::new();
    Locate::default().encode(&mut body);
    match caller.call(tracker, command::LOCATE, &body, DEADLINE).await {
        Ok(_) => TrackerState::Active,
        Err(CallError::Remote { .. }) => TrackerState::Refuses,
        Err(_) => TrackerState::Silent,
    }
}

fn log_change(tracker: SocketAddr, state: TrackerState) {
    match state {
        TrackerState::Active => tracing::info!(%tracker, "a tracker knows this gateway"),
        TrackerState::Refuses => {
            tracing::warn!(%tracker, "a tracker refuses this gateway: clients are not told of it");
        }
        TrackerState::Unknown | TrackerState::Silent => {
            tracing::warn!(%tracker, "a tracker does not answer");
        }
    }
}
