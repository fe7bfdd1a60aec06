//! What data threads read of the registry: groups with their active nodes, as one value that is
//! never changed, only replaced. A SADDRS is answered from it without a lock.

use std::net::SocketAddr;
use std::ops::Range;

use hashbrown::HashMap;
use reel_proto::ext::{Located, NODES_MAX, NodeAddr};
use reel_proto::limits::SADDRS_NODES_MAX;
use reel_proto::name::GroupName;
use reel_proto::tracker::GROUP_WIDTH;

use crate::random::Random;
use crate::registry::NodeView;

/// The registry at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    groups: HashMap<GroupName, GroupView>,
    /// Groups with an active node.
    there: Vec<GroupName>,
    /// Groups that a new user may get.
    open: Vec<GroupName>,
    only: Option<GroupName>,
    gateways: Vec<SocketAddr>,
}

/// One group's active nodes.
#[derive(Debug, Clone)]
pub struct GroupView {
    name: GroupName,
    /// Its name as SADDRS has it, padded with NUL.
    field: [u8; GROUP_WIDTH],
    /// Class after class.
    nodes: Vec<NodeView>,
    /// `ip:port;` of each node.
    texts: Vec<String>,
    /// Where the nodes of each class are, the best first: those that take uploads before those that take none, and among
    /// either the busy ones last. A deployed client does whatever it does with the first node that it is told.
    classes: Vec<Range<usize>>,
}

impl GroupView {
    /// A view of these active nodes. Nodes that are about to stop are left out while others remain.
    #[must_use]
    pub fn new(name: GroupName, mut nodes: Vec<NodeView>) -> Self {
        if nodes.iter().any(|node| !node.draining) {
            nodes.retain(|node| !node.draining);
        }
        let class = |node: &NodeView| (node.read_only, node.busy);
        nodes.sort_by_key(class);
        let mut classes = Vec::new();
        for of_class in nodes.chunk_by(|one, other| class(one) == class(other)) {
            let start = classes.last().map_or(0, |before: &Range<usize>| before.end);
            classes.push(start..start + of_class.len());
        }
        let texts = nodes.iter().map(|node| format!("{};", node.address)).collect();
        let mut field = [0; GROUP_WIDTH];
        field[..name.as_bytes().len()].copy_from_slice(name.as_bytes());
        Self { name, field, nodes, texts, classes }
    }

    /// Whether a node of the group is active that takes uploads, and stays.
    fn takes_uploads(&self) -> bool {
        self.nodes.iter().any(|node| !node.read_only && !node.draining)
    }

    /// Whether no node of the group is active.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Appends the body of a SADDRS reply: at most three nodes from a random one on.
    pub fn saddrs(&self, random: &mut Random, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.field);
        for index in self.in_turn(random).take(SADDRS_NODES_MAX) {
            out.extend_from_slice(self.texts[index].as_bytes());
        }
        out.push(0);
    }

    /// Indexes of all nodes, each once: class after class, each from a random one on.
    fn in_turn(&self, random: &mut Random) -> impl Iterator<Item = usize> {
        self.classes.iter().flat_map(|class| {
            let start = class.start + random.below(class.len());
            (start..class.end).chain(class.start..start)
        })
    }
}

impl Snapshot {
    /// A snapshot of these groups; `only` is the one group of an embedded store.
    #[must_use]
    pub fn new(
        groups: HashMap<GroupName, GroupView>,
        only: Option<GroupName>,
        gateways: Vec<SocketAddr>,
    ) -> Self {
        let those = |is: fn(&GroupView) -> bool| {
            let mut names: Vec<GroupName> =
                groups.values().filter(|group| is(group)).map(|group| group.name).collect();
            names.sort_unstable();
            names
        };
        let there = those(|group| !group.is_empty());
        // A user's group is for ever: one that is full would take none of a new user's uploads. Where all are, any may have
        // room first.
        let mut open = those(GroupView::takes_uploads);
        if open.is_empty() {
            open.clone_from(&there);
        }
        Self { groups, there, open, only, gateways }
    }

    /// A group's active nodes, if it has any.
    #[must_use]
    pub fn active(&self, group: &GroupName) -> Option<&GroupView> {
        self.groups.get(group).filter(|group| !group.is_empty())
    }

    /// The group that holds every file: that of the one storage node with embedded metadata.
    #[must_use]
    pub fn only_group(&self) -> Option<GroupName> {
        self.only
    }

    /// A group for a new user: one with a node that takes uploads, if there is any, else one with an active node.
    #[must_use]
    pub fn pick(&self, random: &mut Random) -> Option<GroupName> {
        self.open.get(random.below(self.open.len())).copied()
    }

    /// A group with an active node.
    #[must_use]
    pub fn any(&self, random: &mut Random) -> Option<GroupName> {
        self.there.get(random.below(self.there.len())).copied()
    }

    /// The answer to LOCATE for a group with an active node.
    #[must_use]
    pub fn locate(&self, group: &GroupView, random: &mut Random) -> Located {
        let nodes = group.in_turn(random).take(NODES_MAX).map(|index| {
            let node = group.nodes[index];
            NodeAddr { binary: node.address, media: node.media, flags: node.flags() }
        });
        let nodes = nodes.collect();
        let start = random.below(self.gateways.len());
        let gateways = self.gateways[start..].iter().chain(&self.gateways[..start]);
        let gateways = gateways.take(NODES_MAX).copied().collect();
        Located { group: group.name, nodes, gateways }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use reel_proto::ext::node_flag;
    use reel_proto::tracker::SaddrsReply;

    use super::*;

    fn node(port: u16) -> NodeView {
        NodeView {
            address: SocketAddr::from(([10, 0, 0, 5], port)),
            media: None,
            read_only: false,
            draining: false,
            busy: false,
            deployed: false,
        }
    }

    fn group(nodes: Vec<NodeView>) -> GroupView {
        GroupView::new(GroupName::parse("group001").unwrap(), nodes)
    }

    fn ask(group: &GroupView, random: &mut Random) -> Vec<u16> {
        let mut body = Vec::new();
        group.saddrs(random, &mut body);
        let reply = SaddrsReply::decode(&body).unwrap();
        assert_eq!(reply.group.as_str(), "group001");
        reply.nodes.iter().map(SocketAddr::port).collect()
    }

    #[test]
    fn the_captured_reply_to_the_byte() {
        let one = NodeView { address: "127.0.0.1:23100".parse().unwrap(), ..node(1) };
        let mut body = Vec::new();
        group(vec![one]).saddrs(&mut Random::new(1), &mut body);
        assert_eq!(body, b"group001\0\0\0\0\0\0\0\0\x00127.0.0.1:23100;\0");
    }

    #[test]
    fn at_most_three_nodes_from_any_start_in_turn() {
        let group = group((1..=5).map(node).collect());
        let mut random = Random::new(7);
        let mut starts = HashSet::new();
        for _ in 0..200 {
            let ports = ask(&group, &mut random);
            let expected: Vec<u16> = (0..3).map(|step| (ports[0] - 1 + step) % 5 + 1).collect();
            assert_eq!(ports, expected);
            starts.insert(ports[0]);
        }
        assert_eq!(starts.len(), 5, "every node is first at times");
    }

    #[test]
    fn a_node_that_stops_is_named_only_if_no_other_is_there() {
        let stopping = NodeView { draining: true, ..node(1) };
        let mut random = Random::new(7);
        assert_eq!(ask(&group(vec![stopping, node(2)]), &mut random), [2]);
        assert_eq!(ask(&group(vec![stopping]), &mut random), [1]);
    }

    #[test]
    fn busy_nodes_and_then_those_that_take_no_uploads_come_after_the_others() {
        let read_only = |port| NodeView { read_only: true, ..node(port) };
        let busy = |port| NodeView { busy: true, ..node(port) };
        let all = vec![read_only(1), busy(2), node(3), node(4), busy(5), read_only(6)];
        let group = group(all);
        let snapshot = Snapshot::new(HashMap::new(), None, Vec::new());
        let mut random = Random::new(7);
        let mut orders = HashSet::new();
        for _ in 0..200 {
            let nodes = snapshot.locate(&group, &mut random).nodes;
            let ports: Vec<u16> = nodes.iter().map(|node| node.binary.port()).collect();
            let class = |ports: &[u16]| ports.iter().copied().collect::<HashSet<_>>();
            assert_eq!(class(&ports[..2]), HashSet::from([3, 4]), "{ports:?}");
            assert_eq!(class(&ports[2..4]), HashSet::from([2, 5]), "{ports:?}");
            assert_eq!(class(&ports[4..]), HashSet::from([1, 6]), "{ports:?}");
            assert!(nodes[2..4].iter().all(|node| node.flags == node_flag::BUSY));
            assert_eq!(ask(&group, &mut random).len(), 3);
            orders.insert(ports);
        }
        assert_eq!(orders.len(), 8, "each class begins with any of its nodes");
    }

    #[test]
    fn new_users_get_groups_with_an_active_node() {
        let name = |text| GroupName::parse(text).unwrap();
        let groups = ["a", "b", "c"].map(|text| {
            let nodes = if text == "b" { Vec::new() } else { vec![node(1)] };
            (name(text), GroupView::new(name(text), nodes))
        });
        let snapshot = Snapshot::new(groups.into_iter().collect(), None, Vec::new());
        let mut random = Random::new(3);
        let picked: HashSet<GroupName> =
            (0..100).filter_map(|_| snapshot.pick(&mut random)).collect();
        assert_eq!(picked, HashSet::from([name("a"), name("c")]));
        assert!(snapshot.active(&name("b")).is_none());
        assert_eq!(Snapshot::default().pick(&mut random), None);
    }

    #[test]
    fn new_users_get_groups_that_take_uploads_as_long_as_there_is_one() {
        let name = |text: &str| GroupName::parse(text).unwrap();
        let full = NodeView { read_only: true, ..node(1) };
        let stopping = NodeView { draining: true, ..node(2) };
        let mut random = Random::new(3);
        let mut picked = |groups: &[(&str, Vec<NodeView>)]| -> HashSet<GroupName> {
            let groups = groups.iter().cloned();
            let groups =
                groups.map(|(text, nodes)| (name(text), GroupView::new(name(text), nodes)));
            let snapshot = Snapshot::new(groups.collect(), None, Vec::new());
            assert_eq!((0..100).filter_map(|_| snapshot.any(&mut random)).count(), 100);
            (0..100).filter_map(|_| snapshot.pick(&mut random)).collect()
        };
        let both =
            [("a", vec![full, full]), ("b", vec![full, stopping]), ("c", vec![full, node(3)])];
        assert_eq!(picked(&both), HashSet::from([name("c")]));
        assert_eq!(picked(&both[..2]), HashSet::from([name("a"), name("b")]));
    }

    #[test]
    fn locate_names_media_flags_and_gateways() {
        let media = Some("10.0.0.5:23080".parse().unwrap());
        let rich = NodeView { media, read_only: true, ..node(1) };
        let group = group(vec![rich, NodeView { deployed: true, ..node(2) }]);
        let gateway = "10.0.0.9:8080".parse().unwrap();
        let snapshot = Snapshot::new(HashMap::new(), None, vec![gateway]);
        let mut located = snapshot.locate(&group, &mut Random::new(3));
        located.nodes.sort_by_key(|node| node.binary);
        assert_eq!(located.gateways, [gateway]);
        assert_eq!((located.nodes[0].media, located.nodes[0].flags), (media, node_flag::READ_ONLY));
        assert_eq!((located.nodes[1].media, located.nodes[1].flags), (None, node_flag::DEPLOYED));
    }
}
