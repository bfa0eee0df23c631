//! Raft as seen from this node, and since when.

use super::Inner;
use crate::types::{Config, boot_ms, monotonic_ms};
use openraft::async_runtime::WatchReceiver;
use openraft::{Instant as _, RaftMetrics, ServerState};
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

/// When a node learned that it leads, and who led before.
#[derive(Clone, Copy, Debug)]
pub struct Elected {
    pub term: u64,
    pub at_boot_ms: i64,
    pub predecessor: Option<u64>,
}

impl RaftView {
    /// What openraft's metrics mean for leases. `transferring` is the term in which this node gives its leadership
    /// away (0 = none); `boot_time_of` turns an age by openraft's clock into a time of `CLOCK_BOOTTIME`.
    pub fn of<C: Config>(
        metrics: &RaftMetrics<C>,
        elected: Option<Elected>,
        transferring: u64,
        boot_now_ms: i64,
        boot_time_of: impl FnOnce(Duration) -> Option<i64>,
    ) -> RaftView {
        let term = metrics.current_term;
        let is_leader = metrics.state == ServerState::Leader;
        let elected = elected.filter(|elected| is_leader && elected.term == term);
        let membership = metrics.membership_config.membership();
        RaftView {
            term,
            leader: metrics.current_leader,
            is_leader,
            first_entry_applied: is_leader
                && metrics.last_applied.is_some_and(|id| {
                    // A term may have more than one leader: its entries name which.
                    (id.leader_id.term, id.leader_id.node_id) == (term, metrics.id)
                }),
            // Nobody can elect another leader without a sole voter; openraft tells no new acknowledgements there.
            last_quorum_acked_boot_ms: if is_leader && membership.voter_ids().eq([metrics.id]) {
                Some(boot_now_ms)
            } else {
                let acked = metrics.last_quorum_acked.filter(|_| is_leader);
                acked.and_then(|acked| boot_time_of(acked.into_inner().elapsed()))
            },
            elected_at_boot_ms: elected.map(|elected| elected.at_boot_ms),
            predecessor: elected.and_then(|elected| elected.predecessor),
            transferring: term > 0 && transferring == term,
            applied_index: metrics.last_applied.map_or(0, |id| id.index),
            voters: membership.voter_ids().collect(),
            learners: membership.learner_ids().collect(),
            failed: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    }
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
            match inner.store.leader_before(term, inner.id).await {
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
    pub(crate) fn patience(&self) -> crate::profile::Profile {
        self.patience
    }

    pub(super) fn view(&self) -> RaftView {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let elected = *self.elected.lock().unwrap_or_else(PoisonError::into_inner);
        let transferring = self.transferring.load(Ordering::SeqCst);
        RaftView::of(&metrics, elected, transferring, boot_ms(), |age| self.boot_time_of(age))
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
