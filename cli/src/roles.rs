//! One role from a configuration: `reel tracker`, `reel idgen`, `reel engine`, `reel gateway`, and
//! how each is started, which `reel up` does in one process.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use reel_node::lock::FolderLock;
use reel_node::{Process, Running, notify};
use serde_json::{Value, json};

use crate::data_folder::make_folder;
use crate::exit::Usage;
use crate::server::{Server, Start};
use crate::settings::{self, Settings, parse_listen};

/// The roles of a store, each a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
    /// Runs a tracker: knows the groups, the nodes and where each user's files are.
    Tracker(Role),
    /// Runs an ID node: hands out the numbers that name the places of files.
    Idgen(Role),
    /// Runs a storage node: keeps files and serves them.
    Engine(EngineRole),
    /// Runs a gateway: the HTTP edge in front of the storage nodes.
    Gateway(GatewayRole),
}

/// Flags that every server has.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Data threads of each role.
    #[arg(long, value_name = "COUNT")]
    data_threads: Option<usize>,
    /// Level or filter of the log, as in `info,reel_engine=debug`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// `text` or `json`.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Lift the address lists, the rule for HTTP writes and the signatures between nodes.
    #[arg(long)]
    insecure: bool,
}

/// Flags of `reel tracker` and `reel idgen`.
#[derive(Debug, Args)]
pub(crate) struct Role {
    /// Configuration file.
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Binary protocol; a bare port is on loopback, 0 is the kernel's choice.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Admin HTTP.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    admin_listen: Option<SocketAddr>,
    /// Folder of the embedded metadata.
    #[arg(long, value_name = "DIR")]
    meta_dir: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// Flags of `reel engine`.
#[derive(Debug, Args)]
pub(crate) struct EngineRole {
    #[command(flatten)]
    role: Role,
    /// Media HTTP.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    http_listen: Option<SocketAddr>,
    /// Trackers to join.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    trackers: Option<Vec<String>>,
    /// ID nodes to take blocks of ids from.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    idgens: Option<Vec<String>>,
    /// A store path; the configured ones do not count then. May be given several times.
    #[arg(long, value_name = "DIR")]
    store_path: Vec<PathBuf>,
}

/// Flags of `reel gateway`.
#[derive(Debug, Args)]
pub(crate) struct GatewayRole {
    /// Configuration file.
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Media HTTP; a bare port is on loopback, 0 is the kernel's choice.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Admin HTTP.
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    admin_listen: Option<SocketAddr>,
    /// Trackers to ask.
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',')]
    trackers: Option<Vec<String>>,
    #[command(flatten)]
    common: Common,
}

impl Common {
    /// Adds the flags that were given to the flags layer of the configuration.
    pub(crate) fn add_to(&self, flags: &mut Value) {
        // A flag can lift the rules, never bring back what the file lifted.
        let insecure = self.insecure.then_some(true);
        flags["node"] = json!({ "data_threads": self.data_threads, "insecure": insecure });
        flags["log"] = json!({ "level": self.log_level, "format": self.log_format });
    }
}

impl Role {
    fn flags(&self, section: &str) -> Value {
        let mut flags = json!({ "meta": { "dir": self.meta_dir } });
        flags[section] = json!({ "listen": self.listen, "admin_listen": self.admin_listen });
        self.common.add_to(&mut flags);
        flags
    }
}

impl EngineRole {
    fn flags(&self) -> Value {
        let mut flags = self.role.flags("engine");
        flags["engine"]["http_listen"] = json!(self.http_listen);
        flags["engine"]["trackers"] = json!(self.trackers);
        flags["engine"]["idgens"] = json!(self.idgens);
        if !self.store_path.is_empty() {
            // The path's text is the store's key at the ID node: typed relative to where the
            // operator stands, it would be another key next time.
            let absolute =
                |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let paths = self.store_path.iter().map(|path| json!({ "path": absolute(path) }));
            flags["store_path"] = paths.collect();
        }
        flags
    }
}

impl GatewayRole {
    fn flags(&self) -> Value {
        let mut flags = json!({
            "gateway": {
                "listen": self.listen,
                "admin_listen": self.admin_listen,
                "trackers": self.trackers,
            },
        });
        self.common.add_to(&mut flags);
        flags
    }
}

type Starter = fn(&Settings, &Process) -> anyhow::Result<Running>;

/// Runs one role until a signal.
pub(crate) fn run(command: &RoleCommand) -> anyhow::Result<ExitCode> {
    let (name, config, flags, start): (_, _, _, Starter) = match command {
        RoleCommand::Tracker(role) => {
            ("tracker", &role.config, role.flags("tracker"), start_tracker)
        }
        RoleCommand::Idgen(role) => ("idgen", &role.config, role.flags("idgen"), start_idgen),
        RoleCommand::Engine(role) => ("engine", &role.role.config, role.flags(), start_engine),
        RoleCommand::Gateway(role) => ("gateway", &role.config, role.flags(), start_gateway),
    };
    let settings = settings::load(Settings::default(), config.as_deref(), &flags)?.value;
    reel_node::log::init(&settings.log)?;
    settings.warn_insecure();
    // A gateway keeps nothing; the others must be alone on what they keep.
    let _lock = match command {
        RoleCommand::Gateway(_) => None,
        _ => Some(lock(&settings, name)?),
    };
    let process = Process::new(&settings.node.capabilities_off)?;
    let mut server = Server::new()?;
    let running = start(&settings, &process)?;
    let mut line = String::new();
    let admin = running.admin_address().into_iter();
    for address in running.addresses().iter().chain(admin) {
        line.push_str(&format!("{} {}\n", address.name, address.addr));
    }
    server.add(0, running)?;
    say(&line);
    match server.wait_ready(None) {
        Ok(Start::Ready) => notify::ready(),
        Ok(Start::Interrupted) => {
            server.drain()?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            // The role's own end, already told by the error.
            let _ = server.drain();
            return Err(error);
        }
    }
    tracing::info!(role = name, "ready");
    server.run()
}

/// Starts the ID node on its database.
pub(crate) fn start_idgen(settings: &Settings, process: &Process) -> anyhow::Result<Running> {
    use reel_idgen::Error;
    let Settings { idgen, node, meta, .. } = settings;
    let location = meta.location(reel_meta::Role::Ids)?;
    reel_idgen::start(idgen, node, &location, process).map_err(|error| match error {
        Error::Config(_) | Error::Access(_) | Error::Secret(_) => usage(error),
        error => error.into(),
    })
}

/// Starts the tracker on its database.
pub(crate) fn start_tracker(settings: &Settings, process: &Process) -> anyhow::Result<Running> {
    use reel_tracker::Error;
    let Settings { tracker, node, meta, .. } = settings;
    let location = meta.location(reel_meta::Role::Tracker)?;
    let files = meta.location(reel_meta::Role::Storage)?;
    reel_tracker::start(tracker, node, &location, Some(&files), process).map_err(
        |error| match error {
            Error::Config(_) | Error::Access(_) | Error::Secret(_) => usage(error),
            error => error.into(),
        },
    )
}

/// Starts the storage node on its store paths.
pub(crate) fn start_engine(settings: &Settings, process: &Process) -> anyhow::Result<Running> {
    use reel_engine::StartError as Error;
    let setup = reel_engine::Setup {
        config: &settings.engine,
        node: &settings.node,
        tokens: &settings.token,
        store_paths: &settings.store_path,
        database: &settings.meta.location(reel_meta::Role::Storage)?,
        groups: &settings.meta.location(reel_meta::Role::Tracker)?,
    };
    reel_engine::start(&setup, process).map_err(|error| match error {
        Error::Config(_) | Error::Access(_) | Error::Secret(_) => usage(error),
        error => error.into(),
    })
}

/// Starts the gateway.
pub(crate) fn start_gateway(settings: &Settings, process: &Process) -> anyhow::Result<Running> {
    use reel_gateway::GatewayError as Error;
    let Settings { gateway, node, token, .. } = settings;
    reel_gateway::start(gateway, node, token, process).map_err(|error| match error {
        Error::Config(_) | Error::Value { .. } | Error::Access(_) => usage(error),
        error => error.into(),
    })
}

/// What a role refuses of its configuration is wrong usage, like what the file's reader refuses.
fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    Usage::new(error.to_string()).into()
}

/// Locks the part of the metadata folder that belongs to a role: roles of one machine may share
/// the folder, two processes of one role may not.
fn lock(settings: &Settings, role: &str) -> anyhow::Result<FolderLock> {
    let folder = settings.meta.dir.join(role);
    make_folder(&folder)?;
    FolderLock::take(&folder).context("cannot lock the metadata folder")
}

/// Writes to standard output. Whoever started the process may have closed it.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::debug!(%error, "standard output is closed");
    }
}
