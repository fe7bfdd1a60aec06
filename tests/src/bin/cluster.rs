//! A whole cluster on this machine, to play with: `cargo xtask cluster up`. The one that the tests of groups have, on hosts that are
//! network namespaces; it ends with the shell that it starts on the client's host, with its input, or by Ctrl-C.

use std::io::{IsTerminal, Read};
use std::process::Command;

use anyhow::{Context, Result, bail};
use reel_tests::group::{Group, NODES, Pair, bricks_in};
use reel_tests::network::Way;
use reel_tests::process::binary;

fn main() -> Result<()> {
    if let Some(why) = Group::missing() {
        bail!("{why}");
    }
    let folder = tempfile::Builder::new().prefix("reel-cluster-").tempdir()?;
    println!("starting; half a minute");
    let mut group = Group::start(&bricks_in(folder.path()))?;
    let trackers = list(group.trackers());
    show(&mut group, &trackers)?;
    if std::io::stdin().is_terminal() {
        shell(&group, &trackers)?;
    } else {
        until_told()?;
    }
    // Killed, not drained: whoever played has ended some of it already, and nothing of it is kept.
    println!("taking all of it down");
    drop(group);
    Ok(())
}

fn list(trackers: &Pair) -> String {
    let addresses: Vec<_> = trackers.own_addresses().iter().map(ToString::to_string).collect();
    addresses.join(",")
}

/// Prints what there is, and how to come there.
fn show(group: &mut Group, trackers: &str) -> Result<()> {
    let enter =
        |host: &reel_tests::network::Host| format!("nsenter --net={}", host.namespace().path());
    let client = enter(group.client());
    let database = enter(group.database_host());
    let volume = group.volume();
    let hosts: Vec<_> = (0..NODES).map(|node| volume.host(node).clone()).collect();
    for (node, host) in hosts.iter().enumerate() {
        let address = host.address(Way::Front);
        let (engine, idgen) = (group.engine(node).pid()?, group.idgen(node).pid()?);
        println!(
            "storage node {node}  {address}: binary 23000, HTTP 23080, admin 23081; process {engine}"
        );
        println!("ID node {node}       {address}: 22000, admin 22080; process {idgen}");
        println!("                {}", enter(host));
    }
    for (name, admin) in [("tracker", 21080), ("gateway", 8081)] {
        let pair = if name == "tracker" { group.trackers() } else { group.gateways() };
        let holder = pair.until_held()?;
        println!("{name}s        {}, floating, at {name} {holder} now", pair.address());
        for (number, address) in pair.own_addresses().iter().enumerate() {
            let process = pair.role(number).pid()?;
            println!(
                "{name} {number}       {address}; admin on its host: 127.0.0.1:{admin}; process {process}"
            );
            println!("                {}", enter(pair.host(number)));
        }
    }
    println!("database        {database}");
    println!("logs            {}", group.folder().display());
    println!("client          {client} env REEL_TRACKERS={trackers} {}", binary()?.display());
    let gateway = group.gateways().address();
    println!("                {client} curl http://{gateway}/files/ID");
    Ok(())
}

/// A shell on the client's host, to its end.
fn shell(group: &Group, trackers: &str) -> Result<()> {
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "sh".into());
    let mut command = Command::new(shell);
    let folder = binary()?.parent().context("a binary lies in a folder")?;
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("REEL_TRACKERS", trackers).env("PATH", format!("{}:{path}", folder.display()));
    group.client().place(&mut command);
    println!("a shell on the client's host, with `reel` in its PATH; its end is the cluster's:");
    command.status()?;
    Ok(())
}

/// Waits for the end of the input, or Ctrl-C.
fn until_told() -> Result<()> {
    println!("ready; ends with its input, or by Ctrl-C");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (told, input) = tokio::sync::oneshot::channel();
        // A thread that nobody waits for: a read cannot be called off.
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            let ended = std::io::stdin().read_to_end(&mut rest);
            let _ = told.send(ended);
        });
        tokio::select! {
            ended = input => ended?.map(drop).map_err(anyhow::Error::from),
            ended = tokio::signal::ctrl_c() => ended.map_err(anyhow::Error::from),
        }
    })
}
