//! A group of storage nodes on hosts of their own, with one volume: trackers, ID nodes and the database on others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use reel_meta::Role;
use reel_meta::mysql::{MysqlOptions, migrate};
use serde_json::Value;

use crate::database::block_on;
use crate::gluster::Gluster;
use crate::http::{self, Response};
use crate::mariadb::{MariaDb, Plan};
use crate::network::{Host, Network};
use crate::role::RoleProcess;

/// Storage nodes: the fewest of which one may be lost.
pub const NODES: usize = 3;

/// Trackers and ID nodes.
const OF_A_KIND: usize = 2;

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Within which time a storage node finds what has rotted on its brick.
pub const SCRUB_WITHIN: Duration = Duration::from_secs(20);

/// Where the numbers of hosts begin: of those with files, of the others.
const FILES: u8 = 1;
const OTHERS: u8 = 50;

/// The group, as it runs. Everything is killed with it.
#[derive(Debug)]
pub struct Group {
    // First: who uses a mount ends before it.
    engines: Vec<RoleProcess>,
    trackers: Vec<RoleProcess>,
    idgens: Vec<RoleProcess>,
    volume: Gluster,
    _database: MariaDb,
    client: Host,
    folder: tempfile::TempDir,
}

impl Group {
    /// Why this machine cannot have one; none: it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        Gluster::missing().or_else(|| {
            (!MariaDb::is_installed()).then_some("MariaDB is not installed (cargo xtask setup)")
        })
    }

    /// Starts all of it, with a brick in each of these folders.
    ///
    /// # Errors
    /// Something is [missing](Self::missing), or does not start.
    pub fn start(bricks: &[PathBuf]) -> Result<Self> {
        let network = Network::new()?;
        let others = network.host(OTHERS)?;
        let client = network.host(OTHERS + 1)?;
        let hosts = (FILES..).take(NODES).map(|number| network.host(number));
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        let database = start_database(&others, &client)?;
        let volume = Gluster::start(&hosts, bricks)?;
        let folder = tempfile::Builder::new().prefix("reel-group-").tempdir()?;
        let start = |host: &Host, name: &'static str, number: usize, own: &[(&str, String)]| {
            let folder = folder.path().join(format!("{name}{number}"));
            std::fs::create_dir(&folder)?;
            let (address, port) = database.address();
            let environment = [
                ("REEL_META__MYSQL__SERVERS", format!("[\"{address}:{port}\"]")),
                ("REEL_META__MYSQL__USER", USER.to_owned()),
                ("REEL_NODE__DATA_THREADS", "1".to_owned()),
                ("REEL_NODE__INSECURE", "true".to_owned()),
                ("REEL_CLUSTER_SECRET", "0123456789abcdef".to_owned()),
            ];
            let environment = environment.iter().chain(own);
            let environment: BTreeMap<String, String> =
                environment.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            RoleProcess::start_on(host, name, &folder, environment)
        };
        let several = |name| {
            let of_a_kind = (0..OF_A_KIND).map(|number| start(&others, name, number, &[]));
            of_a_kind.collect::<Result<Vec<_>>>()
        };
        let (idgens, trackers) = (several("idgen")?, several("tracker")?);
        let engine = |number: usize| {
            let store = volume.mount_point(number).join("store");
            let brick = volume.brick(number).join("store");
            let path = format!("path = {store:?}, brick = {brick:?}, reserve = \"1MiB\"");
            let any_port = format!("{}:0", volume.host(number).address(crate::network::Way::Front));
            start(
                volume.host(number),
                "engine",
                number,
                &[
                    ("REEL_ENGINE__HOSTNAME", format!("node{number}")),
                    ("REEL_ENGINE__IDGENS", list(&idgens)?),
                    ("REEL_ENGINE__TRACKERS", list(&trackers)?),
                    ("REEL_ENGINE__HTTP_LISTEN", any_port),
                    ("REEL_ENGINE__BEAT_INTERVAL", "1s".to_owned()),
                    ("REEL_ENGINE__SCRUB_WITHIN", format!("{}s", SCRUB_WITHIN.as_secs())),
                    ("REEL_STORE_PATH", format!("[{{ {path} }}]")),
                ],
            )
        };
        let engines = (0..NODES).map(engine).collect::<Result<Vec<_>>>()?;
        let group = Self { engines, trackers, idgens, volume, _database: database, client, folder };
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
        Ok(())
    }

    /// The host of those who use it.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// Where trackers are asked.
    ///
    /// # Errors
    /// One does not run.
    pub fn trackers(&self) -> Result<Vec<SocketAddr>> {
        self.trackers.iter().map(|tracker| tracker.address("listen")).collect()
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
        let begin = Instant::now();
        loop {
            let path = self.store_path(node)?;
            if path["health"] == "ok" {
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
    pub fn engine(&self, node: usize) -> &RoleProcess {
        &self.engines[node]
    }

    /// Kills a host with files, and all that runs there (SIGKILL).
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill_host(&mut self, node: usize) -> Result<()> {
        self.volume.kill(node)?;
        self.engines[node].kill()
    }

    /// Mounts the volume and starts the storage node of a host whose daemons run again.
    ///
    /// # Errors
    /// Something does not start.
    pub fn run_host(&mut self, node: usize) -> Result<()> {
        self.volume.mount_again(node)?;
        self.engines[node].run_again().with_context(|| self.volume.report())
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
        let mut roles = self.engines.iter_mut().chain(&mut self.trackers).chain(&mut self.idgens);
        roles.try_for_each(RoleProcess::drain)
    }

    /// What all roles have logged of this level.
    #[must_use]
    pub fn logged(&self, level: &str) -> Vec<String> {
        let roles = self.engines.iter().chain(&self.trackers).chain(&self.idgens);
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

/// The user of the databases.
const USER: &str = "reel";

fn start_database(host: &Host, client: &Host) -> Result<MariaDb> {
    let mut server = Plan::default().on(host).make()?;
    server.run()?;
    block_on(async {
        let socket = server.socket().display().to_string();
        let builder = OptsBuilder::default().socket(Some(socket)).user(Some("root"));
        let mut conn = Conn::new(builder).await?;
        conn.query_drop(format!("CREATE USER '{USER}'@'%'")).await?;
        let rights = "ALTER, CREATE, INDEX, TRIGGER, SELECT, INSERT, UPDATE, DELETE";
        conn.query_drop(format!("GRANT {rights} ON `tnv\\_%`.* TO '{USER}'@'%'")).await?;
        anyhow::Ok(())
    })?;
    let tables = || {
        block_on(async {
            for role in Role::ALL {
                let options = MysqlOptions::new(role, vec![server.address()], USER);
                migrate(&options, role, false).await?;
            }
            anyhow::Ok(())
        })
    };
    client.namespace().run(tables)??;
    Ok(server)
}

/// As a configuration has it.
fn list(roles: &[RoleProcess]) -> Result<String> {
    let addresses = roles.iter().map(|role| Ok(role.address("listen")?.to_string()));
    Ok(format!("{:?}", addresses.collect::<Result<Vec<_>>>()?))
}
