//! `cargo xtask bench`: builds the release binaries, installs the peers, runs perf/.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::Result;
use clap::Args;

use crate::{
    run::{cargo, step},
    setup,
};

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Scenarios by name (perf/scenarios/), or scenario files. None: all.
    scenarios: Vec<String>,
    /// Short rounds and fewer of them: under ten minutes in all.
    #[arg(long)]
    quick: bool,
    /// Rounds of each case; default: 5, with --quick 3.
    #[arg(long)]
    rounds: Option<u32>,
    /// Only cases whose name contains this.
    #[arg(long)]
    case: Option<String>,
    /// Nice value of servers and generators alike: below zero (as root) where others use the machine meanwhile.
    #[arg(long, allow_hyphen_values = true)]
    nice: Option<i32>,
    /// One more round of each case and side under perf(1), which counts for nothing.
    #[arg(long)]
    profile: bool,
    /// Folder of the results; default: target/perf/TIME.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Builds and runs.
pub(crate) fn bench(bench: &Bench) -> Result<()> {
    setup::install_for_bench()?;
    step(
        "build",
        &mut cargo(&["build", "--release", "--locked", "-p", "reel", "-p", "reel-perf"]),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or("target".into(), PathBuf::from);
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let default = || target.join("perf").join(time.to_string());
    let out = bench.out.clone().unwrap_or_else(default);
    step("bench", &mut command(bench, &target, &out))
}

fn command(bench: &Bench, target: &Path, out: &Path) -> Command {
    let mut command = Command::new(target.join("release/reel-perf"));
    command.arg("run").arg("--out").arg(out).args(&bench.scenarios);
    if bench.quick {
        command.arg("--quick");
    }
    if bench.profile {
        command.arg("--profile");
    }
    if let Some(rounds) = bench.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    if let Some(nice) = bench.nice {
        command.arg("--nice").arg(nice.to_string());
    }
    if let Some(case) = &bench.case {
        command.arg("--case").arg(case);
    }
    command
}
