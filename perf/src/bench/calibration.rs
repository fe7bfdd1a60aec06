//! How fast this machine's processor is right now: nginx on hot ranges of 4 KiB, whose CPU time is known of the machine
//! that the systems that do not run here were measured on.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::{
    dataset::{self, CacheState, Dataset},
    lab::Lab,
    load::plan::{Order, Plan, Ranges, Work},
    nginx::{Nginx, Reading},
    reference,
    round::Round,
};

/// Files that nginx serves.
const SET: Dataset = Dataset { files: 8, size: 16 << 20 };
const CONNECTIONS: usize = 64;
const WARMUP_MS: u64 = 200;
const MEASURE_MS: u64 = 500;

/// An nginx that waits to be measured.
#[derive(Debug)]
pub(crate) struct Calibration {
    nginx: Nginx,
    files: Vec<PathBuf>,
}

impl Calibration {
    /// Writes its files on the disk and starts it.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let folder = lab.disk().join("calibration");
        SET.write(&folder)?;
        lab.settle()?;
        let files = SET.locate(&folder, SET.files)?;
        let nginx = Nginx::start(lab, "calibration", Reading::Sendfile, &folder)?;
        Ok(Self { nginx, files })
    }

    /// The speed of this machine, that of then being 1.
    pub(crate) fn speed(&self, lab: &Lab) -> Result<f64> {
        dataset::set_cache(&self.files, CacheState::Hot)?;
        let files = SET.targets(SET.files, "/");
        let plan = Plan {
            target: self.nginx.address(),
            cores: Vec::new(),
            connections: CONNECTIONS,
            warmup_ms: WARMUP_MS,
            measure_ms: MEASURE_MS,
            rate: None,
            count_max: None,
            check_every: 1000,
            seed: 0,
            meters: vec![self.nginx.meter()],
            work: Work::HttpRange(Ranges { files, length: 4096, order: Order::Random }),
        };
        let round = Round::of("nginx", lab.load(&plan)?, lab.server_core(), false);
        Ok(reference::speed_by_nginx(round.cpu_us.context("nginx answered nothing")?))
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.nginx.stop()
    }
}
