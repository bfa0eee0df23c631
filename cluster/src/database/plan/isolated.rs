//! A primary that works and that no other node's database gets to. PURE.

use super::Report;
use crate::database::group::{Group, Mode};
use elpis_watch::NodeId;
use std::collections::BTreeMap;

/// All who acknowledge are well and answer, at least two, and none of them gets to a primary that leads: it is the one that is cut off,
/// though the cluster hears its node. With one of two nobody knows which of them it is.
pub(super) fn is(group: &Group, head: Option<&Report>, current: &BTreeMap<NodeId, &Report>) -> bool {
    let leads = head.is_some_and(|head| head.local.up && head.memory.leading == Some(group.epoch));
    let away = |node: &NodeId| {
        current.get(node).is_some_and(|report| {
            let local = &report.local;
            local.answers && local.sql && !local.broken && !local.connected
        })
    };
    // Only then one of them was there in this epoch.
    leads && group.mode == Mode::Sync && group.ack_set.len() >= 2 && group.ack_set.iter().all(away)
}

#[cfg(test)]
mod tests {
    use crate::database::plan::world::World;
    use crate::database::room::Room::Enough;

    #[test]
    fn a_primary_that_none_of_two_gets_to_is_replaced() {
        let mut world = World::new([Enough; 3]);
        world.run(20_000, [9, 9, 9]);
        assert_eq!(world.moves, [], "all is well");
        world.connected = [4].into();
        world.run(4_000, [9, 9, 9]);
        assert_eq!(world.moves, [], "one of them is enough");
        world.connected.clear();
        let begin = world.now_ms;
        world.run(2_000, [9, 9, 9]);
        assert_eq!(world.moves, [], "they may come back");
        world.run(10_000, [9, 9, 9]);
        // Who hangs does not get to it either: that is not the primary's fault.
        let mut hung = World::new([Enough; 3]);
        (hung.connected, hung.answering) = ([].into(), [].into());
        hung.run(9_000, [9, 9, 9]);
        assert_eq!(hung.moves, []);
        let (at, to, why) = world.moves[0];
        assert_eq!((to, why), (3, "no other node gets to its database"));
        assert!((3_000..4_000).contains(&(at - begin)), "{at} after {begin}");
    }
}
