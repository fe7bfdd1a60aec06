//! The peer for reads: nginx from Debian, one worker on the server's core, set up as its users are told to.

use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cpu::{Group, Meter},
    lab::Lab,
    launch::Server,
    sys::process,
};

/// Longest wait for its port.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How it reads files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// sendfile on the worker itself: the fastest when files are in the page cache, and it waits for the disk when not.
    Sendfile,
    /// sendfile on a pool of threads (`aio threads`): the worker never waits.
    AioThreads,
    /// As that, files read around the page cache (`directio`), which nginx recommends for large files.
    AioDirect,
}

impl Reading {
    fn directives(self) -> String {
        const CACHE: &str = "open_file_cache max=20000 inactive=1h; open_file_cache_valid 60s; \
                             open_file_cache_min_uses 1;";
        match self {
            Self::Sendfile => format!("sendfile on; {CACHE}"),
            Self::AioThreads => format!("sendfile on; aio threads=disk; {CACHE}"),
            // Two buffers of the size of our own pieces: the default of 32 KiB would be unfair. No open_file_cache:
            // requests that share a descriptor then turn O_DIRECT off and on under each other, and one read in two
            // hundred fails (EINVAL, seen with 1.22).
            Self::AioDirect => {
                "sendfile on; aio threads=disk; directio 512; directio_alignment 4k; \
                                output_buffers 2 512k; open_file_cache off;"
                    .to_owned()
            }
        }
    }
}

/// A running nginx.
#[derive(Debug)]
pub(crate) struct Nginx {
    // Before the group, which must be empty when it goes.
    server: Server,
    group: Option<Group>,
    address: SocketAddr,
}

impl Nginx {
    /// Starts one that serves `root`.
    pub(crate) fn start(lab: &Lab, name: &str, reading: Reading, root: &Path) -> Result<Self> {
        let folder = lab.log(name);
        fs::create_dir_all(&folder)?;
        // A port that was free a moment ago: nginx cannot be told to choose one.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let file = folder.join("nginx.conf");
        let workers = lab.server_cores();
        fs::write(&file, configuration(&folder, root, address, reading, workers))?;
        let group = lab.group(name);
        let mut command = lab.server_place(group.as_ref()).command(Path::new("nginx"))?;
        command.arg("-e").arg(folder.join("error.log")).arg("-p").arg(&folder);
        command.arg("-c").arg(&file);
        let mut server = Server::start("nginx", &mut command, &lab.log(&format!("{name}.log")))?;
        let begin = Instant::now();
        while TcpStream::connect(address).is_err() {
            server.check()?;
            if begin.elapsed() > START_LIMIT {
                bail!("nginx does not listen on {address} after {START_LIMIT:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self { server, group, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its CPU time, workers and threads included.
    pub(crate) fn meter(&self) -> Meter {
        self.group.as_ref().map_or(Meter::Process(self.server.pid()), Group::meter)
    }

    /// Bytes of memory of master and worker.
    pub(crate) fn resident_bytes(&self) -> Result<u64> {
        process::resident_bytes(self.server.pid())
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.server.stop()
    }
}

/// `tcp_nopush` is off: on loopback it stalls responses by 40 ms, which would flatter us.
fn configuration(
    folder: &Path,
    root: &Path,
    address: SocketAddr,
    reading: Reading,
    workers: usize,
) -> String {
    // The worker of a root master would be `nobody`, who may not enter our folders.
    let user = if process::is_root() { "user root;\n" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", folder.display()))
        .collect();
    format!(
        "daemon off;\n{user}worker_processes {workers};\npid {folder}/nginx.pid;\n\
         worker_rlimit_nofile 65536;\nthread_pool disk threads=32 max_queue=65536;\n\
         events {{ worker_connections 20000; }}\n\
         http {{\n{temporary}    default_type application/octet-stream;\n    access_log off;\n    \
         {reading}\n    tcp_nopush off;\n    tcp_nodelay on;\n    keepalive_requests 1000000000;\n    \
         keepalive_timeout 1h;\n    server {{ listen {address} backlog=4096; root {root}; }}\n}}\n",
        folder = folder.display(),
        root = root.display(),
        reading = reading.directives(),
    )
}

/// What is installed, as it says itself.
pub(crate) fn version() -> Result<String> {
    let output = std::process::Command::new("nginx").arg("-v").output();
    let output = output.context("nginx is not installed (Debian package nginx-light)")?;
    Ok(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}
