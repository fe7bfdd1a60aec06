//! A pair: the same role on two hosts, and a floating address that one of them has.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http;
use crate::keepalived::{Keepalived, Template};
use crate::network::{Host, Way};
use crate::role::RoleProcess;

/// Longest wait for what must come. It ends a test that hangs; nothing is measured by it.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two hosts of a kind.
#[derive(Debug)]
pub struct Pair {
    members: Vec<Member>,
    /// The floating address.
    address: SocketAddr,
    admin_port: u16,
}

#[derive(Debug)]
struct Member {
    host: Host,
    role: RoleProcess,
    keepalived: Keepalived,
}

/// What a pair is made of.
pub(super) struct Parts {
    pub(super) hosts: [Host; 2],
    pub(super) template: Template,
    /// Which has the port that both listen at.
    pub(super) address: SocketAddr,
    pub(super) admin_port: u16,
}

impl Pair {
    /// Starts the role on both hosts by `start`, which is given the addresses to listen at: all of the host's, so that the
    /// floating one is among them, and for admin HTTP its loopback.
    pub(super) fn start(
        parts: Parts,
        mut start: impl FnMut(&Host, usize, [SocketAddr; 2]) -> Result<RoleProcess>,
    ) -> Result<Self> {
        let Parts { hosts, template, address, admin_port } = parts;
        let floating = match address {
            SocketAddr::V4(address) => *address.ip(),
            SocketAddr::V6(_) => bail!("hosts have no such address"),
        };
        let listen = [
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
            SocketAddr::from((Ipv4Addr::LOCALHOST, admin_port)),
        ];
        let mut members = Vec::new();
        for (number, host) in hosts.iter().enumerate() {
            let role = start(host, number, listen)?;
            let keepalived = Keepalived::start(template, floating, host, &hosts[1 - number])?;
            members.push(Member { host: host.clone(), role, keepalived });
        }
        Ok(Self { members, address, admin_port })
    }

    /// Where whoever has the floating address is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where each is reached, whether it has the floating address or not.
    #[must_use]
    pub fn own_addresses(&self) -> Vec<SocketAddr> {
        let port = self.address.port();
        let own = |member: &Member| SocketAddr::from((member.host.address(Way::Front), port));
        self.members.iter().map(own).collect()
    }

    /// A host.
    #[must_use]
    pub fn host(&self, member: usize) -> &Host {
        &self.members[member].host
    }

    /// The role on a host.
    pub fn role(&mut self, member: usize) -> &mut RoleProcess {
        &mut self.members[member].role
    }

    /// All of them.
    pub(super) fn roles(&self) -> impl Iterator<Item = &RoleProcess> {
        self.members.iter().map(|member| &member.role)
    }

    /// Who has the floating address; none: nobody, or both.
    ///
    /// # Errors
    /// The kernel's.
    pub fn holder(&self) -> Result<Option<usize>> {
        let mut holders = Vec::new();
        for (number, member) in self.members.iter().enumerate() {
            if member.has(self.address)? {
                holders.push(number);
            }
        }
        Ok(if let [only] = holders[..] { Some(only) } else { None })
    }

    /// Waits until one of them has the floating address, and gives which.
    ///
    /// # Errors
    /// None has, or both have, for a long time.
    pub fn until_held(&self) -> Result<usize> {
        let begin = Instant::now();
        loop {
            if let Some(holder) = self.holder()? {
                return Ok(holder);
            }
            self.wait_from(begin, "one has the address")?;
        }
    }

    /// Waits until this one has the floating address, and no other.
    ///
    /// # Errors
    /// It has not for a long time.
    pub fn until_held_by(&self, member: usize) -> Result<Duration> {
        let begin = Instant::now();
        while self.holder()? != Some(member) {
            self.wait_from(begin, &format!("{member} has the address"))?;
        }
        Ok(begin.elapsed())
    }

    fn wait_from(&self, begin: Instant, what: &str) -> Result<()> {
        if begin.elapsed() > PATIENCE {
            let logs = self.members.iter().map(|member| member.keepalived.log());
            bail!("{}: not {what}:\n{}", self.address, logs.collect::<Vec<_>>().join("\n--\n"));
        }
        std::thread::sleep(Duration::from_millis(10));
        Ok(())
    }

    /// A page of a role's admin HTTP.
    ///
    /// # Errors
    /// It does not run, or does not answer with 200.
    pub fn admin(&self, member: usize, page: &str) -> Result<String> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.admin_port));
        let get = || http::request(address, "GET", page, &[], None);
        let response = self.members[member].host.namespace().run(get)??;
        if response.status != 200 {
            bail!("{page}: {}", response.status);
        }
        String::from_utf8(response.body).context("a page is text")
    }

    /// Ends the host as a power cut does: nothing is sent any more, and nobody is told of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill_host(&mut self, member: usize) -> Result<()> {
        let Member { host, role, keepalived } = &mut self.members[member];
        Way::ALL.into_iter().try_for_each(|way| host.cut(way))?;
        role.kill()?;
        keepalived.stop()
    }

    /// Starts a host that was [killed](Self::kill_host).
    ///
    /// # Errors
    /// Something does not start.
    pub fn run_host(&mut self, member: usize) -> Result<()> {
        let Member { host, role, keepalived } = &mut self.members[member];
        Way::ALL.into_iter().try_for_each(|way| host.join(way))?;
        role.run_again()?;
        keepalived.run()
    }

    /// Ends the roles, each well.
    pub(super) fn drain(&mut self) -> Result<()> {
        self.members.iter_mut().try_for_each(|member| member.role.drain())
    }
}

impl Member {
    fn has(&self, address: SocketAddr) -> Result<bool> {
        match address {
            SocketAddr::V4(address) => self.host.has(Way::Front, *address.ip()),
            SocketAddr::V6(_) => Ok(false),
        }
    }
}
