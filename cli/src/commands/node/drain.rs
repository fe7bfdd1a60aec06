//! `reel node drain` and `undrain`: tells the node, then waits until nobody comes any more and nothing is under way.

use std::{
    net::SocketAddr,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use reel_client::{Client, ClientError, NodeInfo, NodeStatus, Refusal, node_flag};
use reel_node::config::Secret;
use reel_proto::name::HostName;
use serde_json::json;

use super::{Listed, find, is_unknown};
use crate::{
    commands::{
        arguments::{NodeDrain, NodeNamed},
        client, shown,
    },
    exit::say,
    settings::{self, Settings},
};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long requests may still come once no tracker names the node: gateways (`location_lifetime`) and clients of the
/// library believe what a tracker told them for 5 s, and use it for a request that then takes its way.
const COMING_FOR: Duration = Duration::from_secs(6);

pub(super) async fn drain(arguments: NodeDrain) -> Result<ExitCode> {
    let operator = Operator::new(&arguments.named).await?;
    let under_way = operator.tell(true).await?;
    let named = operator.node.named();
    if arguments.no_wait {
        shown::line(&format!("{named} is drained, {under_way} requests under way"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let until = Instant::now() + arguments.wait;
    let mut course = Course::default();
    let mut told = None;
    loop {
        let naming = operator.ask_trackers().await;
        let mut stage = course.after(&naming, Instant::now());
        if stage == Stage::Quiet {
            stage = match operator.tell(true).await {
                Ok(0) => break,
                Ok(under_way) => Stage::UnderWay(under_way),
                Err(error) => Stage::Silent(format!("{error:#}")),
            };
        }
        if Instant::now() >= until {
            let text = stage.to_string();
            say(format_args!(
                "{named} is drained, but after {}: {text}. It stays drained until `reel node undrain`",
                humantime::format_duration(arguments.wait)
            ));
            return Ok(ExitCode::FAILURE);
        }
        if told.as_ref() != Some(&stage) {
            say(format_args!("{named}: {stage}"));
            told = Some(stage);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    shown::line(&format!("{named} is drained, and nothing is under way: it can be stopped"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn undrain(arguments: NodeNamed) -> Result<ExitCode> {
    let operator = Operator::new(&arguments).await?;
    operator.tell(false).await?;
    shown::line(&format!("{} is in service", operator.node.named()))?;
    Ok(ExitCode::SUCCESS)
}

/// Whoever drains a node.
struct Operator {
    client: Client,
    secret: Option<Secret>,
    node: Listed,
}

impl Operator {
    async fn new(arguments: &NodeNamed) -> Result<Self> {
        let loaded = settings::load(Settings::default(), arguments.config.as_deref(), &json!({}))?;
        let secret = loaded.value.node.cluster_secret()?;
        let client = client(&arguments.trackers)?;
        let node = find(&client, &arguments.node).await?;
        Ok(Self { client, secret, node })
    }

    /// Tells the node; how many requests it has under way.
    async fn tell(&self, on: bool) -> Result<u32> {
        let secret = self.secret.as_ref().map(Secret::expose);
        let host = HostName::parse(&self.node.host)?;
        let told = self.client.drain_node(self.node.address, host, secret, on).await;
        told.map_err(|error| match error.refusal() {
            Some(Refusal::NotTrusted) => anyhow::Error::new(error).context(
                "the node needs the cluster's secret, in REEL_CLUSTER_SECRET or in the file that --config names",
            ),
            _ if is_unknown(&error) => anyhow::Error::new(error)
                .context("the node's version cannot be drained: stop it, which tells its trackers"),
            _ => error.into(),
        })
        .with_context(|| self.node.named())
    }

    /// What each tracker says of the node now.
    async fn ask_trackers(&self) -> Vec<(&str, Naming)> {
        let mut answers = Vec::new();
        for tracker in self.client.trackers() {
            let nodes = self.client.nodes_of(tracker).await;
            answers.push((tracker.as_str(), Naming::of(nodes.as_deref(), self.node.address)));
        }
        answers
    }
}

/// Whether a tracker names the node to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    No,
    /// It does not answer, and so names nobody. It hears of the drain when the node joins it again.
    Silent,
    Yes,
    /// It knows of the drain, and of no other node of the group that could be named instead.
    Alone,
    /// A deployed one never hears of a drain.
    Deployed,
}

impl Naming {
    fn of(nodes: Result<&[NodeInfo], &ClientError>, address: SocketAddr) -> Self {
        let nodes = match nodes {
            Ok(nodes) => nodes,
            Err(error) if is_unknown(error) => return Self::Deployed,
            Err(_) => return Self::Silent,
        };
        let is_active = |node: &&NodeInfo| node.status == NodeStatus::Active;
        let is_draining = |node: &NodeInfo| node.flags & node_flag::DRAINING != 0;
        let Some(node) = nodes.iter().find(|node| node.binary == address).filter(is_active) else {
            return Self::No;
        };
        let mut others = nodes.iter().filter(|other| other.group == node.group).filter(is_active);
        if !is_draining(node) {
            Self::Yes
        } else if others.any(|other| !is_draining(other)) {
            Self::No
        } else {
            Self::Alone
        }
    }
}

/// How far a drain is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Trackers name it.
    Named(String),
    /// No tracker does; who has asked before may come.
    Coming,
    /// Nobody comes any more.
    Quiet,
    /// Nobody comes any more, and so many are still there.
    UnderWay(u32),
    /// The node does not answer.
    Silent(String),
}

impl std::fmt::Display for Stage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Named(by) => out.write_str(by),
            Self::Coming => write!(
                out,
                "no tracker names it; gateways and clients that have asked before may come for {} s",
                COMING_FOR.as_secs()
            ),
            Self::Quiet => out.write_str("nobody comes any more"),
            Self::UnderWay(1) => out.write_str("1 request is under way"),
            Self::UnderWay(count) => write!(out, "{count} requests are under way"),
            Self::Silent(error) => write!(out, "it does not answer: {error}"),
        }
    }
}

/// The course of a drain, from look to look.
#[derive(Debug, Default)]
struct Course {
    /// Since when no tracker names it.
    unnamed_since: Option<Instant>,
}

impl Course {
    fn after(&mut self, trackers: &[(&str, Naming)], now: Instant) -> Stage {
        let naming = trackers.iter().find_map(|(tracker, naming)| {
            let why = match naming {
                Naming::No | Naming::Silent => return None,
                Naming::Yes => "names it",
                Naming::Alone => "names it, as no other node of its group is active",
                Naming::Deployed => "is a deployed one, which goes on naming it",
            };
            Some(format!("tracker {tracker} {why}"))
        });
        if let Some(text) = naming {
            self.unnamed_since = None;
            return Stage::Named(text);
        }
        let since = *self.unnamed_since.get_or_insert(now);
        if now.duration_since(since) < COMING_FOR { Stage::Coming } else { Stage::Quiet }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::commands::node::tests::node;

    #[test]
    fn a_node_is_named_until_its_tracker_knows_of_the_drain_and_of_another() {
        let address: SocketAddr = "10.0.0.5:23000".parse().unwrap();
        let ours = |flags| node("a", flags);
        let other = |flags| NodeInfo { binary: "10.0.0.6:1".parse().unwrap(), ..node("b", flags) };
        let naming = |nodes: &[NodeInfo]| Naming::of(Ok(nodes), address);
        let drained = node_flag::DRAINING;
        assert_eq!(naming(&[ours(0), other(0)]), Naming::Yes);
        assert_eq!(naming(&[ours(drained), other(0)]), Naming::No);
        assert_eq!(naming(&[ours(drained), other(drained)]), Naming::Alone);
        assert_eq!(naming(&[ours(drained)]), Naming::Alone);
        let away = NodeInfo { status: NodeStatus::Offline, ..other(0) };
        assert_eq!(naming(&[ours(drained), away]), Naming::Alone);
        let elsewhere = NodeInfo { group: "group002".parse().unwrap(), ..other(0) };
        assert_eq!(naming(&[ours(drained), elsewhere]), Naming::Alone);
        let gone = NodeInfo { status: NodeStatus::Online, ..ours(0) };
        assert_eq!(naming(&[gone]), Naming::No);
        assert_eq!(naming(&[]), Naming::No);
        let refused = |reason| ClientError::Refused { address, reason, text: String::new() };
        let of = |error: &ClientError| Naming::of(Err(error), address);
        assert_eq!(of(&refused(Refusal::UnknownCommand)), Naming::Deployed);
        assert_eq!(of(&ClientError::Deadline(Duration::ZERO)), Naming::Silent);
    }

    #[test]
    fn nobody_comes_once_no_tracker_has_named_it_for_as_long_as_answers_are_believed() {
        let start = Instant::now();
        let mut course = Course::default();
        let mut after = |one, other, seconds| {
            course.after(&[("a:1", one), ("b:1", other)], start + Duration::from_secs(seconds))
        };
        let named = after(Naming::No, Naming::Yes, 0);
        assert_eq!(named, Stage::Named("tracker b:1 names it".to_owned()));
        assert_eq!(after(Naming::No, Naming::No, 10), Stage::Coming);
        assert_eq!(after(Naming::No, Naming::Silent, 15), Stage::Coming);
        // A tracker that was restarted, and names it until it has heard.
        assert!(matches!(after(Naming::Yes, Naming::No, 15), Stage::Named(_)));
        assert_eq!(after(Naming::No, Naming::No, 16), Stage::Coming);
        assert_eq!(after(Naming::No, Naming::No, 22), Stage::Quiet);
    }
}
