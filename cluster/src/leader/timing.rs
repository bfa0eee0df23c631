//! The leader's part in a change of the profile: its second half, and who starts anew when.
//!
//! PURE. Rules and reasons are in [`crate::profile`].

use super::{Leader, Now};
use crate::profile::{self, Shown};
use crate::state::Command;
use elpis_watch::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Between two nodes that start anew: the first has to vote again.
const PAUSE_MS: i64 = 5_000;
/// A node that was told hears it again for so long: an answer may be lost.
const TOLD_MS: i64 = 2_000;

impl Leader {
    /// What the members have shown in this term.
    #[must_use]
    pub fn shown(&self, now: &Now<'_>) -> BTreeMap<NodeId, Shown> {
        let members = now.state.members().map(|(id, _)| id);
        members.filter_map(|id| Some((id, self.nodes.get(&id)?.shown?))).collect()
    }

    /// The next half of a change of the profile, when its time has come.
    pub(super) fn profile(&mut self, now: &Now<'_>) -> Option<Command> {
        let agreed = &now.state.profile;
        let since = match self.step {
            Some((step, since)) if step == agreed.step => since,
            _ => now.boot_ms,
        };
        self.step = Some((agreed.step, since));
        if agreed.settled() {
            return None;
        }
        let members: BTreeSet<NodeId> = now.state.members().map(|(id, _)| id).collect();
        let raft = now.view.voters.iter().chain(&now.view.learners).copied().collect();
        let next = profile::next(agreed, &self.shown(now), &members, &raft, now.boot_ms - since)?;
        Some(Command::Profile(next))
    }

    /// The live members that have to start anew to run with the profile.
    fn waiting(&self, now: &Now<'_>) -> BTreeSet<NodeId> {
        let waiting = profile::waiting(&now.state.profile, &self.shown(now));
        waiting.into_iter().filter(|id| now.state.live(*id)).collect()
    }

    /// Who is to start anew now: one after the other, while all that live are heard and a majority stays without it; the
    /// leader itself only where it is alone, for it gives its leadership away first.
    pub fn turn(&mut self, now: &Now<'_>) -> Option<NodeId> {
        let waiting = self.waiting(now);
        let alone = now.view.voters == [self.me];
        let next = *waiting.iter().find(|id| **id != self.me || alone)?;
        if let Some((told, at)) = self.turn {
            let passed = now.boot_ms - at;
            if told == next && passed < TOLD_MS {
                return Some(next);
            }
            if passed < PAUSE_MS {
                return None;
            }
        }
        let heard = |id: &NodeId| {
            *id == self.me
                || self.granter.silent_ms(*id, now.boot_ms).is_some_and(|ms| ms <= 3 * self.timings.renew_ms)
        };
        let settled = now.view.elected_at_boot_ms.is_some_and(|at| now.boot_ms - at >= PAUSE_MS);
        let all = now.state.members().all(|(id, node)| !node.live() || heard(&id));
        let without = now.view.voters.iter().filter(|id| **id != next && heard(id)).count();
        let majority = now.view.voters.len() / 2 + 1;
        if !settled || !all || (!alone && without < majority) {
            return None;
        }
        self.turn = Some((next, now.boot_ms));
        Some(next)
    }

    /// Whether this leader should give its leadership away: it is the last that has to start anew.
    #[must_use]
    pub fn hands_over(&self, now: &Now<'_>) -> bool {
        let last = self.turn.is_none_or(|(_, at)| now.boot_ms - at >= PAUSE_MS);
        last && now.view.voters != [self.me] && self.waiting(now) == [self.me].into()
    }
}
