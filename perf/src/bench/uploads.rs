//! Uploads by the binary protocol: durable, with durability off, and what the disk itself can do.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{Effort, calibration::Calibration};
use crate::{
    content::Content,
    fio, journal,
    lab::Lab,
    load::plan::{PATTERN_BYTES, Plan, Work},
    mariadb::MariaDb,
    names,
    reel::Reel,
    reference,
    report::CaseResult,
    round::Round,
    scenario::{Case, SHARED, Scenario, Size},
    upload::Uploader,
};

/// Bytes that one round writes at most, so that the rounds of a case fit the disk.
const ROUND_BYTES_MAX: u64 = 1 << 30;
/// From this size on a round is a number of files instead of a time: there are too few of them to cut one off.
const LARGE_BYTES: u64 = 64 << 20;
/// Longest round of so many files, milliseconds.
const LARGE_MS_MAX: u64 = 120_000;
/// Most files of a group of the journal loop.
const GROUP_MAX: usize = 64;
/// Acknowledged uploads of a round that are read back and compared.
const READ_BACK_MAX: usize = 16;
/// The files of the journal loop, and of the figures that are scaled by it.
const SMALL: Size = Size(16 << 10);
/// Milliseconds of the journal loop where it is not a side of the case itself.
const CALIBRATION_MS: u64 = 1000;
/// Of the content of every upload.
const SEED: u64 = 0xC0;

/// What runs in a case: a second store with durability off, and one whose metadata is shared.
struct Stores {
    durable: Reel,
    not_durable: Option<Reel>,
    shared: Option<(Reel, MariaDb)>,
    calibration: Option<Calibration>,
}

/// Runs the scenario's cases, each on a new file system.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    for case in &scenario.cases {
        lab.disk_mut().renew()?;
        let wants = |name: &str| case.peers.iter().any(|peer| peer == name);
        let off = [("engine.durability", "async")];
        let stores = Stores {
            durable: Reel::start(lab, "reel", &[])?,
            not_durable: wants("reel-async")
                .then(|| Reel::start(lab, "reel-async", &off))
                .transpose()?,
            shared: wants(SHARED).then(|| on_mariadb(lab)).transpose()?,
            calibration: wants("fastdfs").then(|| Calibration::start(lab)).transpose()?,
        };
        let mut rounds = Vec::new();
        for number in 0..effort.rounds {
            let sides = ["reel"].into_iter().chain(case.peers.iter().map(String::as_str));
            let first = rounds.len();
            for side in sides {
                lab.settle()?;
                let measure_ms = effort.measure_ms(scenario);
                let own = &rounds[first..];
                let round = round(lab, &stores, side, case, number, measure_ms, own)?;
                super::tell(case, number, &round);
                rounds.push(round);
            }
        }
        let plan =
            plan(&stores.durable, "profile", case, effort.rounds, effort.measure_ms(scenario))?;
        lab.profile(&format!("{}-reel", case.name), &plan)?;
        stores.durable.stop()?;
        if let Some(reel) = stores.not_durable {
            reel.stop()?;
        }
        if let Some((reel, database)) = stores.shared {
            reel.stop()?;
            database.stop()?;
        }
        if let Some(calibration) = stores.calibration {
            calibration.stop()?;
        }
        results.push(CaseResult::new(scenario, case, rounds));
    }
    Ok(())
}

/// A store whose metadata is shared.
fn on_mariadb(lab: &Lab) -> Result<(Reel, MariaDb)> {
    let database = MariaDb::start(lab)?;
    let settings = database.settings();
    let settings: Vec<_> = settings.iter().map(|(key, value)| (*key, value.as_str())).collect();
    Ok((Reel::start(lab, SHARED, &settings)?, database))
}

/// One round of one side. `others`: those of this turn that came before it.
fn round(
    lab: &Lab,
    stores: &Stores,
    side: &str,
    case: &Case,
    number: u32,
    measure_ms: u64,
    others: &[Round],
) -> Result<Round> {
    let group = case.connections.min(GROUP_MAX);
    match side {
        "reel" => upload(lab, &stores.durable, side, case, number, measure_ms),
        "reel-async" => {
            let reel = stores.not_durable.as_ref().context("it was started")?;
            upload(lab, reel, side, case, number, measure_ms)
        }
        SHARED => {
            let (reel, _) = stores.shared.as_ref().context("it was started")?;
            upload(lab, reel, side, case, number, measure_ms)
        }
        "journal-loop" => disk_limit(lab, side, case, group, measure_ms),
        "fdatasync" => disk_limit(lab, side, case, 0, measure_ms),
        "fastdfs" => fastdfs(lab, stores, case, group, others),
        "fio" => {
            let mut round = fio::sequential_write(lab, ROUND_BYTES_MAX)?;
            round.per_second = round.bytes_per_second / case.size.0 as f64;
            Ok(round)
        }
        other => bail!("uploads have no peer {other}"),
    }
}

/// FastDFS as it was then: what it stores, scaled by the journal loop, and its CPU time, scaled by that of nginx.
fn fastdfs(
    lab: &Lab,
    stores: &Stores,
    case: &Case,
    group: usize,
    others: &[Round],
) -> Result<Round> {
    let calibration = stores.calibration.as_ref().context("it was started")?;
    let cpu_speed = calibration.speed(lab)?;
    let (then, speed) = if case.size == SMALL {
        let journal_loop = others.iter().find(|round| round.side == "journal-loop");
        let journal_loop = journal_loop.context("fastdfs comes after the journal loop")?;
        let speed = reference::speed_by_journal_loop(journal_loop, group);
        (reference::fastdfs_upload_16k(case.connections), speed)
    } else {
        let small = Case { size: SMALL, ..case.clone() };
        let round = disk_limit(lab, "journal-loop", &small, GROUP_MAX, CALIBRATION_MS)?;
        (reference::FASTDFS_UPLOAD_1M, reference::speed_by_journal_loop(&round, GROUP_MAX))
    };
    Ok(then.scaled("fastdfs", speed, cpu_speed))
}

fn upload(
    lab: &Lab,
    reel: &Reel,
    side: &str,
    case: &Case,
    number: u32,
    measure_ms: u64,
) -> Result<Round> {
    let target = reel.address("engine", "binary")?;
    let prefix = format!("{}-{number}", case.name);
    let plan = plan(reel, &prefix, case, number, measure_ms)?;
    let mut outcome = lab.load(&plan)?;
    let mut uploader = Uploader::connect(target)?;
    for &stored in outcome.stored.iter().take(READ_BACK_MAX) {
        let bytes = uploader.download(&names::numbered(&prefix, stored))?;
        outcome.checked += 1;
        outcome.mismatched += u64::from(!is_pattern(&bytes, case.size.0));
    }
    Ok(Round::of(side, outcome, lab.server_core(), case.rate.is_some()))
}

fn plan(reel: &Reel, prefix: &str, case: &Case, number: u32, measure_ms: u64) -> Result<Plan> {
    let size = case.size.0;
    Ok(Plan {
        target: reel.address("engine", "binary")?,
        cores: Vec::new(),
        connections: case.connections,
        warmup_ms: 0,
        measure_ms: if size >= LARGE_BYTES { LARGE_MS_MAX } else { measure_ms },
        rate: case.rate,
        count_max: Some((ROUND_BYTES_MAX / size).max(1)),
        check_every: u64::MAX,
        seed: u64::from(number),
        meters: vec![reel.meter()],
        work: Work::Upload { prefix: prefix.to_owned(), size, content: SEED },
    })
}

/// Whether a file is what the load generator sends: its pattern over and over.
fn is_pattern(bytes: &[u8], size: u64) -> bool {
    let content = Content::new(SEED);
    bytes.len() as u64 == size
        && bytes.chunks(PATTERN_BYTES as usize).all(|chunk| content.matches(0, chunk))
}

fn disk_limit(lab: &Lab, side: &str, case: &Case, group: usize, measure_ms: u64) -> Result<Round> {
    let folder = lab.disk().join(side);
    fs::create_dir_all(&folder)?;
    let plan = journal::Plan {
        folder: folder.clone(),
        group,
        size: case.size.0,
        measure_ms,
        count_max: ROUND_BYTES_MAX / case.size.0,
        meters: Vec::new(),
    };
    let outcome = lab.journal(&plan)?;
    fs::remove_dir_all(&folder)?;
    Ok(Round::of(side, outcome, lab.server_core(), true))
}
