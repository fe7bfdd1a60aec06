//! Hosts of their own on one machine: each is a network namespace, joined to the others by bridges in one more.
//!
//! The namespaces have no names. The kernel takes each away with the last process in it and the last handle to it, however
//! a test ends, and the machine's own network has no part in any of it.

use std::fs::File;
use std::io;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};

use crate::mounts::Mounts;

/// What all addresses begin with. The same in every test: none of them knows of another.
const PREFIX: [u8; 2] = [10, 77];

/// A network namespace. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Namespace(Arc<File>);

impl Namespace {
    /// An empty one, without even a loopback that is up.
    fn new() -> io::Result<Self> {
        // On a thread that ends then: it is threads that are in namespaces, and ours shall stay where it is.
        let made = std::thread::spawn(|| {
            // SAFETY: a system call with a number.
            if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                return Err(io::Error::last_os_error());
            }
            File::open("/proc/thread-self/ns/net")
        });
        let file = made.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok(Self(Arc::new(file)))
    }

    /// Lets a command run in it.
    pub fn place(&self, command: &mut Command) {
        let namespace = self.clone();
        // SAFETY: what runs between fork and exec is one system call, and the errno of it.
        unsafe { command.pre_exec(move || namespace.enter()) };
    }

    /// Runs `body` on a thread in it, and so whatever threads and processes `body` starts. A panic is passed on.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                Ok(body())
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    fn enter(&self) -> io::Result<()> {
        // SAFETY: a system call with numbers, on a descriptor that `self` keeps open.
        if unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// By which another program finds it, as `nsenter --net=PATH` does.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// `ip` in it, with these words; what it answers.
    fn ip(&self, words: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(words.split_whitespace()).stdin(Stdio::null());
        self.place(&mut command);
        let output = command.output().context("no `ip`")?;
        if !output.status.success() {
            bail!("ip {words}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `nft` in it, with these commands: all of them or none.
    fn nft(&self, commands: &str) -> Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null());
        self.place(&mut command);
        let mut child = command.stderr(Stdio::piped()).spawn().context("no `nft`")?;
        child.stdin.take().context("it is piped")?.write_all(commands.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!("nft {commands}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// A way between hosts. Each host has a cable to each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Between servers and those who use them.
    Front,
    /// Among the servers.
    Back,
}

impl Way {
    /// All.
    pub const ALL: [Self; 2] = [Self::Front, Self::Back];

    fn bridge(self) -> &'static str {
        match self {
            Self::Front => "front",
            Self::Back => "back",
        }
    }

    /// What a host calls its end of the cable.
    #[must_use]
    pub fn interface(self) -> &'static str {
        self.bridge()
    }
}

/// Where packets of a host go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the host to all others.
    Out,
    /// From all others to the host.
    In,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Out, Self::In];
}

/// The bridges.
#[derive(Debug)]
pub struct Network {
    switch: Namespace,
}

impl Network {
    /// Makes them, without hosts.
    ///
    /// # Errors
    /// We are not root, or there is no `ip`.
    pub fn new() -> Result<Self> {
        let switch = Namespace::new().context("network namespaces need root")?;
        for bridge in Way::ALL.map(Way::bridge) {
            switch.ip(&format!("link add {bridge} type bridge"))?;
            switch.ip(&format!("link set {bridge} up"))?;
        }
        Ok(Self { switch })
    }

    /// A host with this number at the end of its addresses, which no other has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn host(&self, number: u8) -> Result<Host> {
        let (namespace, switch) = (Namespace::new()?, self.switch.clone());
        let host = Host { namespace, switch, number, mounts: None };
        host.namespace.ip("link set lo up")?;
        for way in Way::ALL {
            let (bridge, port, address) = (way.bridge(), host.port(way), host.address(way));
            let path = host.namespace.path();
            self.switch
                .ip(&format!("link add {port} type veth peer name {bridge} netns {path}"))?;
            self.switch.ip(&format!("link set {port} up"))?;
            host.namespace.ip(&format!("address add {address}/24 dev {bridge}"))?;
            host.namespace.ip(&format!("link set {bridge} up"))?;
            host.join(way)?;
        }
        Ok(host)
    }
}

/// The address with this number at its end.
#[must_use]
pub fn address(way: Way, number: u8) -> Ipv4Addr {
    let [a, b] = PREFIX;
    Ipv4Addr::new(a, b, way as u8, number)
}

/// A host of a network. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Host {
    namespace: Namespace,
    switch: Namespace,
    number: u8,
    mounts: Option<Mounts>,
}

impl Host {
    /// Its address, which the others reach this way.
    #[must_use]
    pub fn address(&self, way: Way) -> Ipv4Addr {
        address(way, self.number)
    }

    /// Gives it mounts of its own. Those who had a clone of it before see the machine's.
    #[must_use]
    pub fn with_mounts(mut self, mounts: Mounts) -> Self {
        self.mounts = Some(mounts);
        self
    }

    /// What it has mounted by itself.
    #[must_use]
    pub fn mounts(&self) -> Option<&Mounts> {
        self.mounts.as_ref()
    }

    /// Whether it has this address besides its own.
    ///
    /// # Errors
    /// The kernel's.
    pub fn has(&self, way: Way, address: Ipv4Addr) -> Result<bool> {
        let shown = self.namespace.ip(&format!("-4 address show dev {}", way.interface()))?;
        Ok(shown.contains(&format!(" {address}/")))
    }

    /// Lets a command run there.
    pub fn place(&self, command: &mut Command) {
        self.namespace.place(command);
        if let Some(mounts) = &self.mounts {
            mounts.place(command);
        }
    }

    /// Where its processes are.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The bridge's end of a cable.
    fn port(&self, way: Way) -> String {
        format!("{}{}", way.bridge(), self.number)
    }

    /// Cuts it off from all others on this way. Nobody is told: its own end of the cable stays up, packets are no more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn cut(&self, way: Way) -> Result<()> {
        self.switch.ip(&format!("link set {} nomaster", self.port(way)))?;
        Ok(())
    }

    /// Loses this share of its packets, in percent, on all ways: a hundred is a cut in one direction, of which neither side is told.
    ///
    /// # Errors
    /// There is no `nft`, or the kernel's.
    pub fn lose(&self, direction: Direction, percent: u8) -> Result<()> {
        // What a bridge has taken in at a port has come from the host at it.
        let end = match direction {
            Direction::Out => "iifname",
            Direction::In => "oifname",
        };
        let which = match percent {
            100.. => String::new(),
            percent => format!("numgen random mod 100 < {percent}"),
        };
        let table = self.table();
        let chain = "{ type filter hook forward priority 0; policy accept; }";
        let mut commands = format!("add table {table}\nadd chain {table} forward {chain}\n");
        for port in Way::ALL.map(|way| self.port(way)) {
            commands += &format!("add rule {table} forward {end} \"{port}\" {which} drop\n");
        }
        self.switch.nft(&commands)
    }

    /// Loses none of its packets any more.
    ///
    /// # Errors
    /// As [`Self::lose`].
    pub fn deliver(&self) -> Result<()> {
        // One that is not there cannot be deleted.
        let table = self.table();
        self.switch.nft(&format!("add table {table}\ndelete table {table}\n"))
    }

    /// What the bridges do with its packets has a table of its own.
    fn table(&self) -> String {
        format!("bridge host{}", self.number)
    }

    /// Joins it to the others, again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&self, way: Way) -> Result<()> {
        self.switch.ip(&format!("link set {} master {}", self.port(way), way.bridge()))?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    use super::*;

    /// Two of them; none: this machine cannot have them.
    fn two_hosts() -> Option<(Host, Host)> {
        let network = Network::new().inspect_err(|error| println!("skipped: {error:#}")).ok()?;
        Some((network.host(1).unwrap(), network.host(2).unwrap()))
    }

    /// How many of a hundred packets arrive, from the first host to the other.
    fn arrive(from: &Host, to: &Host) -> u32 {
        let bind = |host: &Host| {
            let address = host.address(Way::Front);
            host.namespace().run(|| UdpSocket::bind((address, 0)).unwrap()).unwrap()
        };
        let (sender, receiver) = (bind(from), bind(to));
        receiver.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        for _ in 0..100 {
            sender.send_to(b"packet", receiver.local_addr().unwrap()).unwrap();
        }
        let mut packet = [0; 8];
        (0..100).map_while(|_| receiver.recv(&mut packet).ok()).count() as u32
    }

    #[test]
    fn hosts_reach_each_other_until_one_is_cut_off() {
        let Some((one, other)) = two_hosts() else { return };
        let listen = || TcpListener::bind((one.address(Way::Front), 80)).unwrap();
        let listener = one.namespace().run(listen).unwrap();
        let address = listener.local_addr().unwrap();
        let reaches = |host: &Host| {
            let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(500));
            host.namespace().run(connect).unwrap().is_ok()
        };
        assert!(reaches(&other));
        one.cut(Way::Back).unwrap();
        assert!(reaches(&other));
        one.cut(Way::Front).unwrap();
        assert!(!reaches(&other));
        one.join(Way::Front).unwrap();
        assert!(reaches(&other));
    }

    #[test]
    fn packets_are_lost_in_the_direction_and_share_that_was_asked_for() {
        let Some((one, other)) = two_hosts() else { return };
        // So that each knows where the other is.
        assert_eq!((arrive(&one, &other), arrive(&other, &one)), (100, 100));
        if let Err(error) = one.lose(Direction::Out, 100) {
            return println!("skipped: {error:#}");
        }
        assert_eq!((arrive(&one, &other), arrive(&other, &one)), (0, 100));
        one.deliver().unwrap();
        one.lose(Direction::In, 100).unwrap();
        assert_eq!((arrive(&one, &other), arrive(&other, &one)), (100, 0));
        one.deliver().unwrap();
        Direction::ALL.into_iter().for_each(|direction| one.lose(direction, 30).unwrap());
        // One in a thousand million runs would see more of either.
        assert!((40..100).contains(&arrive(&one, &other)), "30 of a hundred are lost, or so");
        assert!((40..100).contains(&arrive(&other, &one)), "30 of a hundred are lost, or so");
        one.deliver().unwrap();
        one.deliver().unwrap();
        assert_eq!((arrive(&one, &other), arrive(&other, &one)), (100, 100));
    }
}
