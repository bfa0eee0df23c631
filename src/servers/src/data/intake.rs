//! What a lane takes in from its readers: shards, changed agents.

use super::lane::Lane;
use crate::reader::Read;
use elpis_monitor::AgentId;
use elpis_store::LoadedAgent;
use std::collections::BTreeSet;

impl Lane {
    pub(super) fn take_read(&mut self, read: Read) {
        match read {
            Read::Shards { shards, agents } => {
                self.shards_came = true;
                let mut taken = BTreeSet::new();
                for (shard, epoch) in shards {
                    if self.shards.loaded(shard, epoch) {
                        taken.insert(shard);
                    }
                }
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
            }
            Read::Agents { asked, agents } => {
                let there: BTreeSet<AgentId> = agents.iter().map(|agent| agent.agent.id).collect();
                for agent in agents {
                    if self.shards.is_held(agent.agent.shard().number()) {
                        self.take_agent(agent);
                    }
                }
                for gone in asked.into_iter().filter(|id| !there.contains(id)) {
                    if let Some(held) = self.roster.get(gone) {
                        self.names.remove(&held.agent.name);
                    }
                    self.roster.remove(gone);
                }
            }
            Read::Changed(agents) => {
                let mut held = Vec::new();
                for (shard, agent) in agents {
                    if self.shards.is_held(shard) {
                        held.push(agent);
                    } else if self.shards.is_loading_shard(shard) {
                        self.changed.entry(shard).or_default().insert(agent);
                    }
                }
                if !held.is_empty() {
                    self.reader.agents(held);
                }
            }
            Read::Settings(settings) => self.settings = *settings,
        }
    }

    pub(super) fn take_agent(&mut self, loaded: LoadedAgent) {
        self.names.insert(loaded.agent.name.clone(), loaded.agent.id);
        self.roster.put(loaded, self.base.link.cluster_now_ms().div_euclid(1000));
    }
}
