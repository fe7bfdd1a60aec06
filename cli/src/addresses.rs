//! The addresses of a running store: for people, for scripts, and for the roles that come next.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use reel_node::{Role, Running};
use serde_json::{Value, json};

/// Where the client's commands look for a tracker by themselves.
const DEFAULT_TRACKER_PORT: u16 = 21_000;

/// What one role listens on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RoleAddresses {
    role: Role,
    /// Binary protocol; a gateway has none.
    pub(crate) binary: Option<SocketAddr>,
    /// Media HTTP; trackers and ID nodes have none.
    media: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl RoleAddresses {
    /// Of a role that has just started.
    pub(crate) fn of(running: &Running) -> Self {
        let role = running.role();
        let is_media = |name: &str| name.ends_with(".http_listen") || matches!(role, Role::Gateway);
        let find = |media: bool| {
            let mut addresses = running.addresses().iter();
            addresses.find(|address| is_media(address.name) == media).map(|address| address.addr)
        };
        let admin = running.admin_address().map(|address| address.addr);
        Self { role, binary: find(false), media: find(true), admin }
    }

    fn name(&self) -> &'static str {
        match self.role {
            Role::Tracker => "tracker",
            Role::IdGen => "ID node",
            Role::Engine => "storage node",
            Role::Gateway => "gateway",
        }
    }

    fn line(&self) -> String {
        let mut line = format!("  {:<14}", self.name());
        let binary = self.binary.map(|address| address.to_string()).unwrap_or_default();
        let media = self.media.map(|address| format!("http://{address}/files/"));
        line.push_str(&format!("{binary:<17} {:<32}", media.unwrap_or_default()));
        if let Some(admin) = self.admin {
            line.push_str(&format!(" http://{admin}/status"));
        }
        line.trim_end().to_owned()
    }
}

/// What all of them listen on, in the order in which a person looks for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Addresses {
    roles: Vec<RoleAddresses>,
}

impl Addresses {
    /// Adds a role; the last one added is shown first.
    pub(crate) fn add(&mut self, addresses: RoleAddresses) {
        self.roles.insert(0, addresses);
    }

    /// By role: `binary`, `media` and `admin`, as far as it has them.
    pub(crate) fn json(&self) -> Value {
        let mut all = serde_json::Map::new();
        for role in &self.roles {
            let mut own = serde_json::Map::new();
            for (name, address) in
                [("binary", role.binary), ("media", role.media), ("admin", role.admin)]
            {
                if let Some(address) = address {
                    own.insert(name.to_owned(), json!(address));
                }
            }
            all.insert(role.role.name().to_owned(), Value::Object(own));
        }
        Value::Object(all)
    }

    /// For a person.
    pub(crate) fn text(&self, folder: &Path, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64();
        let mut text =
            format!("Reel is ready after {seconds:.2} s, data in {}\n", folder.display());
        for role in &self.roles {
            text.push_str(&role.line());
            text.push('\n');
        }
        let tracker = self.roles.iter().find(|role| matches!(role.role, Role::Tracker));
        if let Some(address) = tracker.and_then(|role| role.binary)
            && address.port() != DEFAULT_TRACKER_PORT
        {
            text.push_str(&format!(
                "For `reel put` and the others: export REEL_TRACKERS={address}\n"
            ));
        }
        text.push_str("Ctrl-C drains and ends it.\n");
        text
    }
}
