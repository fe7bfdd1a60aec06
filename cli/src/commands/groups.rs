//! `reel groups`: the groups and their nodes as a tracker sees them.

use std::process::ExitCode;

use anyhow::Result;
use reel_client::GroupEntry;
use serde_json::json;

use super::{arguments::Groups, client, shown};

pub(crate) async fn run(arguments: Groups) -> Result<ExitCode> {
    let client = client(&arguments.trackers)?;
    if arguments.plain {
        shown::line(&client.groups_text().await?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let groups = client.groups().await?;
    if arguments.json {
        for group in &groups {
            shown::line(&object(group).to_string())?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let header = ["GROUP", "HOST", "ADDRESS", "STATUS", "VERSION", "STARTED", "LAST BEAT"];
    let mut table = shown::table(&header, &[]);
    for group in &groups {
        if group.nodes.is_empty() {
            table.add_row([group.name.as_str(), "(no node)"]);
        }
        for node in &group.nodes {
            table.add_row([
                group.name.to_string(),
                shown::safe(node.host.as_str()),
                node.address.to_string(),
                node.status.as_str().to_owned(),
                shown::safe(node.version.as_str()),
                local_time(node.started_at),
                local_time(node.beat_at),
            ]);
        }
    }
    shown::print_table(&table, true)?;
    Ok(ExitCode::SUCCESS)
}

// The tracker writes its own local time and no zone, so none is shown.
fn local_time(seconds: u64) -> String {
    if seconds == 0 { "never".to_owned() } else { shown::time(seconds).replace(['T', 'Z'], " ") }
}

fn object(group: &GroupEntry) -> serde_json::Value {
    let nodes: Vec<_> = group
        .nodes
        .iter()
        .map(|node| {
            json!({
                "host": node.host.as_str(),
                "address": node.address,
                "status": node.status.as_str(),
                "version": node.version.as_str(),
                "started_at": node.started_at,
                "joined_at": node.joined_at,
                "beat_at": node.beat_at,
            })
        })
        .collect();
    json!({ "group": group.name.as_str(), "nodes": nodes })
}
