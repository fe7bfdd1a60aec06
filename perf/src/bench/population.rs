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
const UPLOAD_MS_MAX: u64 = 3_600_000;
/// Milliseconds before a round counts.
const WARMUP_MS: u64 = 500;
/// Of the content of every file.
const SEED: u64 = 0xF0;
/// File ids begin with it.
const PREFIX: &str = "file";
/// Files that are read again and again: every thread's descriptors hold as many by default.
const FEW: u64 = 8000;

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
        lab.disk_mut().renew_with(&scenario.mkfs)?;
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
            let measure_ms = effort.measure_ms(scenario);
            for side in ["reel-more", "reel-few", "reel"] {
                let (reading, few) = (side != "reel-more", side == "reel-few");
                let plan = if reading {
                    reads(&reel, case, number, measure_ms, few)?
                } else {
                    uploads_of(&reel, case, format!("more{number}"), WARMUP_MS, measure_ms)?
                };
                let outcome = lab.load(&plan)?;
                let mut round = Round::of(side, outcome, lab.server_core(), false);
                round.notes.push(started.clone());
                round.notes.push(format!("{:.0} MiB at the end", mib(reel.resident_bytes()?)));
                super::tell(case, number, &round);
                rounds.push(round);
            }
        }
        let plan = reads(&reel, case, effort.rounds, effort.measure_ms(scenario), false)?;
        lab.profile(&case.name, &plan)?;
        reel.stop()?;
        results.push(CaseResult::new(scenario, case, rounds));
    }
    Ok(())
}

fn populate(lab: &Lab, reel: &Reel, case: &Case) -> Result<Round> {
    let plan = Plan {
        count_max: Some(case.files),
        ..uploads_of(reel, case, PREFIX.to_owned(), 0, UPLOAD_MS_MAX)?
    };
    let outcome = lab.load(&plan)?;
    if outcome.done != case.files {
        bail!("{} of {} files are stored: {:?}", outcome.done, case.files, outcome.errors);
    }
    Ok(Round::of("reel-fill", outcome, lab.server_core(), false))
}

fn uploads_of(
    reel: &Reel,
    case: &Case,
    prefix: String,
    warmup_ms: u64,
    measure_ms: u64,
) -> Result<Plan> {
    Ok(Plan {
        target: reel.address("engine", "binary")?,
        warmup_ms,
        work: Work::Upload { prefix, size: case.size.0, content: SEED },
        ..reads(reel, case, 0, measure_ms, false)?
    })
}

/// Reads of any file, or of a few that are spread over all.
fn reads(reel: &Reel, case: &Case, number: u32, measure_ms: u64, few: bool) -> Result<Plan> {
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
            stride: if few { (case.files / FEW).max(1) } else { 1 },
            size: case.size.0,
            content: SEED,
        },
    })
}
