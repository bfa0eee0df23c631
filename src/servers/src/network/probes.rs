//! Probes of the main loop: begun when due, taken in when over.

use super::engine::Engine;
use super::planner::Due;
use elpis_monitor::{Context, Reading, process, process_error};
use elpis_store::AgentSeen;

/// Probes begun in one round, results taken in one round.
pub(super) const PER_ROUND: usize = 1000;

/// Longest step in which an agent's own row learns of contacts.
const CONTACT_STEP_S: i64 = 30;

/// A probe that is over.
#[derive(Debug)]
pub(super) struct Probed {
    pub(super) due: Due,
    pub(super) shard: u16,
    pub(super) epoch: u64,
    pub(super) outcome: elpis_probe::Outcome,
}

impl Engine {
    pub(super) fn dispatch(&mut self) {
        let mut begun = 0;
        while begun < PER_ROUND && self.may_begin() {
            let now_ms = self.base.link.cluster_now_ms();
            let Some(due) = self.planner.pop(now_ms) else { return };
            if !self.begin(due) {
                self.planner.remove(due.module);
            }
            begun += 1;
        }
    }

    fn begin(&mut self, due: Due) -> bool {
        let agent = self.roster.agent_of(due.module).and_then(|agent| self.roster.get(agent));
        let Some(agent) = agent else { return false };
        let Some(epoch) = self.shards.epoch(agent.shard) else { return false };
        let Some(held) = agent.position(due.module).and_then(|at| agent.modules.get(at)) else {
            return false;
        };
        let module = held.module.clone();
        let Some(check) = &module.check else { return false };
        let target = match check.target.trim() {
            "" | "auto" => agent.agent.address.clone(),
            own => own.to_owned(),
        };
        let shard = agent.shard;
        self.running += 1;
        *self.running_of.entry(shard).or_default() += 1;
        let (prober, out) = (self.prober.clone(), self.probed_in.clone());
        self.probes.spawn(self.session.clone().run_until_cancelled_owned(async move {
            let Some(check) = &module.check else { return };
            let found = prober.run(check, module.module_type, &target).await;
            let _ = out.send(Probed { due, shard, epoch, outcome: found.outcome }).await;
        }));
        true
    }

    pub(super) fn take_result(&mut self, probed: Probed) {
        let Probed { due, shard, epoch, outcome } = probed;
        self.running = self.running.saturating_sub(1);
        if let Some(running) = self.running_of.get_mut(&shard) {
            *running -= 1;
            if *running == 0 {
                self.running_of.remove(&shard);
            }
        }
        let now_ms = self.base.link.cluster_now_ms();
        self.planner.finished(due, outcome != elpis_probe::Outcome::Withdrawn, now_ms);
        if self.takes(shard, epoch) {
            self.record(due, outcome, now_ms.div_euclid(1000));
        }
    }

    fn record(&mut self, due: Due, found: elpis_probe::Outcome, now: i64) -> Option<()> {
        let id = self.roster.agent_of(due.module)?;
        let agent = self.roster.get_mut(id)?;
        let at = agent.position(due.module)?;
        let held = agent.modules.get_mut(at)?;
        if held.module.disabled || agent.agent.disabled {
            return None;
        }
        let settings = &self.settings;
        let ctx = Context { now, local_offset_s: self.offset_s, mute: false, settings };
        let answered = matches!(found, elpis_probe::Outcome::Data(_));
        let outcome = match found {
            elpis_probe::Outcome::Data(raw) => {
                let reading = Reading { time: due.slot, raw, given_status: None };
                process(&agent.agent, &held.module, &held.state, &reading, &ctx)
            }
            elpis_probe::Outcome::Error(reason) => {
                process_error(&agent.agent, &held.module, &held.state, due.slot, &reason, &ctx)
            }
            elpis_probe::Outcome::Withdrawn => return None,
        };
        if outcome.duplicate {
            return None;
        }
        let pack = self.lanes.pack(id);
        held.state = pack.add(&agent.agent, &held.module, outcome);
        pack.executed(due.module, due.slot, due.forced);
        pack.touch(id);
        agent.seen.record(held.module.position, true, &held.state);
        // A contact row says each contact; the agent's own row follows in steps, so that it is not written a thousand
        // times a second.
        let step = i64::from(agent.agent.interval_s / 2).clamp(1, CONTACT_STEP_S);
        if answered && now - agent.agent.last_contact >= step {
            agent.agent.last_contact = now;
            pack.learn(AgentSeen {
                agent: id,
                last_contact: now,
                last_remote_contact: now,
                ..AgentSeen::default()
            });
        }
        if due.forced {
            self.lanes.forced(due.module);
        }
        Some(())
    }
}
