//! The report of a run: JSON for programs, a Markdown table for people.

mod table;

use std::{fs, path::Path};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::{
    machine::Machine,
    round::{Round, Spread},
    scenario::{Case, Reach, Scenario},
};

pub(crate) use table::table;

/// Everything that a run found.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Rounds of each case.
    pub(crate) rounds: u32,
    /// Whether they were short ones.
    pub(crate) quick: bool,
    pub(crate) cases: Vec<CaseResult>,
}

/// The rounds of one case.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CaseResult {
    pub(crate) scenario: String,
    pub(crate) case: Case,
    pub(crate) sides: Vec<SideResult>,
    pub(crate) rounds: Vec<Round>,
}

/// One side's figures over its rounds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SideResult {
    pub(crate) name: String,
    pub(crate) per_second: Option<Spread>,
    pub(crate) cpu_us: Option<Spread>,
    pub(crate) cpu_s_per_gb: Option<Spread>,
    pub(crate) p50_us: Option<Spread>,
    pub(crate) p99_us: Option<Spread>,
    pub(crate) client_bound: bool,
    pub(crate) others: Option<Spread>,
}

impl SideResult {
    fn of(name: &str, rounds: &[Round]) -> Self {
        let own = || rounds.iter().filter(|round| round.side == name);
        Self {
            name: name.to_owned(),
            per_second: Spread::of(own().map(|round| round.per_second)),
            cpu_us: Spread::of(own().filter_map(|round| round.cpu_us)),
            cpu_s_per_gb: Spread::of(own().filter_map(|round| round.cpu_s_per_gb)),
            p50_us: Spread::of(own().filter_map(|round| round.latency_us(50.0))),
            p99_us: Spread::of(own().filter_map(|round| round.latency_us(99.0))),
            client_bound: own().any(|round| round.client_bound),
            others: Spread::of(own().filter_map(|round| round.others)),
        }
    }
}

impl CaseResult {
    pub(crate) fn new(scenario: &Scenario, case: &Case, rounds: Vec<Round>) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for round in &rounds {
            if !names.contains(&round.side.as_str()) {
                names.push(&round.side);
            }
        }
        let sides = names.iter().map(|name| SideResult::of(name, &rounds)).collect();
        Self { scenario: scenario.name.clone(), case: case.clone(), sides, rounds }
    }

    pub(crate) fn side(&self, name: &str) -> Option<&SideResult> {
        self.sides.iter().find(|side| side.name == name)
    }

    /// Ours.
    pub(crate) fn own(&self) -> Option<&SideResult> {
        self.side("reel")
    }
}

/// How a line of the Reach table came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Verdict {
    /// Our requests a second for one of the peer's: the median over pairs of rounds.
    pub(crate) ratio: Option<f64>,
    /// Our CPU time a request for one of the peer's.
    pub(crate) cpu_ratio: Option<f64>,
    /// Whether all that was asked for is reached.
    pub(crate) passes: bool,
}

impl Verdict {
    /// Of the pairs: each round of ours with the peer's round beside it, so that what else the machine did in that
    /// minute is in both.
    pub(crate) fn of(result: &CaseResult, reach: &Reach) -> Self {
        let own = result.rounds.iter().filter(|round| round.side == "reel");
        let peer = result.rounds.iter().filter(|round| round.side == reach.against);
        let pairs: Vec<(&Round, &Round)> = own.zip(peer).collect();
        let ratio = Spread::of(pairs.iter().map(|(own, peer)| own.per_second / peer.per_second));
        let cpu =
            Spread::of(pairs.iter().filter_map(|(own, peer)| Some(own.cpu_us? / peer.cpu_us?)));
        let (ratio, cpu_ratio) = (ratio.map(|ratio| ratio.median), cpu.map(|cpu| cpu.median));
        let fast = reach.ratio_min.is_none_or(|min| ratio.is_some_and(|ratio| ratio >= min));
        let cheap = reach.cpu_ratio_max.is_none_or(|max| cpu_ratio.is_some_and(|cpu| cpu <= max));
        Self { ratio, cpu_ratio, passes: fast && cheap }
    }
}

/// Writes all of it into `folder`.
pub(crate) fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(report)?)?;
    fs::write(folder.join("reach.md"), table(report))?;
    Ok(())
}
