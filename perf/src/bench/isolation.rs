//! Hot reads at a fixed rate, alone and beside work that keeps the disk busy.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;

use super::Effort;
use crate::{
    cpu::Meter,
    dataset::{self, CacheState, Dataset},
    lab::{Lab, Load},
    load::plan::{Order, Plan, Ranges, Target, Work},
    nginx::{Nginx, Reading},
    reel::Reel,
    report::CaseResult,
    round::Round,
    scenario::{Case, Scenario},
    upload::Uploader,
};

/// All files; the first [`HOT_FILES`] are read hot, the others cold.
const SET: Dataset = Dataset { files: 160, size: 16 << 20 };
const HOT_FILES: u64 = 32;
/// Cold ranges.
const COLD_LENGTH: u64 = 1 << 20;
const COLD_CONNECTIONS: usize = 8;
/// Uploads.
const UPLOAD_BYTES: u64 = 16 << 10;
const UPLOAD_CONNECTIONS: usize = 16;
/// Bytes that the uploads of one round write at most.
const UPLOADED_BYTES_MAX: u64 = 1 << 30;
/// Time for the disturbance to get going, milliseconds.
const LEAD_MS: u64 = 500;
/// Milliseconds before a round counts.
const WARMUP_MS: u64 = 300;
/// The measured load goes before the disturbing ones on their common core.
const FIRST: i32 = -10;
const LAST: i32 = 10;

/// A server with its files.
struct Side {
    media: std::net::SocketAddr,
    binary: Option<std::net::SocketAddr>,
    meter: Meter,
    hot: Vec<Target>,
    cold: Vec<Target>,
    cold_files: Vec<PathBuf>,
}

/// Runs the scenario's cases.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    let reel = Reel::start(lab, "reel", &[])?;
    SET.upload(&mut Uploader::connect(reel.address("engine", "binary")?)?)?;
    let copies = lab.disk().join("peer");
    SET.write(&copies)?;
    lab.settle()?;
    let nginx = Nginx::start(lab, "nginx", Reading::Sendfile, &copies)?;
    let media = reel.address("engine", "media")?;
    let own = side(&reel.store(), media, reel.meter(), "/files/")?;
    let own = Side { binary: Some(reel.address("engine", "binary")?), ..own };
    let peer = side(&copies, nginx.address(), nginx.meter(), "/")?;
    for case in &scenario.cases {
        let mut rounds = Vec::new();
        for number in 0..effort.rounds {
            let ms = effort.measure_ms(scenario);
            for (name, side, disturbed) in [
                ("reel-idle", &own, false),
                ("reel", &own, true),
                ("nginx-idle", &peer, false),
                ("nginx", &peer, true),
            ] {
                let round = round(lab, side, name, case, number, ms, disturbed)?;
                super::tell(case, number, &round);
                rounds.push(round);
            }
        }
        results.push(CaseResult::new(scenario, case, rounds));
    }
    nginx.stop()?;
    reel.stop()
}

fn side(
    folder: &std::path::Path,
    media: std::net::SocketAddr,
    meter: Meter,
    prefix: &str,
) -> Result<Side> {
    let mut hot = SET.targets(SET.files, prefix);
    let cold = hot.split_off(HOT_FILES as usize);
    let all = SET.locate(folder, SET.files)?;
    let hot_files = SET.locate(folder, HOT_FILES)?;
    dataset::set_cache(&hot_files, CacheState::Hot)?;
    let cold_files = all.into_iter().filter(|path| !hot_files.contains(path)).collect();
    Ok(Side { media, binary: None, meter, hot, cold, cold_files })
}

fn round(
    lab: &Lab,
    side: &Side,
    name: &str,
    case: &Case,
    number: u32,
    measure_ms: u64,
    disturbed: bool,
) -> Result<Round> {
    lab.settle()?;
    let hot = Plan {
        target: side.media,
        cores: Vec::new(),
        connections: case.connections,
        warmup_ms: WARMUP_MS,
        measure_ms,
        rate: case.rate,
        count_max: None,
        check_every: 1000,
        seed: u64::from(number),
        meters: vec![side.meter.clone()],
        work: Work::HttpRange(Ranges {
            files: side.hot.clone(),
            length: case.size.0,
            order: Order::Random,
        }),
    };
    let mut disturbance = Vec::new();
    let life_ms = LEAD_MS + WARMUP_MS + measure_ms + 500;
    if disturbed {
        disturbance.push(cold(lab, side, &hot, life_ms)?);
        if let Some(binary) = side.binary {
            disturbance.push(uploads(lab, binary, &hot, name, life_ms)?);
        }
        std::thread::sleep(Duration::from_millis(LEAD_MS));
    }
    let mut measured = lab.start_load(&hot, Some(FIRST))?;
    while measured.is_running() {
        lab.check_interrupt()?;
        // When all cold ranges were read once, they are made cold again.
        if disturbed && !disturbance[0].is_running() {
            disturbance[0] = cold(lab, side, &hot, life_ms)?;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let outcome = measured.finish(lab)?;
    let mut round = Round::of(name, outcome, lab.server_core(), true);
    for load in disturbance {
        let outcome = load.finish(lab)?;
        round.notes.push(format!(
            "beside it {:.0}/s, {:.0} MB/s",
            outcome.done as f64 / outcome.seconds,
            outcome.bytes as f64 / outcome.seconds / 1e6
        ));
    }
    Ok(round)
}

fn cold(lab: &Lab, side: &Side, hot: &Plan, life_ms: u64) -> Result<Load> {
    dataset::set_cache(&side.cold_files, CacheState::Cold)?;
    let ranges = Ranges { files: side.cold.clone(), length: COLD_LENGTH, order: Order::Once };
    let plan = Plan {
        connections: COLD_CONNECTIONS,
        warmup_ms: 0,
        measure_ms: life_ms,
        rate: None,
        seed: hot.seed + 1000,
        meters: Vec::new(),
        work: Work::HttpRange(ranges),
        ..hot.clone()
    };
    lab.start_load(&plan, Some(LAST))
}

fn uploads(
    lab: &Lab,
    target: std::net::SocketAddr,
    hot: &Plan,
    name: &str,
    life_ms: u64,
) -> Result<Load> {
    let plan = Plan {
        target,
        connections: UPLOAD_CONNECTIONS,
        warmup_ms: 0,
        measure_ms: life_ms,
        rate: None,
        count_max: Some(UPLOADED_BYTES_MAX / UPLOAD_BYTES),
        seed: hot.seed + 2000,
        meters: Vec::new(),
        work: Work::Upload {
            prefix: format!("{name}-{}", hot.seed),
            size: UPLOAD_BYTES,
            content: 1,
        },
        ..hot.clone()
    };
    lab.start_load(&plan, Some(LAST))
}
