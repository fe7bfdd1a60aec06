//! `reel node`: lists storage nodes, drains one and takes that back.

mod drain;

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Result, bail};
use indicatif::HumanBytes;
use reel_client::{Client, ClientError, NodeInfo, NodeStatus, Refusal, StoreState, node_flag};
use serde_json::{Value, json};

use super::{
    arguments::{NodeCommand, NodeList},
    client, shown,
};
use crate::exit::Usage;

pub(crate) async fn run(command: NodeCommand) -> Result<ExitCode> {
    match command {
        NodeCommand::List(arguments) => list(arguments).await,
        NodeCommand::Drain(arguments) => drain::drain(arguments).await,
        NodeCommand::Undrain(arguments) => drain::undrain(arguments).await,
    }
}

/// A node as a tracker lists it.
struct Listed {
    group: String,
    host: String,
    address: SocketAddr,
    status: NodeStatus,
    version: String,
    /// What a deployed tracker does not tell.
    more: Option<NodeInfo>,
}

/// The nodes as the first tracker that answers sees them; of a deployed one what its GROUPS text has.
async fn nodes(client: &Client) -> Result<Vec<Listed>, ClientError> {
    match client.nodes().await {
        Ok(nodes) => Ok(nodes.into_iter().map(Listed::of_node).collect()),
        Err(error) if is_unknown(&error) => {
            let mut nodes = Vec::new();
            for group in client.groups().await? {
                nodes.extend(group.nodes.iter().map(|node| Listed {
                    group: group.name.to_string(),
                    host: node.host.to_string(),
                    address: node.address,
                    status: node.status,
                    version: node.version.to_string(),
                    more: None,
                }));
            }
            Ok(nodes)
        }
        Err(error) => Err(error),
    }
}

/// Whether the peer is one that does not know the command.
fn is_unknown(error: &ClientError) -> bool {
    matches!(error.refusal(), Some(Refusal::Other | Refusal::UnknownCommand))
}

impl Listed {
    fn of_node(node: NodeInfo) -> Self {
        Self {
            group: node.group.to_string(),
            host: node.host.to_string(),
            address: node.binary,
            status: node.status,
            version: node.version.to_string(),
            more: Some(node),
        }
    }

    /// For people.
    fn named(&self) -> String {
        format!("{} at {}", shown::safe(&self.host), self.address)
    }
}

/// The node that is meant: by its address, or by its host's name where that has one node.
async fn find(client: &Client, node: &str) -> Result<Listed> {
    let all = nodes(client).await?;
    let address: Option<SocketAddr> = node.parse().ok();
    let is_meant =
        |one: &Listed| address.map_or(one.host == node, |address| one.address == address);
    let (mut found, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_meant);
    let list = |nodes: &[Listed]| -> String {
        nodes.iter().map(Listed::named).collect::<Vec<_>>().join(", ")
    };
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            found.push(last);
            let text =
                format!("several nodes are called so, name one by its address: {}", list(&found));
            Err(Usage::new(text).into())
        }
        (None, _) if others.is_empty() => bail!("the tracker knows no storage node"),
        (None, _) => {
            bail!("the tracker knows no node {}, but {}", shown::safe(node), list(&others))
        }
    }
}

async fn list(arguments: NodeList) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    let nodes = nodes(&client).await?;
    if arguments.json {
        nodes.iter().try_for_each(|node| shown::line(&object(node).to_string()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let header = [
        "GROUP",
        "HOST",
        "ADDRESS",
        "STATUS",
        "VERSION",
        "FREE",
        "CAPACITY",
        "REQUESTS",
        "STORES",
        "LAST WORD",
        "NOTES",
    ];
    let mut table = shown::table(&header, &[5, 6, 7]);
    for node in &nodes {
        let told = |tell: fn(&NodeInfo) -> String| node.more.as_ref().map_or("-".to_owned(), tell);
        table.add_row([
            node.group.clone(),
            shown::safe(&node.host),
            node.address.to_string(),
            node.status.as_str().to_owned(),
            shown::safe(&node.version),
            told(|node| HumanBytes(node.free).to_string()),
            told(|node| HumanBytes(node.capacity).to_string()),
            told(|node| node.in_flight.to_string()),
            told(stores),
            told(|node| format!("{} s ago", node.silent_for)),
            told(|node| notes(node.flags).join(", ")),
        ]);
    }
    shown::print_table(&table, true)?;
    Ok(ExitCode::SUCCESS)
}

/// How flags are called, the most important ones first.
const NOTES: [(u8, &str); 4] = [
    (node_flag::DRAINING, "draining"),
    (node_flag::READ_ONLY, "read-only"),
    (node_flag::BUSY, "busy"),
    (node_flag::DEPLOYED, "deployed"),
];

fn notes(flags: u8) -> Vec<&'static str> {
    NOTES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, note)| *note).collect()
}

fn state(state: StoreState) -> &'static str {
    match state {
        StoreState::Ok => "ok",
        StoreState::Full => "full",
        StoreState::ReadOnly => "read-only",
        StoreState::Hung => "hung",
        StoreState::Away => "away",
    }
}

/// How many store paths are in which state: `2 ok, 1 away`.
fn stores(node: &NodeInfo) -> String {
    let states = [
        StoreState::Ok,
        StoreState::Full,
        StoreState::ReadOnly,
        StoreState::Hung,
        StoreState::Away,
    ];
    let counted = states.into_iter().filter_map(|one| {
        let count = node.stores.iter().filter(|store| **store == one).count();
        (count > 0).then(|| format!("{count} {}", state(one)))
    });
    let counted: Vec<String> = counted.collect();
    if counted.is_empty() { "-".to_owned() } else { counted.join(", ") }
}

fn object(node: &Listed) -> Value {
    let more = node.more.as_ref();
    let flag = |flag| more.map(|more| more.flags & flag != 0);
    let stores = more.map(|more| more.stores.iter().map(|one| state(*one)).collect::<Vec<_>>());
    json!({
        "group": node.group,
        "host": node.host,
        "address": node.address,
        "media": more.and_then(|more| more.media),
        "status": node.status.as_str(),
        "version": node.version,
        "draining": flag(node_flag::DRAINING),
        "read_only": flag(node_flag::READ_ONLY),
        "busy": flag(node_flag::BUSY),
        "deployed": flag(node_flag::DEPLOYED),
        "capacity_bytes": more.map(|more| more.capacity),
        "free_bytes": more.map(|more| more.free),
        "in_flight": more.map(|more| more.in_flight),
        "silent_seconds": more.map(|more| more.silent_for),
        "stores": stores,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    pub(super) fn node(host: &str, flags: u8) -> NodeInfo {
        NodeInfo {
            group: "group001".parse().unwrap(),
            host: host.parse().unwrap(),
            version: "0.1.0".parse().unwrap(),
            binary: "10.0.0.5:23000".parse().unwrap(),
            media: None,
            status: NodeStatus::Active,
            flags,
            capacity: 10,
            free: 5,
            in_flight: 1,
            silent_for: 3,
            stores: vec![StoreState::Ok, StoreState::Away, StoreState::Ok],
        }
    }

    #[test]
    fn states_and_flags_in_words() {
        let info = node("a", node_flag::BUSY | node_flag::DRAINING);
        assert_eq!(stores(&info), "2 ok, 1 away");
        assert_eq!(notes(info.flags), ["draining", "busy"]);
        let value = object(&Listed::of_node(info));
        assert_eq!(value["stores"], json!(["ok", "away", "ok"]));
        assert_eq!((&value["draining"], &value["read_only"]), (&json!(true), &json!(false)));
    }

    #[test]
    fn what_a_deployed_tracker_does_not_tell_is_null() {
        let listed = Listed { more: None, ..Listed::of_node(node("a", 0)) };
        let value = object(&listed);
        assert!(value["draining"].is_null() && value["stores"].is_null());
        assert_eq!(value["status"], "ACTIVE");
    }
}
