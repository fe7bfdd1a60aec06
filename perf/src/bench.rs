//! A whole run: the scenarios in turn, each case in interleaved rounds, the report at the end.

mod calibration;
mod control;
mod idle;
mod isolation;
mod population;
mod ranges;
mod soak;
mod uploads;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    lab::Lab,
    machine::Machine,
    report::{self, CaseResult, Report},
    round::Round,
    scenario::{Case, Scenario, Work},
};

/// Rounds of a full run, and of a quick one.
const ROUNDS: (u32, u32) = (5, 3);

/// Arguments of `reel-perf run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Scenarios by name, or scenario files (*.toml). None: all.
    scenarios: Vec<String>,
    /// Shorter and fewer rounds: under ten minutes in all.
    #[arg(long)]
    quick: bool,
    /// Rounds of each case.
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
    /// Folder of the results.
    #[arg(long, default_value = "perf-results")]
    out: PathBuf,
    /// The server under test. Default: `reel` beside this program.
    #[arg(long)]
    reel: Option<PathBuf>,
}

/// How long and how often.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) quick: bool,
}

impl Effort {
    /// Milliseconds of a round that count.
    pub(crate) fn measure_ms(self, scenario: &Scenario) -> u64 {
        let seconds = if self.quick { scenario.quick_seconds } else { scenario.seconds };
        (seconds * 1000.0) as u64
    }
}

/// `reel-perf run`.
pub(crate) fn run(arguments: &Run) -> Result<()> {
    let mut scenarios = Scenario::select(&arguments.scenarios)?;
    if let Some(part) = &arguments.case {
        for scenario in &mut scenarios {
            scenario.cases.retain(|case| case.name.contains(part.as_str()));
        }
        scenarios.retain(|scenario| !scenario.cases.is_empty());
    }
    let default = if arguments.quick { ROUNDS.1 } else { ROUNDS.0 };
    let rounds = arguments.rounds.unwrap_or(default).max(1);
    let effort = Effort { rounds, quick: arguments.quick };
    let mut lab = Lab::new(&arguments.out, arguments.reel.clone(), arguments.nice)?;
    if arguments.profile {
        lab.profile_all();
    }
    let machine = Machine::look(&lab);
    println!("{machine}");
    let mut report = Report { machine, rounds, quick: arguments.quick, cases: Vec::new() };
    let mut failures = Vec::new();
    for scenario in &scenarios {
        println!("\n== {}: {}", scenario.name, scenario.title);
        let outcome = measure(&mut lab, scenario, effort, &mut report.cases);
        // What was measured before an error, or Ctrl-C, is kept.
        report::write(&report, lab.out())?;
        lab.check_interrupt()?;
        if let Err(error) = outcome {
            println!("   {}: {error:#}", scenario.name);
            failures.push(format!("{}: {error:#}", scenario.name));
        }
    }
    println!("\n{}", report::table(&report));
    println!("results in {}", lab.out().display());
    if !failures.is_empty() {
        bail!("{} scenarios did not come to their end:\n{}", failures.len(), failures.join("\n"));
    }
    Ok(())
}

fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    lab.disk_mut().renew()?;
    lab.place_apart(!scenario.all_cores);
    match scenario.work {
        Work::HttpRanges => ranges::measure(lab, scenario, effort, results),
        Work::Control => control::measure(lab, scenario, effort, results),
        Work::Isolation => isolation::measure(lab, scenario, effort, results),
        Work::Population => population::measure(lab, scenario, effort, results),
        Work::Idle => idle::measure(lab, scenario, effort, results),
        Work::Soak => soak::measure(lab, scenario, effort, results),
        Work::Uploads => uploads::measure(lab, scenario, effort, results),
    }
}

/// Says how a round went while the run goes on.
fn tell(case: &Case, number: u32, round: &Round) {
    let figure = |value: Option<f64>, unit: &str| {
        value.map_or_else(String::new, |value| format!("  {value:.3} {unit}"))
    };
    println!(
        "   {:<14} #{} {:<15} {:>10.0}/s  {:>8.1} MB/s{}{}{}{}{}",
        case.name,
        number + 1,
        round.side,
        round.per_second,
        round.bytes_per_second / 1e6,
        figure(round.cpu_us, "us CPU"),
        figure(round.latency_us(50.0), "us p50"),
        figure(round.latency_us(99.0), "us p99"),
        if round.client_bound { "  client-bound" } else { "" },
        if round.notes.is_empty() { String::new() } else { format!("  {:?}", round.notes) },
    );
}
