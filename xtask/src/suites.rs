//! The checks and the test suites, in the order in which they find a fault soonest.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use anyhow::Result;

use crate::{
    run::{self, cargo, step},
    setup, tidy,
};

/// Everything that reads code and runs none of it.
pub(crate) fn checks() -> Result<()> {
    tidy::check(Path::new("."))?;
    step("format", &mut cargo(&["fmt", "--all", "--check"]))?;
    step(
        "lints",
        &mut cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]),
    )?;
    step(
        "docs",
        cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    if run::succeeds("cargo", &["deny", "--version"]) {
        step("dependencies", &mut cargo(&["deny", "check", "bans", "licenses", "sources"]))?;
    } else {
        println!(
            "== dependencies: skipped, cargo-deny is not installed (cargo install cargo-deny)"
        );
    }
    Ok(())
}

/// `cargo xtask test`: what a contributor runs before a commit, and what CI runs.
pub(crate) fn test(quick: bool) -> Result<()> {
    if quick {
        checks()?;
        return step("tests", &mut cargo(&["test", "--workspace", "--lib", "--locked"]));
    }
    setup::install()?;
    checks()?;
    // The binary first: the end-to-end tests start it as a user would.
    step("build", &mut cargo(&["build", "--workspace", "--locked"]))?;
    step("tests", &mut cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]))?;
    // The store's suites once more with the commit journal before the database.
    let mut journaled = cargo(&["test", "--package", "reel-engine", "--locked", "--no-fail-fast"]);
    for suite in ["changes", "faults", "model", "recovery", "uploads"] {
        journaled.args(["--test", suite]);
    }
    step("tests with a journal", journaled.env("REEL_TEST_JOURNAL", "1"))?;
    // The same whole store once more where the kernel refuses io_uring. The table of HTTP cases has done that already.
    let mut again = cargo(&["test", "--package", "reel-tests", "--locked", "--no-fail-fast"]);
    for suite in ["cli", "disks", "faults", "players", "torture"] {
        again.args(["--test", suite]);
    }
    step("tests on epoll", again.env("REEL_TEST_REFUSE_IO_URING", "1"))?;
    on_mariadb()
}

/// The whole store once more with its metadata in a MariaDB, which is killed as the store is.
fn on_mariadb() -> Result<()> {
    if !setup::on_path("mariadbd") {
        println!("== tests on MariaDB: skipped, it is not installed");
        return Ok(());
    }
    let mut whole = cargo(&["test", "--package", "reel-tests", "--locked", "--no-fail-fast"]);
    for suite in ["cli", "disks", "faults", "gateway", "http", "players", "three_roles"] {
        whole.args(["--test", suite]);
    }
    step("tests on MariaDB", whole.env("REEL_TEST_METADATA", "mariadb"))?;
    let mut kills = cargo(&["test", "--package", "reel-tests", "--locked"]);
    kills.args(["--test", "torture", "--", KILLS]);
    step("kills on MariaDB", kills.env("REEL_TEST_METADATA", "mariadb"))
}

/// `cargo xtask torture`: the same fault tests as CI's, at full counts and on the release build.
pub(crate) fn torture(seed: Option<u64>, rounds: Option<u32>, only: Option<&str>) -> Result<()> {
    setup::install()?;
    let seed = seed.unwrap_or_else(seed_of_now);
    println!("== torture: seed {seed} (repeat with: cargo xtask torture --seed {seed})");
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "reel"]))?;
    let full = |suites: &[&str], name: Option<&str>| {
        let mut command = cargo(&["test", "--release", "--locked", "--package", "reel-tests"]);
        for suite in suites {
            command.args(["--test", suite]);
        }
        command.args(["--", "--nocapture", "--test-threads=1"]).args(name);
        full_counts(&mut command, seed, rounds);
        command
    };
    step("torture", &mut full(&["torture", "cluster", "galera", "group"], only))?;
    if !setup::on_path("mariadbd") || only.is_some_and(|name| !KILLS.contains(name)) {
        return Ok(());
    }
    let mut kills = full(&["torture"], Some(KILLS));
    step("torture on MariaDB", kills.env("REEL_TEST_METADATA", "mariadb"))
}

/// `cargo xtask nemesis`: the same as CI's round, many times and on the release build, and a viewer of a film of full length.
pub(crate) fn nemesis(seed: Option<u64>, rounds: u32, only: Option<&str>) -> Result<()> {
    setup::install()?;
    let seed = seed.unwrap_or_else(seed_of_now);
    println!("== nemesis: seed {seed} (repeat with: cargo xtask nemesis --seed {seed})");
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "reel"]))?;
    let history = format!("nemesis-{seed}.txt");
    let mut command = cargo(&["test", "--release", "--locked", "--package", "reel-tests"]);
    command.args(["--test", "nemesis", "--", "--nocapture", "--test-threads=1"]);
    command.env("REEL_TORTURE_SEED", seed.to_string());
    command.env("REEL_NEMESIS_ROUNDS", rounds.to_string());
    command.env("REEL_NEMESIS_FILM_MIB", "500");
    command.env("REEL_NEMESIS_HISTORY", std::path::absolute(Path::new("target").join(history))?);
    if let Some(only) = only {
        command.env("REEL_NEMESIS_ONLY", only);
    }
    step("nemesis", &mut command)
}

/// `cargo xtask upgrade`: the nodes of a group are brought to an earlier build and back, in turn, under load. Release builds.
pub(crate) fn upgrade(from: &str, rounds: u32) -> Result<()> {
    setup::install()?;
    step("build", &mut cargo(&["build", "--release", "--locked", "--package", "reel"]))?;
    let other = build_of(from)?;
    let mut command = cargo(&["test", "--release", "--locked", "--package", "reel-tests"]);
    command.args(["--test", "drain", "--", "--nocapture", "upgraded"]);
    // Down and up again.
    command.env("REEL_TORTURE_DRAINS", (2 * rounds).to_string());
    step("upgrade", command.env("REEL_TEST_OTHER_BUILD", other))
}

/// Builds `reel` as it was in a commit; where it lies.
fn build_of(commit: &str) -> Result<PathBuf> {
    let folder = std::path::absolute(Path::new("target/upgrade"))?;
    let source = folder.join("source");
    // What is left of another commit is not this one's.
    if source.exists() {
        std::fs::remove_dir_all(&source)?;
    }
    std::fs::create_dir_all(&source)?;
    let archive = folder.join("source.tar");
    step("source", Command::new("git").args(["archive", commit, "--output"]).arg(&archive))?;
    // With the time of now: of the commit's time, an earlier one would be older than what was built of a later one, and not be built.
    let mut unpack = Command::new("tar");
    step("unpack", unpack.args(["--touch", "-xf"]).arg(&archive).arg("-C").arg(&source))?;
    std::fs::remove_file(archive)?;
    let mut build = cargo(&["build", "--release", "--locked", "--package", "reel"]);
    build.current_dir(source).env("CARGO_TARGET_DIR", folder.join("target"));
    step("build of the other", &mut build)?;
    Ok(folder.join("target/release/reel"))
}

/// The test that kills the store, and the database that it is on.
const KILLS: &str = "kill_nine_under_uploads";

fn full_counts(command: &mut Command, seed: u64, rounds: Option<u32>) {
    command.env("REEL_TORTURE_SEED", seed.to_string());
    for (name, full) in [
        ("KILLS", 50),
        ("POWER_CUTS", 20),
        ("ROUNDS", 30),
        ("REPLAYS", 10),
        ("FLIPS", 20),
        ("GALERA", 10),
        ("ID_DEATHS", 40),
        ("GROUP_POWER_CUTS", 20),
    ] {
        command.env(format!("REEL_TORTURE_{name}"), rounds.unwrap_or(full).to_string());
    }
    command.env("REEL_TORTURE_FILES", "5000");
    command.env("REEL_TORTURE_IDLE", "10000");
    command.env("REEL_TORTURE_IDS", "100000");
    command.env("REEL_TORTURE_FRESH", "1000");
    command.env("REEL_TORTURE_ROT", "100");
}

fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
