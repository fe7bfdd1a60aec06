//! Three MariaDB servers that agree on every commit (Galera), each on a host of its own: what becomes of those who use them
//! when one dies, or is cut off. Needs root; set up as docs/operators-guide.md says, with Galera's own timeouts.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use tokio::time::{sleep, timeout};

use crate::mariadb::{self, MariaDb, Plan};
use crate::network::{Host, Network, Way};

/// Servers: the fewest of which one may be lost.
pub const NODES: usize = 3;

/// The user of the databases, with no more rights than the operator's guide asks for.
pub const USER: &str = "reel";

/// What makes a cluster of servers, where Debian puts it.
const PROVIDER: &str = "/usr/lib/galera/libgalera_smm.so";

/// Longest wait for a server that starts, or joins. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longest wait for an answer of a server that is there.
const ANSWER: Duration = Duration::from_secs(10);

/// Between two looks at a server.
const LOOK: Duration = Duration::from_millis(50);

/// The cluster. Its servers are killed, and its network is gone, when it is dropped.
#[derive(Debug)]
pub struct Galera {
    nodes: Vec<Node>,
    client: Host,
    /// What blocks a server, for as long as it is open.
    blocking: Option<Conn>,
}

#[derive(Debug)]
struct Node {
    host: Host,
    server: MariaDb,
}

impl Galera {
    /// Why this machine cannot have one; none: it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        // SAFETY: a system call without arguments.
        if unsafe { libc::geteuid() } != 0 {
            return Some("network namespaces need root");
        }
        let programs = ["mariadbd", "mariadb-install-db", "rsync", "ip"];
        let installed = programs.iter().all(|name| mariadb::program(name).is_some());
        if installed && Path::new(PROVIDER).exists() {
            None
        } else {
            Some("MariaDB, Galera, rsync or ip is not installed (cargo xtask setup)")
        }
    }

    /// Makes the hosts and starts the servers, one after the other, until all are synced. They are killed with the thread that
    /// calls this.
    ///
    /// # Errors
    /// Something is [missing](Self::missing), or a server does not start.
    pub async fn start() -> Result<Self> {
        let network = Network::new()?;
        let hosts = (1..=NODES as u8).map(|number| network.host(number));
        let hosts = hosts.collect::<Result<Vec<Host>>>()?;
        let client = network.host(100)?;
        let mut cluster = Self { nodes: Vec::new(), client, blocking: None };
        for (index, host) in hosts.iter().enumerate() {
            let plan = Plan::default().on(host).arguments(arguments(&hosts, index));
            // All but the first get their tables from another.
            let (plan, further) = match index {
                0 => (plan, vec!["--wsrep-new-cluster"]),
                _ => (plan.without_tables(), Vec::new()),
            };
            let mut server = plan.make()?;
            server.spawn(&further)?;
            cluster.nodes.push(Node { host: host.clone(), server });
            cluster.until_synced(index).await?;
        }
        cluster.admit_user().await?;
        Ok(cluster)
    }

    async fn admit_user(&self) -> Result<()> {
        let mut conn = self.operator(0).await?;
        conn.query_drop(format!("CREATE USER '{USER}'@'%'")).await?;
        let rights = "ALTER, CREATE, INDEX, TRIGGER, SELECT, INSERT, UPDATE, DELETE";
        conn.query_drop(format!("GRANT {rights} ON `tnv\\_%`.* TO '{USER}'@'%'")).await?;
        Ok(())
    }

    /// The host of those who use the databases.
    #[must_use]
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// Host and port of each server, as the client's host reaches them.
    #[must_use]
    pub fn servers(&self) -> Vec<(String, u16)> {
        self.nodes.iter().map(|node| node.server.address()).collect()
    }

    /// Kills a server (SIGKILL).
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].server.kill()
    }

    /// Cuts a server off: nothing is answered that way any more, nor refused.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&self, node: usize, way: Way) -> Result<()> {
        self.nodes[node].host.cut(way)
    }

    /// Ends every [`Self::cut`] of a server.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&self, node: usize) -> Result<()> {
        Way::ALL.into_iter().try_for_each(|way| self.nodes[node].host.join(way))
    }

    /// Lets a server take no changes and apply none, as one does that sends its tables with rsync; the cluster does not wait for it.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn block(&mut self, node: usize) -> Result<()> {
        let mut conn = self.operator(node).await?;
        conn.query_drop("SET GLOBAL wsrep_desync = ON").await?;
        conn.query_drop("FLUSH TABLES WITH READ LOCK").await?;
        self.blocking = Some(conn);
        Ok(())
    }

    /// Ends [`Self::block`].
    ///
    /// # Errors
    /// It does not answer, or nothing is blocked.
    pub async fn unblock(&mut self) -> Result<()> {
        let mut conn = self.blocking.take().context("nothing is blocked")?;
        conn.query_drop("UNLOCK TABLES").await?;
        conn.query_drop("SET GLOBAL wsrep_desync = OFF").await?;
        Ok(())
    }

    /// Starts a server again that was killed, as its service does: at the position that its tables have, from which the others
    /// send it what it has missed. It is synced on return.
    ///
    /// # Errors
    /// It does not start.
    pub async fn run_again(&mut self, node: usize) -> Result<()> {
        let server = &mut self.nodes[node].server;
        let mut command = server.command()?;
        command.arg("--wsrep-recover");
        let recovered = tokio::task::spawn_blocking(move || command.output()).await??;
        let position = position(&recovered).with_context(|| server.log())?;
        server.spawn(&[&format!("--wsrep-start-position={position}")])?;
        self.until_synced(node).await
    }

    /// Waits until a server is part of the cluster and has all that the cluster agreed on.
    ///
    /// # Errors
    /// It has ended, or takes too long.
    pub async fn until_synced(&mut self, node: usize) -> Result<()> {
        self.until(node, "wsrep_local_state_comment", "Synced").await?;
        self.until(node, "wsrep_ready", "ON").await
    }

    /// Waits until every server is part of one cluster of all, and has what that agreed on. One that was cut off may take
    /// itself for a part of it for longer than the others do: what it says alone is not enough.
    ///
    /// # Errors
    /// One has ended, or takes too long.
    pub async fn until_whole(&mut self) -> Result<()> {
        for node in 0..NODES {
            self.until(node, "wsrep_cluster_size", &NODES.to_string()).await?;
            self.until_synced(node).await?;
        }
        Ok(())
    }

    /// Waits until a server says this of itself.
    ///
    /// # Errors
    /// It has ended, or takes too long.
    pub async fn until(&mut self, node: usize, name: &str, value: &str) -> Result<()> {
        let begin = Instant::now();
        loop {
            if let Err(error) = self.nodes[node].server.check_that_it_runs() {
                return Err(error.context(self.logs()));
            }
            let said = self.status(node, name).await;
            if said.as_ref().is_ok_and(|said| said == value) {
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{}\n{name} of server {node} is {said:?} and not {value}", self.logs());
            }
            sleep(LOOK).await;
        }
    }

    /// What a server says of itself.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self, node: usize, name: &str) -> Result<String> {
        let ask = async {
            let mut conn = self.operator(node).await?;
            let sql = format!("SHOW GLOBAL STATUS LIKE '{name}'");
            let row: Option<(String, String)> = conn.query_first(sql).await?;
            conn.disconnect().await?;
            anyhow::Ok(row.with_context(|| format!("there is no {name}"))?.1)
        };
        timeout(ANSWER, ask).await?
    }

    /// An operator's connection, on the server's own host: also while that is cut off.
    ///
    /// # Errors
    /// It does not run.
    pub async fn operator(&self, node: usize) -> Result<Conn> {
        let socket = self.nodes[node].server.socket().display().to_string();
        let builder = OptsBuilder::default().socket(Some(socket)).user(Some("root"));
        Ok(timeout(ANSWER, Conn::new(builder)).await??)
    }

    /// The server at which somebody changes this database in this moment. All must answer.
    ///
    /// # Errors
    /// Nobody does for a long time.
    pub async fn written_to(&self, database: &str) -> Result<usize> {
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{database}' \
             AND command <> 'Sleep' AND (info LIKE 'COMMIT%' OR info LIKE 'INSERT%')"
        );
        let mut conns = Vec::new();
        for node in 0..self.nodes.len() {
            conns.push(self.operator(node).await?);
        }
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            for (node, conn) in conns.iter_mut().enumerate() {
                let busy: Option<u64> = timeout(ANSWER, conn.query_first(&sql)).await??;
                if busy.is_some_and(|count| count > 0) {
                    return Ok(node);
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
        bail!("nobody changes {database}")
    }

    /// What all of them have logged: who joins and does not says only that another one has failed.
    fn logs(&self) -> String {
        let log = |(index, node): (usize, &Node)| format!("server {index}:\n{}", node.server.log());
        self.nodes.iter().enumerate().map(log).collect::<Vec<_>>().join("\n")
    }
}

/// What makes these servers a cluster.
fn arguments(hosts: &[Host], index: usize) -> Vec<String> {
    let addresses: Vec<String> =
        hosts.iter().map(|host| host.address(Way::Back).to_string()).collect();
    vec![
        // Tells them apart, as all of them have this machine's name.
        format!("--server-id={}", index + 1),
        "--binlog-format=ROW".to_owned(),
        "--log-bin-trust-function-creators=ON".to_owned(),
        "--innodb-autoinc-lock-mode=2".to_owned(),
        "--wsrep-on=ON".to_owned(),
        format!("--wsrep-provider={PROVIDER}"),
        "--wsrep-cluster-name=reel".to_owned(),
        format!("--wsrep-cluster-address=gcomm://{}", addresses.join(",")),
        format!("--wsrep-node-name=node{index}"),
        format!("--wsrep-node-address={}", addresses[index]),
        "--wsrep-sst-method=rsync".to_owned(),
        // Of what the others have missed: more than any test writes meanwhile, and less disk than by default.
        "--wsrep-provider-options=gcache.size=64M".to_owned(),
    ]
}

/// The position that a server found in its tables.
fn position(recovered: &Output) -> Option<String> {
    const WORDS: &str = "Recovered position:";
    let text = String::from_utf8_lossy(&recovered.stderr);
    let line = text.lines().rfind(|line| line.contains(WORDS))?;
    Some(line.split_once(WORDS)?.1.trim().to_owned())
}
