//! A MariaDB of our own for a store whose metadata is shared: with its defaults, except where they would lose a commit, on the
//! disk that is measured on, and on the generators' core as on another machine.

use std::{
    ffi::OsString,
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{lab::Lab, launch::Server};

/// Longest wait for it to listen.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server.
#[derive(Debug)]
pub(crate) struct MariaDb {
    server: Server,
    port: u16,
}

impl MariaDb {
    /// Makes an empty server, starts it and gives it the tables of a store.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let folder = lab.disk().join("mariadb");
        fs::create_dir_all(&folder)?;
        let data = folder.join("data");
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", "--user=root"]);
        install.args(["--auth-root-authentication-method=normal", "--skip-name-resolve"]);
        install.arg(option("--datadir", &data)).arg(option("--tmpdir", &folder));
        let output = install.stdin(Stdio::null()).output();
        let output = output.context("mariadb-install-db (Debian package mariadb-server)")?;
        if !output.status.success() {
            bail!("mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = lab.generator_place().command(Path::new("/usr/sbin/mariadbd"))?;
        command.args(["--no-defaults", "--bind-address=127.0.0.1", "--user=root"]);
        command.args(["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=1"]);
        command.arg(format!("--port={port}")).arg(option("--datadir", &data));
        command.arg(option("--socket", &folder.join("socket")));
        command.arg(option("--tmpdir", &folder));
        command.arg(option("--pid-file", &folder.join("pid")));
        let mut server = Server::start("mariadbd", &mut command, &lab.log("mariadb.log"))?;
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            server.check()?;
            if begin.elapsed() > START_LIMIT {
                bail!("mariadbd does not listen");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let started = Self { server, port };
        started.migrate(lab)?;
        Ok(started)
    }

    fn migrate(&self, lab: &Lab) -> Result<()> {
        let mut command = lab.generator_place().command(lab.reel_binary())?;
        let settings = self.settings();
        command.arg("migrate");
        for (key, value) in &settings {
            command.env(format!("REEL_{}", key.to_uppercase().replace('.', "__")), value);
        }
        let output = command.output()?;
        if !output.status.success() {
            bail!("reel migrate: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// What a store is started with.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        let servers = format!("[\"127.0.0.1:{}\"]", self.port);
        [("meta.mysql.servers", servers), ("meta.mysql.user", "root".to_owned())]
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

fn option(name: &str, path: &Path) -> OsString {
    let mut text = OsString::from(format!("{name}="));
    text.push(path);
    text
}
