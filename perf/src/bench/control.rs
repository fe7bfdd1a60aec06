//! Small answers of the binary protocol: downloads of 16 KiB, SADDRS of a tracker, ID_GET of an ID node.

use anyhow::{Result, bail};

use super::{Effort, calibration::Calibration};
use crate::{
    dataset::{self, CacheState, Dataset},
    echo::Echo,
    lab::Lab,
    load::plan::{Order, Plan, Ranges, Work},
    reel::Reel,
    reference,
    report::CaseResult,
    round::Round,
    scenario::{Case, Scenario},
    upload::Uploader,
};

/// Files that are downloaded: 64 MiB, all of them in the page cache.
const SET: Dataset = Dataset { files: 4096, size: 16 << 10 };
/// Milliseconds before a round counts.
const WARMUP_MS: u64 = 300;
/// Users that SADDRS asks for.
const USERS: u64 = 64;
/// Keys that ID_GET asks for.
const KEYS: u64 = 8;

/// Runs the scenario's cases.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    let reel = Reel::start(lab, "reel", &[])?;
    let calibration = Calibration::start(lab)?;
    if scenario.cases.iter().any(|case| case.name.starts_with("download")) {
        SET.upload(&mut Uploader::connect(reel.address("engine", "binary")?)?)?;
        let files = SET.locate(&reel.store(), SET.files)?;
        dataset::set_cache(&files, CacheState::Hot)?;
    }
    lab.settle()?;
    for case in &scenario.cases {
        let mut rounds = Vec::new();
        for number in 0..effort.rounds {
            let measure_ms = effort.measure_ms(scenario);
            let round = round(lab, &reel, case, number, measure_ms)?;
            super::tell(case, number, &round);
            rounds.push(round);
            for peer in &case.peers {
                let round = scaled(lab, &calibration, peer, case)?;
                super::tell(case, number, &round);
                rounds.push(round);
            }
        }
        results.push(CaseResult::new(scenario, case, rounds));
    }
    calibration.stop()?;
    reel.stop()
}

/// One round of ours; of the case `echo` it is the bare loopback.
fn round(lab: &Lab, reel: &Reel, case: &Case, number: u32, measure_ms: u64) -> Result<Round> {
    let kind = case.name.trim_end_matches(|c: char| c == '-' || c.is_ascii_digit());
    let (target, work) = match kind {
        "download-16k" => {
            let files = SET.targets(SET.files, "");
            let ranges = Ranges { files, length: SET.size, order: Order::Random };
            (reel.address("engine", "binary")?, Work::Download(ranges))
        }
        "saddrs" => (reel.address("tracker", "binary")?, Work::Saddrs { users: USERS }),
        "id-get" => (reel.address("idgen", "binary")?, Work::IdGet { keys: KEYS }),
        "echo" => {
            let echo = Echo::start(lab)?;
            let work = Work::Echo { bytes: case.size.0 };
            let mut plan = plan(echo.address(), case, number, measure_ms, work);
            plan.meters.push(echo.meter());
            let outcome = lab.load(&plan)?;
            return Ok(Round::of("echo", outcome, lab.server_core(), false));
        }
        _ => bail!("the scenario has no case {}", case.name),
    };
    let mut plan = plan(target, case, number, measure_ms, work);
    plan.meters.push(reel.meter());
    let outcome = lab.load(&plan)?;
    Ok(Round::of("reel", outcome, lab.server_core(), case.rate.is_some()))
}

fn plan(
    target: std::net::SocketAddr,
    case: &Case,
    number: u32,
    measure_ms: u64,
    work: Work,
) -> Plan {
    Plan {
        target,
        cores: Vec::new(),
        connections: case.connections,
        warmup_ms: WARMUP_MS,
        measure_ms,
        rate: case.rate,
        count_max: None,
        check_every: 1000,
        seed: u64::from(number),
        meters: Vec::new(),
        work,
    }
}

/// A figure of then, scaled by what nginx takes for a hot range of 4 KiB right now.
fn scaled(lab: &Lab, calibration: &Calibration, peer: &str, case: &Case) -> Result<Round> {
    let reference = match (peer, case.name.as_str()) {
        ("fastdfs", _) => reference::FASTDFS_DOWNLOAD_16K,
        ("cpp", "saddrs") => reference::CPP_SADDRS,
        ("cpp", "id-get") => reference::CPP_ID_GET,
        _ => bail!("{} has no figure of {peer}", case.name),
    };
    let speed = calibration.speed(lab)?;
    Ok(reference.scaled(peer, speed, speed))
}
