//! What was measured on: without it no figure means anything.

use std::{fmt, fs, process::Command};

use serde::{Deserialize, Serialize};

use crate::{lab::Lab, nginx};

/// The machine, and the builds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// When, seconds since 1970.
    pub(crate) time: u64,
    /// Of the repository, with `-dirty` when it had changes.
    pub(crate) commit: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) disk: String,
    pub(crate) placement: String,
    pub(crate) nginx: String,
    /// With TCP's congestion control, which paces large answers or does not, on loopback too.
    pub(crate) network: String,
    /// Load average at the begin: what else ran.
    pub(crate) load_average: String,
}

impl Machine {
    pub(crate) fn look(lab: &Lab) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value);
            value.trim().to_owned()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let memory_kib: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
        Self {
            time: std::time::SystemTime::now()
                .duration_since(std::time::SystemTime::UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            commit: commit(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field(&processors, "model name"),
            cores: processors.lines().filter(|line| line.starts_with("processor")).count(),
            memory_bytes: memory_kib * 1024,
            disk: lab.disk_description(),
            placement: lab.placement(),
            nginx: nginx::version().unwrap_or_else(|error| format!("{error:#}")),
            network: lab.network().to_owned(),
            load_average: read("/proc/loadavg").trim().to_owned(),
        }
    }
}

fn commit() -> String {
    let folder = env!("CARGO_MANIFEST_DIR");
    let output = Command::new("git")
        .args(["-C", folder, "describe", "--always", "--dirty", "--abbrev=12"])
        .output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => "unknown".to_owned(),
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "commit {}, kernel {}, {}", self.commit, self.kernel, self.nginx)?;
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        writeln!(
            f,
            "{} × {}, {gib:.0} GiB of memory; {}",
            self.cores, self.processor, self.placement
        )?;
        writeln!(f, "network: {}", self.network)?;
        writeln!(f, "disk: {}", self.disk)?;
        write!(f, "load average at the begin: {}", self.load_average)
    }
}
