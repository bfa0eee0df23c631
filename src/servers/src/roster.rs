//! Agents and modules of the shards that are held, with the state their next sample needs. Pure.

use elpis_monitor::{Agent, AgentId, Module, ModuleId, ModuleState};
use elpis_store::{LoadedAgent, Seen};
use std::collections::HashMap;
use std::sync::Arc;

/// A module and its state.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) module: Arc<Module>,
    pub(crate) state: ModuleState,
}

/// An agent and its modules.
#[derive(Clone, Debug)]
pub(crate) struct HeldAgent {
    pub(crate) agent: Agent,
    pub(crate) shard: u16,
    /// Sorted by module id.
    pub(crate) modules: Vec<Held>,
    pub(crate) seen: Seen,
    pub(crate) next_position: u16,
    /// Since when (server clock, Unix seconds) this process looks after it.
    pub(crate) since: i64,
}

impl HeldAgent {
    pub(crate) fn new(loaded: LoadedAgent, since: i64) -> HeldAgent {
        let LoadedAgent { agent, modules, seen, next_position } = loaded;
        let mut modules: Vec<Held> =
            modules.into_iter().map(|(module, state)| Held { module: Arc::new(module), state }).collect();
        modules.sort_unstable_by_key(|held| held.module.id);
        modules.shrink_to_fit();
        HeldAgent { shard: agent.shard().number(), agent, modules, seen, next_position, since }
    }

    pub(crate) fn position(&self, module: ModuleId) -> Option<usize> {
        self.modules.binary_search_by_key(&module, |held| held.module.id).ok()
    }
}

/// What a fresh reading of an agent's settings changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// Modules that are there now, new or old.
    pub(crate) present: Vec<ModuleId>,
    /// Modules that are gone.
    pub(crate) gone: Vec<ModuleId>,
}

/// All agents held.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    agents: HashMap<AgentId, Box<HeldAgent>>,
    by_module: HashMap<ModuleId, AgentId>,
    by_shard: HashMap<u16, Vec<AgentId>>,
}

impl Roster {
    pub(crate) fn get(&self, agent: AgentId) -> Option<&HeldAgent> {
        self.agents.get(&agent).map(|held| &**held)
    }

    pub(crate) fn get_mut(&mut self, agent: AgentId) -> Option<&mut HeldAgent> {
        self.agents.get_mut(&agent).map(|held| &mut **held)
    }

    pub(crate) fn agent_of(&self, module: ModuleId) -> Option<AgentId> {
        self.by_module.get(&module).copied()
    }

    pub(crate) fn shard_agents(&self, shard: u16) -> &[AgentId] {
        self.by_shard.get(&shard).map_or(&[], |agents| agents)
    }

    /// All agents, in no order.
    pub(crate) fn agents(&self) -> impl Iterator<Item = &HeldAgent> {
        self.agents.values().map(|held| &**held)
    }

    /// Takes in an agent as read from the database. Settings are replaced; the state of a module that is held already
    /// stays: memory is ahead of the database.
    pub(crate) fn put(&mut self, loaded: LoadedAgent, since: i64) -> Renewed {
        let mut fresh = HeldAgent::new(loaded, since);
        let id = fresh.agent.id;
        let mut renewed = Renewed::default();
        if let Some(held) = self.agents.remove(&id) {
            fresh.since = held.since;
            fresh.next_position = fresh.next_position.max(held.next_position);
            fresh.seen = held.seen;
            for old in held.modules {
                match fresh.position(old.module.id).and_then(|at| fresh.modules.get_mut(at)) {
                    Some(new) => new.state = old.state,
                    None => {
                        self.by_module.remove(&old.module.id);
                        renewed.gone.push(old.module.id);
                    }
                }
            }
        } else {
            self.by_shard.entry(fresh.shard).or_default().push(id);
        }
        for held in &fresh.modules {
            self.by_module.insert(held.module.id, id);
            renewed.present.push(held.module.id);
        }
        self.agents.insert(id, Box::new(fresh));
        renewed
    }

    /// Forgets an agent; gives back its modules.
    pub(crate) fn remove(&mut self, agent: AgentId) -> Vec<ModuleId> {
        let Some(held) = self.agents.remove(&agent) else { return Vec::new() };
        if let Some(ids) = self.by_shard.get_mut(&held.shard) {
            ids.retain(|id| *id != agent);
        }
        let modules: Vec<ModuleId> = held.modules.iter().map(|held| held.module.id).collect();
        for module in &modules {
            self.by_module.remove(module);
        }
        modules
    }

    /// Forgets a shard.
    pub(crate) fn remove_shard(&mut self, shard: u16) {
        for agent in self.by_shard.remove(&shard).unwrap_or_default() {
            self.remove(agent);
        }
    }
}
