//! A private MariaDB: its own folder, its own port on loopback, no file of the system read, stopped with its owner.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// Longest wait for a server to answer, or to end. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, running or stopped, and its data.
#[derive(Debug)]
pub struct MariaDb {
    folder: TempDir,
    port: u16,
    arguments: Vec<OsString>,
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
        let mut server = Self::new(arguments)?;
        server.run()?;
        Ok(server)
    }

    /// An empty server that does not run yet.
    fn new(arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("reel-mariadb-").tempdir()?;
        let data = folder.path().join("data");
        let mut install = Command::new(program("mariadb-install-db").context("no MariaDB")?);
        install.args(["--no-defaults", "--skip-test-db"]);
        install.args(["--auth-root-authentication-method=normal", "--skip-name-resolve"]);
        install.arg(option("--datadir", &data)).arg(option("--tmpdir", folder.path()));
        install.args(user());
        let output = install.stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
        }
        // A port that the kernel says is free: another process may take it before the server does, which then says so.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let arguments = arguments.iter().map(OsString::from).collect();
        Ok(Self { folder, port, arguments, child: None, databases: AtomicU32::new(0) })
    }

    fn command(&self) -> Result<Command> {
        let folder = self.folder.path();
        let mut command = Command::new(program("mariadbd").context("no MariaDB")?);
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve"]);
        command.args(["--innodb-buffer-pool-size=64M", "--performance-schema=OFF"]);
        command.arg(format!("--port={}", self.port)).args(user());
        command.arg(option("--datadir", &folder.join("data")));
        command.arg(option("--socket", &folder.join("socket")));
        command.arg(option("--tmpdir", folder));
        command.arg(option("--pid-file", &folder.join("pid")));
        command.args(&self.arguments);
        Ok(command)
    }

    fn log_file(&self) -> Result<File> {
        Ok(File::options().create(true).append(true).open(self.folder.path().join("log"))?)
    }

    fn wait_until_it_listens(&self, child: &mut Child) -> Result<()> {
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
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
        let log = self.log_file()?;
        let mut command = self.command()?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let end_with_us = || {
            // SAFETY: a system call with numbers.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            Ok(())
        };
        // SAFETY: what runs between fork and exec is one system call. A test that is killed takes its server along.
        unsafe { command.pre_exec(end_with_us) };
        let mut child = command.spawn()?;
        self.wait_until_it_listens(&mut child)?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends it as a crash does.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops it (and [`Self::resume`] lets it go on): it keeps its connections, and answers none.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        self.signal(libc::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let id = self.child.as_ref().context("it does not run")?.id();
        // SAFETY: a system call with numbers; the child has not been waited for, so the id is its own.
        let sent = unsafe { libc::kill(i32::try_from(id)?, signal) };
        if sent == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
    }

    /// Host and port.
    #[must_use]
    pub fn address(&self) -> (String, u16) {
        ("127.0.0.1".to_owned(), self.port)
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
    let mut server = MariaDb::new(&[])?;
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

/// The server refuses to be root's unless it is told so.
fn user() -> Option<&'static str> {
    // SAFETY: a system call without arguments.
    (unsafe { libc::geteuid() } == 0).then_some("--user=root")
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.exists())
}
