//! Tells every tracker about this gateway, again and again, on the control thread.
//!
//! A tracker names the gateways that it has heard of lately to clients. Whether it took the
//! announcement or not, an answer shows that files can be found: that is what `/readyz` says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reel_node::ControlContext;
use reel_node::caller::{CallError, TokioCaller};
use reel_node::config::Secret;
use reel_proto::peer::GatewayBeat;
use reel_proto::{command, sign};

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
/// no other. `address`: what clients are to be told; an unspecified one stands for the address
/// that the tracker sees.
pub(crate) async fn run(gateway: &Arc<Gateway>, address: SocketAddr, cx: &ControlContext) {
    let trackers = 0..gateway.config().trackers.len();
    let tasks: Vec<_> = trackers
        .map(|index| tokio::task::spawn_local(beat(Arc::clone(gateway), index, address)))
        .collect();
    cx.drain.wait().await;
    for task in tasks {
        task.abort();
    }
}

async fn beat(gateway: Arc<Gateway>, index: usize, address: SocketAddr) {
    let caller = TokioCaller::default();
    let mut retry = RETRY;
    loop {
        let state = match gateway.trackers().resolve(index).await {
            Some(tracker) => tell(&gateway, &caller, tracker, address).await,
            None => TrackerState::Silent,
        };
        let before = gateway.trackers().set(index, state);
        if before != state {
            log_change(gateway.trackers().name(index), before, state);
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
    gateway: &Gateway,
    caller: &TokioCaller,
    tracker: SocketAddr,
    address: SocketAddr,
) -> TrackerState {
    let Some(body) = announcement(gateway, address) else { return TrackerState::Silent };
    match caller.call(tracker, command::GATEWAY, &body, DEADLINE).await {
        Ok(_) => TrackerState::Active,
        Err(CallError::Remote { error, .. }) => {
            tracing::debug!(%tracker, text = ?error.text, "a tracker refuses the announcement");
            TrackerState::Refuses
        }
        Err(error) => {
            tracing::debug!(%tracker, %error, "a tracker does not answer");
            TrackerState::Silent
        }
    }
}

/// The signed announcement; `None` when the system gives no random number for it.
fn announcement(gateway: &Gateway, advertised: SocketAddr) -> Option<Vec<u8>> {
    let mut payload = Vec::with_capacity(32);
    GatewayBeat { advertised }.encode(&mut payload);
    let mut nonce = sign::Nonce::default();
    if let Err(error) = getrandom::fill(&mut nonce) {
        tracing::warn!(%error, "no random numbers: the gateway cannot announce itself");
        return None;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let secret = gateway.secret().map(Secret::expose);
    Some(sign::seal(secret, command::GATEWAY, now, nonce, &payload))
}

fn log_change(tracker: &str, before: TrackerState, state: TrackerState) {
    match state {
        TrackerState::Active => tracing::info!(tracker, "a tracker knows this gateway"),
        TrackerState::Refuses => {
            tracing::warn!(tracker, "a tracker refuses this gateway: clients are not told of it");
        }
        // Both may just be starting.
        TrackerState::Silent if before == TrackerState::Unknown => {
            tracing::info!(tracker, "a tracker does not answer yet");
        }
        TrackerState::Unknown | TrackerState::Silent => {
            tracing::warn!(tracker, "a tracker does not answer");
        }
    }
}
