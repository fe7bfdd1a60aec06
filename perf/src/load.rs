//! The load generator: a process of its own, pinned away from the server, that asks as fast as answers come (closed
//! loop) or at a fixed rate (open loop) and counts what it gets.
//!
//! The harness starts it as `reel-perf load`, gives a [`plan::Plan`] on standard input and reads an
//! [`outcome::Outcome`] from standard output.

mod arrival;
mod connection;
mod dialect;
mod driver;
pub(crate) mod outcome;
pub(crate) mod plan;
mod request;
mod tally;

use std::io::Read;

use anyhow::{Context, Result};

use crate::sys::process;
use outcome::Outcome;
use plan::Plan;

/// `reel-perf load`.
pub(crate) fn main() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let plan: Plan = serde_json::from_str(&text).context("the plan on standard input")?;
    let outcome = run(&plan)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(())
}

/// Runs a plan on one thread for each of its cores.
pub(crate) fn run(plan: &Plan) -> Result<Outcome> {
    process::raise_descriptor_limit()?;
    let shares = plan.shares();
    let outcomes = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .map(|share| scope.spawn(move || driver::Driver::new(plan, share)?.run()))
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, Result<tally::Tally>>| {
            thread.join().map_err(|_| anyhow::anyhow!("a generator thread panicked"))?
        };
        threads.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    Outcome::of(outcomes)
}
