//! What strikes the cluster, and how it is mended.

use std::time::{Duration, Instant};

use reel_tests::disk::LoopDisk;
use reel_tests::group::{Group, NODES, Pair};
use reel_tests::network::{Direction, Host, Way};
use reel_tests::seed::Seeded;

use crate::load::{Kind, Load};

/// How long the database is away: longer than uploads wait for it.
const DATABASE_AWAY: Duration = Duration::from_secs(20);

/// The share of packets that is lost, in percent.
const LOSS: u8 = 30;

/// One way to lose something. Its order is that of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nemesis {
    EngineKilled,
    TrackerKilled,
    GatewayKilled,
    GatewayDrained,
    GatewayHostLost,
    IdNodeKilled,
    BrickKilled,
    HostCutOff,
    HostOneWay,
    PacketsLost,
    PowerCut,
    DiskFull,
    DatabaseCut,
}

impl Nemesis {
    pub(crate) const ALL: [Self; 13] = [
        Self::EngineKilled,
        Self::TrackerKilled,
        Self::GatewayKilled,
        Self::GatewayDrained,
        Self::GatewayHostLost,
        Self::IdNodeKilled,
        Self::BrickKilled,
        Self::HostCutOff,
        Self::HostOneWay,
        Self::PacketsLost,
        Self::PowerCut,
        Self::DiskFull,
        Self::DatabaseCut,
    ];

    /// What goes on while it lasts. With a full disk nothing is written; without the database only what a node knows is read.
    fn spares(self) -> &'static [Kind] {
        match self {
            Self::DiskFull => &[Kind::Read, Kind::ReadNode, Kind::Download],
            Self::DatabaseCut => &[],
            _ => &Kind::ALL,
        }
    }
}

/// What is struck.
pub(crate) struct Cluster {
    pub(crate) group: Group,
    pub(crate) disks: Vec<LoopDisk>,
    pub(crate) seeded: Seeded,
}

impl Cluster {
    /// Strikes, waits until clients go on all the same, mends, and waits until they go on as before.
    pub(crate) fn meet(&mut self, nemesis: Nemesis, load: &Load) {
        let node = self.seeded.below(NODES as u64) as usize;
        let begin = Instant::now();
        load.begin();
        load.shared.operations.strike(&format!("{nemesis:?} {node}"));
        let mend = self.strike(nemesis, node);
        println!("  {nemesis:?}, node {node}");
        load.goes_on(nemesis.spares(), "while it lasts");
        if nemesis == Nemesis::DatabaseCut {
            std::thread::sleep(DATABASE_AWAY.saturating_sub(begin.elapsed()));
        }
        load.begin();
        load.shared.operations.strike(&format!("{nemesis:?} ends"));
        self.mend(mend);
        load.goes_on(&Kind::ALL, "afterwards");
        self.group.until_ready().unwrap();
        self.group.until_healthy(node).unwrap();
        // One at a time: a copy that lacks something is as good as lost.
        load.rest(true);
        self.group.volume().until_healed().unwrap();
        load.rest(false);
        println!("    {:.1} s in all", begin.elapsed().as_secs_f64());
    }

    fn strike(&mut self, nemesis: Nemesis, node: usize) -> Mend {
        let group = &mut self.group;
        let host = group.volume().host(node).clone();
        match nemesis {
            Nemesis::EngineKilled => {
                group.engine(node).kill().unwrap();
                Mend::Engine(node)
            }
            Nemesis::TrackerKilled => Mend::Tracker(lose(group.trackers(), Loss::Killed)),
            Nemesis::GatewayKilled => Mend::Gateway(lose(group.gateways(), Loss::Killed)),
            Nemesis::GatewayDrained => Mend::Gateway(lose(group.gateways(), Loss::Drained)),
            Nemesis::GatewayHostLost => Mend::GatewayHost(lose(group.gateways(), Loss::Host)),
            Nemesis::IdNodeKilled => {
                group.idgen(node).kill().unwrap();
                Mend::IdNode(node)
            }
            Nemesis::BrickKilled => {
                group.volume().kill_brick(node).unwrap();
                Mend::Brick
            }
            Nemesis::HostCutOff => cut(host),
            Nemesis::HostOneWay => {
                let direction = Direction::ALL[self.seeded.below(2) as usize];
                println!("    packets that go {direction:?} are lost");
                host.lose(direction, 100).unwrap();
                Mend::Deliver(host)
            }
            Nemesis::PacketsLost => {
                Direction::ALL.into_iter().for_each(|way| host.lose(way, LOSS).unwrap());
                Mend::Deliver(host)
            }
            Nemesis::PowerCut => {
                self.disks[node].shut_down().unwrap();
                group.kill_host(node).unwrap();
                Mend::Power(node)
            }
            Nemesis::DiskFull => {
                self.disks[node].fill(0).unwrap();
                // Any node sees it: the volume has as much room as the fullest of its bricks.
                (0..NODES).for_each(|node| group.until_health(node, "full").unwrap());
                Mend::Disk(node)
            }
            Nemesis::DatabaseCut => cut(group.database_host().clone()),
        }
    }

    fn mend(&mut self, mend: Mend) {
        let group = &mut self.group;
        match mend {
            Mend::Engine(node) => group.engine(node).run_again().unwrap(),
            Mend::Tracker(member) => group.trackers().role(member).run_again().unwrap(),
            Mend::Gateway(member) => group.gateways().role(member).run_again().unwrap(),
            Mend::GatewayHost(member) => group.gateways().run_host(member).unwrap(),
            Mend::IdNode(node) => group.idgen(node).run_again().unwrap(),
            Mend::Brick => group.volume().start_bricks().unwrap(),
            Mend::Join(host) => Way::ALL.into_iter().for_each(|way| host.join(way).unwrap()),
            Mend::Deliver(host) => host.deliver().unwrap(),
            Mend::Power(node) => {
                self.disks[node].remount().unwrap();
                group.volume().start_daemons(node).unwrap();
                group.run_host(node).unwrap();
            }
            Mend::Disk(node) => {
                std::fs::remove_file(self.disks[node].path().join("ballast")).unwrap();
            }
        }
    }
}

/// What is to be mended.
enum Mend {
    Engine(usize),
    Tracker(usize),
    Gateway(usize),
    GatewayHost(usize),
    IdNode(usize),
    Brick,
    Join(Host),
    Deliver(Host),
    Power(usize),
    Disk(usize),
}

fn cut(host: Host) -> Mend {
    Way::ALL.into_iter().for_each(|way| host.cut(way).unwrap());
    Mend::Join(host)
}

/// How one of a pair is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loss {
    Killed,
    Drained,
    Host,
}

/// Loses the one with the floating address, which the other one gets.
fn lose(pair: &mut Pair, loss: Loss) -> usize {
    let member = pair.until_held().unwrap();
    match loss {
        Loss::Killed => pair.role(member).kill().unwrap(),
        Loss::Drained => pair.role(member).drain().unwrap(),
        Loss::Host => pair.kill_host(member).unwrap(),
    }
    let took = pair.until_held_by(1 - member).unwrap();
    println!("    the other has the address after {:.1} s", took.as_secs_f64());
    member
}
