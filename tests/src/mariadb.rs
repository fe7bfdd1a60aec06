//! A private MariaDB: its own folder, its own port on loopback or on a host of a test's network, no file of the system read,
//! stopped with its owner.

use std::ffi::OsString;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reel_meta::Role;
use tempfile::TempDir;

use crate::network::{Host, Namespace, Way};
use crate::process::{end_with_us, signal};

/// Longest wait for a server to answer, or to end. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The port of a server that has a host for itself.
const HOST_PORT: u16 = 3306;

/// What a server is to be: by itself on loopback and with empty tables, unless it is told otherwise.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    arguments: Vec<OsString>,
    host: Option<Host>,
    /// Where its folder is made; none: with other temporary ones.
    disk: Option<PathBuf>,
    without_tables: bool,
}

impl Plan {
    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Puts it on a host of its own, at the usual port.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        self
    }

    /// Puts all of it on this disk.
    #[must_use]
    pub fn on_disk(mut self, mount: &Path) -> Self {
        self.disk = Some(mount.to_owned());
        self
    }

    /// Without any tables, also those of the server itself: another server will send them.
    #[must_use]
    pub fn without_tables(mut self) -> Self {
        self.without_tables = true;
        self
    }

    /// Makes the server, which does not run yet.
    ///
    /// # Errors
    /// It is not installed, or there is no place for it.
    pub fn make(self) -> Result<MariaDb> {
        let disk = self.disk.unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix("reel-mariadb-").tempdir_in(disk)?;
        let user = match &self.host {
            Some(_) => User::of_service()?,
            None => User::ours(),
        };
        std::fs::create_dir(folder.path().join("data"))?;
        for path in [folder.path(), &folder.path().join("data")] {
            std::os::unix::fs::chown(path, Some(user.id), Some(user.group))?;
        }
        if !self.without_tables {
            install(folder.path(), user)?;
        }
        let (address, port) = match &self.host {
            Some(host) => (host.address(Way::Front).into(), HOST_PORT),
            // A port that the kernel says is free: another process may take it before the server does, which then says so.
            None => {
                let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
                (Ipv4Addr::LOCALHOST.into(), port)
            }
        };
        Ok(MariaDb {
            folder,
            address,
            port,
            arguments: self.arguments,
            user,
            namespace: self.host.map(|host| host.namespace().clone()),
            child: None,
            databases: AtomicU32::new(0),
        })
    }
}

/// Who a server is.
#[derive(Debug, Clone, Copy)]
struct User {
    id: u32,
    group: u32,
}

impl User {
    fn ours() -> Self {
        // SAFETY: a system call without arguments.
        let id = unsafe { libc::geteuid() };
        // SAFETY: a system call without arguments.
        let group = unsafe { libc::getegid() };
        Self { id, group }
    }

    /// The one that the package makes for its service. Where servers send each other their tables none can be root: what they
    /// do it with gives its rights away.
    fn of_service() -> Result<Self> {
        let users = std::fs::read_to_string("/etc/passwd")?;
        let user = users.lines().find_map(|line| line.strip_prefix("mysql:"));
        let mut fields = user.context("there is no user mysql")?.split(':').skip(1);
        let mut number = || anyhow::Ok(fields.next().context("an odd user")?.parse()?);
        Ok(Self { id: number()?, group: number()? })
    }

    /// Lets a command be this user's.
    fn own(self, command: &mut Command) {
        if self.id == 0 {
            // The server refuses to be root's unless it is told so.
            command.arg("--user=root");
            return;
        }
        // Not by `Command::uid`, which comes before everything that only root may do.
        let change = move || {
            // SAFETY: system calls with numbers.
            let changed = unsafe { libc::setgid(self.group) } == 0
                // SAFETY: as above.
                && unsafe { libc::setuid(self.id) } == 0;
            if changed { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        };
        if self.id != Self::ours().id {
            // SAFETY: what runs between fork and exec are system calls.
            unsafe { command.pre_exec(change) };
        }
    }
}

/// Makes the tables of a server. `root` may enter from this machine without a password.
fn install(folder: &Path, user: User) -> Result<()> {
    let mut install = Command::new(program("mariadb-install-db").context("no MariaDB")?);
    install.args(["--no-defaults", "--skip-test-db"]);
    install.args(["--auth-root-authentication-method=normal", "--skip-name-resolve"]);
    install.arg(option("--datadir", &folder.join("data"))).arg(option("--tmpdir", folder));
    user.own(&mut install);
    let output = install.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// A server, running or stopped, and its data.
#[derive(Debug)]
pub struct MariaDb {
    folder: TempDir,
    address: IpAddr,
    port: u16,
    arguments: Vec<OsString>,
    user: User,
    /// Where it runs; none: where we do.
    namespace: Option<Namespace>,
    child: Option<Child>,
    databases: AtomicU32,
}

impl MariaDb {
    /// The programs of a server, where Debian puts them; none: it is not installed.
    #[must_use]
    pub fn is_installed() -> bool {
        program("mariadbd").is_some() && program("mariadb-install-db").is_some()
    }

    /// Makes an empty server and starts it. `root` may enter from this machine without a password.
    ///
    /// # Errors
    /// It is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// As [`Self::start`], with further arguments.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(arguments: &[&str]) -> Result<Self> {
        let mut server = Plan::default().arguments(arguments).make()?;
        server.run()?;
        Ok(server)
    }

    /// The command that starts it, where it is to run.
    ///
    /// # Errors
    /// It is not installed.
    pub fn command(&self) -> Result<Command> {
        let folder = self.folder.path();
        let mut command = Command::new(program("mariadbd").context("no MariaDB")?);
        command.args(["--no-defaults", "--skip-name-resolve"]);
        command.args(["--innodb-buffer-pool-size=64M", "--performance-schema=OFF"]);
        command.arg(format!("--bind-address={}", self.address));
        command.arg(format!("--port={}", self.port));
        command.arg(option("--datadir", &folder.join("data")));
        command.arg(option("--socket", &self.socket()));
        command.arg(option("--tmpdir", folder));
        command.arg(option("--pid-file", &folder.join("pid")));
        command.args(&self.arguments).stdin(Stdio::null());
        if let Some(namespace) = &self.namespace {
            namespace.place(&mut command);
        }
        self.user.own(&mut command);
        Ok(command)
    }

    fn log_file(&self) -> Result<File> {
        Ok(File::options().create(true).append(true).open(self.folder.path().join("log"))?)
    }

    /// Waits until it takes connections. By its socket in the file system, which is made after the one of its port and is
    /// reached from everywhere.
    fn wait_until_it_listens(&self, child: &mut Child) -> Result<()> {
        let begin = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("mariadbd ended with {status}: {}", self.log());
            }
            if begin.elapsed() > PATIENCE {
                let _ = child.kill();
                bail!("mariadbd does not listen: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Starts the server again, on the same port and data.
    ///
    /// # Errors
    /// It does not start.
    pub fn run(&mut self) -> Result<()> {
        let mut child = self.spawn_child(&[])?;
        self.wait_until_it_listens(&mut child)?;
        self.child = Some(child);
        Ok(())
    }

    /// As [`Self::run`], for once with further arguments, and without waiting until it listens. It is killed with the thread
    /// that calls this.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn spawn(&mut self, further: &[&str]) -> Result<()> {
        self.child = Some(self.spawn_child(further)?);
        Ok(())
    }

    fn spawn_child(&self, further: &[&str]) -> Result<Child> {
        let log = self.log_file()?;
        let mut command = self.command()?;
        command.args(further).stdout(log.try_clone()?).stderr(log);
        // What it starts itself, to send its tables to another server, is killed with it.
        command.process_group(0);
        end_with_us(&mut command);
        Ok(command.spawn()?)
    }

    /// Fails where it has ended by itself.
    ///
    /// # Errors
    /// It does not run.
    pub fn check_that_it_runs(&mut self) -> Result<()> {
        let child = self.child.as_mut().context("it was not started")?;
        if let Some(status) = child.try_wait()? {
            bail!("mariadbd ended with {status}");
        }
        Ok(())
    }

    /// Ends it as a crash does.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        let group = -i32::try_from(child.id())?;
        // SAFETY: a system call with numbers; the child has not been waited for, so the group is its own.
        unsafe { libc::kill(group, libc::SIGKILL) };
        child.wait()?;
        Ok(())
    }

    /// Stops it (and [`Self::resume`] lets it go on): it keeps its connections, and answers none.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        signal(self.child()?, libc::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        signal(self.child()?, libc::SIGCONT)
    }

    fn child(&self) -> Result<&Child> {
        self.child.as_ref().context("it does not run")
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        (self.address.to_string(), self.port)
    }

    /// The socket by which `root` of this machine enters, whatever became of the network.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A name for a database that no other test of this server has.
    pub fn database(&self) -> String {
        format!("reel_{}", self.databases.fetch_add(1, Ordering::Relaxed))
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // What it would save belongs to nobody any more.
        let _ = self.kill();
    }
}

/// Whether the stores of this process's tests have their metadata in the shared server.
#[must_use]
pub fn is_in_use() -> bool {
    std::env::var_os("REEL_TEST_METADATA").is_some_and(|kind| kind == "mariadb")
}

/// The name of a role's database on the shared server, for the store in this folder.
#[must_use]
pub fn database_of(folder: &Path, role: Role) -> String {
    let mut hasher = DefaultHasher::new();
    folder.hash(&mut hasher);
    let role = match role {
        Role::Tracker => "tracker",
        Role::Ids => "ids",
        Role::Storage => "storage",
    };
    format!("reel_{:x}_{role}", hasher.finish())
}

/// Host and port of a server that all tests of this process share. It ends with the process, however that ends: it is the
/// child of a shell that waits for the end of its input, then kills it and removes its data.
///
/// # Errors
/// It could not be started.
pub fn shared() -> Result<(String, u16)> {
    Ok(shared_server()?.address.clone())
}

/// Kills the shared server with all that goes on in it (SIGKILL), and starts it again; it listens on return.
///
/// # Errors
/// It could not be started.
pub fn crash_shared() -> Result<()> {
    let shared = shared_server()?;
    let starts = || std::fs::read_to_string(&shared.log).map(|log| log.matches(READY).count());
    let before = starts()?;
    let mut shell = shared.shell.lock().unwrap_or_else(PoisonError::into_inner);
    let input = shell.stdin.as_mut().context("its input is piped")?;
    input.write_all(b"\n")?;
    let begin = Instant::now();
    while starts()? <= before {
        if begin.elapsed() > PATIENCE {
            bail!("mariadbd does not come back");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a server logs when it listens.
const READY: &str = "ready for connections";

fn shared_server() -> Result<&'static Shared> {
    static SHARED: OnceLock<Result<Shared, String>> = OnceLock::new();
    match SHARED.get_or_init(|| start_shared().map_err(|error| format!("{error:#}"))) {
        Ok(shared) => Ok(shared),
        Err(text) => bail!("{text}"),
    }
}

struct Shared {
    /// Each line of its input is a crash, its end the server's.
    shell: Mutex<Child>,
    log: PathBuf,
    address: (String, u16),
}

fn start_shared() -> Result<Shared> {
    let mut server = Plan::default().make()?;
    let command = server.command()?;
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(
        "folder=$1; shift; \"$@\" & while read _; do kill -9 $!; wait; \"$@\" & done; \
         kill -9 $!; wait; rm -rf \"$folder\"",
    );
    shell.arg("sh").arg(server.folder.path()).arg(command.get_program()).args(command.get_args());
    let log = server.log_file()?;
    shell.stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
    let mut child = shell.spawn()?;
    server.wait_until_it_listens(&mut child)?;
    // The shell removes it.
    server.folder.disable_cleanup(true);
    let log = server.folder.path().join("log");
    Ok(Shared { shell: Mutex::new(child), log, address: server.address() })
}

fn option(name: &str, path: &Path) -> OsString {
    let mut text = OsString::from(format!("{name}="));
    text.push(path);
    text
}

/// A program of the server or beside it.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.exists())
}
