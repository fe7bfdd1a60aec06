//! Starting what is measured: pinned to its core, in its control group, ended by its number whatever happens to us.
//!
//! `reel-perf launch` does that to itself and then becomes the program, so no moment of it goes uncounted.

use std::{
    ffi::OsString,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{cpu::Group, sys::process};

/// Longest wait for a server's end after SIGTERM. Then it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Arguments of `reel-perf launch`.
#[derive(Debug, Args)]
pub(crate) struct Launch {
    /// Core to run on.
    #[arg(long)]
    core: Option<usize>,
    /// Nice value.
    #[arg(long, allow_hyphen_values = true)]
    nice: Option<i32>,
    /// `cgroup.procs` of the control group to join.
    #[arg(long)]
    join: Option<PathBuf>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// `reel-perf launch`: comes back only with an error.
pub(crate) fn become_program(launch: &Launch) -> Result<()> {
    process::end_with_parent()?;
    process::own_session()?;
    if let Some(join) = &launch.join {
        fs::write(join, "0").with_context(|| format!("joining by {}", join.display()))?;
    }
    if let Some(core) = launch.core {
        process::pin(core).with_context(|| format!("pinning to core {core}"))?;
    }
    if let Some(nice) = launch.nice {
        process::set_nice(nice).with_context(|| format!("nice value {nice}"))?;
    }
    let (program, arguments) = launch.command.split_first().context("no program")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("{program:?}"))
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Place<'a> {
    pub(crate) core: Option<usize>,
    pub(crate) nice: Option<i32>,
    pub(crate) group: Option<&'a Group>,
}

impl Place<'_> {
    /// A command that runs `program` here.
    pub(crate) fn command(&self, program: &Path) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("launch");
        if let Some(core) = self.core {
            command.arg("--core").arg(core.to_string());
        }
        if let Some(nice) = self.nice {
            command.arg("--nice").arg(nice.to_string());
        }
        if let Some(group) = self.group {
            command.arg("--join").arg(group.door());
        }
        command.arg("--").arg(program);
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REEL_") {
                command.env_remove(name);
            }
        }
        Ok(command)
    }
}

/// A server that runs. Stopped when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; standard error goes to `log`.
    pub(crate) fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command.stdout(Stdio::piped()).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, once.
    pub(crate) fn output(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("standard output is taken already")
    }

    /// Whether it still runs; its log when it does not.
    pub(crate) fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let begin = log.len().saturating_sub(2000);
            bail!("{} ended by itself: {status}\n{}", self.name, log.get(begin..).unwrap_or(""));
        }
        Ok(())
    }

    /// Asks it to end and waits for it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        process::signal(self.child.id(), libc::SIGTERM)?;
        let begin = Instant::now();
        while self.child.try_wait()?.is_none() {
            if begin.elapsed() > STOP_LIMIT {
                self.child.kill()?;
                self.child.wait()?;
                bail!("{} did not end within {STOP_LIMIT:?} and was killed", self.name);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("stopping {}: {error:#}", self.name);
        }
    }
}
