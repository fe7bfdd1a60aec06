//! Which nodes of a group have much more under way than its others: they are named after them.
//!
//! "Much more" is more than twice the group's median, and at least 64 requests above it. The factor alone would call a node
//! busy that has three requests where the others have one; the distance alone one of a group that is busy altogether. Loads
//! come with the reports, some ten seconds old: between nodes that are nearly alike the order would only swing to and fro.

use reel_proto::name::GroupName;
use reel_proto::tracker::groups::NodeStatus;

use super::Registry;

/// Fewest requests under way above the median.
const ABOVE_MIN: u32 = 64;

/// Whether a node with so much under way is busy beside others with this median.
fn is_busy(in_flight: u32, median: u32) -> bool {
    in_flight > median.saturating_mul(2) && in_flight - median >= ABOVE_MIN
}

/// The lower one of the two in the middle where the number is even: of two nodes one can be busy.
fn median(loads: &mut [u32]) -> u32 {
    loads.sort_unstable();
    loads.len().checked_sub(1).map_or(0, |last| loads[last / 2])
}

impl Registry {
    /// Looks anew at which nodes of a group are busy. Readers hear of it only where that has changed.
    ///
    /// Deployed nodes do not tell their load, and one that drains is to have none: neither says what is usual.
    pub(super) fn weigh(&mut self, group: GroupName) {
        let of_group = |node: &super::Node| {
            node.announcement.group == group
                && node.status() == NodeStatus::Active
                && !node.announcement.deployed
                && !node.view().draining
        };
        let mut loads: Vec<u32> = self
            .nodes
            .values()
            .filter(|node| of_group(node))
            .map(|node| node.load.in_flight)
            .collect();
        let median = median(&mut loads);
        for node in self.nodes.values_mut().filter(|node| node.announcement.group == group) {
            let busy = of_group(node) && is_busy(node.load.in_flight, median);
            self.changed |= node.busy != busy;
            node.busy = busy;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_twice_the_median_and_sixty_four_more() {
        assert!(!is_busy(63, 0) && is_busy(64, 0));
        assert!(!is_busy(128, 64) && is_busy(129, 64));
        assert!(!is_busy(104, 50) && is_busy(114, 50));
        assert!(!is_busy(u32::MAX, u32::MAX / 2 + 1));
        assert_eq!(median(&mut []), 0);
        assert_eq!(median(&mut [9, 1]), 1);
        assert_eq!(median(&mut [9, 1, 4]), 4);
    }
}
