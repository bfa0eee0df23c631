//! Membership: learners, voters (never an even number), leaving, giving the leadership away.

use super::{Inner, NodeError};
use crate::network::{Kind, NetError};
use crate::state::NodeState;
use crate::types::boot_ms;
use openraft::{BasicNode, ChangeMembers};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Most voters.
const VOTERS: usize = 5;
/// A change waits for a learner to catch up, so it may take long.
const CHANGE: Duration = Duration::from_secs(60);
/// A leader does not give its leadership away so soon after its election.
const SETTLE_MS: i64 = 10_000;

/// A change of the Raft membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberChange {
    /// Adds an admitted node as a learner; done when it has caught up.
    AddLearner { node: u64, address: String },
    /// Makes voters of as many members as keep their number odd, at most five.
    Balance,
    /// Takes the node out; another one votes in its place where that keeps the number odd.
    Remove { node: u64 },
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
        let _one_at_a_time = self.changing.lock().await;
        let done = match change {
            MemberChange::AddLearner { node, address } => {
                self.raft.add_learner(*node, BasicNode::new(address.clone()), true).await.map(drop)
            }
            MemberChange::Balance => {
                let voters = self.best_voters(None);
                self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await.map(drop)
            }
            MemberChange::Remove { node } => {
                let voters = self.best_voters(Some(*node));
                match self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true).await {
                    Ok(_) => {
                        let gone = ChangeMembers::RemoveNodes(BTreeSet::from([*node]));
                        self.raft.change_membership(gone, true).await.map(drop)
                    }
                    Err(error) => Err(error),
                }
            }
        };
        match done {
            Ok(()) => {
                self.sole.store(self.view().voters == [self.id], Ordering::SeqCst);
                Changed::Done
            }
            Err(error) => match error.forward_to_leader() {
                Some(to) => Changed::NotLeader(to.leader_id),
                None => Changed::Failed(error.to_string()),
            },
        }
    }

    /// The voters there should be: the leader, those that vote already, then live learners by age; an odd number.
    fn best_voters(&self, without: Option<u64>) -> BTreeSet<u64> {
        let view = self.view();
        let state = self.state.borrow().clone();
        let down = |id: &u64| state.nodes.get(id).is_some_and(|node| node.state == NodeState::Down);
        let mut order: Vec<u64> =
            view.voters.iter().chain(&view.learners).copied().filter(|id| Some(*id) != without).collect();
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

fn odd_prefix(order: &[u64]) -> BTreeSet<u64> {
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
