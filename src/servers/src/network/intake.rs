//! What the main loop takes in from its readers: shards, changed agents.

use super::engine::{Engine, LOAD_SOON};
use crate::reader::Read;
use elpis_monitor::{AgentId, interval_of};
use elpis_store::LoadedAgent;
use std::collections::BTreeSet;
use tokio::time::Instant;

impl Engine {
    pub(super) fn take_read(&mut self, read: Read) {
        match read {
            Read::Shards { shards, agents } => {
                let taken: BTreeSet<u16> = shards
                    .into_iter()
                    .filter(|(shard, epoch)| self.shards.loaded(*shard, *epoch))
                    .map(|(shard, _)| shard)
                    .collect();
                for agent in agents {
                    if taken.contains(&agent.agent.shard().number()) {
                        self.take_agent(agent);
                    }
                }
                let again: Vec<AgentId> =
                    taken.iter().filter_map(|shard| self.changed.remove(shard)).flatten().collect();
                if !again.is_empty() {
                    self.reader.agents(again);
                }
                self.note_revision();
                self.next_load = self.next_load.min(Instant::now() + LOAD_SOON);
                tracing::info!(shards = taken.len(), checks = self.planner.len(), "shards loaded");
            }
            Read::Agents { asked, agents } => {
                let there: BTreeSet<AgentId> = agents.iter().map(|agent| agent.agent.id).collect();
                for agent in agents {
                    if self.shards.is_held(agent.agent.shard().number()) {
                        self.take_agent(agent);
                    }
                }
                for gone in asked.into_iter().filter(|id| !there.contains(id)) {
                    for module in self.roster.remove(gone) {
                        self.planner.remove(module);
                    }
                }
            }
            Read::Changed(agents) => {
                let (held, other): (Vec<_>, Vec<_>) =
                    agents.into_iter().partition(|(shard, _)| self.shards.is_held(*shard));
                for (shard, agent) in other {
                    if self.shards.is_loading_shard(shard) {
                        self.changed.entry(shard).or_default().insert(agent);
                    }
                }
                if !held.is_empty() {
                    self.reader.agents(held.into_iter().map(|(_, agent)| agent).collect());
                }
            }
            Read::Settings(settings) => self.settings = *settings,
        }
    }

    fn take_agent(&mut self, mut loaded: LoadedAgent) {
        let now_ms = self.base.link.cluster_now_ms();
        for (module, _) in &mut loaded.modules {
            // Only people read these: a hundred thousand modules stay small.
            for text in [
                &mut module.description,
                &mut module.extended_info,
                &mut module.custom_id,
                &mut module.critical_instructions,
                &mut module.warning_instructions,
                &mut module.unknown_instructions,
            ] {
                *text = String::new();
            }
        }
        let id = loaded.agent.id;
        let renewed = self.roster.put(loaded, now_ms.div_euclid(1000));
        for module in renewed.gone {
            self.planner.remove(module);
        }
        let Some(agent) = self.roster.get(id) else { return };
        for held in &agent.modules {
            let module = &held.module;
            let check = module.check.as_ref().filter(|_| module.module_type.is_network());
            let Some(check) = check.filter(|_| !module.disabled && !agent.agent.disabled) else {
                self.planner.remove(module.id);
                continue;
            };
            let forced = check.forced && !self.lanes.is_clearing(module.id);
            let interval = interval_of(&agent.agent, module);
            self.planner.set(module.id, interval, held.state.last_slot, forced, now_ms);
        }
    }
}
