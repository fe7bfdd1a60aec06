//! Keepalived on a host of a test's network, with the very configuration that operators get (`deploy/keepalived/`): only the
//! addresses in it are others.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::mariadb::program;
use crate::network::{Host, Way};
use crate::process::{end_with_us, signal};

/// Where the configurations are.
const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/keepalived");

/// The script that they run, and where they have it.
const SCRIPT: &str = "reel-ready";
const SCRIPT_PLACE: &str = "/etc/keepalived/reel-ready";

/// A configuration of a pair, and the addresses in it.
#[derive(Debug, Clone, Copy)]
pub struct Template {
    file: &'static str,
    floating: &'static str,
    own: &'static str,
    other: &'static str,
}

impl Template {
    /// Of a pair of trackers.
    pub const TRACKER: Self =
        Self { file: "tracker.conf", floating: "10.0.0.10", own: "10.0.0.11", other: "10.0.0.12" };

    /// Of a pair of gateways.
    pub const GATEWAY: Self =
        Self { file: "gateway.conf", floating: "10.0.0.20", own: "10.0.0.21", other: "10.0.0.22" };

    /// The configuration, with these instead.
    fn with(
        self,
        floating: Ipv4Addr,
        own: Ipv4Addr,
        other: Ipv4Addr,
        script: &Path,
    ) -> Result<String> {
        let path = Path::new(DEPLOY).join(self.file);
        let mut text = std::fs::read_to_string(&path).context(path.display().to_string())?;
        for (theirs, ours) in [
            (self.floating, floating.to_string()),
            (self.own, own.to_string()),
            (self.other, other.to_string()),
            ("interface eth0", format!("interface {}", Way::Front.interface())),
            (SCRIPT_PLACE, script.display().to_string()),
        ] {
            if !text.contains(theirs) {
                bail!("{} has no {theirs}", path.display());
            }
            text = text.replace(theirs, &ours);
        }
        Ok(text)
    }
}

/// A Keepalived. Ended when dropped.
#[derive(Debug)]
pub struct Keepalived {
    host: Host,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Keepalived {
    /// Why this machine cannot have one; none: it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        let installed = ["keepalived", "curl", "ip"].iter().all(|name| program(name).is_some());
        (!installed).then_some("Keepalived, curl or ip is not installed (cargo xtask setup)")
    }

    /// Starts one on `host`, whose peer is `other`.
    ///
    /// # Errors
    /// Something is [missing](Self::missing), or it refuses its configuration.
    pub fn start(
        template: Template,
        floating: Ipv4Addr,
        host: &Host,
        other: &Host,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("reel-keepalived-").tempdir()?;
        // It runs its script as somebody who must come there.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let script = folder.path().join(SCRIPT);
        std::fs::copy(Path::new(DEPLOY).join(SCRIPT), &script)?;
        let (own, other) = (host.address(Way::Front), other.address(Way::Front));
        let text = template.with(floating, own, other, &script)?;
        std::fs::write(folder.path().join("keepalived.conf"), text)?;
        let mut keepalived = Self { host: host.clone(), folder, child: None };
        keepalived.check()?;
        keepalived.run()?;
        Ok(keepalived)
    }

    /// Lets it say what it thinks of its configuration.
    fn check(&self) -> Result<()> {
        let mut command = self.command();
        let output = command.arg("--config-test").stderr(Stdio::piped()).output()?;
        // It ends itself by a signal then, also where all is well.
        if !output.stderr.is_empty() {
            bail!("keepalived: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command =
            Command::new(program("keepalived").unwrap_or_else(|| "keepalived".into()));
        command.arg("--use-file").arg(self.folder.path().join("keepalived.conf"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.host.place(&mut command);
        command
    }

    /// Starts it again.
    ///
    /// # Errors
    /// It is not installed.
    pub fn run(&mut self) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.command();
        command.args(["--dont-fork", "--log-console", "--no-syslog", "--log-detail", "--vrrp"]);
        for option in ["--pid", "--vrrp_pid"] {
            command.arg(option).arg(self.folder.path().join(option.trim_start_matches('-')));
        }
        end_with_us(&mut command);
        self.child = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// Ends it: it gives the address up, and says so. Of a host that was cut off before nobody hears it.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("it does not run")?;
        signal(&child, libc::SIGTERM)?;
        child.wait()?;
        Ok(())
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
