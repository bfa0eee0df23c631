//! Whose values a report carries: agents and modules found, or made by the rules of learning.

use super::facts::{Facts, module_of, readings};
use super::lane::Lane;
use elpis_agentxml::AgentReport;
use elpis_monitor::{AgentId, AgentMode, GroupId, Module, ModuleId, ModuleType, Reading};
use elpis_store::{AgentSeen, CommitError};
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;
use tokio::time::sleep;

/// `tgroup` row of agents whose file names no group that exists.
const UNKNOWN_GROUP: GroupId = GroupId(10);
const AGAIN: Duration = Duration::from_millis(100);

/// A report with its values assigned to modules.
pub(super) struct Resolved {
    pub(super) agent: AgentId,
    pub(super) values: Vec<(ModuleId, Reading)>,
    pub(super) learn: AgentSeen,
}

impl Lane {
    /// Finds or makes the agent and its modules. `None` = the file says nothing that may be used.
    pub(super) async fn resolve(
        &mut self,
        facts: &Facts,
        report: &AgentReport,
        zone: &TimeZone,
    ) -> Result<Option<Resolved>, CommitError> {
        let now = self.base.link.cluster_now_ms().div_euclid(1000);
        let id = match self.names.get(&facts.name) {
            Some(id) => *id,
            None => self.create(facts, report, now).await?,
        };
        let Some(agent) = self.roster.get_mut(id).map(|held| &mut held.agent) else { return Ok(None) };
        let mut learn = AgentSeen {
            agent: id,
            last_contact: now,
            last_remote_contact: facts.time,
            ..AgentSeen::default()
        };
        match (agent.disabled, agent.mode) {
            (true, AgentMode::AutoDisable) => {
                agent.disabled = false;
                learn.disabled = Some(false);
            }
            (true, _) => return Ok(None),
            (false, _) => {}
        }
        agent.last_contact = now;
        agent.last_remote_contact = facts.time;
        let learning = agent.mode != AgentMode::Normal;
        if learning {
            learn_header(agent, facts, &mut learn);
            let interval_s = agent.interval_s;
            self.create_missing(id, interval_s, report, now).await?;
        }
        let Some(held) = self.roster.get(id) else { return Ok(None) };
        let by_name: HashMap<&str, &Module> =
            held.modules.iter().map(|held| (held.module.name.as_str(), &*held.module)).collect();
        let mut values = Vec::new();
        for module in &report.modules {
            let Some(stands) = by_name.get(module.name.as_str()).filter(|module| !module.disabled) else {
                continue;
            };
            values.extend(readings(module, facts, zone).into_iter().map(|reading| (stands.id, reading)));
        }
        let alive = held.modules.iter().filter(|held| held.module.module_type == ModuleType::KEEP_ALIVE);
        for held in alive.filter(|held| !held.module.disabled) {
            let reading = Reading { time: facts.time, raw: "1".to_owned(), given_status: None };
            values.push((held.module.id, reading));
        }
        Ok(Some(Resolved { agent: id, values, learn }))
    }

    async fn create(
        &mut self,
        facts: &Facts,
        report: &AgentReport,
        now: i64,
    ) -> Result<AgentId, CommitError> {
        let mut agent = facts.agent.clone();
        agent.group = self.group_of(facts).await;
        agent.last_contact = now;
        agent.last_remote_contact = facts.time;
        let modules = described(report, agent.interval_s, |_| true);
        let loaded = loop {
            match self.base.store.create_agent(&self.writer, &agent, &modules).await {
                Err(error) if self.wait_out(&error) => sleep(AGAIN).await,
                other => break other?,
            }
        };
        self.base.health.ok("create");
        let id = loaded.agent.id;
        self.take_agent(loaded);
        Ok(id)
    }

    /// The file's group, if it exists and the file knows its password; else the one for strangers.
    async fn group_of(&self, facts: &Facts) -> GroupId {
        if facts.group.is_empty() {
            return UNKNOWN_GROUP;
        }
        let groups = loop {
            match self.base.store.groups().await {
                Ok(groups) => break groups,
                Err(error) => self.base.health.failed("create", &error),
            }
            sleep(AGAIN).await;
        };
        let open = |password: &str| password.is_empty() || password == facts.group_password;
        let found = groups.iter().find(|group| group.name == facts.group && open(group.password.expose()));
        found.map_or(UNKNOWN_GROUP, |group| group.id)
    }

    async fn create_missing(
        &mut self,
        id: AgentId,
        interval_s: u32,
        report: &AgentReport,
        now: i64,
    ) -> Result<(), CommitError> {
        let Some(held) = self.roster.get(id) else { return Ok(()) };
        let names: HashSet<&str> = held.modules.iter().map(|held| held.module.name.as_str()).collect();
        let missing = described(report, interval_s, |name| !names.contains(name));
        if missing.is_empty() {
            return Ok(());
        }
        let made = loop {
            match self.base.store.create_modules(&self.writer, id, &missing, now).await {
                Err(error) if self.wait_out(&error) => sleep(AGAIN).await,
                other => break other?,
            }
        };
        self.base.health.ok("create");
        if let Some(held) = self.roster.get(id) {
            let mut agent = elpis_store::LoadedAgent {
                agent: held.agent.clone(),
                modules: held
                    .modules
                    .iter()
                    .map(|held| ((*held.module).clone(), held.state.clone()))
                    .collect(),
                seen: held.seen.clone(),
                next_position: held.next_position,
            };
            // A name may belong to a network check: that one is not ours to feed.
            let ours = made.into_iter().filter(|module| !module.module_type.is_network());
            agent.modules.extend(ours.map(|module| {
                let state = elpis_monitor::ModuleState::new(&module);
                (module, state)
            }));
            self.take_agent(agent);
        }
        Ok(())
    }

    /// Nothing was written, or it is not known: worth another try in this session.
    fn wait_out(&self, error: &CommitError) -> bool {
        match error {
            CommitError::Fenced => false,
            CommitError::NotDone(why) if why.is_for_good() => false,
            CommitError::NoLease => true,
            CommitError::Unknown(why) | CommitError::NotDone(why) => {
                self.base.health.failed("create", why);
                true
            }
        }
    }
}

/// Header values that an agent in learning mode takes over.
fn learn_header(agent: &mut elpis_monitor::Agent, facts: &Facts, learn: &mut AgentSeen) {
    let new = &facts.agent;
    let differs = |old: &str, new: &str| !new.is_empty() && old != new;
    if differs(&agent.address, &new.address) && !agent.fixed_ip {
        agent.address.clone_from(&new.address);
        learn.address = Some(new.address.clone());
    }
    if differs(&agent.os_version, &new.os_version) {
        agent.os_version.clone_from(&new.os_version);
        learn.os_version = Some(new.os_version.clone());
    }
    if differs(&agent.agent_version, &new.agent_version) {
        agent.agent_version.clone_from(&new.agent_version);
        learn.agent_version = Some(new.agent_version.clone());
    }
    if let Some(interval_s) = facts.interval_s.filter(|interval| *interval != agent.interval_s) {
        agent.interval_s = interval_s;
        learn.interval_s = Some(interval_s);
    }
    if agent.timezone_offset_h != facts.offset_h {
        agent.timezone_offset_h = facts.offset_h;
        learn.timezone_offset_h = Some(facts.offset_h);
    }
}

/// Modules of a file that are wanted, by name, each once; unknown types and network types are left out.
fn described(report: &AgentReport, interval_s: u32, wanted: impl Fn(&str) -> bool) -> Vec<Module> {
    let mut modules: BTreeMap<&str, usize> = BTreeMap::new();
    let mut found = Vec::new();
    for module in report.modules.iter().filter(|module| wanted(&module.name)) {
        match module_of(module, interval_s).filter(|module| !module.module_type.is_network()) {
            Some(described) if modules.insert(&module.name, found.len()).is_none() => found.push(described),
            Some(_) => {}
            None => tracing::info!(module = %module.name, "not created: its type cannot be fed by files"),
        }
    }
    found
}
