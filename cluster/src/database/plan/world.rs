//! A group of three whose servers do as they are told, for tests of the planner.

use super::{Planner, Report};
use crate::database::group::{Entry, Group};
use crate::database::room::Room;
use crate::database::supervise::{Local, Memory};
use elpis_watch::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes 2 (primary), 3 and 4, all in the ack set.
fn sync() -> Group {
    let mut group = Group::new(2);
    let entries = [3, 4].map(|node| Entry::Joined { node }).into_iter();
    let entries = entries.chain([2, 3, 4].map(|node| Entry::Verified { epoch: 1, node }));
    let entries = entries.chain([3, 4].map(|node| Entry::Grow { epoch: 1, node }));
    for entry in entries.chain([Entry::Waits { epoch: 1 }, Entry::Sync { epoch: 1 }]) {
        group.apply(&entry).unwrap();
    }
    group
}

/// A cluster whose servers do as they are told; each has room of its own.
pub(super) struct World {
    pub(super) group: Group,
    pub(super) planner: Planner,
    pub(super) rooms: BTreeMap<NodeId, Room>,
    /// The primary's write probe is answered.
    pub(super) writes: bool,
    /// Of those that follow, who gets to the primary.
    pub(super) connected: BTreeSet<NodeId>,
    /// Whose servers answer.
    pub(super) answering: BTreeSet<NodeId>,
    pub(super) now_ms: i64,
    pub(super) moves: Vec<(i64, NodeId, &'static str)>,
}

impl World {
    pub(super) fn new(rooms: [Room; 3]) -> World {
        World {
            group: sync(),
            planner: Planner::default(),
            rooms: (2..).zip(rooms).collect(),
            writes: true,
            connected: [2, 3, 4].into(),
            answering: [2, 3, 4].into(),
            now_ms: 0,
            moves: Vec::new(),
        }
    }

    pub(super) fn report(&self, node: NodeId, seq: u64) -> Report {
        let epoch = self.group.epoch + u64::from(self.group.failing_over);
        let leads = node == self.group.primary && !self.group.failing_over;
        let freezes = self.group.failing_over && node != self.group.primary;
        let local = Local {
            // It is killed before another one opens.
            up: !(self.group.failing_over && node == self.group.primary),
            answers: self.answering.contains(&node),
            instance: 1,
            writes: leads && self.writes,
            read_only: !leads,
            source: (!leads).then_some(self.group.primary),
            io: !leads && self.connected.contains(&node),
            sql: !leads,
            connected: !leads && self.connected.contains(&node),
            acks: true,
            same: true,
            room: self.rooms[&node],
            io_seq: seq,
            applied_seq: seq,
            binlog_seq: seq,
            ..Local::default()
        };
        let memory = Memory {
            instance: 1,
            whole: true,
            frozen: freezes.then_some(epoch),
            detached: freezes.then_some(epoch),
            leading: leads.then_some(epoch),
            fenced: leads.then_some(epoch),
            synced: true,
            ..Memory::default()
        };
        Report { echo: u64::MAX, local, memory }
    }

    /// Looks every 200 ms; `have` is the position of each node.
    pub(super) fn run(&mut self, ms: i64, have: [u64; 3]) {
        let live: BTreeSet<NodeId> = (2..5).collect();
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.now_ms += 200;
            let reports = (2..).zip(have).map(|(node, seq)| (node, self.report(node, seq))).collect();
            let plan = self.planner.plan(&self.group, &live, &reports, 2, |_| false, self.now_ms);
            if !plan.why.is_empty() {
                self.moves.push((self.now_ms, 0, plan.why));
            }
            let Some(entry) = plan.entry else { continue };
            let promoted = matches!(entry, Entry::Promoted { .. });
            self.group.apply(&entry).unwrap();
            if let (true, Some(last)) = (promoted, self.moves.last_mut()) {
                last.1 = self.group.primary;
            }
        }
    }
}
