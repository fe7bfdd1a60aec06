//! The roles, on the host of the databases' client.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use reel_tests::galera::{Galera, USER};
use reel_tests::role::RoleProcess;

/// Roles of a kind, of those of which there can be several.
const OF_A_KIND: usize = 2;

/// What roles say, as errors, of a database that does not answer.
const EXPECTED: [&str; 4] = [
    "an upload failed",
    "a change failed",
    "the group of a user could not be told",
    "no block of ids could be taken",
];

/// ID nodes, trackers and a storage node.
pub(crate) struct Reel {
    idgens: Vec<RoleProcess>,
    trackers: Vec<RoleProcess>,
    engine: RoleProcess,
    /// The store path.
    pub(crate) store: PathBuf,
}

impl Reel {
    pub(crate) fn start(galera: &Galera, folder: &Path) -> Self {
        let servers: Vec<String> =
            galera.servers().iter().map(|(host, port)| format!("{host}:{port}")).collect();
        let common = BTreeMap::from([
            ("REEL_META__MYSQL__SERVERS".to_owned(), format!("{servers:?}")),
            ("REEL_META__MYSQL__USER".to_owned(), USER.to_owned()),
            ("REEL_NODE__DATA_THREADS".to_owned(), "1".to_owned()),
            ("REEL_CLUSTER_SECRET".to_owned(), "0123456789abcdef".to_owned()),
        ]);
        let start = |name: &'static str, number: usize, further: &[(&str, String)]| {
            let own = folder.join(format!("{name}{number}"));
            std::fs::create_dir(&own).unwrap();
            let mut environment = common.clone();
            environment
                .extend(further.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            RoleProcess::start(name, &own, environment).unwrap()
        };
        let idgens: Vec<_> = (0..OF_A_KIND).map(|number| start("idgen", number, &[])).collect();
        let trackers: Vec<_> = (0..OF_A_KIND).map(|number| start("tracker", number, &[])).collect();
        let store = folder.join("store");
        std::fs::create_dir(&store).unwrap();
        let engine = start(
            "engine",
            0,
            &[
                ("REEL_ENGINE__IDGENS", list(&idgens)),
                ("REEL_ENGINE__TRACKERS", list(&trackers)),
                ("REEL_ENGINE__HTTP_LISTEN", "127.0.0.1:0".to_owned()),
                ("REEL_ENGINE__BEAT_INTERVAL", "1s".to_owned()),
                // So few that the ID nodes are needed all the time.
                ("REEL_ENGINE__ID_BLOCK", "256".to_owned()),
                ("REEL_STORE_PATH", format!("[{{ path = {store:?}, reserve = \"1MiB\" }}]")),
            ],
        );
        Self { idgens, trackers, engine, store }
    }

    pub(crate) fn trackers(&self) -> Vec<SocketAddr> {
        addresses(&self.trackers)
    }

    /// Ends them, each well.
    pub(crate) fn drain(&mut self) {
        self.engine.drain().unwrap();
        for role in self.trackers.iter_mut().chain(&mut self.idgens) {
            role.drain().unwrap();
        }
    }

    /// No role may have logged another error. Prints how often the disasters struck in the middle of a COMMIT.
    pub(crate) fn judge_logs(&self) {
        let log = self.engine.log();
        let unknown = log.lines().filter(|line| line.contains("was committed is not known"));
        println!("{} changes had a COMMIT without an answer", unknown.count());
        for role in [&self.engine].into_iter().chain(&self.trackers).chain(&self.idgens) {
            for line in role.log().lines().filter(|line| line.contains("ERROR")) {
                assert!(EXPECTED.iter().any(|text| line.contains(text)), "{line}");
            }
        }
    }
}

fn addresses(roles: &[RoleProcess]) -> Vec<SocketAddr> {
    roles.iter().map(|role| role.address("listen").unwrap()).collect()
}

/// As a configuration has it.
fn list(roles: &[RoleProcess]) -> String {
    let addresses: Vec<String> = addresses(roles).iter().map(ToString::to_string).collect();
    format!("{addresses:?}")
}
