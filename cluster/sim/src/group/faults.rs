//! What goes wrong, and how it ends.

use super::{NODES, Node, Sim, id};
use elpis_cluster::database::{Entry, Memory, Planner, Room};

/// Time in which a new primary falls that does not live long.
const FALLS_WITHIN_MS: u64 = 1_500;

impl Sim {
    pub(super) fn depose(&mut self) {
        let node = self.any();
        if self.nodes[node].up {
            (self.leader, self.planner) = (node, Planner::default());
            self.term += 1;
            self.reports.clear();
            self.told.clear();
            self.note(|| format!("node {} leads term {}", id(node), self.term));
        }
    }

    pub(super) fn fault(&mut self) {
        let node = self.any();
        let kind = self.rng.between(0, 18);
        self.note(|| format!("fault {kind} of node {}", id(node)));
        match kind {
            0 | 1 => self.servers.kill(node),
            2 => self.servers.terminate(node),
            3 => self.servers.pause(node, true),
            4 | 5 => self.servers.pause(node, false),
            6 => {
                self.lose_machine(node);
            }
            7 | 8 => self.back(),
            9 => {
                // Sooner or later its session is over.
                for node in 0..NODES {
                    self.nodes[node].live = self.nodes[node].up;
                }
            }
            10 => {
                let other = self.any();
                if other != node {
                    self.servers.cut(node, other, true);
                }
            }
            11 => self.heal_links(),
            12 => self.depose(),
            14 | 15 => {
                // Somebody wants another primary.
                let epoch = self.group.epoch + 1;
                if self.group.heirs().contains(&id(node)) {
                    let ordered = self.group.apply(&Entry::FailoverStart { epoch, prefer: Some(id(node)) });
                    self.note(|| format!("switchover to {}: {ordered:?}", id(node)));
                }
            }
            16..=18 => {
                let rooms = [Room::Enough, Room::Low, Room::Critical, Room::Full];
                let room = self.rng.between(0, 3);
                self.nodes[node].room = rooms[usize::try_from(room).unwrap_or(0)];
            }
            _ => {
                if self.nodes[node].up {
                    // The supervisor alone: it forgets, its server goes on.
                    self.forget(node);
                }
            }
        }
        if !self.nodes[self.leader].up {
            self.depose();
        }
    }

    /// One new primary in four does not live long.
    pub(super) fn may_fall(&mut self, node: usize) {
        if !self.calm && self.rng.chance(25) {
            let after = self.rng.between(0, FALLS_WITHIN_MS);
            self.falls = Some((self.now_ms + i64::try_from(after).unwrap_or(0), node));
        }
    }

    /// With its machine, and its session is over at once: a server alone that falls before its fence was acknowledged is
    /// started again, and once that was everybody has all rows.
    pub(super) fn fall(&mut self) {
        let Some((_, node)) = self.falls.take_if(|(at_ms, _)| *at_ms <= self.now_ms) else { return };
        if self.lose_machine(node) {
            self.note(|| format!("the new primary {} is lost", id(node)));
            self.nodes[node].live = false;
        }
        while !self.nodes[self.leader].up {
            self.depose();
        }
    }

    /// The whole machine; one at a time, so that a majority stays.
    fn lose_machine(&mut self, node: usize) -> bool {
        let all = (0..NODES).all(|one| self.nodes[one].up);
        if all {
            self.servers.kill(node);
            self.forget(node);
            self.nodes[node].up = false;
        }
        all
    }

    /// A supervisor ends and starts: what it kept on disk stays.
    fn forget(&mut self, node: usize) {
        let Node { instance, newest, room, ref memory, .. } = self.nodes[node];
        let memory = Memory {
            instance: memory.instance,
            follows: memory.follows,
            whole: memory.whole,
            ..Memory::default()
        };
        self.nodes[node] = Node { instance, newest, room, memory, up: true, live: true, ..Node::default() };
    }

    pub(super) fn back(&mut self) {
        for node in 0..NODES {
            self.nodes[node].up = true;
            self.nodes[node].live = true;
        }
    }

    pub(super) fn heal_links(&mut self) {
        for a in 0..NODES {
            for b in 0..a {
                self.servers.cut(a, b, false);
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.note(|| "healing".to_owned());
        (self.calm, self.falls) = (true, None);
        self.back();
        self.heal_links();
        for node in 0..NODES {
            self.servers.pause(node, false);
            self.nodes[node].room = Room::Enough;
        }
    }
}
