//! The real `reel` binary as a child process: `reel up` on free ports with a data folder of its own, ready when this
//! returns, its log collected and judged at the end.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        OnceLock,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use reel_meta::Role;
use serde_json::Value;

use crate::{http, log::Log, mariadb, seccomp};

/// Longest wait for a store to be ready, or to drain. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// The binary under test, built before the first use: `REEL_TEST_BINARY`, else the workspace's own of this profile.
pub fn binary() -> Result<&'static Path> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BINARY.get_or_init(|| find_binary().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(text) => bail!("{text}"),
    }
}

fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("REEL_TEST_BINARY") {
        return Ok(path.into());
    }
    let release = !cfg!(debug_assertions);
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--locked", "--package", "reel"]);
    if release {
        build.arg("--release");
    }
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    // What Cargo tells this test of its own package. A build script that asks for it runs again where it differs, and all that
    // depends on it is compiled again: two minutes of a release build.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&name);
        }
    }
    if !build.status().context("cargo builds the binary")?.success() {
        bail!("the `reel` binary does not build");
    }
    // target/debug/deps/THIS_TEST -> target/debug/reel
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("a test lies in target/*/deps")?;
    Ok(folder.join("reel"))
}

/// A `reel` command with nothing of our environment that would configure it.
pub fn command() -> Result<Command> {
    Ok(command_of(binary()?))
}

/// As [`command`], of this build of it.
pub(crate) fn command_of(binary: &Path) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("REEL_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// Lets what the command starts be killed with the thread that starts it: a test that is killed takes its servers along.
pub(crate) fn end_with_us(command: &mut Command) {
    let end_with_us = || {
        // SAFETY: a system call with numbers.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: what runs between fork and exec is one system call.
    unsafe { command.pre_exec(end_with_us) };
}

/// Sends a signal to a child of ours that was not waited for.
pub(crate) fn signal(child: &Child, signal: libc::c_int) -> Result<()> {
    let pid = libc::pid_t::try_from(child.id())?;
    // SAFETY: a system call with numbers; the child was not waited for, so the id is its own.
    let sent = unsafe { libc::kill(pid, signal) };
    if sent == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// The variables by which a store finds its metadata: none for one that has it embedded. With `REEL_TEST_METADATA=mariadb`
/// in the environment of the test every store has databases of its own on a MariaDB of this process, so that one suite
/// judges both.
fn metadata_of(data: &Path) -> Result<BTreeMap<&'static str, String>> {
    let mut variables = BTreeMap::new();
    if !mariadb::is_in_use() {
        return Ok(variables);
    }
    let (host, port) = mariadb::shared()?;
    variables.insert("REEL_META__MYSQL__SERVERS", format!("[\"{host}:{port}\"]"));
    variables.insert("REEL_META__MYSQL__USER", "root".to_owned());
    for (key, role) in [
        ("REEL_META__MYSQL__TRACKER_DATABASE", Role::Tracker),
        ("REEL_META__MYSQL__IDS_DATABASE", Role::Ids),
        ("REEL_META__MYSQL__STORAGE_DATABASE", Role::Storage),
    ] {
        variables.insert(key, mariadb::database_of(data, role));
    }
    let output = command()?.arg("migrate").envs(&variables).output()?;
    if !output.status.success() {
        bail!("reel migrate: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(variables)
}

/// A `reel` command that works on a data folder: `verify`, `rebuild-index`.
pub fn on_data(data: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = command()?;
    command.args(arguments).arg("--data").arg(data).envs(metadata_of(data)?);
    Ok(command)
}

/// `reel verify` of a data folder that no process has open: every file against its row, its record and its checksum.
pub fn verify(data: &Path) -> Result<()> {
    let output = on_data(data, &["verify"])?.output()?;
    if !output.status.success() {
        let (out, err) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("reel verify: {}\n{out}{err}", output.status);
    }
    Ok(())
}

/// How a store is to be started.
#[derive(Debug, Clone)]
pub struct Up {
    data: PathBuf,
    before_start: Option<fn(&mut Command)>,
    arguments: Vec<OsString>,
    environment: BTreeMap<String, String>,
    refuse_io_uring: bool,
    expected: Vec<String>,
}

impl Up {
    /// `reel up` on this data folder, every port chosen by the kernel.
    ///
    /// With `REEL_TEST_REFUSE_IO_URING` in the environment of the test every store runs where io_uring is refused, so
    /// that one suite judges both drivers.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        let up = Self {
            data: data.to_owned(),
            before_start: None,
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            refuse_io_uring: false,
            // Of the machine that the test runs on, and not of the store.
            expected: vec!["inodes are too small".to_owned()],
        };
        match std::env::var_os("REEL_TEST_REFUSE_IO_URING") {
            Some(_) => up.without_io_uring(),
            None => up,
        }
    }

    /// Adds a flag.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Sets a configuration key through the environment: `set("engine.durability", "async")`.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        let name = format!("REEL_{}", key.to_uppercase().replace('.', "__"));
        self.environment.insert(name, value.to_owned());
        self
    }

    /// Runs it where io_uring is refused, which it says once.
    #[must_use]
    pub fn without_io_uring(mut self) -> Self {
        self.refuse_io_uring = true;
        self.expect_log("io_uring")
    }

    /// Changes the command before each start: another user, limits.
    #[must_use]
    pub fn before_start(mut self, change: fn(&mut Command)) -> Self {
        self.before_start = Some(change);
        self
    }

    /// A WARN or ERROR line that contains this text is expected; any other one fails the test.
    #[must_use]
    pub fn expect_log(mut self, text: &str) -> Self {
        self.expected.push(text.to_owned());
        self
    }

    fn command(&self) -> Result<Command> {
        let mut command = command()?;
        command.args(["up", "--json", "--any-ports", "--log-format", "json", "--data"]);
        command
            .arg(&self.data)
            .args(&self.arguments)
            .envs(metadata_of(&self.data)?)
            .envs(&self.environment);
        if self.refuse_io_uring {
            seccomp::refuse_io_uring(&mut command);
        }
        if let Some(change) = self.before_start {
            change(&mut command);
        }
        Ok(command)
    }

    /// Starts it and returns when every role is ready.
    pub fn start(&self) -> Result<Store> {
        self.spawn()?.ready()
    }

    /// Starts it and does not wait: for what happens before it is ready.
    pub fn spawn(&self) -> Result<Starting> {
        let mut child = self
            .command()?
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting reel up")?;
        let log = Log::default();
        let stdout = child.stdout.take().context("stdout is piped")?;
        let stderr = child.stderr.take().context("stderr is piped")?;
        let (announce, announced) = mpsc::channel();
        let readers = vec![
            std::thread::spawn({
                let log = log.clone();
                move || log.collect(stdout, Some(&announce))
            }),
            std::thread::spawn({
                let log = log.clone();
                move || log.collect(stderr, None)
            }),
        ];
        let store = Store {
            child,
            log,
            readers,
            addresses: Addresses::default(),
            expected: self.expected.clone(),
            data: self.data.clone(),
            ended: None,
        };
        Ok(Starting { store, announced })
    }

    /// Runs it where it must fail to start; gives its exit code and output.
    pub fn start_failing(&self) -> Result<Output> {
        let mut child = self.command()?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let begin = Instant::now();
        while child.try_wait()?.is_none() {
            if begin.elapsed() > PATIENCE {
                child.kill()?;
                bail!("reel up started, or hangs, where it must fail");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(child.wait_with_output()?)
    }
}

/// A store that may not be ready yet.
#[derive(Debug)]
pub struct Starting {
    /// Its process. It has no addresses before it is ready.
    pub store: Store,
    announced: mpsc::Receiver<String>,
}

impl Starting {
    /// Waits until every role is ready.
    pub fn ready(mut self) -> Result<Store> {
        match self.announced.recv_timeout(PATIENCE) {
            Ok(line) => self.store.addresses = Addresses::parse(&line)?,
            Err(_) => return Err(self.not_ready()),
        }
        Ok(self.store)
    }

    /// Waits until it has logged this message, or is ready and has not.
    pub fn says(&mut self, message: &str) -> Result<bool> {
        let begin = Instant::now();
        let said = |store: &Store| !store.log.with_message(message).is_empty();
        while !said(&self.store) {
            match self.announced.recv_timeout(Duration::from_millis(1)) {
                Ok(line) => {
                    self.store.addresses = Addresses::parse(&line)?;
                    return Ok(said(&self.store));
                }
                Err(RecvTimeoutError::Timeout) if begin.elapsed() < PATIENCE => {}
                Err(_) => return Err(self.not_ready()),
            }
        }
        Ok(true)
    }

    fn not_ready(&mut self) -> anyhow::Error {
        let status = self.store.child.try_wait();
        anyhow!("reel up is not ready ({status:?}); its output:\n{}", self.store.log.text())
    }
}

/// The addresses of a running store.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// Tracker, binary protocol.
    pub tracker: SocketAddr,
    /// ID node, binary protocol.
    pub idgen: SocketAddr,
    /// Storage node, binary protocol.
    pub engine: SocketAddr,
    /// Storage node, media HTTP.
    pub media: SocketAddr,
    /// Gateway, media HTTP.
    pub gateway: SocketAddr,
    /// Storage node, admin HTTP.
    pub engine_admin: SocketAddr,
    /// Gateway, admin HTTP.
    pub gateway_admin: SocketAddr,
    /// Tracker, admin HTTP.
    pub tracker_admin: SocketAddr,
    /// ID node, admin HTTP.
    pub idgen_admin: SocketAddr,
}

impl Default for Addresses {
    fn default() -> Self {
        let none = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            tracker: none,
            idgen: none,
            engine: none,
            media: none,
            gateway: none,
            engine_admin: none,
            gateway_admin: none,
            tracker_admin: none,
            idgen_admin: none,
        }
    }
}

impl Addresses {
    fn parse(line: &str) -> Result<Self> {
        let all: Value = serde_json::from_str(line).with_context(|| format!("addresses {line}"))?;
        let find = |role: &str, kind: &str| -> Result<SocketAddr> {
            let text =
                all[role][kind].as_str().with_context(|| format!("{role} {kind}: {line}"))?;
            Ok(text.parse()?)
        };
        Ok(Self {
            tracker: find("tracker", "binary")?,
            idgen: find("idgen", "binary")?,
            engine: find("engine", "binary")?,
            media: find("engine", "media")?,
            gateway: find("gateway", "media")?,
            engine_admin: find("engine", "admin")?,
            gateway_admin: find("gateway", "admin")?,
            tracker_admin: find("tracker", "admin")?,
            idgen_admin: find("idgen", "admin")?,
        })
    }
}

/// A running store. Killed when dropped; then, unless the test is failing already, its log is judged.
#[derive(Debug)]
pub struct Store {
    child: Child,
    log: Log,
    readers: Vec<JoinHandle<()>>,
    /// Where it listens.
    pub addresses: Addresses,
    expected: Vec<String>,
    data: PathBuf,
    ended: Option<ExitStatus>,
}

impl Store {
    /// Its data folder.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed. A clone stays when the store is gone.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// `/status` of an admin address.
    pub fn status(&self, admin: SocketAddr) -> Result<Value> {
        http::json(admin, "/status")
    }

    /// Kills it on the spot (SIGKILL): what a crash is.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.reap()?;
        self.judge_log()
    }

    /// Sends SIGKILL and leaves the handle, for a kill in the middle of something; then [`Store::reap_killed`].
    pub fn kill_now(&self) -> Result<()> {
        signal(&self.child, libc::SIGKILL)
    }

    /// Takes note of the end of a store that [`Store::kill_now`] has killed.
    pub fn reap_killed(mut self) -> Result<()> {
        self.reap()?;
        self.judge_log()
    }

    /// Asks it to drain (SIGTERM) and waits for its end, which must be a good one.
    pub fn drain(mut self) -> Result<()> {
        self.terminate()?;
        let status = self.reap()?;
        if !status.success() {
            bail!("reel up ended with {status} after SIGTERM; its output:\n{}", self.log.text());
        }
        self.judge_databases()?;
        self.judge_log()
    }

    /// After a drain every database was closed, which leaves no write-ahead log behind.
    fn judge_databases(&self) -> Result<()> {
        for entry in std::fs::read_dir(self.data.join("meta"))? {
            let name = entry?.file_name();
            if name.to_string_lossy().ends_with("-wal") {
                bail!("{} is there after the drain: not closed", name.display());
            }
        }
        Ok(())
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) -> Result<()> {
        signal(&self.child, libc::SIGTERM)
    }

    /// A `reel` client command that talks to this store.
    pub fn client_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = command()?;
        command.args(arguments).env("REEL_TRACKERS", self.addresses.tracker.to_string());
        Ok(command)
    }

    /// Runs a client command; one that fails is an error with its output.
    pub fn reel(&self, arguments: &[&str]) -> Result<String> {
        let output = self.client_command(arguments)?.output()?;
        if !output.status.success() {
            let (out, err) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            bail!("reel {arguments:?}: {}\n{out}{err}", output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// A client library's client of this store.
    pub fn client(&self) -> Result<reel_client::Client> {
        let config = reel_client::ClientConfig::new([self.addresses.tracker.to_string()]);
        Ok(reel_client::Client::new(config)?)
    }

    /// Resident memory of the process, bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).context("no VmRSS")?;
        Ok(kib.trim().parse::<u64>()? * 1024)
    }

    /// Time that the process has had on CPUs.
    pub fn cpu_time(&self) -> Result<Duration> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name in parentheses may hold anything.
        let (_, fields) = text.rsplit_once(')').context("no name")?;
        let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
        // SAFETY: a system call with a number.
        let tick = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let ticks: u64 = ticks.sum::<Result<_, _>>()?;
        Ok(Duration::from_secs_f64(ticks as f64 / tick as f64))
    }

    fn reap(&mut self) -> Result<ExitStatus> {
        let begin = Instant::now();
        let status = loop {
            match self.child.try_wait()? {
                Some(status) => break status,
                None if begin.elapsed() > PATIENCE => {
                    self.child.kill()?;
                    self.ended = Some(self.child.wait()?);
                    bail!("reel up did not end; its output:\n{}", self.log.text());
                }
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        };
        self.ended = Some(status);
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Ok(status)
    }

    fn judge_log(&self) -> Result<()> {
        let unlisted = self.log.unlisted(&self.expected);
        if unlisted.is_empty() {
            return Ok(());
        }
        bail!("{} unexpected lines in the log:\n{}", unlisted.len(), unlisted.join("\n"))
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        let crashed = matches!(self.child.try_wait(), Ok(Some(status)) if !status.success());
        let _ = self.child.kill();
        let reaped = self.reap();
        if std::thread::panicking() {
            eprintln!("--- output of reel up\n{}---", self.log.text());
            return;
        }
        // A drop cannot give an error back, and a test that ends here would pass.
        if crashed {
            let signal = reaped.ok().and_then(|status| status.signal());
            panic!("reel up ended by itself (signal {signal:?}):\n{}", self.log.text());
        }
        if let Err(error) = self.judge_log() {
            panic!("{error:#}");
        }
    }
}
