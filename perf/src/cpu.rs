//! CPU time: of everything that a server or a generator runs (by control group), and of each core.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::sys::process;

const V1_ROOT: &str = "/sys/fs/cgroup/cpuacct";
const V2_ROOT: &str = "/sys/fs/cgroup";

/// Where the CPU time of a set of processes is read.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Meter {
    /// `cpuacct.usage` of a control group, version 1: nanoseconds.
    GroupV1(PathBuf),
    /// `cpu.stat` of a control group, version 2: `usage_usec`.
    GroupV2(PathBuf),
    /// A process and its children by /proc, where there is no group: in clock ticks, without kernel workers.
    Process(u32),
}

impl Meter {
    /// The processes that it counts right now.
    pub(crate) fn processes(&self) -> Result<Vec<u32>> {
        match self {
            Self::GroupV1(path) | Self::GroupV2(path) => {
                let text = read(&path.join("cgroup.procs"))?;
                Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
            }
            Self::Process(pid) => Ok(process::family(*pid)),
        }
    }

    /// CPU seconds so far.
    pub(crate) fn seconds(&self) -> Result<f64> {
        match self {
            Self::GroupV1(path) => {
                let text = read(&path.join("cpuacct.usage"))?;
                Ok(text.trim().parse::<f64>()? / 1e9)
            }
            Self::GroupV2(path) => {
                let text = read(&path.join("cpu.stat"))?;
                let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
                Ok(usage.context("cpu.stat without usage_usec")?.trim().parse::<f64>()? / 1e6)
            }
            Self::Process(pid) => {
                let ticks: u64 = process::family(*pid).into_iter().map(process_ticks).sum();
                Ok(ticks as f64 / process::ticks_per_second() as f64)
            }
        }
    }
}

/// A control group of our own. Removed when dropped, which its processes must have left by then.
#[derive(Debug)]
pub(crate) struct Group {
    path: PathBuf,
    meter: Meter,
}

impl Group {
    /// Makes one, or says why this machine has none.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let own = format!("reel-perf-{}-{name}", std::process::id());
        let (path, meter): (PathBuf, fn(PathBuf) -> Meter) =
            if Path::new(V1_ROOT).join("cpuacct.usage").exists() {
                (Path::new(V1_ROOT).join(own), Meter::GroupV1)
            } else {
                (Path::new(V2_ROOT).join(own), Meter::GroupV2)
            };
        fs::create_dir(&path).with_context(|| format!("making {}", path.display()))?;
        let meter = meter(path.clone());
        let group = Self { path, meter };
        group.meter.seconds().context("the control group has no CPU time")?;
        Ok(group)
    }

    /// The file that a process joins the group by: it writes its number there.
    pub(crate) fn door(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A process that was just reaped leaves its group a little later.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{}: the control group could not be removed", self.path.display());
    }
}

fn process_ticks(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// What a core has done since the machine started, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct CoreTime {
    /// Ran something, ours or not.
    pub(crate) busy: f64,
    /// Had nothing to run; waiting for a disk included.
    pub(crate) idle: f64,
    /// Taken by the hypervisor.
    pub(crate) stolen: f64,
}

impl CoreTime {
    /// Every core's, by number.
    pub(crate) fn all() -> Result<Vec<Self>> {
        let text = read(Path::new("/proc/stat"))?;
        Ok(parse_cores(&text, process::ticks_per_second() as f64))
    }

    /// What was added since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            busy: self.busy - earlier.busy,
            idle: self.idle - earlier.idle,
            stolen: self.stolen - earlier.stolen,
        }
    }
}

fn parse_cores(text: &str, ticks_per_second: f64) -> Vec<CoreTime> {
    let core = |line: &str| {
        let rest = line.strip_prefix("cpu")?;
        let (number, rest) = rest.split_once(' ')?;
        number.parse::<usize>().ok()?;
        let fields: Vec<f64> = rest.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        let sum = |indexes: &[usize]| {
            indexes.iter().filter_map(|&index| fields.get(index)).sum::<f64>() / ticks_per_second
        };
        // user nice system idle iowait irq softirq steal
        Some(CoreTime { busy: sum(&[0, 1, 2, 5, 6]), idle: sum(&[3, 4]), stolen: sum(&[7]) })
    };
    text.lines().filter_map(core).collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_and_their_sum_is_not() {
        let text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 100 0 50 800 50 0 25 10 0 0\n\
                    cpu1 0 0 0 100 0 0 0 0 0 0\nintr 1\n";
        let cores = parse_cores(text, 100.0);
        assert_eq!(cores.len(), 2);
        assert_eq!(cores[0], CoreTime { busy: 1.75, idle: 8.5, stolen: 0.1 });
    }

    #[test]
    fn our_own_time_is_seen() {
        let meter = Meter::Process(std::process::id());
        let before = meter.seconds().unwrap();
        let mut sum = 0_u64;
        while meter.seconds().unwrap() < before + 0.02 {
            sum = std::hint::black_box(sum + 1);
        }
    }
}
