//! The database group in the simulator: the real planner and the real decisions of the supervisors on MariaDB's twins.
//!
//! A seed is a run of random steps: replication moves by one transaction, a supervisor does one thing, a report or an
//! order arrives late or never, the leader looks, a client writes; and faults: servers killed, stopped and ended in
//! order, nodes killed, links cut, leaders deposed who do not know it. Then everything heals. What is agreed on (Raft)
//! is one register here: its own simulator is the crate's other half.

mod act;
mod faults;

use crate::mariadb::Servers;
use crate::world::Rng;
use elpis_cluster::database::{Action, Entry, Group, Local, Memory, Order, Planner, Report as Told, Room};
use elpis_watch::NodeId;
use std::collections::{BTreeMap, VecDeque};

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
    /// Of its disk, as the supervisor sees it.
    room: Room,
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
    /// A new primary that is lost at this moment, before the others have all that it has.
    falls: Option<(i64, usize)>,
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
        falls: None,
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
            self.fall();
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

    /// A supervisor looks and tells; the message may be lost or late.
    fn tell(&mut self, node: usize) {
        if !self.nodes[node].up || self.rng.chance(if self.calm { 0 } else { 10 }) {
            return;
        }
        let this = &self.nodes[node];
        // What was obeyed of an earlier leader says nothing of this one's rounds.
        let echo = if this.newest.0 == self.term { this.newest.1 } else { 0 };
        let same = this.memory.instance == this.instance;
        let memory = if same { this.memory.clone() } else { Memory::default() };
        let told = Told { echo, local: self.local(node), memory };
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
        let plan =
            self.planner.plan(&self.group, &live, &self.reports, id(self.leader), |_| false, self.now_ms);
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
            if self.group.primary != before {
                self.may_fall(place(self.group.primary));
            }
        }
    }

    fn well(&self) -> bool {
        let primary = place(self.group.primary);
        let leads = self.servers.at(primary).answers()
            && !self.servers.at(primary).read_only
            && self.nodes[primary].memory.leading == Some(self.group.epoch);
        leads
            && !self.group.failing_over
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
