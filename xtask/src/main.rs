//! Repository chores in Rust, so that a newcomer needs no second language: `cargo xtask --help`.

mod bench;
mod cluster;
mod run;
mod setup;
mod suites;
mod tidy;

use clap::{Parser, Subcommand};

/// Chores of the Reel repository.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Installs the Debian packages that the tests drive (players, file system tools).
    Setup {
        /// Say what is missing without installing it; fails if something is.
        #[arg(long)]
        check: bool,
    },
    /// Set-up, tidy rules, format, lints, docs, then every test.
    Test {
        /// Only the checks and the tests that start no process and need no root.
        #[arg(long)]
        quick: bool,
    },
    /// The checks that run no code: tidy rules, format, lints, docs, and cargo-deny where it is installed.
    Ci,
    /// The repository's own rules: imports between crates, module docs, file sizes, words that do not belong.
    Tidy,
    /// The fault tests at full counts: kill -9, power loss, flipped bits, idle connections. Prints its seed.
    Torture {
        /// Repeats the run of this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Rounds of each fault; default: 10 to 50, as the table in tests/tests/torture/main.rs says.
        #[arg(long)]
        rounds: Option<u32>,
        /// Only the tests whose name contains this.
        #[arg(long)]
        only: Option<String>,
    },
    /// A whole cluster under load that loses one thing after the other, at full counts. Prints its seed, and where the history is.
    Nemesis {
        /// Repeats the choices of this seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Rounds of all nemeses.
        #[arg(long, default_value_t = 10)]
        rounds: u32,
        /// Only the nemeses whose name contains this, or one of these with commas between.
        #[arg(long)]
        only: Option<String>,
    },
    /// Brings the nodes of a group to the build of another commit and back, one after the other, while clients upload and read.
    Upgrade {
        /// The commit, as git names it.
        #[arg(long)]
        from: String,
        /// How often all nodes go there and back.
        #[arg(long, default_value_t = 1)]
        rounds: u32,
    },
    /// A whole cluster on this machine, to play with.
    Cluster {
        #[command(subcommand)]
        act: cluster::Cluster,
    },
    /// Measures the release build beside its peers (perf/) and prints the Reach table. Results: target/perf/.
    Bench(bench::Bench),
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    std::env::set_current_dir(run::workspace_root())?;
    match arguments.chore {
        Chore::Setup { check: true } => setup::check(),
        Chore::Setup { check: false } => setup::install(),
        Chore::Test { quick } => suites::test(quick),
        Chore::Ci => suites::checks(),
        Chore::Tidy => tidy::check(std::path::Path::new(".")),
        Chore::Bench(bench) => bench::bench(&bench),
        Chore::Nemesis { seed, rounds, only } => suites::nemesis(seed, rounds, only.as_deref()),
        Chore::Upgrade { from, rounds } => suites::upgrade(&from, rounds),
        Chore::Cluster { act } => cluster::cluster(&act),
        Chore::Torture { seed, rounds, only } => suites::torture(seed, rounds, only.as_deref()),
    }
}
