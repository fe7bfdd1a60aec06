//! One role as a process of its own, on ports that stay when it is started again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::network::Host;
use crate::process::{binary, command_of, end_with_us, signal};

/// How long a role may need to start, with all tries. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A role that runs or has been killed. Killed when dropped, and with the thread that has started it.
#[derive(Debug)]
pub struct RoleProcess {
    name: &'static str,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: BTreeMap<String, String>,
    /// Where it runs; none: where we do.
    host: Option<Host>,
    log: PathBuf,
    child: Option<Child>,
    /// Its listeners by their configuration keys.
    pub addresses: BTreeMap<String, SocketAddr>,
}

impl RoleProcess {
    /// Starts `reel NAME` with a folder of its own and this environment, and returns when it listens.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(
        name: &'static str,
        folder: &Path,
        environment: BTreeMap<String, String>,
    ) -> Result<Self> {
        Self::start_at(name, folder, environment, None, ["0", "0"].map(str::to_owned))
    }

    /// As [`Self::start`], on a host of a test's network, listening at these addresses: for its protocol, and for admin HTTP.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_on(
        host: &Host,
        name: &'static str,
        folder: &Path,
        environment: BTreeMap<String, String>,
        listen: [SocketAddr; 2],
    ) -> Result<Self> {
        let listen = listen.map(|address| address.to_string());
        Self::start_at(name, folder, environment, Some(host.clone()), listen)
    }

    fn start_at(
        name: &'static str,
        folder: &Path,
        mut environment: BTreeMap<String, String>,
        host: Option<Host>,
        [listen, admin]: [String; 2],
    ) -> Result<Self> {
        // No flag: a gateway has none.
        let meta = folder.join("meta").display().to_string();
        environment.insert("REEL_META__DIR".to_owned(), meta);
        let arguments = ["--listen", &listen, "--admin-listen", &admin];
        let mut role = Self {
            name,
            binary: binary()?.to_owned(),
            arguments: arguments.map(str::to_owned).to_vec(),
            environment,
            host,
            log: folder.join(format!("{name}.log")),
            child: None,
            addresses: BTreeMap::new(),
        };
        role.run()?;
        let (listen, admin) = (role.address("listen")?, role.address("admin_listen")?);
        role.arguments[1] = listen.to_string();
        role.arguments[3] = admin.to_string();
        Ok(role)
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("it does not run")?.id())
    }

    /// The address of a listener, by the last part of its configuration key.
    ///
    /// # Errors
    /// It has no such listener.
    pub fn address(&self, key: &str) -> Result<SocketAddr> {
        let key = format!("{}.{key}", self.name);
        self.addresses.get(&key).copied().with_context(|| format!("no {key}"))
    }

    /// Kills it (SIGKILL).
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks it to drain (SIGTERM), and waits for its end, which must be a good one.
    ///
    /// # Errors
    /// It does not run, does not end, or ends otherwise.
    pub fn drain(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        signal(&child, libc::SIGTERM)?;
        let begin = Instant::now();
        loop {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("reel {} ended with {status}: {}", self.name, self.log());
                }
                None if begin.elapsed() > PATIENCE => {
                    child.kill()?;
                    child.wait()?;
                    bail!("reel {} does not end: {}", self.name, self.log());
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// From its next start on it is this build of it.
    pub fn install(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// Starts it again at its addresses; as a supervisor does, until it stays.
    ///
    /// # Errors
    /// It does not start for a long time.
    pub fn run_again(&mut self) -> Result<()> {
        let begin = Instant::now();
        loop {
            match self.run() {
                Ok(()) => return Ok(()),
                Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn run(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let mut command = command_of(&self.binary);
        command.arg(self.name).args(&self.arguments).envs(&self.environment);
        end_with_us(&mut command);
        if let Some(host) = &self.host {
            host.place(&mut command);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it is piped")?).lines();
        self.addresses.clear();
        // One line for each listener, the admin server's last.
        while !self.addresses.contains_key(&format!("{}.admin_listen", self.name)) {
            let Some(line) = lines.next().transpose()? else {
                let status = child.wait()?;
                bail!("reel {} ended with {status}: {}", self.name, self.log());
            };
            let (key, address) = line.split_once(' ').with_context(|| line.clone())?;
            self.addresses.insert(key.to_owned(), address.parse()?);
        }
        self.child = Some(child);
        Ok(())
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
