//! The fault tests that take long in full: `cargo xtask torture`. Here, in `cargo test`, with small counts.
//!
//! | variable | default | full | means |
//! | --- | --- | --- | --- |
//! | `REEL_TORTURE_SEED` | the clock | printed | repeats a run's drawing: sizes, contents, moments |
//! | `REEL_TORTURE_KILLS` | 4 | 50 | rounds of kill -9 under uploading clients |
//! | `REEL_TORTURE_POWER_CUTS` | 2 | 20 | power cuts on each of ext4 and xfs |
//! | `REEL_TORTURE_IDLE` | 2000 | 10000 | idle HTTP connections |

#![allow(clippy::unwrap_used)]

mod idle;
mod kill;
mod power;

/// A runtime for clients: one thread, as their work is waiting.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
