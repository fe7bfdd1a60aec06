//! `reel up`: the whole store in one process, on loopback, with embedded metadata.
//!
//! Every role is the real one: they meet on their sockets as they would on four machines. Started
//! in the order in which they need each other, drained the other way round.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use reel_node::{Process, Running, notify};
use serde_json::json;

use crate::addresses::{Addresses, RoleAddresses};
use crate::data_folder::DataFolder;
use crate::exit;
use crate::roles;
use crate::server::{Server, Start};
use crate::settings::{self, Settings, parse_listen};

/// Longest wait for all roles to be ready. It takes some tenths of a second; a disk that has been
/// asleep takes ten.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// Name of the file with the running store's addresses.
const ADDRESSES: &str = "addresses.json";

/// Drained first: storage node and gateway.
const SERVES_CLIENTS: u8 = 0;
/// Drained when those have ended, whose last uploads still need ids and beats.
const SERVES_OTHERS: u8 = 1;

/// Arguments of `reel up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Data folder; made when it is not there.
    #[arg(long, env = "REEL_DATA", value_name = "DIR", default_value = "reel-data")]
    data: PathBuf,
    /// Configuration file. Default: reel.toml in the data folder, if it is there.
    #[arg(long, env = "REEL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the addresses as one line of JSON.
    #[arg(long)]
    json: bool,
    /// Let the kernel choose every port that has no flag.
    #[arg(long)]
    any_ports: bool,
    #[command(flatten)]
    ports: Ports,
    #[command(flatten)]
    common: roles::Common,
}

/// A flag for every port: `PORT` on loopback, or `ADDRESS:PORT`; port 0 is the kernel's choice.
#[derive(Debug, Args)]
struct Ports {
    /// Tracker, binary protocol [default: 21000]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    tracker_listen: Option<SocketAddr>,
    /// Tracker, admin HTTP [default: 21080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    tracker_admin_listen: Option<SocketAddr>,
    /// ID node, binary protocol [default: 22000]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    idgen_listen: Option<SocketAddr>,
    /// ID node, admin HTTP [default: 22080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    idgen_admin_listen: Option<SocketAddr>,
    /// Storage node, binary protocol [default: 23000]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    engine_listen: Option<SocketAddr>,
    /// Storage node, media HTTP [default: 23080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    engine_http_listen: Option<SocketAddr>,
    /// Storage node, admin HTTP [default: 23081]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    engine_admin_listen: Option<SocketAddr>,
    /// Gateway, media HTTP [default: 8080]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    gateway_listen: Option<SocketAddr>,
    /// Gateway, admin HTTP [default: 8081]
    #[arg(long, value_name = "[ADDRESS:]PORT", value_parser = parse_listen)]
    gateway_admin_listen: Option<SocketAddr>,
}

impl Ports {
    fn flags(&self, any: bool) -> serde_json::Value {
        let free = any.then(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        let flag = |given: Option<SocketAddr>| given.or(free).map(|address| address.to_string());
        json!({
            "tracker": {
                "listen": flag(self.tracker_listen),
                "admin_listen": flag(self.tracker_admin_listen),
            },
            "idgen": {
                "listen": flag(self.idgen_listen),
                "admin_listen": flag(self.idgen_admin_listen),
            },
            "engine": {
                "listen": flag(self.engine_listen),
                "http_listen": flag(self.engine_http_listen),
                "admin_listen": flag(self.engine_admin_listen),
            },
            "gateway": {
                "listen": flag(self.gateway_listen),
                "admin_listen": flag(self.gateway_admin_listen),
            },
        })
    }
}

/// Runs the whole store until a signal.
pub(crate) fn run(arguments: &Up) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let folder = DataFolder::open(&arguments.data)?;
    // Left over from a process that was killed: its addresses are nobody's now.
    folder.forget(ADDRESSES);
    let secret_file = folder.secret_file()?;
    let own_file = folder.path().join("reel.toml");
    let file = match &arguments.config {
        Some(file) => Some(file.clone()),
        None => own_file.exists().then_some(own_file),
    };
    let mut flags = arguments.ports.flags(arguments.any_ports);
    arguments.common.add_to(&mut flags);
    let defaults = Settings::for_folder(folder.path(), secret_file);
    let settings = settings::load(defaults, file.as_deref(), &flags)?.value;
    reel_node::log::init(&settings.log)?;
    settings.warn_insecure();

    let process = Process::new(&settings.node.capabilities_off)?;
    let mut server = Server::new()?;
    match start(settings, &process, &mut server) {
        Ok((addresses, Start::Ready)) => {
            let elapsed = begin.elapsed();
            announce(arguments, &folder, &addresses, elapsed)?;
            tracing::info!(folder = %folder.path().display(), ?elapsed, "ready");
            let done = server.run();
            folder.forget(ADDRESSES);
            done
        }
        Ok((_, Start::Interrupted)) => server.drain().map(|()| ExitCode::from(exit::DONE)),
        Err(error) => {
            // What had started drains. The error to tell is the first one.
            if let Err(error) = server.drain() {
                tracing::warn!(%error, "while draining");
            }
            Err(error)
        }
    }
}

/// Starts the roles in the order in which they need each other, each with the addresses that the
/// ones before it got.
fn start(
    mut settings: Settings,
    process: &Process,
    server: &mut Server,
) -> anyhow::Result<(Addresses, Start)> {
    let mut addresses = Addresses::default();
    let mut add = |stage, running: Running| -> anyhow::Result<RoleAddresses> {
        let own = RoleAddresses::of(&running);
        addresses.add(own);
        server.add(stage, running)?;
        Ok(own)
    };
    let idgen = add(SERVES_OTHERS, roles::start_idgen(&settings, process)?)?;
    let tracker = add(SERVES_OTHERS, roles::start_tracker(&settings, process)?)?;
    settings.engine.idgens = idgen.binary.iter().map(ToString::to_string).collect();
    settings.engine.trackers = tracker.binary.iter().map(ToString::to_string).collect();
    settings.gateway.trackers = tracker.binary.iter().map(ToString::to_string).collect();
    // One data thread per core for the engine, where the disk is; one for each of the others.
    let threads = settings.node.data_threads.replace(1);
    let others = settings.clone();
    settings.node.data_threads = threads;
    add(SERVES_CLIENTS, roles::start_engine(&settings, process)?)?;
    add(SERVES_CLIENTS, roles::start_gateway(&others, process)?)?;
    let start = server.wait_ready(Some(READY_LIMIT))?;
    Ok((addresses, start))
}

/// Tells everybody who waits that the store is ready.
fn announce(
    arguments: &Up,
    folder: &DataFolder,
    addresses: &Addresses,
    elapsed: Duration,
) -> anyhow::Result<()> {
    let json = addresses.json();
    folder
        .replace(ADDRESSES, format!("{json:#}\n").as_bytes())
        .with_context(|| format!("cannot write {ADDRESSES} into the data folder"))?;
    if arguments.json {
        roles::say(&format!("{json}\n"));
    } else {
        roles::say(&addresses.text(folder.path(), elapsed));
    }
    notify::ready();
    Ok(())
}
