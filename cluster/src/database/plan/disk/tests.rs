use super::*;
use crate::database::plan::world::World;
use crate::database::{Entry, Order};
use std::collections::BTreeSet;

use Room::*;

#[test]
fn a_primary_on_a_critical_disk_hands_over_where_there_is_room() {
    // (rooms of the primary and of both others, who leads after a minute, why)
    let table: [([Room; 3], NodeId, &str); 8] = [
        ([Enough, Enough, Enough], 2, ""),
        ([Low, Enough, Enough], 2, ""),
        ([Critical, Enough, Enough], 3, "its disk is nearly full"),
        ([Critical, Low, Enough], 4, "its disk is nearly full"),
        ([Critical, Critical, Low], 4, "its disk is nearly full"),
        ([Critical, Critical, Full], 2, ""),
        ([Full, Full, Critical], 4, "its disk is nearly full"),
        ([Full, Full, Full], 2, ""),
    ];
    for (rooms, primary, why) in table {
        let mut world = World::new(rooms);
        world.run(60_000, [9, 9, 9]);
        assert_eq!(world.group.primary, primary, "{rooms:?}: {:?}", world.moves);
        let moved: Vec<(NodeId, &str)> = world.moves.iter().map(|one| (one.1, one.2)).collect();
        let wanted = if why.is_empty() { vec![] } else { vec![(primary, why)] };
        assert_eq!(moved, wanted, "{rooms:?}");
        assert!(world.moves.iter().all(|one| one.0 >= 10_000), "{:?}", world.moves);
    }
}

#[test]
fn a_primary_that_writes_nothing_on_a_full_disk_is_replaced_while_another_one_has_room() {
    let table: [([Room; 3], NodeId, &str); 5] = [
        ([Full, Enough, Enough], 3, "its disk is full"),
        ([Full, Critical, Enough], 4, "its disk is full"),
        ([Full, Full, Critical], 4, "its disk is full"),
        ([Critical, Full, Full], 3, "it did not write"),
        ([Enough, Critical, Critical], 3, "it did not write"),
    ];
    for (rooms, primary, why) in table {
        let mut world = World::new(rooms);
        world.writes = false;
        world.run(2_800, [9, 9, 9]);
        let moved: Vec<(NodeId, &str)> = world.moves.iter().map(|one| (one.1, one.2)).collect();
        assert_eq!(moved, [(primary, why)], "{rooms:?}");
    }
    let mut world = World::new([Full, Full, Full]);
    world.writes = false;
    world.run(120_000, [9, 9, 9]);
    assert_eq!((world.group.epoch, world.moves.len()), (1, 0), "another one would write no more");
    // One gets room: it leads at once.
    world.rooms.insert(4, Low);
    world.run(1_000, [9, 9, 9]);
    assert_eq!((world.group.primary, world.moves.len()), (4, 1));
}

#[test]
fn a_primary_that_writes_nothing_is_not_replaced_by_itself() {
    let mut world = World::new([Enough, Enough, Enough]);
    world.group.apply(&Entry::Single { epoch: 1 }).unwrap();
    (world.writes, world.connected) = (false, [2].into());
    world.run(120_000, [9, 9, 9]);
    assert_eq!(
        (world.group.epoch, world.moves),
        (1, vec![]),
        "its clients and copies keep their connections"
    );
}

#[test]
fn rows_come_before_room() {
    let mut world = World::new([Full, Enough, Critical]);
    world.writes = false;
    world.run(3_000, [9, 8, 9]);
    assert_eq!(world.group.primary, 4, "it alone has received all");
    // Node 3 is too far behind to be handed over to.
    let mut world = World::new([Critical, Enough, Critical]);
    world.run(1_000, [9, 9, 9]);
    world.run(60_000, [20, 9, 20]);
    assert!(world.group.primary == 2 && world.moves.is_empty(), "{:?}", world.moves);
}

#[test]
fn a_full_disk_acknowledges_only_where_nobody_else_does() {
    let mut world = World::new([Enough, Enough, Full]);
    world.group.apply(&Entry::Shrink { epoch: 1, node: 4 }).unwrap();
    world.run(60_000, [9, 9, 9]);
    assert_eq!(world.group.ack_set, BTreeSet::from([3]));
    let Order::Lead { slow_ms, .. } = ({
        let live: BTreeSet<NodeId> = (2..5).collect();
        let reports = (2..).zip([99, 99, 9]).map(|(node, seq)| (node, world.report(node, seq))).collect();
        world.planner.plan(&world.group, &live, &reports, 2, |_| false, world.now_ms + 10_000).orders[&2]
            .clone()
    }) else {
        panic!("the primary leads")
    };
    assert_eq!(slow_ms, 0, "nobody waits for a disk that is full");
    world.rooms.insert(4, Critical);
    world.run(5_000, [9, 9, 9]);
    assert_eq!(world.group.ack_set, BTreeSet::from([3, 4]));
}
