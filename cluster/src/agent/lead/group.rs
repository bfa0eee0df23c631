//! The master's part of the database group: takes the supervisors' reports, answers with orders, proposes entries.

use super::propose;
use crate::agent::member::Member;
use crate::agent::messages::{GroupOrder, POKE};
use crate::agent::{Agent, locked};
use crate::database::{Entry, Order, Planner, Report};
use crate::raft_node::RaftView;
use crate::state::{ClusterState, Command, NodeState};
use elpis_watch::NodeId;
use std::collections::{BTreeMap, BTreeSet};
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
    round: u64,
    orders: BTreeMap<NodeId, Order>,
    /// When the failover under way was first seen, `CLOCK_BOOTTIME`; and the epoch whose opening is awaited.
    began: Option<i64>,
    awaited: Option<u64>,
}

impl Standing {
    /// This node leads no more.
    pub(super) fn forget(&self) {
        *locked(&self.inner) = Inner::default();
    }

    /// What the supervisors told last.
    pub(super) fn reports(&self) -> BTreeMap<NodeId, Report> {
        locked(&self.inner).reports.clone()
    }

    /// Takes a node's report.
    pub(super) fn heard(&self, term: u64, node: NodeId, report: Report) {
        let mut inner = locked(&self.inner);
        inner.in_term(term);
        inner.reports.insert(node, report);
    }

    /// The node's order.
    pub(super) fn order(&self, node: NodeId) -> Option<GroupOrder> {
        let inner = locked(&self.inner);
        let order = inner.orders.get(&node)?.clone();
        Some(GroupOrder { round: inner.round, order })
    }
}

impl Inner {
    fn in_term(&mut self, term: u64) {
        if self.term != term {
            *self = Inner { term, ..Inner::default() };
        }
    }
}

/// Plans with what is known now; nodes with another order than before are told at once.
pub(super) fn plan(agent: &Arc<Agent>, member: &Arc<Member>, view: &RaftView, state: &ClusterState, now_ms: i64) {
    let Some(group) = &state.group else { return };
    let standing = &member.leading.group;
    let (entry, changed, said) = {
        let mut inner = locked(&standing.inner);
        inner.in_term(view.term);
        let live: BTreeSet<NodeId> =
            state.members().filter(|(_, node)| node.live()).map(|(id, _)| id).collect();
        inner.reports.retain(|node, _| live.contains(node));
        let gone = |node| state.nodes.get(&node).is_none_or(|node| node.state == NodeState::Removed);
        let Inner { planner, reports, .. } = &mut *inner;
        let plan = planner.plan(group, &live, reports, member.id(), gone, now_ms);
        let differs = |(node, order): &(&NodeId, &Order)| {
            inner.orders.get(node).is_none_or(|before| discriminant(before) != discriminant(*order))
        };
        let changed: Vec<NodeId> = plan.orders.iter().filter(differs).map(|(node, _)| *node).collect();
        (inner.round, inner.orders) = (plan.round, plan.orders);
        let said = inner.follow_failover(group, now_ms);
        (plan.entry, changed, said)
    };
    let name = |node: NodeId| state.nodes.get(&node).map_or_else(|| node.to_string(), |node| node.name.clone());
    match said {
        Some(Said::Began) => {
            let text = format!("{} is to be replaced as primary of the database (epoch {})", name(group.primary), group.epoch);
            agent.note(None, "database", &text);
        }
        Some(Said::Opened(ms)) => {
            let text = format!("{} is primary of the database, epoch {}, writing again {ms} ms after the failover began", name(group.primary), group.epoch);
            agent.note(None, "database", &text);
        }
        None => {}
    }
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
    Opened(i64),
}

impl Inner {
    /// What of a failover an operator should hear of.
    fn follow_failover(&mut self, group: &crate::database::Group, now_ms: i64) -> Option<Said> {
        if group.failing_over {
            let new = self.began.is_none();
            self.began.get_or_insert(now_ms);
            self.awaited = Some(group.epoch + 1);
            return new.then_some(Said::Began);
        }
        let opened = self.reports.get(&group.primary).is_some_and(|report| report.memory.leading == Some(group.epoch));
        if self.awaited.is_some_and(|epoch| group.epoch >= epoch) && opened {
            self.awaited = None;
            return self.began.take().map(|began| Said::Opened(now_ms - began));
        }
        None
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
                tracing::debug!(node, "a node does not take the news that it has a new order; it hears with its next renewal");
            }
        }
    });
}
