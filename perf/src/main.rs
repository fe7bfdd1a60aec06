//! The measuring harness: Reel beside what users would run instead, on the same machine, in the same minute.
//!
//! `cargo xtask bench` builds everything and runs it; `reel-perf run --help` says what it takes.

mod bench;
mod content;
mod cpu;
mod dataset;
mod disk;
mod echo;
mod fio;
mod gluster;
mod journal;
mod lab;
mod launch;
mod load;
mod machine;
mod mariadb;
mod names;
mod network;
mod nginx;
mod profile;
mod reel;
mod reference;
mod report;
mod round;
mod scenario;
mod sys;
mod upload;

use clap::{Parser, Subcommand};

/// Measures Reel beside its peers.
#[derive(Debug, Parser)]
#[command(name = "reel-perf")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs scenarios and writes a report.
    Run(bench::Run),
    /// A load generator; the harness starts it.
    #[command(hide = true)]
    Load,
    /// The file system's own limit for small files; the harness starts it.
    #[command(hide = true)]
    Journal,
    /// Sends back what it gets; the harness starts it.
    #[command(hide = true)]
    Echo,
    /// Pins itself, joins a control group and becomes another program; the harness starts it.
    #[command(hide = true)]
    Launch(launch::Launch),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run(run) => bench::run(&run),
        Command::Load => load::main(),
        Command::Journal => journal::main(),
        Command::Echo => echo::main(),
        Command::Launch(launch) => launch::become_program(&launch),
    }
}
