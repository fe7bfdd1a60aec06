//! A GlusterFS volume of our own: three bricks on the disk that is measured on, served and mounted on this machine. Needs root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    cpu::{Group, Meter},
    lab::Lab,
    launch::Server,
    sys::process,
};

/// An address of this machine: GlusterFS takes none of loopback for a brick.
const ADDRESS: &str = "10.88.0.1";

/// The name of the volume.
const VOLUME: &str = "media";

/// Longest wait for a daemon.
const START_LIMIT: Duration = Duration::from_secs(60);

/// The volume, mounted.
#[derive(Debug)]
pub(crate) struct Gluster {
    mount: Server,
    daemon: Server,
    folder: PathBuf,
    group: Option<Group>,
}

impl Gluster {
    /// Makes the volume and mounts it.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        let folder = lab.disk().join("gluster");
        for made in ["state", "logs", "mount", "bricks"] {
            fs::create_dir_all(folder.join(made))?;
        }
        // In the network of this run alone.
        run(Command::new("ip").args([
            "address",
            "replace",
            &format!("{ADDRESS}/32"),
            "dev",
            "lo",
        ]))?;
        let group = lab.group("gluster");
        let place = || lab.server_place(group.as_ref());
        let mut command = place().command(Path::new("unshare"))?;
        // glusterd has fixed places in /run and /var: here they are its own.
        let script = "mount -t tmpfs none /run && mkdir -p /run/gluster && \
            mount --bind \"$0/state\" /var/lib/glusterd && \
            mount --bind \"$0/logs\" /var/log/glusterfs && exec glusterd -N";
        command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(&folder);
        let daemon = Server::start("glusterd", &mut command, &lab.log("glusterd.log"))?;
        until("glusterd answers", || gluster(&daemon, "pool list").is_ok())?;
        let bricks: Vec<String> = (1..=3)
            .map(|number| {
                format!("{ADDRESS}:{}", folder.join(format!("bricks/{number}")).display())
            })
            .collect();
        let bricks = bricks.join(" ");
        gluster(&daemon, &format!("volume create {VOLUME} replica 3 {bricks} force"))?;
        gluster(&daemon, &format!("volume set {VOLUME} cluster.choose-local off"))?;
        gluster(&daemon, &format!("volume start {VOLUME}"))?;
        let mut command = place().command(Path::new("glusterfs"))?;
        command.args(["-N", &format!("--volfile-server={ADDRESS}")]);
        command.arg(format!("--volfile-id={VOLUME}"));
        command.arg(format!("--log-file={}", folder.join("logs/mount.log").display()));
        command.arg(folder.join("mount"));
        let mount = Server::start("glusterfs", &mut command, &lab.log("glusterfs.log"))?;
        let line = format!(" {} fuse.glusterfs ", folder.join("mount").display());
        until("the volume is mounted", || {
            fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| mounts.contains(&line))
        })?;
        Ok(Self { mount, daemon, folder, group })
    }

    /// The configuration of a store on it, read from a brick or through the mount.
    pub(crate) fn store_path(&self, store: &str, with_brick: bool) -> String {
        let path = self.folder.join("mount").join(store);
        let brick = match with_brick {
            true => format!(", brick = {:?}", self.brick(store)),
            false => String::new(),
        };
        format!("[{{ path = {path:?}{brick} }}]")
    }

    /// Where the files of a store lie.
    pub(crate) fn brick(&self, store: &str) -> PathBuf {
        self.folder.join("bricks/1").join(store)
    }

    /// What all its daemons are in.
    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Ends it.
    pub(crate) fn stop(self) -> Result<()> {
        run(Command::new("umount").arg(self.folder.join("mount")))?;
        self.mount.stop()?;
        gluster(&self.daemon, &format!("volume stop {VOLUME} force"))?;
        let left = self.group.as_ref().map(Group::meter);
        self.daemon.stop()?;
        // The daemon of the heal outlives its glusterd.
        for pid in left.as_ref().map_or(Ok(Vec::new()), Meter::processes)? {
            process::signal(pid, libc::SIGKILL)?;
        }
        Ok(())
    }
}

/// `gluster` with these words, where its daemon is.
fn gluster(daemon: &Server, words: &str) -> Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--mount=/proc/{}/ns/mnt", daemon.pid()));
    command.args(["gluster", "--mode=script"]).args(words.split_whitespace());
    run(&mut command)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output();
    let output =
        output.with_context(|| format!("{command:?} (Debian package glusterfs-server)"))?;
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        bail!("{command:?}: {}", String::from_utf8_lossy(&text).trim());
    }
    Ok(())
}

fn until(what: &str, is_so: impl Fn() -> bool) -> Result<()> {
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > START_LIMIT {
            bail!("not so: {what}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
