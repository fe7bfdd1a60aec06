//! The report of a run: JSON for programs, a Markdown table and charts for people.

mod chart;
mod plots;
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
    pub(crate) megabytes_per_second: Option<Spread>,
    pub(crate) cpu_us: Option<Spread>,
    pub(crate) cpu_s_per_gb: Option<Spread>,
    pub(crate) p50_us: Option<Spread>,
    pub(crate) p99_us: Option<Spread>,
    pub(crate) client_bound: bool,
    pub(crate) memory_bytes: Option<Spread>,
    pub(crate) others: Option<Spread>,
}

impl SideResult {
    fn of(name: &str, rounds: &[Round]) -> Self {
        let own = || rounds.iter().filter(|round| round.side == name);
        Self {
            name: name.to_owned(),
            per_second: Spread::of(own().map(|round| round.per_second)),
            megabytes_per_second: Spread::of(own().map(|round| round.bytes_per_second / 1e6)),
            cpu_us: Spread::of(own().filter_map(|round| round.cpu_us)),
            cpu_s_per_gb: Spread::of(own().filter_map(|round| round.cpu_s_per_gb)),
            p50_us: Spread::of(own().filter_map(|round| round.latency_us(50.0))),
            p99_us: Spread::of(own().filter_map(|round| round.latency_us(99.0))),
            client_bound: own().any(|round| round.client_bound),
            memory_bytes: Spread::of(own().filter_map(|round| round.memory_bytes)),
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
}

/// One demand of a line of the Reach table, and how it came out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Demand {
    /// What is compared.
    pub(crate) measure: Measure,
    /// What it is to be at least (rate) or at most (all others). `None`: shown only.
    pub(crate) limit: Option<f64>,
    /// Ours for one of the peer's: the median over pairs of rounds. Of memory, ours alone.
    pub(crate) ratio: Option<f64>,
}

/// What two sides are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Requests a second.
    Rate,
    /// CPU time of a request.
    Cpu,
    /// Median latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// Memory; its limit is in bytes, not for one of the peer's.
    Memory,
}

impl Measure {
    fn of(self, round: &Round) -> Option<f64> {
        match self {
            Self::Rate => Some(round.per_second),
            Self::Cpu => round.cpu_us,
            Self::P50 => round.latency_us(50.0),
            Self::P99 => round.latency_us(99.0),
            Self::Memory => round.memory_bytes,
        }
    }
}

impl Demand {
    /// The demands of a line, rate and CPU time first. Compared by pairs: each round of ours with the peer's round
    /// beside it, so that what else the machine did in that minute is in both.
    pub(crate) fn all(result: &CaseResult, reach: &Reach) -> Vec<Self> {
        let limits = [
            (Measure::Rate, reach.ratio_min),
            (Measure::Cpu, reach.cpu_ratio_max),
            (Measure::P50, reach.p50_ratio_max),
            (Measure::P99, reach.p99_ratio_max),
            (Measure::Memory, reach.memory_max.map(|size| size.0 as f64)),
        ];
        let is_shown = |(measure, limit): &(Measure, Option<f64>)| {
            limit.is_some() || matches!(measure, Measure::Rate | Measure::Cpu)
        };
        let demand = |(measure, limit): (Measure, Option<f64>)| {
            let own = result.rounds.iter().filter(|round| round.side == reach.side);
            let peer = result.rounds.iter().filter(|round| round.side == reach.against);
            let ratio = |(own, peer)| match measure {
                Measure::Memory => measure.of(own),
                _ => Some(measure.of(own)? / measure.of(peer)?),
            };
            let ratio = Spread::of(own.zip(peer).filter_map(ratio)).map(|ratio| ratio.median);
            Self { measure, limit, ratio }
        };
        limits.into_iter().filter(is_shown).map(demand).collect()
    }

    /// Whether it is reached; `None` where nothing is demanded.
    pub(crate) fn passes(&self) -> Option<bool> {
        let limit = self.limit?;
        Some(self.ratio.is_some_and(|ratio| match self.measure {
            Measure::Rate => ratio >= limit,
            _ => ratio <= limit,
        }))
    }
}

/// Writes all of it into `folder`.
pub(crate) fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::write(folder.join("results.json"), serde_json::to_string_pretty(report)?)?;
    fs::write(folder.join("reach.md"), table(report))?;
    plots::write(report, folder)
}
