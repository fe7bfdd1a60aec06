//! What every measurement needs: the disk, the cores, the folder of this run, and loads that run beside the servers.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    cpu::{CoreTime, Group},
    disk::Disk,
    journal,
    launch::Place,
    load::{outcome::Outcome, plan::Plan},
    network, profile, reel,
    sys::process,
};

/// Bytes of the image. The largest scenario writes some 10 GiB before the file system is made anew.
const IMAGE_BYTES: u64 = 24 << 30;

/// The place of a run.
#[derive(Debug)]
pub(crate) struct Lab {
    disk: Disk,
    out: PathBuf,
    reel_binary: PathBuf,
    cores: usize,
    server_core: Option<usize>,
    client_core: Option<usize>,
    nice: Option<i32>,
    profiles: bool,
    network: String,
    interrupted: Arc<AtomicBool>,
    has_groups: bool,
}

impl Lab {
    /// Prepares a run that writes into `out`. `nice`: of servers and generators alike, on a machine that others use.
    pub(crate) fn new(out: &Path, reel_binary: Option<PathBuf>, nice: Option<i32>) -> Result<Self> {
        fs::create_dir_all(out.join("logs"))?;
        let out = out.canonicalize()?;
        let reel_binary = match reel_binary {
            Some(path) => path,
            None => reel::binary_beside(&std::env::current_exe()?),
        };
        if !reel_binary.exists() {
            bail!("{} is not there: cargo build --release", reel_binary.display());
        }
        let network = network::enter();
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let disk = match Disk::image(&out, IMAGE_BYTES) {
            Ok(disk) => disk,
            Err(error) => {
                println!("no image of our own ({error:#}): measuring in a folder");
                Disk::folder(&out)?
            }
        };
        let cores = CoreTime::all()?.len();
        let mut lab = Self {
            disk,
            out,
            reel_binary,
            cores,
            server_core: None,
            client_core: None,
            nice,
            profiles: false,
            network,
            interrupted,
            has_groups: true,
        };
        lab.place_apart(true);
        if let Err(error) = Group::new("probe") {
            println!("no control groups ({error:#}): CPU time by /proc, without kernel workers");
            lab.has_groups = false;
        }
        Ok(lab)
    }

    /// Servers on one core and generators on another; or all of them on all cores.
    pub(crate) fn place_apart(&mut self, apart: bool) {
        let pinned = |core| (apart && self.cores > 1).then_some(core);
        (self.server_core, self.client_core) = (pinned(0), pinned(1));
    }

    /// Cores that servers run on.
    pub(crate) fn server_cores(&self) -> usize {
        self.server_core.map_or(self.cores, |_| 1)
    }

    /// The folder that servers keep their data in.
    pub(crate) fn disk(&self) -> &Path {
        self.disk.path()
    }

    pub(crate) fn disk_mut(&mut self) -> &mut Disk {
        &mut self.disk
    }

    pub(crate) fn disk_description(&self) -> String {
        self.disk.description()
    }

    /// Writes back what is dirty, so that a round does not pay for what came before it.
    pub(crate) fn settle(&self) -> Result<()> {
        self.disk.sync()
    }

    /// The folder of the results.
    pub(crate) fn out(&self) -> &Path {
        &self.out
    }

    /// A file or folder for what a server says.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.out.join("logs").join(name)
    }

    pub(crate) fn reel_binary(&self) -> &Path {
        &self.reel_binary
    }

    pub(crate) fn server_core(&self) -> Option<usize> {
        self.server_core
    }

    /// What servers and generators talk over, for the report.
    pub(crate) fn network(&self) -> &str {
        &self.network
    }

    /// How the run is placed, for the report.
    pub(crate) fn placement(&self) -> String {
        let nice = self.nice.map_or(String::new(), |nice| format!(", all of them at nice {nice}"));
        match (self.server_core, self.client_core) {
            (Some(server), Some(client)) => {
                format!("servers on core {server}, generators on core {client}{nice}")
            }
            _ => "one core only: servers and generators share it, no figure means much".to_owned(),
        }
    }

    /// A control group, where they can be had.
    pub(crate) fn group(&self, name: &str) -> Option<Group> {
        if !self.has_groups {
            return None;
        }
        Group::new(name).map_err(|error| println!("{error:#}")).ok()
    }

    /// Where servers run.
    pub(crate) fn server_place<'a>(&self, group: Option<&'a Group>) -> Place<'a> {
        Place { core: self.server_core, nice: self.nice, group }
    }

    /// Where generators run, and what stands for another machine.
    pub(crate) fn generator_place(&self) -> Place<'static> {
        Place { core: self.client_core, nice: self.nice, group: None }
    }

    /// Fails when Ctrl-C was pressed: what runs is then stopped by being dropped.
    pub(crate) fn check_interrupt(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Runs the journal loop to its end on the server's core.
    pub(crate) fn journal(&self, plan: &journal::Plan) -> Result<Outcome> {
        self.check_interrupt()?;
        let group = self.group("journal");
        let command = self.server_place(group.as_ref()).command(&std::env::current_exe()?)?;
        let mut plan = plan.clone();
        plan.meters.extend(group.as_ref().map(Group::meter));
        let input = serde_json::to_string(&plan)?;
        self.worker(command, "journal", &input, group)?.finish(self)
    }

    /// Starts a worker of ours that reads its plan and writes an outcome.
    fn worker(
        &self,
        mut command: Command,
        name: &str,
        input: &str,
        group: Option<Group>,
    ) -> Result<Load> {
        let log = self.log("workers.log");
        let stderr = File::options().create(true).append(true).open(log)?;
        command.arg(name).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn()?;
        let mut pipe = child.stdin.take().context("standard input is piped")?;
        let load = Load { child, _group: group };
        pipe.write_all(input.as_bytes())?;
        Ok(load)
    }

    /// Runs a load to its end in a process of its own. Its CPU time is the last of the outcome's.
    pub(crate) fn load(&self, plan: &Plan) -> Result<Outcome> {
        self.start_load(plan, None)?.finish(self)
    }

    /// From now on every case has one more round of each side, which counts for nothing and is profiled.
    pub(crate) fn profile_all(&mut self) {
        self.profiles = true;
    }

    /// Runs a load once more under perf(1), where that was asked for, and writes what the server did: the processes of
    /// the plan's first meter.
    pub(crate) fn profile(&self, label: &str, plan: &Plan) -> Result<()> {
        let Some(meter) = plan.meters.first().filter(|_| self.profiles) else { return Ok(()) };
        let pids = meter.processes()?;
        let load = self.start_load(plan, None)?;
        std::thread::sleep(Duration::from_millis(plan.warmup_ms));
        profile::record(&pids, Duration::from_millis(plan.measure_ms), self.out(), label)?;
        load.finish(self).map(drop)
    }

    /// Starts a load. `nice`: below zero, it goes before what else runs on the generators' core.
    pub(crate) fn start_load(&self, plan: &Plan, nice: Option<i32>) -> Result<Load> {
        self.check_interrupt()?;
        let mut plan = plan.clone();
        plan.cores = match self.client_core {
            Some(core) => vec![core],
            None => (0..self.cores).collect(),
        };
        let group = self.group(&format!("load-{}", plan.seed));
        let nice = nice.or(self.nice).filter(|_| process::is_root());
        let place = Place { core: self.client_core, nice, group: group.as_ref() };
        let command = place.command(&std::env::current_exe()?)?;
        plan.meters.extend(group.as_ref().map(Group::meter));
        self.worker(command, "load", &serde_json::to_string(&plan)?, group)
    }
}

/// A load that runs. Killed when dropped before its end.
#[derive(Debug)]
pub(crate) struct Load {
    child: std::process::Child,
    _group: Option<Group>,
}

impl Load {
    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub(crate) fn finish(mut self, lab: &Lab) -> Result<Outcome> {
        let mut output = self.child.stdout.take().context("standard output is piped")?;
        // The result is larger than a pipe may be, so it is read while we wait.
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            output.read_to_string(&mut text).map(|_| text)
        });
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            lab.check_interrupt()?;
            std::thread::sleep(Duration::from_millis(20));
        };
        let text = reader.join().map_err(|_| anyhow::anyhow!("reading the load's result"))??;
        if !status.success() {
            let log = fs::read_to_string(lab.log("load.log")).unwrap_or_default();
            let last = log.lines().rev().take(5).collect::<Vec<_>>();
            bail!("the load ended with {status}: {}", last.into_iter().rev().collect::<String>());
        }
        serde_json::from_str(&text).context("the load's result")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
