//! `reel disk`: the store paths of a running storage node, and what an operator may have done on them.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use hyper::StatusCode;
use indicatif::HumanBytes;
use serde_json::Value;

use crate::{
    commands::shown,
    node_admin::{self, AdminOf, act, store_paths},
};

/// The store paths of a running storage node.
#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// Lists them: state, space, and what is wrong.
    List(List),
    /// Says that a store path that went read-only is well again; it is swept first.
    Readmit(OneOf),
    /// Begins a reading of all that lies on the brick of a store path now.
    Scrub(OneOf),
}

/// Arguments of `reel disk list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    node: AdminOf,
    /// One JSON object for each store path, one a line, as `/status` has it.
    #[arg(long)]
    json: bool,
}

/// Arguments of what is done on one.
#[derive(Debug, Args)]
pub(crate) struct OneOf {
    /// The store path, by its place in the configuration, from 0.
    store_path: u64,
    #[command(flatten)]
    node: AdminOf,
}

/// Exit code 1 where something is refused.
pub(crate) fn run(command: &DiskCommand) -> Result<ExitCode> {
    match command {
        DiskCommand::List(arguments) => {
            let admin = arguments.node.address()?;
            node_admin::block_on(list(admin, arguments.json))
        }
        DiskCommand::Readmit(one) => node_admin::block_on(done(one, "readmit")),
        DiskCommand::Scrub(one) => node_admin::block_on(done(one, "scrub")),
    }
}

async fn list(admin: SocketAddr, json: bool) -> Result<ExitCode> {
    for store in store_paths(admin).await? {
        shown::line(&if json { store.to_string() } else { line(&store) })?;
    }
    Ok(ExitCode::SUCCESS)
}

fn line(store: &Value) -> String {
    let text = |value: &Value| shown::safe(value.as_str().unwrap_or_default()).to_string();
    let bytes = |key: &str| HumanBytes(store[key].as_u64().unwrap_or(0));
    let mut line = format!(
        "{}  {}  {}  {} of {} free",
        store["store"],
        text(&store["path"]),
        text(&store["health"]),
        bytes("free_bytes"),
        bytes("total_bytes")
    );
    if let Some(brick) = store.get("brick") {
        let number = |key: &str| brick[key].as_u64().unwrap_or(0);
        line += &format!("  brick {}", text(&brick["path"]));
        if brick["is_open"] != true {
            line += " is not there";
        }
        let bad = number("mending") + number("beyond_help");
        if bad > 0 {
            line += &format!(", {bad} bad copies, {} need a person", number("beyond_help"));
        }
    }
    if let Some(fault) = store["fault"].as_str() {
        line += &format!("  {}", shown::safe(fault));
    }
    line
}

async fn done(one: &OneOf, what: &str) -> Result<ExitCode> {
    let (status, answer) = act(one.node.address()?, one.store_path, what).await?;
    if status != StatusCode::OK {
        bail!("store path {}: {}", one.store_path, answer.trim());
    }
    shown::line(answer.trim_end())?;
    Ok(ExitCode::SUCCESS)
}
