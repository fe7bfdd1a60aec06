//! Flags and operands of the client commands. Values are checked here as far as they can be without a server, so
//! that a wrong one is wrong usage (exit code 2) and never reaches the wire.

use std::{
    num::NonZeroU64,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;
use reel_proto::{
    http::content,
    limits::ORIGINAL_NAME_BYTES_MAX,
    name::{AppId, FileId, UserId},
};

/// Where to ask: every command that talks to a store has these.
#[derive(Debug, Clone, Args)]
pub(crate) struct Trackers {
    /// Trackers, tried in this order.
    #[arg(
        long = "tracker",
        env = "REEL_TRACKERS",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        default_value = "127.0.0.1:21000"
    )]
    pub(crate) trackers: Vec<String>,
}

/// Whose files: a request sees only the files of its app and user.
#[derive(Debug, Clone, Args)]
pub(crate) struct Owner {
    /// Application that the files belong to.
    #[arg(long, default_value = "tnvideo")]
    pub(crate) app: AppId,
    /// User that the files belong to.
    #[arg(long, default_value = "tnv001")]
    pub(crate) user: UserId,
}

/// `reel put`.
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// Files to upload; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// File id to store under, instead of a new one. Only with a single file.
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<FileId>,
    /// Name to store with the file, instead of its own. Only with a single file.
    #[arg(long, value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// Content type, instead of the one of the name's extension.
    #[arg(long = "type", value_name = "TYPE/SUBTYPE", value_parser = parse_type)]
    pub(crate) content_type: Option<String>,
    #[command(flatten)]
    pub(crate) owner: Owner,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_name(text: &str) -> Result<String, String> {
    let max = ORIGINAL_NAME_BYTES_MAX;
    if text.len() > max || text.contains(char::is_control) {
        return Err(format!("a name has at most {max} bytes and no control character"));
    }
    Ok(text.to_owned())
}

/// What is no type would be stored, and then left out of every answer.
fn parse_type(text: &str) -> Result<String, String> {
    let good = content::is_media_type(text);
    good.then(|| text.to_owned()).ok_or_else(|| "write TYPE/SUBTYPE, as video/mp4".to_owned())
}

/// `reel get`.
#[derive(Debug, Args)]
pub(crate) struct Get {
    /// File id.
    pub(crate) id: FileId,
    /// Where to write; `-` is standard output. Default: the file id, in this folder.
    #[arg(short, long, value_name = "PATH")]
    pub(crate) output: Option<PathBuf>,
    /// First byte to download.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) offset: u64,
    /// Bytes to download. Default: to the end.
    #[arg(long, value_name = "BYTES")]
    pub(crate) size: Option<NonZeroU64>,
    #[command(flatten)]
    pub(crate) owner: Owner,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// Say what was done as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel stat`.
#[derive(Debug, Args)]
pub(crate) struct Stat {
    /// File id.
    pub(crate) id: FileId,
    #[command(flatten)]
    pub(crate) owner: Owner,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which files `reel ls` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// Files that can be read.
    Normal,
    /// Deleted files that are not purged yet.
    Deleted,
    /// Both.
    All,
}

/// Files of a user or of an app, of some time.
#[derive(Debug, Args)]
pub(crate) struct Selected {
    #[command(flatten)]
    pub(crate) owner: Owner,
    /// Files of every user of the app.
    #[arg(long, conflicts_with = "user")]
    pub(crate) all_users: bool,
    /// Only files uploaded at this time or later: a date, a time as 2026-11-26T10:30:00Z, seconds since 1970, or how
    /// long ago, as 90m or 7d. Dates and times are UTC.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) since: Option<u64>,
    /// Only files uploaded before this time.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) until: Option<u64>,
}

/// Seconds since 1970.
fn parse_time(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let midnight = format!("{text}T00:00:00Z");
    let at = humantime::parse_rfc3339_weak(text)
        .or_else(|_| humantime::parse_rfc3339_weak(&midnight))
        .ok()
        .or_else(|| SystemTime::now().checked_sub(humantime::parse_duration(text).ok()?));
    at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs()).ok_or_else(
        || "write a date, a time as 2026-11-26T10:30:00Z, seconds since 1970, or 90m or 7d for so long ago".to_owned(),
    )
}

/// `reel ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Which files.
    #[arg(long, value_enum, default_value_t = Shown::Normal)]
    pub(crate) status: Shown,
    #[command(flatten)]
    pub(crate) of: Selected,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel usage`.
#[derive(Debug, Args)]
pub(crate) struct Usage {
    #[command(flatten)]
    pub(crate) of: Selected,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel rm`, `reel restore`: some files of one user.
#[derive(Debug, Args)]
pub(crate) struct Stored {
    /// File ids.
    #[arg(required = true, value_name = "ID")]
    pub(crate) ids: Vec<FileId>,
    #[command(flatten)]
    pub(crate) owner: Owner,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel rm`.
pub(crate) type Rm = Stored;

/// `reel purge`.
#[derive(Debug, Args)]
pub(crate) struct Purge {
    /// File ids; they must be deleted already.
    #[arg(value_name = "ID", required_unless_present = "all_deleted")]
    pub(crate) ids: Vec<FileId>,
    /// Purge every deleted file of the user.
    #[arg(long, conflicts_with = "ids")]
    pub(crate) all_deleted: bool,
    #[command(flatten)]
    pub(crate) owner: Owner,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel groups`.
#[derive(Debug, Args)]
pub(crate) struct Groups {
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object a group, one a line.
    #[arg(long, conflicts_with = "plain")]
    pub(crate) json: bool,
    /// The tracker's GROUPS text as it came.
    #[arg(long)]
    pub(crate) plain: bool,
}

/// `reel node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Lists the storage nodes as a tracker sees them: state, space, load.
    List(NodeList),
    /// Has trackers name a node to nobody, and waits until nothing is under way there: then it can be stopped, upgraded and
    /// started again. It stays drained until `undrain`, also over restarts.
    Drain(NodeDrain),
    /// Takes a drain back.
    Undrain(NodeNamed),
}

/// `reel node list`.
#[derive(Debug, Args)]
pub(crate) struct NodeList {
    #[command(flatten)]
    pub(crate) trackers: Trackers,
    /// One JSON object a node, one a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A storage node, and what commands to it are signed with.
#[derive(Debug, Args)]
pub(crate) struct NodeNamed {
    /// Its host name as listed, or the address of its binary protocol.
    #[arg(value_name = "NODE")]
    pub(crate) node: String,
    /// Configuration that names the file with the cluster secret. `REEL_CLUSTER_SECRET` goes before it.
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) trackers: Trackers,
}

/// `reel node drain`.
#[derive(Debug, Args)]
pub(crate) struct NodeDrain {
    #[command(flatten)]
    pub(crate) named: NodeNamed,
    /// How long to wait, at most. It stays drained when that is over.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub(crate) wait: Duration,
    /// Do not wait.
    #[arg(long, conflicts_with = "wait")]
    pub(crate) no_wait: bool,
}

/// Which store `reel verify` and `reel rebuild-index` work on.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiskStore {
    /// Data folder of `reel up`.
    #[arg(long, value_name = "DIR", default_value = "reel-data", conflicts_with = "config")]
    pub(crate) data: PathBuf,
    /// Configuration of a storage node, instead of a data folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// `reel verify`.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) store: DiskStore,
    /// Compare sizes only; do not read the content.
    #[arg(long)]
    pub(crate) quick: bool,
    /// One JSON object for each fault, one a line, then one with the counts.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel rebuild-index`.
#[derive(Debug, Args)]
pub(crate) struct RebuildIndex {
    #[command(flatten)]
    pub(crate) store: DiskStore,
    /// Compare sizes only; do not read the content.
    #[arg(long)]
    pub(crate) quick: bool,
    /// One JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `reel completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// Shell to print the script for.
    #[arg(value_enum)]
    pub(crate) shell: Shell,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_a_time_a_number_or_an_age() {
        for text in ["2024-03-11T20:14:02Z", "2024-03-11 20:14:02", "1710188042"] {
            assert_eq!(parse_time(text), Ok(1_710_188_042), "{text}");
        }
        assert_eq!(parse_time("2024-03-11"), Ok(1_710_115_200));
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let before = now();
        let then = parse_time("7d").unwrap() + 7 * 86_400;
        assert!((before..=now()).contains(&then), "{then}");
        for text in
            ["", "-1", "yesterday", "2024-13-01", "2024-03-11T", "1e9", "9000000000000000000y"]
        {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }
}
