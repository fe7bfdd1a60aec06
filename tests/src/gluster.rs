//! A GlusterFS volume on hosts of a test's network, each with a brick of it, as the operator's guide sets one up. Needs root.
//!
//! Each host has a glusterd of its own, which starts the daemons that serve its bricks, and a mount of the volume. All of a
//! host are killed by [`Gluster::kill`], and with the volume.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::mariadb::program;
use crate::mounts::Mounts;
use crate::network::{Host, Way};
use crate::process::end_with_us;
use crate::stored;

/// Longest wait for a daemon. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Between two commands to mend what a brick lacks.
const NUDGE: Duration = Duration::from_secs(3);

/// Of those that have not ended yet.
const NUDGES_MAX: usize = 10;

/// Without less to mend for so long, folders are compared whole.
const STUCK: Duration = Duration::from_secs(15);

/// What serves a brick.
const SERVER: &str = "glusterfsd";

/// Lines of each log in a report.
const LINES: usize = 25;

/// The name of the volume.
const VOLUME: &str = "media";

/// What the guide sets: how long a writer waits for a server that says nothing, which copy a reader gets, how often it is looked
/// whether something is to be healed, and how many files are mended at once.
const OPTIONS: [(&str, &str); 4] = [
    ("network.ping-timeout", "3"),
    ("cluster.choose-local", "off"),
    ("cluster.heal-timeout", "10"),
    ("cluster.shd-max-threads", "4"),
];

/// A volume of replicas, one on each of its hosts.
#[derive(Debug)]
pub struct Gluster {
    nodes: Vec<Node>,
    _folder: tempfile::TempDir,
}

/// A mount that answers nothing; it goes on when this is dropped.
#[derive(Debug)]
#[must_use]
pub struct FrozenMount(libc::pid_t);

impl Drop for FrozenMount {
    fn drop(&mut self) {
        // One that is gone is not frozen.
        let _ = signal(self.0, libc::SIGCONT);
    }
}

fn signal(process: libc::pid_t, signal: libc::c_int) -> std::io::Result<()> {
    // SAFETY: a system call with numbers.
    let sent = unsafe { libc::kill(process, signal) };
    if sent == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[derive(Debug)]
struct Node {
    host: Host,
    folder: PathBuf,
    brick: PathBuf,
    daemon: Option<Child>,
    mount: Option<Child>,
}

impl Gluster {
    /// Why this machine cannot have one; none: it can.
    #[must_use]
    pub fn missing() -> Option<&'static str> {
        // SAFETY: a system call without arguments.
        if unsafe { libc::geteuid() } != 0 {
            return Some("network namespaces need root");
        }
        let programs = ["glusterd", "gluster", "glusterfs", "ip"];
        if !programs.iter().all(|name| program(name).is_some()) {
            return Some("GlusterFS or ip is not installed (cargo xtask setup)");
        }
        (!Path::new("/dev/fuse").exists()).then_some("this machine has no FUSE")
    }

    /// Starts a volume on these hosts, with a brick in each of these folders, and mounts it on all of them.
    ///
    /// # Errors
    /// Something is [missing](Self::missing), or a daemon does not start.
    pub fn start(hosts: &[Host], bricks: &[PathBuf]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("reel-gluster-").tempdir()?;
        let mut volume = Self { nodes: Vec::new(), _folder: folder };
        for (index, (host, brick)) in hosts.iter().zip(bricks).enumerate() {
            let own = volume._folder.path().join(index.to_string());
            volume.nodes.push(Node::new(host, own, brick)?);
        }
        let first = &volume.nodes[0];
        for other in &volume.nodes[1..] {
            first.gluster(&format!("peer probe {}", other.host.address(Way::Back)))?;
        }
        // Each learns of the others from the first.
        for node in &volume.nodes {
            node.until("all peers are connected", |node| {
                let peers = node.gluster("peer status").unwrap_or_default();
                peers.matches("(Connected)").count() == hosts.len() - 1
                    && peers.matches("Peer in Cluster").count() == hosts.len() - 1
            })?;
        }
        let places: Vec<String> = volume.nodes.iter().map(Node::place_of_brick).collect();
        let (count, places) = (hosts.len(), places.join(" "));
        first.gluster(&format!("volume create {VOLUME} replica {count} {places} force"))?;
        for (option, value) in OPTIONS {
            first.gluster(&format!("volume set {VOLUME} {option} {value}"))?;
        }
        first.gluster(&format!("volume start {VOLUME}"))?;
        for index in 0..hosts.len() {
            volume.mount(index)?;
        }
        Ok(volume)
    }

    /// The host of a node, with its mounts.
    #[must_use]
    pub fn host(&self, node: usize) -> &Host {
        &self.nodes[node].host
    }

    /// Where the volume is mounted on each of the hosts: there only.
    #[must_use]
    pub fn mount_point(&self, node: usize) -> PathBuf {
        self.nodes[node].folder.join("mount")
    }

    /// The brick of a node.
    #[must_use]
    pub fn brick(&self, node: usize) -> &Path {
        &self.nodes[node].brick
    }

    /// Mounts the volume on a host.
    fn mount(&mut self, node: usize) -> Result<()> {
        let point = self.mount_point(node);
        let node = &mut self.nodes[node];
        let mut command = node.command("glusterfs");
        command.arg("-N").arg(format!("--volfile-server={}", node.host.address(Way::Back)));
        command.arg(format!("--volfile-id={VOLUME}")).arg(&point);
        node.mount = Some(command.spawn()?);
        let mounted = format!(" {} fuse.glusterfs ", point.display());
        node.until("the volume is mounted", |node| {
            let mut command = node.command("cat");
            command.arg("/proc/self/mounts");
            let mounts = command.stdout(Stdio::piped()).output();
            mounts.is_ok_and(|mounts| String::from_utf8_lossy(&mounts.stdout).contains(&mounted))
        })
    }

    /// Ends a host: kills all that runs among its mounts (SIGKILL), daemons, mount, and who uses it, and unmounts everything.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].kill()
    }

    /// Starts the daemons of a host that was [killed](Self::kill).
    ///
    /// # Errors
    /// They do not start.
    pub fn start_daemons(&mut self, node: usize) -> Result<()> {
        self.nodes[node].mounts()?.renew()?;
        self.nodes[node].start()
    }

    /// Mounts the volume on a host again. A quorum of daemons must run.
    ///
    /// # Errors
    /// It cannot be.
    pub fn mount_again(&mut self, node: usize) -> Result<()> {
        self.mount(node)
    }

    /// Stops what serves a host's mount (SIGSTOP), so that whoever asks it waits, for as long as what it gives lives.
    ///
    /// # Errors
    /// It does not run; the kernel's.
    pub fn freeze_mount(&self, node: usize) -> Result<FrozenMount> {
        let process = self.nodes[node].mount.as_ref().context("the volume is not mounted")?;
        let frozen = FrozenMount(libc::pid_t::try_from(process.id())?);
        signal(frozen.0, libc::SIGSTOP)?;
        Ok(frozen)
    }

    /// Kills what serves a brick (SIGKILL), and nothing else on its host.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill_brick(&self, node: usize) -> Result<()> {
        Ok(self.nodes[node].mounts()?.kill_program(SERVER)?)
    }

    /// Starts what serves a brick again. Every glusterd must run.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_bricks(&self) -> Result<()> {
        self.nodes[0].until("all bricks are served", |node| {
            // It starts none of which it has not noticed yet that it is dead.
            let started = node.gluster(&format!("volume start {VOLUME} force"));
            let is_served =
                |node: &Node| node.mounts().is_ok_and(|it| it.runs(SERVER).unwrap_or(false));
            started.is_ok() && self.nodes.iter().all(is_served)
        })
    }

    /// Takes a brick out of the volume and loses its disk, with all that is on it.
    ///
    /// # Errors
    /// The volume's refusal; the file system's.
    pub fn lose_disk(&self, node: usize) -> Result<()> {
        let Node { brick, .. } = &self.nodes[node];
        self.reset_brick(node, "start")?;
        std::fs::remove_dir_all(brick)?;
        Ok(std::fs::create_dir(brick)?)
    }

    /// Has the volume use the empty disk that came for one that was [lost](Self::lose_disk).
    ///
    /// # Errors
    /// The volume's refusal.
    pub fn use_new_disk(&self, node: usize) -> Result<()> {
        let place = self.nodes[node].place_of_brick();
        self.reset_brick(node, &format!("{place} commit force"))
    }

    fn reset_brick(&self, node: usize, what: &str) -> Result<()> {
        let place = self.nodes[node].place_of_brick();
        self.nodes[node].gluster(&format!("volume reset-brick {VOLUME} {place} {what}"))?;
        Ok(())
    }

    /// Puts another host, with an empty brick in this folder, in the place of one that is lost for good and was [killed](Self::kill).
    /// The lost one's address, for [`Self::forget_host`].
    ///
    /// # Errors
    /// A daemon does not start; the volume's refusal.
    pub fn replace_host(&mut self, node: usize, host: &Host, brick: &Path) -> Result<Ipv4Addr> {
        let Node { host: lost, folder, .. } = &self.nodes[node];
        let (lost, folder) = (lost.address(Way::Back), folder.clone());
        let lost_brick = self.nodes[node].place_of_brick();
        std::fs::remove_dir_all(folder.join("state"))?;
        self.nodes[node] = Node::new(host, folder, brick)?;
        let (new, other) = (&self.nodes[node], &self.nodes[(node + 1) % self.nodes.len()]);
        let address = host.address(Way::Back);
        other.gluster(&format!("peer probe {address}"))?;
        other.until("the new peer is connected", |node| {
            let peers = node.gluster("peer status").unwrap_or_default();
            let mut peers = peers.split("Hostname: ");
            peers.any(|peer| {
                peer.starts_with(&format!("{address}\n"))
                    && peer.contains("Peer in Cluster (Connected)")
            })
        })?;
        let bricks = format!("{lost_brick} {}", new.place_of_brick());
        other.gluster(&format!("volume replace-brick {VOLUME} {bricks} commit force"))?;
        Ok(lost)
    }

    /// Has the others know no more of a host that was [replaced](Self::replace_host).
    ///
    /// # Errors
    /// They refuse.
    pub fn forget_host(&self, lost: Ipv4Addr) -> Result<()> {
        self.nodes[0].gluster(&format!("peer detach {lost} force"))?;
        Ok(())
    }

    /// Lets a brick say of another one that it lacks names of a folder. Nothing may serve it meanwhile. It does so after a power
    /// cut that took back what it had written down last: that the other lacks nothing any more. Where a third one is chosen as the
    /// source, which has no list of such names, the folder is never mended by lists.
    ///
    /// # Errors
    /// The file system's.
    pub fn accuse(&self, brick: usize, other: usize, folder: &str) -> Result<()> {
        // Changes of content, of attributes, of names: one of the last is due.
        const LACKS_A_NAME: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        let brick = &self.nodes[brick].brick;
        let (index, folder) = (brick.join(".glusterfs/indices/xattrop"), brick.join(folder));
        let of_other = format!("trusted.afr.{VOLUME}-client-{other}");
        stored::set_attribute(&folder, &of_other, &LACKS_A_NAME)?;
        let id: String = stored::attribute(&folder, "trusted.gfid")?
            .iter()
            .enumerate()
            .map(|(at, byte)| {
                let dash = if [4, 6, 8, 10].contains(&at) { "-" } else { "" };
                format!("{dash}{byte:02x}")
            })
            .collect();
        std::fs::File::create(index.join(id))?;
        Ok(())
    }

    /// What its daemons say of it, and the end of what they have logged: for the error of a test.
    #[must_use]
    pub fn report(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let status = node.gluster(&format!("volume status {VOLUME}"));
            text += &format!("{}:\n{status:?}\n", node.host.address(Way::Back));
            let Ok(logs) = stored::files_below(&node.folder.join("logs")) else { continue };
            for log in logs {
                let whole = std::fs::read_to_string(node.folder.join("logs").join(&log));
                let whole = whole.unwrap_or_default();
                let lines: Vec<&str> = whole.lines().rev().take(LINES).collect();
                let lines: Vec<&str> = lines.into_iter().rev().collect();
                text += &format!("{}:\n{}\n", log.display(), lines.join("\n"));
            }
        }
        text
    }

    /// What is lacking, and what each brick has of it and says of the others: for the error of a test.
    fn lacking(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let host = node.host.address(Way::Back);
            for id in node.known_lacking().unwrap_or_default() {
                text += &format!("known on {host}: {id}\n");
                for (index, node) in self.nodes.iter().enumerate() {
                    text += &format!("  brick {index}: {}\n", node.has(&id, self.nodes.len()));
                }
            }
        }
        text
    }

    /// Waits until no brick lacks anything. Nobody may write meanwhile: what is just being written is lacking, for a moment.
    /// Where it does not get on, this does what the guide tells an operator to do.
    ///
    /// # Errors
    /// There is not less of it for a long time. How long all of it takes is the disks' affair.
    pub fn until_healed(&self) -> Result<()> {
        // By itself it looks at once, and then every ten minutes. This one may wait long for hosts that have just come back.
        let mut nudge = self.nodes[0].command("gluster");
        nudge.args(["--mode=script", "volume", "heal", VOLUME]);
        let mut nudges: Vec<Child> = Vec::new();
        // Nodes write to see whether they can, so what lacks something changes all the time; that there is less of it is progress.
        let (mut fewest, mut progress) = (usize::MAX, Instant::now());
        let mut compares_whole = false;
        let mut nudged = None::<Instant>;
        let healed = loop {
            // A host that is just coming back has no brick yet.
            let known = self.nodes.iter().map(|node| node.known_lacking().map(|ids| ids.len()));
            match known.sum::<Result<usize>>() {
                Ok(0) => break Ok(()),
                Ok(count) if count < fewest => (fewest, progress) = (count, Instant::now()),
                _ => {}
            }
            if progress.elapsed() > PATIENCE {
                let (lacking, report) = (self.lacking(), self.report());
                break Err(anyhow!("lacking for a long time:\n{lacking}\n{report}"));
            }
            if progress.elapsed() > STUCK && !compares_whole {
                println!("folders are compared whole:\n{}", self.lacking());
                self.mend_by_lists_of_names(false)?;
                compares_whole = true;
            }
            if nudged.is_none_or(|at| at.elapsed() > NUDGE) {
                nudges.retain_mut(|nudge| matches!(nudge.try_wait(), Ok(None)));
                if nudges.len() < NUDGES_MAX {
                    nudges.push(nudge.spawn()?);
                }
                nudged = Some(Instant::now());
            }
            std::thread::sleep(LOOK);
        };
        for mut nudge in nudges {
            nudge.kill()?;
            nudge.wait()?;
        }
        if healed.is_ok() && compares_whole {
            self.mend_by_lists_of_names(true)?;
        }
        healed
    }

    /// Whether folders are mended by the list of names that the source keeps, or compared whole.
    fn mend_by_lists_of_names(&self, on: bool) -> Result<()> {
        let switch = if on { "enable" } else { "disable" };
        let words = format!("volume heal {VOLUME} granular-entry-heal {switch}");
        // Not while another command is under way, and not on while anything is lacking.
        let refusal = RefCell::new(None);
        let is_taken = |node: &Node| {
            let answer = node.gluster(&words);
            answer.inspect_err(|error| *refusal.borrow_mut() = Some(error.to_string())).is_ok()
        };
        self.nodes[0].until(&words, is_taken).with_context(|| refusal.take().unwrap_or_default())
    }
}

impl Drop for Gluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
        }
    }
}

impl Node {
    fn new(host: &Host, folder: PathBuf, brick: &Path) -> Result<Self> {
        let (state, logs) = (folder.join("state"), folder.join("logs"));
        for made in [&state, &logs, &folder.join("mount")] {
            std::fs::create_dir_all(made)?;
        }
        let binds =
            [(&*state, Path::new("/var/lib/glusterd")), (&*logs, Path::new("/var/log/glusterfs"))];
        let mounts = Mounts::new(&binds, brick)?;
        let host = host.clone().with_mounts(mounts);
        let brick = brick.to_owned();
        let mut node = Self { host, folder, brick, daemon: None, mount: None };
        node.start()?;
        Ok(node)
    }

    fn start(&mut self) -> Result<()> {
        let mut daemon = self.command("glusterd");
        self.daemon = Some(daemon.arg("-N").spawn()?);
        self.until("glusterd answers", |node| node.gluster("pool list").is_ok())
    }

    fn kill(&mut self) -> Result<()> {
        self.mounts()?.end()?;
        for mut child in [self.daemon.take(), self.mount.take()].into_iter().flatten() {
            child.wait()?;
        }
        Ok(())
    }

    fn mounts(&self) -> Result<&Mounts> {
        self.host.mounts().context("a host of a volume has mounts")
    }

    fn place_of_brick(&self) -> String {
        format!("{}:{}", self.host.address(Way::Back), self.brick.display())
    }

    /// A program on this host, which ends with us.
    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        end_with_us(&mut command);
        self.host.place(&mut command);
        command
    }

    /// `gluster` with these words; what it answers.
    fn gluster(&self, words: &str) -> Result<String> {
        let mut command = self.command("gluster");
        command.arg("--mode=script").args(words.split_whitespace());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let Output { status, stdout, stderr } = command.output()?;
        let text = String::from_utf8_lossy(&stdout).into_owned();
        if !status.success() {
            bail!("gluster {words}: {text}{}", String::from_utf8_lossy(&stderr));
        }
        Ok(text)
    }

    /// The GlusterFS ids of files and folders of which this brick knows that others lack something of them.
    fn known_lacking(&self) -> Result<Vec<String>> {
        let index = self.brick.join(".glusterfs/indices/xattrop");
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(index)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            // All entries are links to one, which is there always.
            if !name.starts_with("xattrop-") {
                ids.push(name);
            }
        }
        Ok(ids)
    }

    /// What this brick has under a GlusterFS id, and what it says of this and the other bricks' copies.
    fn has(&self, id: &str, bricks: usize) -> String {
        let path = self.brick.join(".glusterfs").join(&id[..2]).join(&id[2..4]).join(id);
        let mut text = match std::fs::metadata(&path) {
            Ok(metadata) => format!("{:?}, {} bytes", metadata.file_type(), metadata.len()),
            Err(error) => error.to_string(),
        };
        let names = (0..bricks).map(|brick| format!("trusted.afr.{VOLUME}-client-{brick}"));
        for name in names.chain(["trusted.afr.dirty".to_owned()]) {
            if let Ok(value) = stored::attribute(&path, &name) {
                text += &format!(", {name} {value:02x?}");
            }
        }
        text
    }

    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let begin = Instant::now();
        while !is_so(self) {
            if begin.elapsed() > PATIENCE {
                bail!("not so on {}: {what}", self.host.address(Way::Back));
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}
