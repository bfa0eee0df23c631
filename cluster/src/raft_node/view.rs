//! Raft as seen from this node, and since when.

use super::Inner;
use crate::types::{boot_ms, monotonic_ms};
use openraft::Instant as _;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Raft as seen from this node. A hint, except where the fields say since when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftView {
    pub term: u64,
    pub leader: Option<u64>,
    pub is_leader: bool,
    /// The first entry of the leader's own term is applied: only then may it grant leases.
    pub first_entry_applied: bool,
    /// Send time of the newest message that a quorum acknowledged; `None` when not leading, or when the machine was
    /// suspended since.
    pub last_quorum_acked_boot_ms: Option<i64>,
    /// When this node learned that it leads this term.
    pub elected_at_boot_ms: Option<i64>,
    /// Who led before, by the log.
    pub predecessor: Option<u64>,
    /// It gives its leadership away and must not grant in this term any more.
    pub transferring: bool,
    /// Index of the last applied entry.
    pub applied_index: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
    /// Raft stopped for good (disk, corruption): this node must fence itself.
    pub failed: Option<String>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Elected {
    term: u64,
    at_boot_ms: i64,
    predecessor: Option<u64>,
}

/// Notes when this node began to lead and who led before.
pub(super) async fn watch_elections(inner: Arc<Inner>, stop: CancellationToken) {
    let mut metrics = inner.raft.server_metrics();
    loop {
        let (state, term) = {
            let seen = metrics.borrow_watched();
            (seen.state, seen.vote.leader_id.term)
        };
        let known =
            inner.elected.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|e| e.term == term);
        if state == ServerState::Leader && !known {
            let at_boot_ms = boot_ms();
            match inner.store.leader_before(term).await {
                Ok(predecessor) => {
                    let elected = Elected { term, at_boot_ms, predecessor };
                    *inner.elected.lock().unwrap_or_else(PoisonError::into_inner) = Some(elected);
                }
                Err(error) => tracing::error!(%error, "the Raft log cannot be read"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = metrics.changed() => if changed.is_err() { return },
        }
    }
}

impl Inner {
    pub(super) fn view(&self) -> RaftView {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let term = metrics.current_term;
        let is_leader = metrics.state == ServerState::Leader;
        let elected = *self.elected.lock().unwrap_or_else(PoisonError::into_inner);
        let elected = elected.filter(|elected| is_leader && elected.term == term);
        let membership = metrics.membership_config.membership();
        RaftView {
            term,
            leader: metrics.current_leader,
            is_leader,
            first_entry_applied: is_leader
                && metrics.last_applied.is_some_and(|id| id.leader_id.term == term),
            // Nobody can elect another leader without a sole voter; openraft tells no new acknowledgements there.
            last_quorum_acked_boot_ms: if is_leader && membership.voter_ids().eq([self.id]) {
                Some(boot_ms())
            } else {
                let acked = metrics.last_quorum_acked.filter(|_| is_leader);
                acked.and_then(|acked| self.boot_time_of(acked.into_inner().elapsed()))
            },
            elected_at_boot_ms: elected.map(|elected| elected.at_boot_ms),
            predecessor: elected.and_then(|elected| elected.predecessor),
            transferring: term > 0 && self.transferring.load(Ordering::SeqCst) == term,
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            failed: metrics.running_state.err().map(|fatal| fatal.to_string()),
        }
    }

    /// `CLOCK_BOOTTIME` of something openraft saw so long ago by `CLOCK_MONOTONIC`; `None` when the machine was
    /// suspended since, for then nobody can say.
    fn boot_time_of(&self, age: Duration) -> Option<i64> {
        let (boot, monotonic) = (boot_ms(), monotonic_ms());
        let age = i64::try_from(age.as_millis()).ok()?.saturating_add(1);
        let mut suspend = self.suspend.lock().unwrap_or_else(PoisonError::into_inner);
        if (boot - monotonic - suspend.0).abs() > 50 {
            *suspend = (boot - monotonic, monotonic);
        }
        (monotonic - age > suspend.1).then_some(boot - age)
    }
}
