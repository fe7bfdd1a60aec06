//! Where a server spends its time: perf(1) beside a load, as text that needs no tool to read.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail};

/// Samples a second.
const FREQUENCY: &str = "1999";

/// Samples processes for so long and writes `LABEL-profile.txt`: threads, functions by their own time, with what they call,
/// and by who called them.
pub(crate) fn record(pids: &[u32], length: Duration, folder: &Path, label: &str) -> Result<()> {
    let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let data = folder.join(format!("{label}.perf"));
    let mut record = Command::new("perf");
    record.args(["record", "--quiet", "--call-graph", "fp", "--freq", FREQUENCY, "--pid"]);
    record.arg(pids).arg("--output").arg(&data).args(["--", "sleep"]);
    record.arg(length.as_secs_f64().to_string());
    let output = record.output().context("perf is not installed (Debian package linux-perf)")?;
    if !output.status.success() {
        bail!("perf record: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut text = String::new();
    const SYMBOLS: &str = "comm,dso,symbol";
    for (title, sort, arguments) in [
        ("threads", "comm", ["--no-children", "--call-graph", "none"]),
        ("own time", SYMBOLS, ["--no-children", "--call-graph", "none"]),
        ("with what it calls", SYMBOLS, ["--children", "--call-graph", "none"]),
        ("callers", SYMBOLS, ["--no-children", "--call-graph", "caller,0.5,callee"]),
    ] {
        let mut report = Command::new("perf");
        report.args(["report", "--stdio", "--percent-limit", "0.5", "--sort", sort]);
        let output = report.args(arguments).arg("--input").arg(&data).output()?;
        text.push_str(&format!("==== {title}\n"));
        // perf pads every line to the width of the longest name.
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            text.push_str(line.trim_end_matches([' ', '-']));
            text.push('\n');
        }
    }
    fs::write(folder.join(format!("{label}-profile.txt")), text)?;
    Ok(fs::remove_file(data)?)
}
