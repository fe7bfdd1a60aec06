//! Ranges over HTTP, hot and cold: our store and nginx on the same bytes, in turn.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, bail};

use super::Effort;
use crate::{
    cpu::Meter,
    dataset::{self, CacheState, Dataset},
    gluster::Gluster,
    lab::Lab,
    load::plan::{Order, Plan, Ranges, Work},
    nginx::{Nginx, Reading},
    reel::Reel,
    report::CaseResult,
    round::Round,
    scenario::{BRICK, Case, MOUNT, OURS, Scenario, Settings, settings_of},
    upload::Uploader,
};

/// Bytes of a file: two of the largest ranges.
const FILE_BYTES: u64 = 16 << 20;
/// Files that are read hot: 1 GiB, far more than any processor's cache.
const HOT_FILES: u64 = 64;
/// Files that are read cold: 4 GiB. No range is read twice, so a round cannot warm its own cache.
const COLD_FILES: u64 = 256;
/// The same of a quick run: 2 GiB.
const COLD_FILES_QUICK: u64 = 128;

/// Milliseconds before a hot round counts. A cold one counts from its first request: nothing is to be warmed.
const WARMUP_MS: u64 = 500;

/// Somebody who serves the files.
struct Side {
    name: String,
    address: SocketAddr,
    meter: Meter,
    prefix: &'static str,
    files: Vec<PathBuf>,
}

/// Runs the scenario's cases.
pub(crate) fn measure(
    lab: &mut Lab,
    scenario: &Scenario,
    effort: Effort,
    results: &mut Vec<CaseResult>,
) -> Result<()> {
    let is_cold = scenario.cases.iter().any(|case| case.cache == Some(CacheState::Cold));
    let files = match (is_cold, effort.quick) {
        (true, true) => COLD_FILES_QUICK,
        (true, false) => COLD_FILES,
        (false, _) => HOT_FILES,
    };
    let set = Dataset { files, size: FILE_BYTES };
    println!("   writing {} MiB for each server", (files * FILE_BYTES) >> 20);
    let copies = lab.disk().join("peer");
    set.write(&copies)?;
    let peer_files = set.locate(&copies, files)?;
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    let on_volume = |name: &str| matches!(name, BRICK | MOUNT);
    let volume = scenario.peers().into_iter().any(on_volume).then(|| Gluster::start(lab));
    let volume = volume.transpose()?;
    for name in std::iter::once(OURS).chain(scenario.peers()) {
        let mut own = Own::new(name, volume.as_ref());
        if own.settings.is_none() {
            peers.push((name, Nginx::start(lab, name, reading(name)?, &copies)?));
            continue;
        }
        let reel = own.start(lab)?;
        set.upload(&mut Uploader::connect(reel.address("engine", "binary")?)?)?;
        let store = own.volume.map_or_else(|| reel.store(), |volume| volume.brick(name));
        own.files = set.locate(&store, files)?;
        own.reel = Some(reel);
        ours.push(own);
    }
    lab.settle()?;
    if volume.is_some() {
        // Pages lie in memory as they were written, and bricks are written in smaller pieces: read again they lie alike.
        let all = ours.iter().map(|own| &own.files).chain([&peer_files]);
        all.map(|files| dataset::set_cache(files, CacheState::Cold)).collect::<Result<Vec<_>>>()?;
    }
    for case in &scenario.cases {
        let takes_part = |name: &str| name == OURS || case.peers.iter().any(|peer| peer == name);
        let state = case.cache.unwrap_or(CacheState::Hot);
        let mut rounds = Vec::new();
        // The last time for a profile, where one is wanted.
        for number in 0..=effort.rounds {
            let mut sides = Vec::new();
            for own in ours.iter_mut().filter(|own| takes_part(own.name)) {
                sides.push(own.side(lab, state)?);
            }
            let peers = peers.iter().filter(|(name, _)| takes_part(name));
            sides.extend(peers.map(|(name, nginx)| Side {
                name: (*name).to_owned(),
                address: nginx.address(),
                meter: nginx.meter(),
                prefix: "/",
                files: peer_files.clone(),
            }));
            for side in &sides {
                let plan = plan(set, side, case, number, effort.measure_ms(scenario));
                if number == effort.rounds {
                    dataset::set_cache(&side.files, state)?;
                    lab.profile(&format!("{}-{}", case.name, side.name), &plan)?;
                } else {
                    let round = round(lab, side, case, &plan)?;
                    super::tell(case, number, &round);
                    rounds.push(round);
                }
            }
        }
        results.push(CaseResult::new(scenario, case, rounds));
    }
    for (_, nginx) in peers {
        nginx.stop()?;
    }
    for own in ours {
        own.reel.map_or(Ok(()), Reel::stop)?;
    }
    volume.map_or(Ok(()), Gluster::stop)
}

/// A store of ours, and where its files lie.
struct Own<'a> {
    name: &'a str,
    /// None: it is somebody else.
    settings: Option<Settings>,
    /// That it has its store on.
    volume: Option<&'a Gluster>,
    reel: Option<Reel>,
    files: Vec<PathBuf>,
}

impl<'a> Own<'a> {
    fn new(name: &'a str, volume: Option<&'a Gluster>) -> Self {
        let volume = volume.filter(|_| matches!(name, BRICK | MOUNT));
        let settings = if volume.is_some() { Some(&[][..]) } else { settings_of(name) };
        Self { name, settings, volume, reel: None, files: Vec::new() }
    }

    fn start(&self, lab: &Lab) -> Result<Reel> {
        let settings = self.settings.unwrap_or_default();
        let Some(volume) = self.volume else { return Reel::start(lab, self.name, settings) };
        let store = volume.store_path(self.name, self.name == BRICK);
        let settings = [("store_path", store.as_str())];
        match self.name {
            // What its daemons do for a reader is part of the price of a mount.
            MOUNT => Reel::start_in(lab, self.name, &settings, volume.group()),
            _ => Reel::start(lab, self.name, &settings),
        }
    }

    /// The store as a side of a round. Before a cold one it is started anew: it remembers what it has read past the page
    /// cache, and a range that is asked for again is not one that is read once.
    fn side(&mut self, lab: &Lab, state: CacheState) -> Result<Side> {
        let running = match self.reel.take() {
            Some(reel) if state == CacheState::Cold => {
                reel.stop()?;
                self.start(lab)?
            }
            Some(reel) => reel,
            None => self.start(lab)?,
        };
        let side = Side {
            name: self.name.to_owned(),
            address: running.address("engine", "media")?,
            meter: running.meter(),
            prefix: "/files/",
            files: self.files.clone(),
        };
        self.reel = Some(running);
        Ok(side)
    }
}

fn reading(peer: &str) -> Result<Reading> {
    Ok(match peer {
        "nginx" => Reading::Sendfile,
        "nginx-aio" => Reading::AioThreads,
        "nginx-directio" => Reading::AioDirect,
        other => bail!("ranges have no peer {other}"),
    })
}

fn plan(set: Dataset, side: &Side, case: &Case, number: u32, measure_ms: u64) -> Plan {
    let is_cold = case.cache == Some(CacheState::Cold);
    let (count, order, warmup_ms) =
        if is_cold { (COLD_FILES, Order::Once, 0) } else { (HOT_FILES, Order::Random, WARMUP_MS) };
    let files = set.targets(count, side.prefix);
    Plan {
        target: side.address,
        cores: Vec::new(),
        connections: case.connections,
        warmup_ms,
        measure_ms,
        rate: case.rate,
        count_max: None,
        check_every: 1000,
        seed: u64::from(number),
        meters: vec![side.meter.clone()],
        work: Work::HttpRange(Ranges { files, length: case.size.0, order }),
    }
}

fn round(lab: &Lab, side: &Side, case: &Case, plan: &Plan) -> Result<Round> {
    let state = case.cache.unwrap_or(CacheState::Hot);
    let count = match state {
        CacheState::Hot => HOT_FILES,
        CacheState::Cold => COLD_FILES,
    };
    // Which files of the tree the hot ones are does not matter: where there are hot cases only, it is all of them.
    let files = &side.files[..side.files.len().min(count as usize)];
    let before = dataset::set_cache(files, state)?;
    let outcome = lab.load(plan)?;
    let mut round = Round::of(&side.name, outcome, lab.server_core(), case.rate.is_some());
    round.cached_before = Some(before);
    let after = dataset::cached_share(files)?;
    if state == CacheState::Hot && !state.is_kept(after) {
        round.notes.push(format!("only {:.0} % was still in the page cache", after * 100.0));
    }
    round.cached_after = Some(after);
    Ok(round)
}
