//! A store with many files: what uploads and reads cost, how much memory it has, how long it takes to start.

use std::time::Instant;

use anyhow::{Result, bail};

use super::Effort;
use crate::{
    lab::Lab,
    load::plan::{Plan, Work},
    reel::Reel,
    report::CaseResult,
    round::Round,
    scenario::{Case, Scenario},
};

/// Files of the largest case of a quick run.
const QUICK_FILES_MAX: u64 = 100_000;
/// Longest time that the uploads may take, milliseconds.
const UPLOAD_MS_MAX: u64 = 1_200_000;
/// Milliseconds before a round of reads counts.
const WARMUP_MS: u64 = 500;
/// Of the content of every file.
const SEED: u64 = 0xF0;
/// File ids begin with it.
const PREFIX: &str = "file";

/// Runs the scenario's cases, each on a new file system.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    for case in &scenario.cases {
        if effort.quick && case.files > QUICK_FILES_MAX {
            println!("   {}: left out of a quick run", case.name);
            continue;
        }
        lab.disk_mut().renew()?;
        let reel = Reel::start(lab, "reel", &[])?;
        let uploads = populate(lab, &reel, case)?;
        super::tell(case, 0, &uploads);
        reel.stop()?;
        lab.settle()?;
        let begin = Instant::now();
        let reel = Reel::start(lab, "reel", &[])?;
        let start_seconds = begin.elapsed().as_secs_f64();
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let started = format!(
            "ready {start_seconds:.2} s after its start, with {:.0} MiB",
            mib(reel.resident_bytes()?)
        );
        let mut rounds = vec![uploads];
        for number in 0..effort.rounds {
            let plan = reads(&reel, case, number, effort.measure_ms(scenario))?;
            let outcome = lab.load(&plan)?;
            let mut round = Round::of("reel", outcome, lab.server_core(), false);
            round.notes.push(started.clone());
            round.notes.push(format!("{:.0} MiB at the end", mib(reel.resident_bytes()?)));
            super::tell(case, number, &round);
            rounds.push(round);
        }
        lab.profile(&case.name, &reads(&reel, case, effort.rounds, effort.measure_ms(scenario))?)?;
        reel.stop()?;
        results.push(CaseResult::new(scenario, case, rounds));
    }
    Ok(())
}

fn populate(lab: &Lab, reel: &Reel, case: &Case) -> Result<Round> {
    let plan = Plan {
        target: reel.address("engine", "binary")?,
        warmup_ms: 0,
        measure_ms: UPLOAD_MS_MAX,
        count_max: Some(case.files),
        work: Work::Upload { prefix: PREFIX.to_owned(), size: case.size.0, content: SEED },
        ..reads(reel, case, 0, 0)?
    };
    let outcome = lab.load(&plan)?;
    if outcome.done != case.files {
        bail!("{} of {} files are stored: {:?}", outcome.done, case.files, outcome.errors);
    }
    Ok(Round::of("reel-upload", outcome, lab.server_core(), false))
}

fn reads(reel: &Reel, case: &Case, number: u32, measure_ms: u64) -> Result<Plan> {
    Ok(Plan {
        target: reel.address("engine", "media")?,
        cores: Vec::new(),
        connections: case.connections,
        warmup_ms: WARMUP_MS,
        measure_ms,
        rate: case.rate,
        count_max: None,
        check_every: 1000,
        seed: u64::from(number),
        meters: vec![reel.meter()],
        work: Work::HttpNumbered {
            prefix: format!("/files/{PREFIX}"),
            count: case.files,
            size: case.size.0,
            content: SEED,
        },
    })
}
