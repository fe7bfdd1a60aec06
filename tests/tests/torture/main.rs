//! The fault tests that take long in full: `cargo xtask torture`. Here, in `cargo test`, with small counts.
//!
//! | variable | default | full | means |
//! | --- | --- | --- | --- |
//! | `REEL_TORTURE_SEED` | the clock | printed | repeats a run's drawing: sizes, contents, moments |
//! | `REEL_TORTURE_KILLS` | 4 | 50 | rounds of kill -9 under uploading clients |
//! | `REEL_TORTURE_POWER_CUTS` | 2 | 20 | power cuts on each of ext4 and xfs |
//! | `REEL_TORTURE_ROUNDS` | 2 | 30 | crashes in rounds of the journal's recycler: kills, and cuts on each |
//! | `REEL_TORTURE_REPLAYS` | 1 | 10 | journals whose replay is crashed again and again, by each of the three |
//! | `REEL_TORTURE_FLIPS` | 1 | 20 | journals with a flipped bit, after each of the three |
//! | `REEL_TORTURE_FILES` | 600 | 5000 | files in such a journal |
//! | `REEL_TORTURE_IDLE` | 2000 | 10000 | idle HTTP connections |
//! | `REEL_TORTURE_IDS` | 10000 | 100000 | ids that each of eight clients draws (`tests/tests/cluster.rs`) |
//! | `REEL_TORTURE_ID_DEATHS` | 12 | 40 | deaths of ID nodes and their database meanwhile |
//! | `REEL_TORTURE_GALERA` | 1 | 10 | rounds in which a Galera loses the server in use in three ways (`tests/tests/galera`) |

#![allow(clippy::unwrap_used)]

mod flip;
mod idle;
mod journaled;
mod judge;
mod load;
mod replay;

use anyhow::Result;
use reel_tests::crash::Crash;

/// A runtime for clients: one thread, as their work is waiting.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A way to crash, if this machine can have it; else the test says that it skips.
fn possible(name: &str, crash: Result<Crash>) -> Option<Crash> {
    crash.inspect_err(|error| println!("{name}: skipped: {error:#}")).ok()
}
