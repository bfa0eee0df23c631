//! Looks round by round for modules that have been silent for too long.

use crate::roster::Roster;
use elpis_monitor::{Agent, AgentId, Context, Module, ModuleState, Outcome, detect_unknown, interval_of};

/// Looks at the clock in which a full round is made.
const ROUND: usize = 10;

/// Where the round stands.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    waiting: Vec<AgentId>,
    a_look: usize,
    /// Until when (server clock) this process could not measure.
    blind_until: i64,
}

impl Rounds {
    /// The process may not act now: silence says nothing until an interval has passed again.
    pub(crate) fn blind(&mut self, now: i64) {
        self.blind_until = now;
    }

    /// Looks at the next part of the agents in shards that are held; `write` takes what is found and gives the state
    /// to go on with.
    pub(crate) fn look(
        &mut self,
        roster: &mut Roster,
        is_held: impl Fn(u16) -> bool,
        ctx: &Context<'_>,
        mut write: impl FnMut(&Agent, &Module, Outcome) -> ModuleState,
    ) {
        if self.waiting.is_empty() {
            self.waiting = roster.agents().map(|held| held.agent.id).collect();
            self.a_look = self.waiting.len() / ROUND + 1;
        }
        for _ in 0..self.a_look {
            let Some(id) = self.waiting.pop() else { return };
            let Some(held) = roster.get_mut(id) else { continue };
            if !is_held(held.shard) {
                continue;
            }
            let since = held.since.max(self.blind_until);
            for module in &mut held.modules {
                // After a takeover a module gets one interval to be heard.
                if since + i64::from(interval_of(&held.agent, &module.module)) >= ctx.now {
                    continue;
                }
                if let Some(outcome) = detect_unknown(&held.agent, &module.module, &module.state, ctx) {
                    module.state = write(&held.agent, &module.module, outcome);
                }
            }
        }
    }
}
