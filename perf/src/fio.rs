//! The peer for large writes: fio from Debian, one sequential writer with an fsync at the end.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{lab::Lab, round::Round};

/// Writes `bytes` in pieces of 1 MiB and one fsync, on the server's core.
pub(crate) fn sequential_write(lab: &Lab, bytes: u64) -> Result<Round> {
    let folder = lab.disk().join("fio");
    fs::create_dir_all(&folder)?;
    let mut command = lab.server_place(None).command(Path::new("fio"))?;
    command.args(["--name=write", "--rw=write", "--bs=1M", "--ioengine=psync", "--end_fsync=1"]);
    command.args(["--fallocate=none", "--output-format=json"]);
    command.arg(format!("--size={bytes}")).arg(format!("--directory={}", folder.display()));
    let output = command.output().context("fio is not installed (Debian package fio)")?;
    fs::remove_dir_all(&folder)?;
    if !output.status.success() {
        bail!("fio: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let result: Value = serde_json::from_slice(&output.stdout).context("fio's result")?;
    let job = &result["jobs"][0];
    // The time of the fsync at the end is in it.
    let rate = job["write"]["bw_bytes"].as_f64().context("fio's result has no bandwidth")?;
    Ok(Round { side: "fio".to_owned(), bytes_per_second: rate, ..Round::default() })
}
