//! Everything at once for an hour: hot reads, cold reads, uploads, and deletes of what was uploaded a round before. What
//! counts is that the last quarter looks like the second one.

use anyhow::{Result, bail};

use super::Effort;
use crate::{
    dataset::{self, CacheState, Dataset},
    lab::{Lab, Load},
    load::plan::{Order, Plan, Ranges, Work},
    reel::Reel,
    report::CaseResult,
    round::{Round, Spread},
    scenario::{Case, OURS, Scenario},
    upload::Uploader,
};

/// All files; the first [`HOT_FILES`] are read hot, the others cold.
const SET: Dataset = Dataset { files: 160, size: 16 << 20 };
const HOT_FILES: u64 = 32;

/// Rounds of a full run, and of a quick one.
const ROUNDS: (u32, u32) = (60, 6);

/// Beside the hot reads, a second: cold ranges of 1 MiB, uploads of 16 KiB and as many deletes.
const COLD_RATE: f64 = 40.0;
const COLD_LENGTH: u64 = 1 << 20;
const UPLOAD_RATE: f64 = 200.0;
const UPLOAD_BYTES: u64 = 16 << 10;
const CONNECTIONS: usize = 8;

/// What is deleted is gone for good a little later, and its space with it.
const SETTINGS: &[(&str, &str)] = &[("engine.retention", "1m")];

/// Beyond these factors, and so much more, the last quarter is not like the second: memory (caches of a bounded size
/// still fill), descriptors, 99th percentile.
const MEMORY_GROWTH_MAX: (f64, f64) = (1.10, (16 << 20) as f64);
const DESCRIPTORS_GROWTH_MAX: (f64, f64) = (1.10, 16.0);
const P99_GROWTH_MAX: (f64, f64) = (1.5, 200.0);

/// Runs the scenario's cases.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    let reel = Reel::start(lab, OURS, SETTINGS)?;
    SET.upload(&mut Uploader::connect(reel.address("engine", "binary")?)?)?;
    lab.settle()?;
    let hot = SET.locate(&reel.store(), HOT_FILES)?;
    let mut cold = SET.locate(&reel.store(), SET.files)?;
    cold.retain(|path| !hot.contains(path));
    let count = if effort.quick { ROUNDS.1 } else { ROUNDS.0 };
    for case in &scenario.cases {
        let mut rounds: Vec<Round> = Vec::new();
        let mut uploaded = 0;
        for number in 0..count {
            dataset::set_cache(&hot, CacheState::Hot)?;
            dataset::set_cache(&cold, CacheState::Cold)?;
            let minute = Minute { lab, reel: &reel, case, number, ms: effort.measure_ms(scenario) };
            let beside = minute.start(uploaded)?;
            let outcome = lab.load(&minute.hot()?)?;
            let mut round = Round::of(OURS, outcome, lab.server_core(), true);
            for (what, load) in beside {
                let outcome = load.finish(lab)?;
                if outcome.failed + outcome.broken + outcome.mismatched > 0 {
                    let errors = &outcome.errors;
                    round.notes.push(format!("{what}: {} failed: {errors:?}", outcome.failed));
                }
                if what == "uploads" {
                    uploaded = outcome.done;
                }
            }
            round.memory_bytes = Some(reel.resident_bytes()? as f64);
            round.descriptors = Some(reel.descriptors()? as f64);
            super::tell(case, number, &round);
            rounds.push(round);
        }
        let verdicts = verdicts(&rounds);
        verdicts.iter().for_each(|(text, _)| println!("   {text}"));
        let is_flat = verdicts.iter().all(|(_, is_flat)| *is_flat);
        if let Some(last) = rounds.last_mut() {
            last.notes.extend(verdicts.into_iter().map(|(text, _)| text));
        }
        results.push(CaseResult::new(scenario, case, rounds));
        if !is_flat {
            bail!("{}: not flat", case.name);
        }
    }
    reel.stop()
}

/// One round.
struct Minute<'a> {
    lab: &'a Lab,
    reel: &'a Reel,
    case: &'a Case,
    number: u32,
    ms: u64,
}

impl Minute<'_> {
    fn hot(&self) -> Result<Plan> {
        let hot = SET.targets(HOT_FILES, "/files/");
        let ranges = Ranges { files: hot, length: self.case.size.0, order: Order::Random };
        Ok(Plan {
            target: self.reel.address("engine", "media")?,
            connections: self.case.connections,
            rate: self.case.rate,
            meters: vec![self.reel.meter()],
            work: Work::HttpRange(ranges),
            ..self.plan(0)?
        })
    }

    /// Loads have different seeds, by which their control groups are told apart.
    fn plan(&self, kind: u64) -> Result<Plan> {
        Ok(Plan {
            target: self.reel.address("engine", "binary")?,
            cores: Vec::new(),
            connections: CONNECTIONS,
            warmup_ms: 0,
            measure_ms: self.ms,
            rate: Some(UPLOAD_RATE),
            count_max: None,
            check_every: 100,
            seed: u64::from(self.number) + 1000 * kind,
            meters: Vec::new(),
            work: Work::Echo { bytes: 0 },
        })
    }

    fn prefix(number: u32) -> String {
        format!("soak-{number}")
    }

    /// Starts what runs beside the hot reads. `uploaded`: files of the round before.
    fn start(&self, uploaded: u64) -> Result<Vec<(&'static str, Load)>> {
        let mut cold = SET.targets(SET.files, "/files/");
        cold.drain(..HOT_FILES as usize);
        let ranges = Ranges { files: cold, length: COLD_LENGTH, order: Order::Random };
        let cold = Plan {
            target: self.reel.address("engine", "media")?,
            rate: Some(COLD_RATE),
            work: Work::HttpRange(ranges),
            ..self.plan(1)?
        };
        let prefix = Self::prefix(self.number);
        let upload = Work::Upload { prefix, size: UPLOAD_BYTES, content: 1 };
        let uploads = Plan { work: upload, ..self.plan(2)? };
        let mut loads = vec![
            ("cold reads", self.lab.start_load(&cold, None)?),
            ("uploads", self.lab.start_load(&uploads, None)?),
        ];
        if uploaded > 0 {
            let prefix = Self::prefix(self.number - 1);
            let delete = Work::Delete { prefix, count: uploaded };
            let deletes = Plan { work: delete, ..self.plan(3)? };
            loads.push(("deletes", self.lab.start_load(&deletes, None)?));
        }
        Ok(loads)
    }
}

/// Compares the last quarter with the second: in the first one caches fill.
fn verdicts(rounds: &[Round]) -> Vec<(String, bool)> {
    let quarter = (rounds.len() / 4).max(1);
    let median = |part: &[Round], figure: fn(&Round) -> Option<f64>| {
        Spread::of(part.iter().filter_map(figure)).map_or(f64::NAN, |spread| spread.median)
    };
    let second = &rounds[quarter.min(rounds.len() - 1)..(2 * quarter).min(rounds.len())];
    let last = &rounds[rounds.len() - quarter..];
    let mib = 1.0 / f64::from(1 << 20);
    type Figure = fn(&Round) -> Option<f64>;
    type Line = (&'static str, Figure, f64, (f64, f64));
    let figures: [Line; 3] = [
        ("MiB of memory", |round| round.memory_bytes, mib, MEMORY_GROWTH_MAX),
        ("descriptors", |round| round.descriptors, 1.0, DESCRIPTORS_GROWTH_MAX),
        ("µs p99 of hot reads", |round| round.latency_us(99.0), 1.0, P99_GROWTH_MAX),
    ];
    let verdict = |(what, figure, unit, (factor, slack)): Line| {
        let (before, after) = (median(second, figure), median(last, figure));
        let is_flat = after <= before * factor + slack;
        let word = if is_flat { "flat" } else { "GREW" };
        (format!("{word}: {:.0} {what}, then {:.0}", before * unit, after * unit), is_flat)
    };
    figures.into_iter().map(verdict).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen_and_a_warm_up_is_none() {
        let rounds = |memory: &dyn Fn(usize) -> f64| -> Vec<Round> {
            let round = |index| Round {
                memory_bytes: Some(memory(index)),
                descriptors: Some(100.0),
                outcome: None,
                ..Round::default()
            };
            (0..12).map(round).collect()
        };
        let is_flat = |memory: &dyn Fn(usize) -> f64| verdicts(&rounds(memory))[0].1;
        assert!(is_flat(&|_| 1e8));
        assert!(is_flat(&|index| if index < 3 { 1e7 } else { 1e8 }));
        assert!(!is_flat(&|index| 1e8 * (1.0 + index as f64 / 10.0)));
    }
}
