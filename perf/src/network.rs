//! The network that is measured over: a loopback of our own, with the congestion control that Linux has by default.
//!
//! With BBR, which some machines are set to, loopback is paced: ranges of 8 MiB then take twice the CPU time and half the
//! throughput, of every server alike (seen: 480 instead of 1,150 a second).

use std::{fs, process::Command};

use anyhow::{Context, Result, bail};

use crate::sys::process;

/// The default of Linux, and so of what users run.
const CONGESTION_CONTROL: &str = "cubic";

/// Moves this process, and all that it starts, into a network of its own. Says what is used; without root that is the
/// machine's own. Only before the process has threads.
pub(crate) fn enter() -> String {
    match enter_own() {
        Ok(()) => format!("a loopback of its own, TCP with {CONGESTION_CONTROL}"),
        Err(error) => {
            let path = "/proc/sys/net/ipv4/tcp_congestion_control";
            let used = fs::read_to_string(path).unwrap_or_default();
            format!("the machine's loopback, TCP with {} ({error:#})", used.trim())
        }
    }
}

fn enter_own() -> Result<()> {
    if !process::is_root() {
        bail!("one of its own needs root");
    }
    // Before anything is changed: there is no way back.
    ip(&["-Version"]).context("Debian package iproute2")?;
    process::own_network()?;
    ip(&["link", "set", "lo", "up"])?;
    for address in ["127.0.0.0/8", "127.0.0.1"] {
        let local = ["route", "replace", "local", address, "dev", "lo", "table", "local"];
        let how = ["proto", "kernel", "scope", "host", "src", "127.0.0.1"];
        ip(&[&local[..], &how[..], &["congctl", CONGESTION_CONTROL]].concat())?;
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("starting ip")?;
    if !output.status.success() {
        bail!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
