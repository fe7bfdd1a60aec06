//! `cargo xtask cluster up`: the whole cluster of the tests on this machine, for people.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use clap::Subcommand;

use crate::run::{cargo, step};
use crate::setup;

/// What to do with it.
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Brings it up, and down when told so: by the end of its shell or of its input, or Ctrl-C. Needs root.
    Up,
}

/// Builds it, and runs it.
pub(crate) fn cluster(Cluster::Up: &Cluster) -> Result<()> {
    setup::install()?;
    let build = ["build", "--release", "--locked", "-p", "reel", "-p", "reel-tests", "--bins"];
    step("build", &mut cargo(&build))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let folder = std::path::absolute(target)?.join("release");
    let mut command = Command::new(folder.join("cluster"));
    step("cluster", command.env("REEL_TEST_BINARY", folder.join("reel")))
}
