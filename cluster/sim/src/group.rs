//! The database group in the simulator: the real planner and the real decisions of the supervisors on MariaDB's twins.
//!
//! A seed is a run of random steps: replication moves by one transaction, a supervisor does one thing, a report or an
//! order arrives late or never, the leader looks, a client writes; and faults: servers killed, stopped and ended in
//! order, nodes killed, links cut, leaders deposed who do not know it. Then everything heals. What is agreed on (Raft)
//! is one register here: its own simulator is the crate's other half.

use crate::mariadb::{Outcome, Role, Servers};
use crate::world::Rng;
use elpis_cluster::database::{
    Action, Entry, Group, Local, Memory, Order, Planner, Report as Told, supervise,
};
use elpis_cluster::planted;
use elpis_watch::NodeId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

const NODES: usize = 3;
/// Random steps with faults, and without.
const STEPS: u64 = 6_000;
const HEAL: u64 = 12_000;
/// Milliseconds of a step.
const STEP_MS: i64 = 20;
/// Rows of the supervisors.
const OWN: u64 = 1 << 40;

/// What a seed gave.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed that was run.
    pub seed: u64,
    /// What was not kept; empty = all held.
    pub violations: Vec<String>,
    /// Epochs of the database that began.
    pub epochs: u64,
    /// Of them with another primary.
    pub promotions: u64,
    /// Rows that clients were told are safe.
    pub acknowledged: usize,
    /// Copies made anew.
    pub rebuilt: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "database seed {}: {} epochs, {} promotions, {} copies made anew, {} rows acknowledged",
            self.seed, self.epochs, self.promotions, self.rebuilt, self.acknowledged
        )?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  VIOLATION {violation}"))
    }
}

/// A node: its supervisor, and what has reached it.
#[derive(Debug, Default)]
struct Node {
    up: bool,
    /// The leader believes so.
    live: bool,
    memory: Memory,
    instance: u64,
    /// Newest (term, round) obeyed.
    newest: (u64, u64),
    order: Option<Order>,
    /// A row of its own that waits for its acknowledgement.
    waits: Option<(u64, Action)>,
}

struct Sim {
    rng: Rng,
    servers: Servers,
    nodes: Vec<Node>,
    group: Group,
    term: u64,
    leader: usize,
    planner: Planner,
    reports: BTreeMap<NodeId, Told>,
    /// On their way, in order per sender: (to whom, what).
    orders: VecDeque<(usize, (u64, u64), Order)>,
    told: VecDeque<(u64, usize, Told)>,
    now_ms: i64,
    rows: u64,
    calm: bool,
    verbose: bool,
    report: Report,
}

fn id(node: usize) -> NodeId {
    node as NodeId + 1
}

fn place(node: NodeId) -> usize {
    usize::try_from(node - 1).unwrap_or(0)
}

/// Runs a seed.
#[must_use]
pub fn run(seed: u64, verbose: bool) -> Report {
    let mut sim = Sim {
        rng: Rng::new(seed),
        servers: Servers::new(NODES),
        nodes: (0..NODES).map(|_| Node { up: true, live: true, ..Node::default() }).collect(),
        group: Group::new(id(0)),
        term: 1,
        leader: 0,
        planner: Planner::default(),
        reports: BTreeMap::new(),
        orders: VecDeque::new(),
        told: VecDeque::new(),
        now_ms: 0,
        rows: 0,
        calm: true,
        verbose,
        report: Report { seed, ..Report::default() },
    };
    for node in 1..NODES {
        let joined = sim.group.apply(&Entry::Joined { node: id(node) });
        assert!(joined.is_ok());
    }
    sim.steps(3_000);
    if !sim.well() {
        sim.violation(&format!("a new group does not work: {:?}", sim.group));
    }
    sim.calm = false;
    sim.steps(STEPS);
    sim.heal();
    sim.steps(HEAL);
    sim.judge();
    sim.report.acknowledged = sim.servers.acknowledged().count();
    sim.report
}

impl Sim {
    fn violation(&mut self, what: &str) {
        if self.report.violations.len() < 5 {
            self.report.violations.push(format!("{} ms: {what}", self.now_ms));
        }
    }

    fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>7} {}", self.now_ms, what());
        }
    }

    fn steps(&mut self, count: u64) {
        for _ in 0..count {
            self.now_ms += STEP_MS;
            // Several small things happen in the time of one look.
            for _ in 0..4 {
                self.step();
            }
            if !self.calm && self.rng.between(0, 199) == 0 {
                self.fault();
            }
            if !self.report.violations.is_empty() {
                return;
            }
        }
    }

    fn any(&mut self) -> usize {
        usize::try_from(self.rng.between(0, NODES as u64 - 1)).unwrap_or(0)
    }

    fn step(&mut self) {
        let node = self.any();
        match self.rng.between(0, 9) {
            0..=2 => {
                self.servers.receive(node);
            }
            3 | 4 => {
                self.servers.apply(node);
            }
            5 => self.supervise(node),
            6 => self.tell(node),
            7 => self.deliver(),
            8 => self.lead(),
            _ => {
                if self.rng.chance(30) {
                    self.servers.idle();
                }
                self.rows += 1;
                let outcome = self.servers.insert(node, self.rows);
                let rows = self.rows;
                self.note(|| format!("row {rows} at {}: {outcome:?}", id(node)));
            }
        }
    }

    fn local(&self, node: usize) -> Local {
        let server = self.servers.at(node);
        let primary = self.servers.at(place(self.group.primary));
        let memory = &self.nodes[node].memory;
        let current = memory.instance == self.nodes[node].instance;
        Local {
            up: server.up,
            instance: self.nodes[node].instance,
            writes: server.answers() && !server.read_only,
            read_only: server.read_only,
            semi_master: server.semi_master,
            source: server.source.map(id),
            io: server.io,
            sql: server.sql,
            connected: self.servers.connected(node),
            acks: server.semi_slave,
            broken: server.error.is_some()
                || (server.up && server.source.is_some() && !server.same_as(primary)),
            same: server.same_as(primary),
            io_seq: server.io_pos(),
            applied_seq: server.slave_pos(),
            binlog_seq: server.binlog_pos().map_or(0, |event| event.seq),
            whole: current && memory.whole,
            frozen: memory.frozen.filter(|_| current),
            detached: memory.detached.filter(|_| current),
            leading: memory.leading.filter(|_| current),
            dropped: if current { memory.dropped.clone() } else { BTreeSet::new() },
            synced: current && memory.synced,
        }
    }

    /// The supervisor does one thing.
    fn supervise(&mut self, node: usize) {
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

    fn act(&mut self, node: usize, action: Action) {
        self.note(|| format!("node {}: {action:?}", id(node)));
        match action {
            Action::Start { master } => {
                self.nodes[node].instance += 1;
                self.nodes[node].waits = None;
                let role = if master { Role::Master } else { Role::Slave };
                let server = u32::try_from(node as u64 * 1000 + self.nodes[node].instance).unwrap_or(0);
                self.servers.refuse(node, &[]);
                self.servers.start(node, role, server);
            }
            Action::Kill => self.servers.kill(node),
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
                self.servers.follow(node, place(primary), demote);
            }
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

    fn nothing_lost(&mut self, when: &str) {
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

    /// A supervisor looks and tells; the message may be lost or late.
    fn tell(&mut self, node: usize) {
        if !self.nodes[node].up || self.rng.chance(if self.calm { 0 } else { 10 }) {
            return;
        }
        let told = Told { echo: self.nodes[node].newest.1, local: self.local(node) };
        // What was obeyed of an earlier leader says nothing of this one's rounds.
        let told = if self.nodes[node].newest.0 == self.term { told } else { Told { echo: 0, ..told } };
        self.told.push_back((self.term, node, told));
    }

    /// Messages arrive, orders also out of order.
    fn deliver(&mut self) {
        for _ in 0..self.rng.between(0, 4) {
            let Some((term, node, told)) = self.told.pop_front() else { break };
            if term == self.term {
                self.reports.insert(id(node), told);
            }
        }
        for _ in 0..self.rng.between(0, 9) {
            let at = self.rng.between(0, 3).min(self.orders.len() as u64);
            let Some((node, newest, order)) = self.orders.remove(usize::try_from(at).unwrap_or(0)) else {
                break;
            };
            let this = &mut self.nodes[node];
            if this.up && newest > this.newest {
                (this.newest, this.order) = (newest, Some(order));
            }
        }
    }

    fn lead(&mut self) {
        if !self.nodes[self.leader].up {
            return;
        }
        let live = (0..NODES).filter(|node| self.nodes[*node].live).map(id).collect();
        let plan = self.planner.plan(&self.group, &live, &self.reports, id(self.leader), self.now_ms);
        let seen = self.reports.values().all(|told| told.echo <= plan.round);
        assert!(seen, "a round of the future");
        for (node, order) in plan.orders {
            if self.calm || !self.rng.chance(10) {
                self.orders.push_back((place(node), (self.term, plan.round), order));
            }
        }
        let Some(entry) = plan.entry else { return };
        let before = self.group.primary;
        let applied = self.group.apply(&entry);
        self.note(|| format!("leader {}: {entry:?}: {applied:?}", id(self.leader)));
        if applied.is_ok() && matches!(entry, Entry::Promoted { .. }) {
            self.report.epochs += 1;
            self.report.promotions += u64::from(self.group.primary != before);
        }
    }

    fn depose(&mut self) {
        let node = self.any();
        if self.nodes[node].up {
            (self.leader, self.planner) = (node, Planner::default());
            self.term += 1;
            self.reports.clear();
            self.told.clear();
            self.note(|| format!("node {} leads term {}", id(node), self.term));
        }
    }

    fn fault(&mut self) {
        let node = self.any();
        let kind = self.rng.between(0, 13);
        self.note(|| format!("fault {kind} of node {}", id(node)));
        match kind {
            0 | 1 => self.servers.kill(node),
            2 => self.servers.terminate(node),
            3 => self.servers.pause(node, true),
            4 | 5 => self.servers.pause(node, false),
            6 => {
                // The whole machine; one at a time, so that a majority stays.
                if (0..NODES).all(|one| self.nodes[one].up) {
                    self.servers.kill(node);
                    let (instance, newest) = (self.nodes[node].instance, self.nodes[node].newest);
                    self.nodes[node] = Node { instance, newest, live: true, ..Node::default() };
                }
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
            _ => {
                if self.nodes[node].up {
                    // The supervisor alone: it forgets, its server goes on.
                    let (instance, newest) = (self.nodes[node].instance, self.nodes[node].newest);
                    self.nodes[node] = Node { instance, newest, up: true, live: true, ..Node::default() };
                }
            }
        }
        if !self.nodes[self.leader].up {
            self.depose();
        }
    }

    fn back(&mut self) {
        for node in 0..NODES {
            self.nodes[node].up = true;
            self.nodes[node].live = true;
        }
    }

    fn heal_links(&mut self) {
        for a in 0..NODES {
            for b in 0..a {
                self.servers.cut(a, b, false);
            }
        }
    }

    fn heal(&mut self) {
        self.note(|| "healing".to_owned());
        self.calm = true;
        self.back();
        self.heal_links();
        for node in 0..NODES {
            self.servers.pause(node, false);
        }
    }

    fn well(&self) -> bool {
        let primary = place(self.group.primary);
        let leads = self.servers.at(primary).answers()
            && !self.servers.at(primary).read_only
            && self.nodes[primary].memory.leading == Some(self.group.epoch);
        leads
            && self.group.failover.is_none()
            && self.group.ack_set.len() == NODES - 1
            && !self.group.heirs().is_empty()
    }

    fn judge(&mut self) {
        if !self.report.violations.is_empty() {
            return;
        }
        if !self.well() {
            let locals: Vec<Local> = (0..NODES).map(|node| self.local(node)).collect();
            self.violation(&format!("not well after healing: {:?} {locals:#?}", self.group));
            return;
        }
        self.nothing_lost("in the end");
        self.servers.settle();
        let primary = place(self.group.primary);
        let rows = self.servers.at(primary).rows();
        for node in 0..NODES {
            if self.servers.at(node).rows() != rows {
                self.violation(&format!("node {} holds other rows than the primary", id(node)));
            }
        }
    }
}
