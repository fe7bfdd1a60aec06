//! What storage nodes and gateways say: joins, beats, reports, drains.

use std::net::{IpAddr, SocketAddr};

use reel_proto::command;
use reel_proto::name::{GroupName, HostName};
use reel_proto::peer::{DrainNode, GatewayBeat, JoinExt, Report};
use reel_proto::tracker::{Beat, Join};

use super::{Conversation, Refused, Thread};
use crate::metrics::Outcome;
use crate::registry::{Announcement, Load, NodeId, Now, Registry};

/// A message of a node or gateway, its names checked.
pub(super) enum Message {
    Join { announcement: Announcement, flags: u8 },
    Beat { group: GroupName, host: HostName },
    Report(Load),
    Drain(bool),
    Gateway(SocketAddr),
}

impl Thread {
    /// Reads a message; those of our own commands out of their envelope.
    pub(super) fn parse_node(
        &self,
        command: u8,
        body: &[u8],
        peer: IpAddr,
    ) -> Result<Message, Refused> {
        let malformed = |error| Refused::new(Outcome::Malformed, error);
        match command {
            command::JOIN => {
                return Ok(deployed(&Join::decode(body).map_err(malformed)?, peer));
            }
            command::BEAT => {
                let Beat { group, host } = Beat::decode(body).map_err(malformed)?;
                return Ok(Message::Beat { group, host });
            }
            _ => {}
        }
        let payload = self
            .envelopes
            .open(command, body, peer)
            .map_err(|error| Refused::untrusted(error, peer))?;
        Ok(match command {
            command::JOIN_EXT => rich(JoinExt::decode(payload).map_err(malformed)?, peer),
            command::REPORT => Message::Report(load(&Report::decode(payload).map_err(malformed)?)),
            command::DRAIN => Message::Drain(DrainNode::decode(payload).map_err(malformed)?.on),
            _ => {
                let GatewayBeat { advertised } = GatewayBeat::decode(payload).map_err(malformed)?;
                Message::Gateway(reachable(advertised, peer))
            }
        })
    }

    /// Puts a message into the picture. The reply's body is empty.
    pub(super) fn node(
        &self,
        conversation: &mut Conversation,
        message: Message,
        peer: IpAddr,
    ) -> Result<(), Refused> {
        let told = self
            .picture
            .change(|registry, now| apply(registry, now, &mut conversation.joined, message, peer));
        told.map_err(|error| {
            tracing::info!(%peer, error, "a node was refused");
            Refused::new(Outcome::Refused, error)
        })
    }
}

fn apply(
    registry: &mut Registry,
    now: Now,
    joined: &mut Option<NodeId>,
    message: Message,
    peer: IpAddr,
) -> Result<(), String> {
    match message {
        Message::Join { announcement, flags } => {
            let id =
                registry.join(announcement, flags, peer, now).map_err(|error| error.to_string())?;
            *joined = Some(id);
            let node = registry.describe(id);
            tracing::info!(node, "a storage node has joined");
        }
        Message::Beat { group, host } => {
            let id =
                registry.resolve(*joined, group, host, peer).map_err(|error| error.to_string())?;
            if registry.beat(id, now) {
                let node = registry.describe(id);
                tracing::info!(node, "a storage node is active");
            }
        }
        Message::Report(load) => registry.report(joined_here(registry, *joined)?, load),
        Message::Drain(on) => registry.drain(joined_here(registry, *joined)?, on),
        Message::Gateway(media) => {
            registry.gateway(media, now).map_err(|error| error.to_string())?;
        }
    }
    Ok(())
}

/// Reports and drains name no node: they belong to the join of their connection.
fn joined_here(registry: &Registry, joined: Option<NodeId>) -> Result<NodeId, String> {
    joined
        .filter(|&id| registry.knows(id))
        .ok_or_else(|| "no node has joined on this connection: join first".to_owned())
}

/// A deployed node's address is that of its connection.
fn deployed(join: &Join, peer: IpAddr) -> Message {
    let announcement = Announcement {
        version: join.version,
        group: join.group,
        host: join.host,
        address: SocketAddr::new(peer, join.port),
        media: None,
        started_at: join.started_at,
        joined_at: join.joined_at,
        stores: Vec::new(),
        deployed: true,
    };
    Message::Join { announcement, flags: 0 }
}

fn rich(join: JoinExt, peer: IpAddr) -> Message {
    let address = reachable(join.advertised, peer);
    let announcement = Announcement {
        version: join.version,
        group: join.group,
        host: join.host,
        address,
        media: join.media_port.map(|port| SocketAddr::new(address.ip(), port)),
        started_at: join.started_at,
        joined_at: join.joined_at,
        stores: join.stores,
        deployed: false,
    };
    Message::Join { announcement, flags: join.flags }
}

/// An unspecified advertised address stands for that of the connection.
fn reachable(advertised: SocketAddr, peer: IpAddr) -> SocketAddr {
    let ip = advertised.ip().to_canonical();
    SocketAddr::new(if ip.is_unspecified() { peer } else { ip }, advertised.port())
}

fn load(report: &Report) -> Load {
    let sum = |of: fn(&reel_proto::peer::StoreReport) -> u64| {
        report.stores.iter().map(of).fold(0_u64, u64::saturating_add)
    };
    Load {
        capacity: sum(|store| store.capacity),
        free: sum(|store| store.free),
        in_flight: report.load,
        stores: report.stores.iter().map(|store| store.state).collect(),
        ..Load::of_flags(report.flags)
    }
}
