//! The master's part of the database group: takes the supervisors' reports, answers with orders, proposes entries.

use super::propose;
use crate::agent::member::Member;
use crate::agent::messages::{GroupKnowledge, GroupOrder, GroupReport, POKE};
use crate::agent::{Agent, locked};
use crate::database::{Applied, Disks, Entry, Group, Moved, Order, Planner, Report, Wait, applied, waits};
use crate::raft_node::RaftView;
use crate::state::{ClusterState, Command, NodeState};
use elpis_watch::NodeId;
use std::collections::BTreeMap;
use std::mem::discriminant;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A node that is poked has so long to take it.
const POKE_LIMIT: Duration = Duration::from_millis(400);

/// What the master knows of the group in its term.
#[derive(Debug, Default)]
pub(super) struct Standing {
    inner: Mutex<Inner>,
    /// An entry is in flight.
    proposing: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    term: u64,
    planner: Planner,
    reports: BTreeMap<NodeId, Report>,
    disks: BTreeMap<NodeId, Disks>,
    round: u64,
    orders: BTreeMap<NodeId, Order>,
    /// How far the members have applied.
    applied: Applied,
    /// A change of the primary under way, as this master saw it.
    moving: Option<Moving>,
}

#[derive(Clone, Debug)]
struct Moving {
    began_boot_ms: i64,
    line: Moved,
    promoted: bool,
}

impl Standing {
    /// This node leads no more.
    pub(super) fn forget(&self) {
        *locked(&self.inner) = Inner::default();
    }

    /// What the supervisors told last, and how far each copy is behind.
    pub(super) fn reports(&self, now_ms: i64) -> BTreeMap<NodeId, GroupKnowledge> {
        let inner = locked(&self.inner);
        let know = |node: &NodeId, report: &Report| GroupKnowledge {
            lag_ms: inner.planner.lag_ms(report, now_ms),
            disks: inner.disks.get(node).cloned().unwrap_or_default(),
            report: report.clone(),
        };
        inner.reports.iter().map(|(node, report)| (*node, know(node, report))).collect()
    }

    /// Takes a node's report.
    pub(super) fn heard(&self, term: u64, node: NodeId, told: GroupReport) {
        let mut inner = locked(&self.inner);
        inner.in_term(term);
        inner.reports.insert(node, told.report);
        inner.disks.insert(node, told.disks);
    }

    /// Whether the group waits for somebody.
    pub(super) fn waits(&self, state: &ClusterState) -> Option<Wait> {
        let inner = locked(&self.inner);
        let group = state.group.as_ref()?;
        // Who leads since a moment has not heard of everybody yet.
        waits(group, &state.live_nodes(), &inner.reports)
    }

    /// The node's order.
    pub(super) fn order(&self, node: NodeId) -> Option<GroupOrder> {
        let inner = locked(&self.inner);
        let order = inner.orders.get(&node)?.clone();
        Some(GroupOrder { round: inner.round, order, applied: Some(inner.applied.clone()) })
    }
}

impl Inner {
    fn in_term(&mut self, term: u64) {
        if self.term != term {
            *self = Inner { term, ..Inner::default() };
        }
    }
}

/// The moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) boot_ms: i64,
    /// Cluster time, Unix milliseconds.
    pub(super) cluster_ms: i64,
}

/// Plans with what is known now; nodes with another order than before are told at once.
pub(super) fn plan(
    agent: &Arc<Agent>,
    member: &Arc<Member>,
    view: &RaftView,
    state: &ClusterState,
    now: Now,
) {
    let Some(group) = &state.group else { return };
    let standing = &member.leading.group;
    let (entry, changed, said, plan_why) = {
        let mut inner = locked(&standing.inner);
        inner.in_term(view.term);
        let live = state.live_nodes();
        inner.reports.retain(|node, _| live.contains(node));
        inner.disks.retain(|node, _| live.contains(node));
        let gone = |node| state.nodes.get(&node).is_none_or(|node| node.state == NodeState::Removed);
        inner.applied = applied(group, &inner.reports);
        let Inner { planner, reports, .. } = &mut *inner;
        let plan = planner.plan(group, &live, reports, member.id(), gone, now.boot_ms);
        let differs = |(node, order): &(&NodeId, &Order)| {
            inner.orders.get(node).is_none_or(|before| discriminant(before) != discriminant(*order))
        };
        let changed: Vec<NodeId> = plan.orders.iter().filter(differs).map(|(node, _)| *node).collect();
        (inner.round, inner.orders) = (plan.round, plan.orders);
        let said = inner.follow_move(group, plan.why, now);
        (plan.entry, changed, said, plan.why)
    };
    let name =
        |node: NodeId| state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone());
    let said = match said {
        Some(Said::Began) => {
            let why = if plan_why.is_empty() { "it was ordered" } else { plan_why };
            let text = format!("{} is to be replaced as the database's primary: {why}", name(group.primary));
            agent.note(None, "database", &text);
            None
        }
        Some(Said::Opened(line)) => {
            let text = format!(
                "{} is the database's primary, epoch {}: agreed on after {} ms, open after {} ms",
                name(line.to),
                line.epoch,
                line.promoted_ms,
                line.opened_ms
            );
            agent.note(None, "database", &text);
            Some(Entry::Moved(line))
        }
        None => None,
    };
    let entry = said.or(entry);
    for node in changed {
        poke(agent, member, node);
    }
    if let Some(entry) = entry
        && !standing.proposing.swap(true, Ordering::SeqCst)
    {
        let routine = matches!(entry, Entry::Verified { .. } | Entry::Joined { .. });
        if !routine {
            tracing::info!(?entry, "the database group changes");
        }
        propose(agent, member, view.term, Command::Database(entry), |leading| &leading.group.proposing);
    }
}

enum Said {
    Began,
    Opened(Moved),
}

impl Inner {
    /// What of a change of the primary an operator should hear of, and what is kept.
    fn follow_move(&mut self, group: &Group, why: &str, now: Now) -> Option<Said> {
        let begins = (!why.is_empty() || group.failing_over) && self.moving.is_none();
        if begins {
            let reason = if why.is_empty() { "it was ordered" } else { why };
            let line = Moved {
                epoch: group.epoch + 1,
                from: group.primary,
                at_ms: now.cluster_ms,
                reason: reason.to_owned(),
                ..Moved::default()
            };
            self.moving = Some(Moving { began_boot_ms: now.boot_ms, line, promoted: false });
            return Some(Said::Began);
        }
        let moving = self.moving.as_mut()?;
        if group.adopting.is_some() {
            "by order, without the nodes that are lost".clone_into(&mut moving.line.reason);
        }
        if group.failing_over || group.epoch < moving.line.epoch {
            return None;
        }
        let passed = now.boot_ms - moving.began_boot_ms;
        if !moving.promoted {
            (moving.promoted, moving.line.promoted_ms, moving.line.to) = (true, passed, group.primary);
        }
        let opened = |report: &Report| report.memory.leading == Some(group.epoch);
        if !self.reports.get(&group.primary).is_some_and(opened) {
            return None;
        }
        let mut line = self.moving.take()?.line;
        (line.epoch, line.opened_ms) = (group.epoch, passed);
        Some(Said::Opened(line))
    }
}

fn poke(agent: &Agent, member: &Arc<Member>, node: NodeId) {
    let member = Arc::clone(member);
    agent.tasks.spawn(async move {
        if node == member.id() {
            member.renew_now.notify_one();
        } else {
            let called = tokio::time::timeout(POKE_LIMIT, member.node.call(node, POKE, Vec::new())).await;
            if !matches!(called, Ok(Ok(_))) {
                tracing::debug!(
                    node,
                    "a node does not take the news that it has a new order; it hears with its next renewal"
                );
            }
        }
    });
}
