//! The leader keeps the Raft membership in step with the replicated state: who is admitted becomes a learner, learners
//! that have caught up become voters where the count stays odd, who is removed goes. So a join or a removal that loses
//! its leader half-way is finished by the next one.

use super::members::{Changed, MemberChange};
use super::{Inner, view};
use crate::state::NodeState;
use crate::types::monotonic_ms;
use openraft::async_runtime::WatchReceiver;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Pace of looking; a change of the state is looked at at once.
const LOOK: Duration = Duration::from_millis(250);
/// A voter that is replaced keeps its vote for so long while a newcomer catches up.
const PLACE_MS: i64 = 30_000;
/// Pause after a change that failed.
const PAUSE: Duration = Duration::from_secs(2);

pub(super) async fn keep(inner: Arc<Inner>, stop: CancellationToken) {
    let mut states = inner.watch();
    let mut last = None;
    loop {
        let membership = *inner.raft.metrics().borrow_watched().membership_config.log_id();
        if last != Some(membership) {
            if last.is_some() {
                inner.changed_at.store(monotonic_ms(), Ordering::SeqCst);
            }
            last = Some(membership);
        }
        let mut pause = LOOK;
        if let Some(change) = inner.wanted() {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = inner.change_locked(&change) => if let Err(Changed::Failed(why)) = changed {
                    tracing::warn!(?change, why, "the membership could not be changed; trying again");
                    pause = PAUSE;
                },
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = states.changed(), if pause == LOOK => if changed.is_err() { return },
        }
    }
}

impl Inner {
    /// The next change that brings the membership nearer to the state.
    fn wanted(&self) -> Option<MemberChange> {
        let view = self.view();
        if !view.is_leader || !view.first_entry_applied || view.transferring {
            return None;
        }
        let state = self.snapshot();
        let present: BTreeSet<u64> = view.voters.iter().chain(&view.learners).copied().collect();
        let gone = |id: &u64| state.nodes.get(id).is_some_and(|node| node.state == NodeState::Removed);
        let absent = state.members().find(|(id, _)| !present.contains(id));
        // Without it, and before a newcomer can vote in its place, fewer would have to be lost.
        let waits = |node: &u64| view.voters.contains(node) && (absent.is_some() || self.awaits(&view));
        if let Some(node) = present.iter().find(|id| gone(id) && !waits(id)) {
            return Some(MemberChange::Remove { node: *node });
        }
        if let Some((node, known)) = absent {
            return Some(MemberChange::AddLearner { node, address: known.address.clone() });
        }
        (self.grown_voters(&view).len() > view.voters.len()).then_some(MemberChange::Grow)
    }

    /// Whether a newcomer is catching up since a moment.
    fn awaits(&self, view: &view::RaftView) -> bool {
        let state = self.snapshot();
        let comes = |id: &u64| {
            state.nodes.get(id).is_some_and(|node| matches!(node.state, NodeState::Joining | NodeState::Up))
                && !self.caught_up(*id)
        };
        let recent = monotonic_ms() - self.changed_at.load(Ordering::SeqCst) < PLACE_MS;
        recent && view.learners.iter().any(comes)
    }

    /// The voters and as many learners that live and have caught up as keep the number odd.
    pub(super) fn grown_voters(&self, view: &view::RaftView) -> BTreeSet<u64> {
        let state = self.snapshot();
        let fit = |id: &u64| {
            state.nodes.get(id).is_some_and(|node| node.state != NodeState::Down && !node.draining)
                && self.caught_up(*id)
        };
        let order: Vec<u64> =
            view.voters.iter().copied().chain(view.learners.iter().copied().filter(fit)).collect();
        let grown = super::members::odd_prefix(&order);
        if grown.len() > view.voters.len() { grown } else { view.voters.iter().copied().collect() }
    }
}
