//! Membership: learners, voters (never an even number), leaving, giving the leadership away.

use super::{Inner, NodeError};
use crate::network::{Kind, NetError};
use crate::state::{Command, NodeState, Refused};
use crate::types::{boot_ms, monotonic_ms};
use openraft::{BasicNode, ChangeMembers};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most voters.
const VOTERS: usize = 5;
/// A change waits for a learner to catch up, so it may take long.
const CHANGE: Duration = Duration::from_secs(60);
/// A node that lacks so many entries counts as caught up.
const LAG: u64 = 32;
/// A leader does not give its leadership away so soon after its election, and changes of the membership rest as long.
const SETTLE_MS: i64 = 10_000;

/// A change of the Raft membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Adds an admitted node as a learner; done when it has caught up.
    AddLearner { node: u64, address: String },
    /// Makes voters of as many members as keep their number odd, at most five.
    Balance,
    /// Takes the node out for ever, also the leader; another one votes in its place where that keeps the number odd.
    Remove { node: u64 },
    /// Makes voters of learners that have caught up, where the number stays odd; takes no vote away.
    Grow,
}

#[derive(Serialize, Deserialize)]
pub(super) enum Changed {
    Done,
    NotLeader(Option<u64>),
    Failed(String),
}

impl Inner {
    pub(super) async fn change_members(&self, change: MemberChange) -> Result<(), NodeError> {
        let body = serde_json::to_vec(&change).map_err(|e| NodeError::Raft(e.to_string()))?;
        let until = tokio::time::Instant::now() + CHANGE;
        loop {
            let leader = self.view().leader;
            let changed = match leader.filter(|leader| *leader != self.id) {
                None => self.change_here(&change).await,
                Some(leader) => match self.peers.ask_once(leader, Kind::Member, &body, CHANGE).await {
                    Ok(answer) => {
                        serde_json::from_slice(&answer).map_err(|e| NodeError::Raft(e.to_string()))?
                    }
                    Err(error @ NetError::Timeout(_)) => {
                        return Err(NodeError::OutcomeUnknown(error.to_string()));
                    }
                    Err(_) => Changed::NotLeader(None),
                },
            };
            match changed {
                Changed::Done => return Ok(()),
                Changed::Failed(why) => return Err(NodeError::Raft(why)),
                Changed::NotLeader(_) if tokio::time::Instant::now() >= until => {
                    return Err(NodeError::NoLeader);
                }
                Changed::NotLeader(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    pub(super) async fn change_here(&self, change: &MemberChange) -> Changed {
        if !self.view().is_leader {
            return Changed::NotLeader(self.view().leader);
        }
        match (self.change_locked(change).await, change) {
            (Ok(()), MemberChange::AddLearner { node, .. }) => self.follow_up(*node).await,
            (Ok(()), _) => Changed::Done,
            (Err(changed), _) => changed,
        }
    }

    /// Makes the change on this leader, after the one before; does not wait for a learner to catch up.
    pub(super) async fn change_locked(&self, change: &MemberChange) -> Result<(), Changed> {
        let _one_at_a_time = self.changing.lock().await;
        let view = self.view();
        if !view.is_leader || view.transferring {
            return Err(Changed::NotLeader(view.leader.filter(|leader| *leader != self.id)));
        }
        let done = self.change_alone(change).await;
        self.sole.store(self.view().voters == [self.id], Ordering::SeqCst);
        done
    }

    /// While several vote, an election may fall between two changes, and openraft has a fault in resolving the log
    /// conflict of rapid changes across elections (openraft#1544): so each change rests first. A sole voter is never
    /// voted down, so a young cluster grows without waiting.
    async fn settled(&self) {
        if self.view().voters.len() > 1 {
            let rest = SETTLE_MS - (monotonic_ms() - self.changed_at.load(Ordering::SeqCst));
            if let Ok(rest @ 1..) = u64::try_from(rest) {
                tokio::time::sleep(Duration::from_millis(rest)).await;
            }
        }
    }

    async fn change_alone(&self, change: &MemberChange) -> Result<(), Changed> {
        match change {
            MemberChange::AddLearner { node, address } => {
                // A node that is a member already is left as it is: another entry would only cost a rest.
                let view = self.view();
                if view.voters.contains(node) || view.learners.contains(node) {
                    return Ok(());
                }
                let add = BTreeMap::from([(*node, BasicNode::new(address.clone()))]);
                self.change_raft(ChangeMembers::AddNodes(add)).await
            }
            MemberChange::Balance => self.set_voters(self.best_voters(None)).await,
            MemberChange::Grow => self.set_voters(self.grown_voters(&self.view())).await,
            MemberChange::Remove { node } if *node == self.id => Err(self.leave().await),
            MemberChange::Remove { node } => {
                let view = self.view();
                if view.voters.contains(node) {
                    self.set_voters(self.best_voters(Some(*node))).await?;
                }
                let audit = Command::Audit {
                    at_ms: self.cluster_time_ms().await,
                    who: format!("node {}", self.id),
                    what: format!("remove node {node}"),
                };
                match self.propose(Command::Batch(vec![Command::Remove { node: *node }, audit])).await {
                    Ok(_) | Err(NodeError::Refused(Refused::Removed(_) | Refused::UnknownNode(_))) => {}
                    Err(error) => return Err(Changed::Failed(error.to_string())),
                }
                if view.voters.contains(node) || view.learners.contains(node) {
                    // It should hear that it is out before nobody tells it anything any more.
                    let told = async {
                        while !self.caught_up(*node) {
                            tokio::time::sleep(Duration::from_millis(20)).await;
                        }
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
                    self.change_raft(ChangeMembers::RemoveNodes(BTreeSet::from([*node]))).await?;
                }
                Ok(())
            }
        }
    }

    async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), Changed> {
        if voters.iter().copied().eq(self.view().voters.iter().copied().collect::<BTreeSet<_>>()) {
            return Ok(());
        }
        self.change_raft(ChangeMembers::ReplaceAllVoters(voters)).await
    }

    async fn change_raft(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), Changed> {
        self.settled().await;
        let changed = tokio::time::timeout(CHANGE, self.raft.change_membership(change, true)).await;
        self.changed_at.store(monotonic_ms(), Ordering::SeqCst);
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(match error.forward_to_leader() {
                Some(to) => Changed::NotLeader(to.leader_id),
                None => Changed::Failed(error.to_string()),
            }),
            Err(_) => Err(Changed::Failed(format!(
                "no majority took the change within {} s; start the nodes that are down",
                CHANGE.as_secs()
            ))),
        }
    }

    /// This node leads and is to go: another one has to lead first, and takes it out then.
    async fn leave(&self) -> Changed {
        let view = self.view();
        if view.voters == [self.id] {
            let heirs = self.best_voters(Some(self.id));
            if heirs.is_empty() {
                return Changed::Failed("no other node has caught up, so none can take over".to_owned());
            }
            return match self.set_voters(heirs).await {
                Ok(()) => Changed::NotLeader(None),
                Err(changed) => changed,
            };
        }
        let Some(heir) = view.voters.iter().copied().find(|id| *id != self.id && self.caught_up(*id)) else {
            return Changed::Failed("no other voter has caught up, so none can lead".to_owned());
        };
        if let Some(elected) = view.elected_at_boot_ms
            && let Ok(rest @ 1..) = u64::try_from(SETTLE_MS - (boot_ms() - elected))
        {
            tokio::time::sleep(Duration::from_millis(rest)).await;
        }
        match self.transfer_leader(heir).await {
            Ok(()) => Changed::NotLeader(None),
            Err(error) => Changed::Failed(error.to_string()),
        }
    }

    /// Waits until a new learner has caught up.
    async fn follow_up(&self, node: u64) -> Changed {
        let until = tokio::time::Instant::now() + CHANGE / 2;
        while !self.caught_up(node) {
            if !self.view().is_leader {
                return Changed::NotLeader(None);
            }
            if tokio::time::Instant::now() >= until {
                return Changed::Failed(format!("node {node} does not catch up; is it running?"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Changed::Done
    }

    /// Whether the node is known to have nearly all of the log.
    pub(super) fn caught_up(&self, node: u64) -> bool {
        if node == self.id {
            return true;
        }
        let metrics = openraft::async_runtime::WatchReceiver::borrow_watched(&self.raft.metrics()).clone();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&node).copied()).flatten();
        let matched = matched.map(|id| id.index);
        matched.is_some_and(|matched| matched + LAG >= metrics.last_log_index.unwrap_or(0))
    }

    /// The voters there should be: the leader, those that vote already, then live learners by age; an odd number. A
    /// learner that has not caught up would only weaken the majority.
    fn best_voters(&self, without: Option<u64>) -> BTreeSet<u64> {
        let view = self.view();
        let state = self.snapshot();
        let down = |id: &u64| state.nodes.get(id).is_some_and(|node| node.state == NodeState::Down);
        let ready = view.learners.iter().filter(|id| self.caught_up(**id));
        let mut order: Vec<u64> =
            view.voters.iter().chain(ready).copied().filter(|id| Some(*id) != without).collect();
        order.sort_by_key(|id| (*id != self.id, down(id), !view.voters.contains(id), *id));
        odd_prefix(&order)
    }

    pub(super) async fn transfer_leader(&self, to: u64) -> Result<(), NodeError> {
        let view = self.view();
        if !view.is_leader {
            return Err(NodeError::Raft(
                "this node does not lead, so it has nothing to give away".to_owned(),
            ));
        }
        if view.elected_at_boot_ms.is_none_or(|at| boot_ms() - at < SETTLE_MS) {
            return Err(NodeError::Raft(
                "elected less than ten seconds ago; try again in a moment".to_owned(),
            ));
        }
        let metrics = openraft::async_runtime::WatchReceiver::borrow_watched(&self.raft.metrics()).clone();
        let matched =
            metrics.replication.as_ref().and_then(|all| all.get(&to).cloned()).flatten().map(|id| id.index);
        if !view.voters.contains(&to) || matched < metrics.last_log_index {
            return Err(NodeError::Raft(format!(
                "node {to} is no voter or has not caught up; try again when it has"
            )));
        }
        // From here on openraft lets the voters elect another leader while this one could still grant.
        self.transferring.store(view.term, Ordering::SeqCst);
        self.raft.trigger().transfer_leader(to).await.map_err(NodeError::raft)
    }
}

pub(super) fn odd_prefix(order: &[u64]) -> BTreeSet<u64> {
    let most = order.len().min(VOTERS);
    let count = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    order.iter().take(count).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::odd_prefix;

    #[test]
    fn voters_are_never_even() {
        for (members, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
            let order: Vec<u64> = (1..=members).collect();
            assert_eq!(odd_prefix(&order).len(), voters);
        }
    }
}
