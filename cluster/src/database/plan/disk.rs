//! Who could lead in the place of a primary that is short of room.

use super::{Group, Report, Room};
use elpis_watch::NodeId;
use std::collections::BTreeMap;

/// Heirs whose disk has more room than the primary's.
pub(super) fn roomier<'a>(
    group: &Group,
    current: &'a BTreeMap<NodeId, &'a Report>,
) -> impl Iterator<Item = (NodeId, &'a Report)> {
    let room = current.get(&group.primary).map_or(Room::Enough, |head| head.local.room);
    let heirs = group.heirs();
    let there = current.iter().filter(move |(node, _)| heirs.contains(node));
    there
        .filter(move |(_, report)| report.local.up && !report.local.broken && report.local.room < room)
        .map(|(node, report)| (*node, *report))
}

/// The heir to whom a primary that still works, but whose disk is critical, hands over. `near`: an applied position is
/// near enough. Nobody where no disk has more room: it would come back.
pub(super) fn next_with_room(
    group: &Group,
    current: &BTreeMap<NodeId, &Report>,
    near: impl Fn(u64) -> bool,
) -> Option<NodeId> {
    let room = current.get(&group.primary).map_or(Room::Enough, |head| head.local.room);
    // Where one acknowledges of several the move would leave one copy for a while.
    let one_left = group.ack_set.len() < 2 && group.members.len() > 2;
    if room < Room::Critical || (one_left && room < Room::Full) {
        return None;
    }
    let fit = |report: &Report| {
        let local = &report.local;
        local.connected && local.sql && local.acks && report.memory.whole && near(local.applied_seq)
    };
    let fit = roomier(group, current).filter(|(_, report)| fit(report));
    fit.min_by_key(|(node, report)| (report.local.room, *node)).map(|(node, _)| node)
}

#[cfg(test)]
mod tests;
