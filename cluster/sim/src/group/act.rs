//! What a supervisor sees and does, on the twin of its server.

use super::{OWN, Sim, id, place};
use crate::mariadb::{Outcome, Role};
use elpis_cluster::database::{Action, Local, supervise};
use elpis_cluster::planted;

/// `server_id` under which a server writes nothing; an epoch's own transactions carry the epoch.
fn replica_id(node: usize) -> u32 {
    (1 << 31) + u32::try_from(node).unwrap_or(0)
}

impl Sim {
    pub(super) fn local(&self, node: usize) -> Local {
        let server = self.servers.at(node);
        let primary = self.servers.at(place(self.group.primary));
        Local {
            up: server.up,
            answers: server.up && server.answers(),
            instance: self.nodes[node].instance,
            writes: server.answers() && !server.read_only,
            read_only: server.read_only,
            semi_master: server.semi_master,
            source: server.source.map(id),
            io: server.io,
            sql: server.sql,
            connected: self.servers.connected(node),
            acks: server.semi_slave,
            broken: server.up
                && (server.error.is_some() || (server.source.is_some() && !server.same_as(primary))),
            same: server.same_as(primary),
            room: self.nodes[node].room,
            io_seq: server.io_pos(),
            applied_seq: server.slave_pos(),
            binlog_seq: server.binlog_pos().map_or(0, |event| event.seq),
        }
    }

    /// The supervisor does one thing.
    pub(super) fn supervise(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        if let Some((row, action)) = self.nodes[node].waits.clone() {
            match self.servers.outcome(row) {
                Outcome::Hangs => {}
                Outcome::Acknowledged => {
                    let memory = &mut self.nodes[node].memory;
                    match action {
                        Action::WriteFence { epoch } => memory.fenced = Some(epoch),
                        Action::Heartbeat { without } => (memory.dropped, memory.synced) = (without, true),
                        _ => {}
                    }
                    self.nodes[node].waits = None;
                }
                Outcome::Unknown | Outcome::Refused => self.nodes[node].waits = None,
            }
        }
        let Some(order) = self.nodes[node].order.clone() else { return };
        let local = self.local(node);
        let Some(action) = supervise(&order, &local, &mut self.nodes[node].memory) else { return };
        self.act(node, action);
    }

    pub(super) fn act(&mut self, node: usize, action: Action) {
        self.note(|| format!("node {}: {action:?}", id(node)));
        match action {
            Action::Start { master } => {
                self.nodes[node].instance += 1;
                self.nodes[node].waits = None;
                let role = if master { Role::Master } else { Role::Slave };
                self.servers.refuse(node, &[]);
                self.servers.start(node, role, replica_id(node));
            }
            Action::Kill => self.servers.kill(node),
            Action::Install => self.violation(&format!("node {} makes a first copy", id(node))),
            Action::StopIo if planted::on("stop-slave-before-promotion") => {
                self.servers.stop_slave(node);
                self.servers.start_sql(node);
            }
            Action::StopIo => self.servers.stop_io(node),
            Action::Leave => {
                self.servers.stop_slave(node);
                self.servers.reset_slave(node);
            }
            Action::Follow { primary, acks } => {
                self.servers.stop_slave(node);
                self.servers.set_semi_slave(node, acks);
                let demote = self.servers.at(node).source.is_none();
                self.servers.set_id(node, replica_id(node));
                self.servers.follow(node, place(primary), demote);
            }
            Action::StartSql => self.servers.start_sql(node),
            Action::SetAcks { on } => {
                self.servers.stop_io(node);
                self.servers.set_semi_slave(node, on);
                self.servers.start_io(node);
            }
            Action::SetSemiMaster { on } => {
                self.nodes[node].waits = None;
                self.servers.set_semi_master(node, on);
            }
            Action::WriteFence { .. } | Action::Heartbeat { .. } => {
                if let Action::WriteFence { epoch } = action {
                    self.servers.set_id(node, u32::try_from(epoch).unwrap_or(u32::MAX));
                }
                if self.nodes[node].waits.is_none() || self.rng.chance(20) {
                    self.rows += 1;
                    let row = OWN + self.rows;
                    self.servers.insert_as_admin(node, row);
                    self.nodes[node].waits = Some((row, action));
                }
            }
            Action::Open { epoch } => {
                if self.nodes[node].memory.fenced != Some(epoch) {
                    self.violation(&format!("node {} opens epoch {epoch} before its fence stands", id(node)));
                }
                if !self.servers.set_read_only(node, false) {
                    return;
                }
                self.nodes[node].memory.leading = Some(epoch);
                if epoch == self.group.epoch && id(node) == self.group.primary {
                    self.nothing_lost("at its opening");
                }
            }
            Action::Close => {
                if self.servers.set_read_only(node, true) {
                    self.nodes[node].memory.leading = None;
                }
            }
            Action::Block { nodes } => {
                let nodes: Vec<usize> = nodes.into_iter().map(place).collect();
                self.servers.refuse(node, &nodes);
            }
            Action::Rebuild { primary } => {
                let source = place(primary);
                if self.servers.at(source).answers() {
                    self.report.rebuilt += 1;
                    self.nodes[node].instance += 1;
                    self.servers.rebuild(node, source);
                }
            }
        }
    }

    pub(super) fn nothing_lost(&mut self, when: &str) {
        let primary = place(self.group.primary);
        let rows = self.servers.at(primary).rows();
        let lost: Vec<u64> = self.servers.acknowledged().filter(|row| !rows.contains(row)).collect();
        if !lost.is_empty() {
            let epoch = self.group.epoch;
            let primary = self.group.primary;
            self.violation(&format!(
                "acknowledged rows {lost:?} are not on node {primary} {when} of epoch {epoch}"
            ));
        }
    }
}
