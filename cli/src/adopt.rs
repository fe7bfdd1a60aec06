//! `reel adopt`: has a running storage node take over what a deployed system has left, and tells how far it is.
//!
//! The node does the work, beside its readers and uploads, and goes on with it by itself after a restart: whoever ends this
//! command ends nothing but the telling.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal},
    net::SocketAddr,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use hyper::StatusCode;
use indicatif::{HumanBytes, ProgressBar};
use serde_json::{Value, json};

use crate::{
    commands::shown,
    exit::{Usage, say},
    node_admin::{self, AdminOf, act, store_paths},
};

/// Between two looks at the node.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What the node lists of a pass, below a store path.
const FINDINGS: &str = ".reel/adoption-findings.jsonl";

/// Arguments of `reel adopt`.
#[derive(Debug, Args)]
pub(crate) struct Adopt {
    #[command(flatten)]
    node: AdminOf,
    /// Only this store path, by its place in the configuration, from 0. Default: all that are to be taken over.
    #[arg(long, value_name = "N")]
    store_path: Option<u64>,
    /// Only look: rows without files, files without rows, wrong sizes. Changes nothing.
    #[arg(long, conflicts_with_all = ["finish", "pause"])]
    check: bool,
    /// The deployed system's nodes are gone for good: bring every record to what its row says, then let repair and purge
    /// have the store.
    #[arg(long, conflicts_with = "pause")]
    finish: bool,
    /// Let a pass wait until it is begun again.
    #[arg(long)]
    pause: bool,
    /// Begin, and do not wait for the end.
    #[arg(long)]
    no_wait: bool,
    /// One JSON object for each store path, one a line.
    #[arg(long)]
    json: bool,
}

impl Adopt {
    fn act(&self) -> &'static str {
        match (self.check, self.finish, self.pause) {
            (true, ..) => "adopt/check",
            (_, true, _) => "adopt/finish",
            (.., true) => "adopt/pause",
            _ => "adopt",
        }
    }

    fn mode(&self) -> &'static str {
        match (self.check, self.finish) {
            (true, _) => "check",
            (_, true) => "finish",
            _ => "adopt",
        }
    }
}

/// Exit code 1 where a pass did not come to its end, or a check has found something.
pub(crate) fn run(arguments: &Adopt) -> Result<ExitCode> {
    let admin = arguments.node.address()?;
    node_admin::block_on(ask(arguments, admin))
}

async fn ask(arguments: &Adopt, admin: SocketAddr) -> Result<ExitCode> {
    let mut stores = Vec::new();
    for store in store_paths(admin).await? {
        let wanted = arguments.store_path.is_none_or(|wanted| store["store"] == wanted);
        if wanted && store["adoption"]["state"] == "open" {
            stores.push(store["store"].as_u64().context("a store path has a number")?);
        }
    }
    if stores.is_empty() {
        if let Some(store) = arguments.store_path {
            return Err(
                Usage::new(format!("nothing is to be taken over on store path {store}")).into()
            );
        }
        say("nothing is to be taken over");
        return Ok(ExitCode::SUCCESS);
    }
    for store in &stores {
        let (status, answer) = act(admin, *store, arguments.act()).await?;
        match status {
            StatusCode::OK => {}
            // Then this tells how far it is.
            StatusCode::CONFLICT if answer.contains("under way") && !arguments.pause => {
                say(format_args!("store path {store}: {}", answer.trim()));
            }
            _ => bail!("store path {store}: {}", answer.trim()),
        }
    }
    if arguments.no_wait || arguments.pause {
        return Ok(ExitCode::SUCCESS);
    }
    watch(arguments, admin, &stores).await
}

/// Tells how far it is until all have come to an end.
async fn watch(arguments: &Adopt, admin: SocketAddr, stores: &[u64]) -> Result<ExitCode> {
    let terminal = io::stderr().is_terminal();
    let spinner = if terminal { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    let mut ended = true;
    for store in stores {
        let store = loop {
            let all = store_paths(admin).await?;
            let found = all.into_iter().find(|found| found["store"] == *store);
            let found = found.with_context(|| format!("store path {store} is gone"))?;
            let pass = &found["adoption"]["pass"];
            if !is_under_way(pass) {
                break found;
            }
            spinner.set_message(progress(&found));
            spinner.tick();
            tokio::time::sleep(LOOK_EVERY).await;
        };
        spinner.suspend(|| tell(arguments, &store))?;
        let pass = &store["adoption"]["pass"];
        let found = arguments.check && findings(&pass["seen"]) > 0;
        ended &= !pass["ended_at"].is_null() && pass["error"].is_null() && !found;
    }
    spinner.finish_and_clear();
    Ok(if ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn is_under_way(pass: &Value) -> bool {
    pass["ended_at"].is_null() && pass["error"].is_null() && pass["paused"] != true
}

fn progress(store: &Value) -> String {
    let pass = &store["adoption"]["pass"];
    let (seen, number) = (&pass["seen"], |value: &Value| value.as_u64().unwrap_or(0));
    let of = pass["rows_total"].as_u64().map(|total| format!(" of {total}")).unwrap_or_default();
    format!(
        "{}: {} rows{of}, {} adopted, {} read, {} findings",
        shown::safe(store["path"].as_str().unwrap_or_default()),
        number(&pass["rows_read"]),
        number(&seen["adopted"]),
        HumanBytes(number(&seen["bytes"])),
        findings(seen)
    )
}

/// What a pass may find, and how people call it.
const KINDS: [(&str, &str); 7] = [
    ("no_file", "rows without a file"),
    ("wrong_size", "files of another size than their row"),
    ("wrong_checksum", "files with another checksum than their row"),
    ("bad_record", "files with a record that is not theirs"),
    ("unreadable", "files that cannot be read"),
    ("bad_row", "rows with names that are not accepted"),
    ("no_row", "files without a row"),
];

fn findings(seen: &Value) -> u64 {
    KINDS.iter().filter_map(|(kind, _)| seen[kind].as_u64()).sum()
}

/// What became of a store path.
fn tell(arguments: &Adopt, store: &Value) -> Result<()> {
    let adoption = &store["adoption"];
    let (pass, path) = (&adoption["pass"], store["path"].as_str().unwrap_or_default());
    if arguments.json {
        let told = json!({ "store": store["store"], "path": path, "adoption": adoption });
        return Ok(shown::line(&told.to_string())?);
    }
    let seen = &pass["seen"];
    let number = |kind: &str| seen[kind].as_u64().unwrap_or(0);
    let path_shown = shown::safe(path);
    let how = match (&pass["error"], &pass["ended_at"]) {
        (Value::String(error), _) => format!("ended before its end: {}", shown::safe(error)),
        (_, Value::Null) => "is paused".to_owned(),
        _ if adoption["state"] == "finished" => "is taken over".to_owned(),
        _ => format!("{} done", arguments.mode()),
    };
    shown::line(&format!(
        "{path_shown}: {how}: {} rows, {} files adopted ({} read), {} were already, {} changed under way",
        number("rows"),
        number("adopted"),
        HumanBytes(number("bytes")),
        number("already"),
        number("changed")
    ))?;
    for (kind, what) in KINDS {
        if number(kind) > 0 {
            shown::line(&format!("{path_shown}: {} {what}", number(kind)))?;
        }
    }
    if findings(seen) > 0 {
        show_findings(arguments, Path::new(path))?;
    }
    Ok(())
}

/// Prints what a check has found, where this is the node's machine; else says where it is listed.
fn show_findings(arguments: &Adopt, path: &Path) -> Result<()> {
    let list = path.join(FINDINGS);
    let opened = arguments.check.then(|| File::open(&list).ok()).flatten();
    let Some(file) = opened else {
        return Ok(shown::line(&format!(
            "listed in {}",
            shown::safe(&list.display().to_string())
        ))?);
    };
    for line in BufReader::new(file).lines() {
        shown::line(&shown::safe(&line?))?;
    }
    Ok(())
}
