//! A group of storage nodes on hosts of their own, with one volume, and what it takes to use it: a pair of trackers and a pair of
//! gateways behind floating addresses, ID nodes, a database. As the operator's guide sets one up, at the usual ports.

mod database;
mod pair;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::gluster::Gluster;
use crate::http::{self, Response};
use crate::keepalived::{Keepalived, Template};
use crate::mariadb::MariaDb;
use crate::network::{Host, Network, Way};
use crate::role::RoleProcess;

pub use self::pair::Pair;

/// Storage nodes: the fewest of which one may be lost. As many ID nodes, on the same hosts.
pub const NODES: usize = 3;

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Nothing is read again while a test lasts.
const DAYS: Duration = Duration::from_secs(30 * 24 * 3600);

/// The numbers of hosts: of the first with files, of one that comes when such a one is lost, the first with a tracker, the first with
/// a gateway, and the others.
const FILES: u8 = 1;
const SPARE: u8 = 4;
const TRACKERS: u8 = 11;
const GATEWAYS: u8 = 21;
const DATABASE: u8 = 50;
const CLIENT: u8 = 51;

/// The floating addresses end with these.
const TRACKER: u8 = 10;
const GATEWAY: u8 = 20;

/// How the storage nodes of a group are set up.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Within which time each finds what has rotted on its brick.
    pub scrub_within: Duration,
    /// Whether they read past the mount.
    pub reads_bricks: bool,
    /// How long a request waits for the volume.
    pub store_timeout: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        let store_timeout = Duration::from_secs(60);
        Self { scrub_within: DAYS, reads_bricks: true, store_timeout }
    }
}

/// A brick for each storage node, in folders below this one.
#[must_use]
pub fn bricks_in(folder: &Path) -> Vec<PathBuf> {
    (0..NODES).map(|node| folder.join(format!("brick{node}"))).collect()
}

/// The group, as it runs. Everything is killed with it.
#[derive(Debug)]
pub struct Group {
    // First: who uses a mount ends before it.
    engines: Vec<RoleProcess>,
    idgens: Vec<RoleProcess>,
    gateways: Pair,
    trackers: Pair,
    volume: Gluster,
    database: MariaDb,
    database_host: Host,
    client: Host,
    network: Network,
    setup: Setup,
    folder: tempfile::TempDir,
}

impl Group {
    /// Why this machine cannot have one; none: it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let database =
            || (!MariaDb::is_installed()).then_some("MariaDB is not installed (cargo xtask setup)");
        Gluster::missing().or_else(database).or_else(Keepalived::missing)
    }

    /// Starts all of it, with a brick in each of these folders. What runs is killed with the thread that calls this.
    ///
    /// # Errors
    /// Something is [missing](Self::missing), or does not start.
    pub fn start(bricks: &[PathBuf]) -> Result<Self> {
        Self::start_as(bricks, Setup::default())
    }

    /// As [`Self::start`], with storage nodes that are set up like this.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(bricks: &[PathBuf], setup: Setup) -> Result<Self> {
        let network = Network::new()?;
        let (database_host, client) = (network.host(DATABASE)?, network.host(CLIENT)?);
        let hosts = (FILES..).take(NODES).map(|number| network.host(number));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let database = database::start(&database_host, &client)?;
        let volume = Gluster::start(&hosts, bricks)?;
        let folder = tempfile::Builder::new().prefix("reel-group-").tempdir()?;
        let starter = Starter { folder: folder.path(), database: &database, setup };
        let idgens = (0..NODES).map(|number| starter.idgen(volume.host(number), number));
        let idgens = idgens.collect::<Result<Vec<_>>>()?;
        let trackers = starter.trackers(&network)?;
        let engines = (0..NODES).map(|number| {
            let (ids, trackers) = (addresses(&idgens)?, trackers.own_addresses());
            starter.engine(&volume, (number, number), &ids, &trackers)
        });
        let engines = engines.collect::<Result<Vec<_>>>()?;
        let gateways = starter.gateways(&network, &trackers.own_addresses())?;
        let group = Self {
            engines,
            idgens,
            gateways,
            trackers,
            volume,
            database,
            database_host,
            client,
            network,
            setup,
            folder,
        };
        group.until_ready()?;
        Ok(group)
    }

    /// Waits until each storage node is.
    ///
    /// # Errors
    /// One takes too long.
    pub fn until_ready(&self) -> Result<()> {
        for engine in &self.engines {
            let admin = engine.address("admin_listen")?;
            let ready = || http::until_status(admin, "/readyz", 200);
            self.client.namespace().run(ready)?.with_context(|| engine.log())?;
        }
        self.trackers.until_held()?;
        let gateways = self.gateways.address();
        self.gateways.until_held()?;
        // The gateways know where files are once the trackers know the storage nodes.
        let find = || http::until_status(gateways, "/files/none", 404);
        self.client.namespace().run(find)??;
        Ok(())
    }

    /// The host of those who use it.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The trackers.
    pub fn trackers(&mut self) -> &mut Pair {
        &mut self.trackers
    }

    /// The gateways.
    pub fn gateways(&mut self) -> &mut Pair {
        &mut self.gateways
    }

    /// An ID node.
    pub fn idgen(&mut self, number: usize) -> &mut RoleProcess {
        &mut self.idgens[number]
    }

    /// The host of the database.
    #[must_use]
    pub fn database_host(&self) -> &Host {
        &self.database_host
    }

    /// Where each storage node serves HTTP.
    ///
    /// # Errors
    /// One does not run.
    pub fn media(&self) -> Result<Vec<SocketAddr>> {
        self.engines.iter().map(|engine| engine.address("http_listen")).collect()
    }

    /// One HTTP request to a storage node, from the client's host.
    ///
    /// # Errors
    /// The connection's.
    pub fn request(
        &self,
        node: usize,
        method: &str,
        target: &str,
        body: Option<&[u8]>,
    ) -> Result<Response> {
        let address = self.engines[node].address("http_listen")?;
        let request = || http::request(address, method, target, &[], body);
        self.client.namespace().run(request)?
    }

    /// What a storage node says of its store path.
    ///
    /// # Errors
    /// The connection's.
    pub fn store_path(&self, node: usize) -> Result<Value> {
        let admin = self.engines[node].address("admin_listen")?;
        let mut status = self.client.namespace().run(|| http::json(admin, "/status"))??;
        Ok(status["service"]["store_paths"][0].take())
    }

    /// Waits until the store path of a node is well.
    ///
    /// # Errors
    /// It is not for a long time.
    pub fn until_healthy(&self, node: usize) -> Result<()> {
        self.until_health(node, "ok")
    }

    /// Waits until a node says this of its store path.
    ///
    /// # Errors
    /// It does not for a long time.
    pub fn until_health(&self, node: usize, wanted: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            let path = self.store_path(node)?;
            if path["health"] == wanted {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{path}");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The volume.
    pub fn volume(&mut self) -> &mut Gluster {
        &mut self.volume
    }

    /// A storage node.
    pub fn engine(&mut self, node: usize) -> &mut RoleProcess {
        &mut self.engines[node]
    }

    /// Kills a host with files, and all that runs there (SIGKILL).
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill_host(&mut self, node: usize) -> Result<()> {
        self.volume.kill(node)?;
        self.idgens[node].kill()?;
        self.engines[node].kill()
    }

    /// Mounts the volume and starts the storage node and the ID node of a host whose daemons run again.
    ///
    /// # Errors
    /// Something does not start.
    pub fn run_host(&mut self, node: usize) -> Result<()> {
        self.volume.mount_again(node)?;
        self.idgens[node].run_again()?;
        self.engines[node].run_again().with_context(|| self.volume.report())
    }

    /// Puts another host, with an empty brick in this folder, in the place of one with files that was [killed](Self::kill_host) and is
    /// lost for good: its daemons run, and nothing else yet. The lost one's address, for [`Gluster::forget_host`].
    ///
    /// # Errors
    /// As [`Gluster::replace_host`].
    pub fn replace_host(&mut self, node: usize, brick: &Path) -> Result<Ipv4Addr> {
        let host = self.network.host(SPARE)?;
        self.volume.replace_host(node, &host, brick)
    }

    /// Mounts the volume on a host that [came for another](Self::replace_host), and starts a storage node there under that one's
    /// name, and an ID node.
    ///
    /// # Errors
    /// Something does not start.
    pub fn run_new_host(&mut self, node: usize) -> Result<()> {
        self.volume.mount_again(node)?;
        let (database, setup) = (&self.database, self.setup);
        let starter = Starter { folder: self.folder.path(), database, setup };
        self.idgens[node] = starter.idgen(self.volume.host(node), NODES)?;
        let (idgens, trackers) = (addresses(&self.idgens)?, self.trackers.own_addresses());
        self.engines[node] = starter.engine(&self.volume, (node, NODES), &idgens, &trackers)?;
        Ok(())
    }

    /// Where the roles have their folders.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the roles, each well.
    ///
    /// # Errors
    /// One does not.
    pub fn drain(&mut self) -> Result<()> {
        self.gateways.drain()?;
        let mut roles = self.engines.iter_mut().chain(&mut self.idgens);
        roles.try_for_each(RoleProcess::drain)?;
        self.trackers.drain()
    }

    /// What all roles have logged of this level.
    #[must_use]
    pub fn logged(&self, level: &str) -> Vec<String> {
        let pairs = self.trackers.roles().chain(self.gateways.roles());
        let roles = self.engines.iter().chain(&self.idgens).chain(pairs);
        let lines = roles.flat_map(|role| {
            role.log()
                .lines()
                .filter(|line| line.contains(level))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        });
        lines.collect()
    }
}

/// Starts roles.
struct Starter<'a> {
    /// Below which each has its own.
    folder: &'a Path,
    database: &'a MariaDb,
    setup: Setup,
}

impl Starter<'_> {
    fn start(
        &self,
        host: &Host,
        (name, number): (&'static str, usize),
        listen: [SocketAddr; 2],
        own: &[(&str, String)],
    ) -> Result<RoleProcess> {
        let folder = self.folder.join(format!("{name}{number}"));
        std::fs::create_dir(&folder)?;
        let (address, port) = self.database.address();
        let environment = [
            ("REEL_META__MYSQL__SERVERS", format!("[\"{address}:{port}\"]")),
            ("REEL_META__MYSQL__USER", database::USER.to_owned()),
            ("REEL_NODE__DATA_THREADS", "1".to_owned()),
            ("REEL_NODE__INSECURE", "true".to_owned()),
            ("REEL_CLUSTER_SECRET", "0123456789abcdef".to_owned()),
        ];
        let environment = environment.iter().chain(own);
        let environment: BTreeMap<String, String> =
            environment.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        RoleProcess::start_on(host, name, &folder, environment, listen)
    }

    fn idgen(&self, host: &Host, number: usize) -> Result<RoleProcess> {
        let listen = [22000, 22080].map(|port| SocketAddr::from((host.address(Way::Front), port)));
        self.start(host, ("idgen", number), listen, &[])
    }

    /// They join the trackers' own addresses: each tracker has to know them. `number` is that of its folder, and another one than the
    /// node's where it comes for one that is lost.
    fn engine(
        &self,
        volume: &Gluster,
        (node, number): (usize, usize),
        idgens: &[SocketAddr],
        trackers: &[SocketAddr],
    ) -> Result<RoleProcess> {
        let host = volume.host(node);
        let store = volume.mount_point(node).join("store");
        let Setup { scrub_within, reads_bricks, store_timeout } = self.setup;
        let brick = volume.brick(node).join("store");
        // Hosts of a test may have their bricks in one folder, and what each knows of its own would lie at one place.
        let state = volume.brick(node).with_extension("state");
        let brick = if reads_bricks {
            format!("brick = {brick:?}, brick_state = {state:?}, ")
        } else {
            String::new()
        };
        let path = format!("path = {store:?}, {brick}reserve = \"1MiB\"");
        let at = |port| SocketAddr::from((host.address(Way::Front), port));
        let own = [
            ("REEL_ENGINE__HOSTNAME", format!("node{node}")),
            ("REEL_ENGINE__IDGENS", list(idgens)),
            ("REEL_ENGINE__TRACKERS", list(trackers)),
            ("REEL_ENGINE__HTTP_LISTEN", at(23080).to_string()),
            ("REEL_ENGINE__BEAT_INTERVAL", "1s".to_owned()),
            ("REEL_ENGINE__SCRUB_WITHIN", format!("{}s", scrub_within.as_secs())),
            ("REEL_ENGINE__STORE_TIMEOUT", format!("{}s", store_timeout.as_secs())),
            ("REEL_STORE_PATH", format!("[{{ {path} }}]")),
        ];
        self.start(host, ("engine", number), [at(23000), at(23081)], &own)
    }

    fn trackers(&self, network: &Network) -> Result<Pair> {
        let parts = pair::Parts {
            hosts: [network.host(TRACKERS)?, network.host(TRACKERS + 1)?],
            template: Template::TRACKER,
            address: SocketAddr::from((floating(TRACKER), 21000)),
            admin_port: 21080,
        };
        Pair::start(parts, |host, number, listen| {
            self.start(host, ("tracker", number), listen, &[])
        })
    }

    fn gateways(&self, network: &Network, trackers: &[SocketAddr]) -> Result<Pair> {
        let address = SocketAddr::from((floating(GATEWAY), 8080));
        let parts = pair::Parts {
            hosts: [network.host(GATEWAYS)?, network.host(GATEWAYS + 1)?],
            template: Template::GATEWAY,
            address,
            admin_port: 8081,
        };
        let own = [
            ("REEL_GATEWAY__TRACKERS", list(trackers)),
            ("REEL_GATEWAY__ADVERTISE", address.to_string()),
            ("REEL_GATEWAY__BEAT_INTERVAL", "1s".to_owned()),
        ];
        Pair::start(parts, |host, number, listen| {
            self.start(host, ("gateway", number), listen, &own)
        })
    }
}

fn floating(number: u8) -> Ipv4Addr {
    crate::network::address(Way::Front, number)
}

fn addresses(roles: &[RoleProcess]) -> Result<Vec<SocketAddr>> {
    roles.iter().map(|role| role.address("listen")).collect()
}

/// As a configuration has it.
fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("{addresses:?}")
}
