//! `reel probe`: tries whether a file system has what a store path needs, before there is a store.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail};
use clap::Args;
use reel_engine::probe::{Finding, Need, probe};
use serde_json::json;

use crate::exit;

/// Arguments of `reel probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// A folder of the file system; a folder for the probe is made in it, and removed.
    path: PathBuf,
    /// The same folder through a second mount of the same volume: tries what a store of several nodes needs.
    #[arg(long, value_name = "PATH")]
    other_mount: Option<PathBuf>,
    /// One JSON object for each thing that is tried, one a line.
    #[arg(long)]
    json: bool,
}

/// Exit code 1 where something is missing that a store cannot do without.
pub(crate) fn run(arguments: &Probe) -> Result<ExitCode> {
    let Probe { path, other_mount, json } = arguments;
    for folder in [Some(path), other_mount.as_ref()].into_iter().flatten() {
        if !folder.is_dir() {
            bail!("{}: not a folder", folder.display());
        }
    }
    let findings = probe(path, other_mount.as_deref())
        .with_context(|| format!("{}: cannot be tried", path.display()))?;
    let shared = other_mount.is_some();
    let mut out = std::io::stdout().lock();
    for finding in &findings {
        writeln!(out, "{}", if *json { as_json(finding) } else { as_line(finding) })?;
    }
    let fatal = findings.iter().filter(|finding| finding.is_fatal(shared)).count();
    if fatal > 0 {
        exit::say(format!("{fatal} things are missing that a store path needs"));
        return Ok(ExitCode::from(exit::FAILED));
    }
    if !shared && !json {
        exit::say("For a store of several nodes, try a second mount, too: --other-mount PATH");
    }
    Ok(ExitCode::from(exit::DONE))
}

fn as_line(finding: &Finding) -> String {
    let outcome = match (&finding.outcome, finding.need) {
        (Ok(()), _) => "yes".to_owned(),
        (Err(error), Need::Helps) => format!("no, which is slower: {error}"),
        (Err(error), _) => format!("NO: {error}"),
    };
    format!("{:<52} {outcome}", finding.what)
}

fn as_json(finding: &Finding) -> String {
    let need = match finding.need {
        Need::Must => "must",
        Need::MustShared => "must_if_shared",
        Need::Helps => "helps",
    };
    let (ok, error) = (finding.outcome.is_ok(), finding.outcome.as_ref().err());
    json!({ "what": finding.what, "need": need, "ok": ok, "error": error }).to_string()
}
