//! The server under test: `reel up` as a user would start it, with its defaults, on one core.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{
    cpu::{Group, Meter},
    lab::Lab,
    launch::Server,
    sys::process,
};

/// A running store.
#[derive(Debug)]
pub(crate) struct Reel {
    // Before the group, which must be empty when it goes.
    server: Server,
    group: Option<Group>,
    /// Of others, too, whose work is part of what it does.
    meter: Option<Meter>,
    data: PathBuf,
    addresses: Value,
}

impl Reel {
    /// Starts a store in the folder `name` of the disk. `settings`: configuration keys other than the defaults.
    pub(crate) fn start(lab: &Lab, name: &str, settings: &[(&str, &str)]) -> Result<Self> {
        let group = lab.group(name);
        let mut started = Self::start_in(lab, name, settings, group.as_ref())?;
        started.meter = group.as_ref().map(Group::meter);
        started.group = group;
        Ok(started)
    }

    /// As [`Self::start`], in a control group that others are in, too: their CPU time is counted with its own.
    pub(crate) fn start_in(
        lab: &Lab,
        name: &str,
        settings: &[(&str, &str)],
        group: Option<&Group>,
    ) -> Result<Self> {
        let data = lab.disk().join(name);
        fs::create_dir_all(&data)?;
        let mut command = lab.server_place(group).command(lab.reel_binary())?;
        command.args(["up", "--json", "--any-ports", "--data"]).arg(&data);
        for (key, value) in settings {
            let variable = format!("REEL_{}", key.to_uppercase().replace('.', "__"));
            command.env(variable, value);
        }
        let log = lab.log(&format!("{name}.log"));
        let mut server = Server::start("reel up", &mut command, &log)?;
        let mut line = String::new();
        BufReader::new(server.output()?).read_line(&mut line)?;
        if line.is_empty() {
            std::thread::sleep(std::time::Duration::from_millis(100));
            server.check()?;
        }
        let addresses = serde_json::from_str(&line).context("the addresses of reel up")?;
        let meter = group.map(Group::meter);
        Ok(Self { server, group: None, meter, data, addresses })
    }

    /// An address: of `engine`, `tracker`, `idgen` or `gateway`; `binary`, `media` or `admin`.
    pub(crate) fn address(&self, role: &str, kind: &str) -> Result<SocketAddr> {
        let text = self.addresses[role][kind].as_str();
        Ok(text.with_context(|| format!("no {kind} address of {role}"))?.parse()?)
    }

    /// Where its files lie.
    pub(crate) fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Its CPU time.
    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone().unwrap_or_else(|| Meter::Process(self.server.pid()))
    }

    /// Bytes of memory that are its own and in use.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        process::resident_bytes(self.server.pid())
    }

    /// Descriptors that it has open.
    pub(crate) fn descriptors(&self) -> Result<usize> {
        process::descriptors(self.server.pid())
    }

    /// Drains and ends it.
    pub(crate) fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

/// The release binary beside our own.
pub(crate) fn binary_beside(own: &Path) -> PathBuf {
    own.with_file_name("reel")
}
