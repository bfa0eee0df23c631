//! Looks round by round for checks that have been silent for too long.

use super::lanes::Lanes;
use crate::roster::Roster;
use crate::shards::Shards;
use elpis_monitor::{AgentId, Context, detect_unknown, interval_of};

/// Looks at the clock in which a full round is made.
const ROUND: usize = 10;

/// Where the round stands.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    waiting: Vec<AgentId>,
    a_look: usize,
    /// Until when (server clock) this process could not measure.
    blind_until: i64,
}

impl Rounds {
    /// The process may not act now: silence says nothing until an interval has passed again.
    pub(super) fn blind(&mut self, now: i64) {
        self.blind_until = now;
    }

    /// Looks at the next part of the agents.
    pub(super) fn look(
        &mut self,
        roster: &mut Roster,
        shards: &Shards,
        lanes: &mut Lanes,
        ctx: &Context<'_>,
    ) {
        if self.waiting.is_empty() {
            self.waiting = roster.agents().map(|held| held.agent.id).collect();
            self.a_look = self.waiting.len() / ROUND + 1;
        }
        for _ in 0..self.a_look {
            let Some(id) = self.waiting.pop() else { return };
            let Some(held) = roster.get_mut(id) else { continue };
            if !shards.is_held(held.shard) {
                continue;
            }
            let since = held.since.max(self.blind_until);
            for module in &mut held.modules {
                // After a takeover a module gets one interval to be heard.
                if since + i64::from(interval_of(&held.agent, &module.module)) >= ctx.now {
                    continue;
                }
                if let Some(outcome) = detect_unknown(&held.agent, &module.module, &module.state, ctx) {
                    module.state = lanes.pack(id).add(&held.agent, &module.module, outcome, 0);
                }
            }
        }
    }
}
