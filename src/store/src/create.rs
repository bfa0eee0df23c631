//! New agents and modules.

use crate::batch::{Stop, fenced, write};
use crate::bulk::{Bulk, cut};
use crate::columns::{self, MODULE_MARKS, Reader, agent_columns, bind_module, module_columns, module_insert};
use crate::error::{DUPLICATE, number};
use crate::statements::statements;
use crate::{CommitError, LoadedAgent, ServerKind, Store, StoreError, Writer};
use elpis_monitor::{
    Agent, AgentId, Counts, Event, EventType, Module, ModuleId, ModuleState, Severity, Shard, interval_of,
};
use sqlx::mysql::MySqlConnection;
use std::collections::{BTreeMap, HashSet};

statements! {
    FIND = concat!("SELECT ", agent_columns!(), " FROM tagent a WHERE a.name=?");
    INSERT = "INSERT INTO tagent (name, alias, address, id_group, `interval`, mode, disabled, quiet, ignore_unknown, \
        fixed_ip, id_os, os_version, agent_version, comments, custom_id, id_parent, timezone_offset, last_contact, \
        last_remote_contact, shard) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";
    COUNT_ROW = "INSERT INTO tagent_count (id_agent) VALUES (?) ON DUPLICATE KEY UPDATE id_agent=id_agent";
    LOCK = concat!("SELECT ", agent_columns!(), " FROM tagent a WHERE a.id_agent=? FOR UPDATE");
    ALL_MODULES = concat!("SELECT ", module_columns!(), " FROM tagent_module m WHERE m.id_agent=? AND m.delete_pending=0");
    POSITION = "UPDATE tagent SET next_position=? WHERE id_agent=?";
    CHANGE = "INSERT INTO tchange (shard, kind, id, utimestamp) VALUES (?, 1, ?, UNIX_TIMESTAMP())";
}

pub(crate) const MODULES: Bulk =
    Bulk { head: module_insert!(), row: MODULE_MARKS, tail: "", repeatable: false };

const SCHEDULE: Bulk = Bulk {
    head: "INSERT INTO trun_schedule (id_agent_module, utimestamp, interval_s) VALUES ",
    row: "(?,?,?)",
    tail: "",
    repeatable: false,
};

#[cfg(feature = "testdb")]
pub(crate) fn texts() -> Vec<String> {
    vec![MODULES.text(2), SCHEDULE.text(2)]
}

/// Characters of an agent's and of a module's name.
const AGENT_NAME: usize = 255;
const MODULE_NAME: usize = 600;

/// A new agent's or module's text in the event.
fn new_agent(agent: &Agent) -> Event {
    Event {
        agent: agent.id,
        module: ModuleId(0),
        group: agent.group,
        event_type: EventType::NewAgent,
        severity: Severity::Normal,
        text: format!("Agent '{}' was created", agent.alias),
        utimestamp: agent.last_contact,
        validated: false,
        validates_earlier: false,
        data: String::new(),
        status: elpis_monitor::Status::NotInit,
    }
}

impl Store {
    /// Creates an agent with modules, its `new_agent` event, counters, and the change that tells the other servers.
    /// By name: when it stands already, missing modules are created and what stands is returned. `a.last_contact` is
    /// the server clock. The answer holds the modules of the data server, with fresh states where they are new.
    pub async fn create_agent(
        &self,
        w: &Writer,
        a: &Agent,
        modules: &[Module],
    ) -> Result<LoadedAgent, CommitError> {
        check_names(&a.name, modules).map_err(CommitError::NotDone)?;
        let id = fenced!(self, w, "creating an agent", |c| {
            let id = insert_agent(c, a).await?;
            add_modules(c, id, modules, a.last_contact).await?;
            Ok(id)
        })?;
        let mut loaded = self.load_agents(&[id], ServerKind::Data).await.map_err(CommitError::Unknown)?;
        loaded.pop().ok_or_else(|| CommitError::Unknown(StoreError::NotFound(format!("agent {}", a.name))))
    }

    /// Creates modules of an agent; by name: one that stands is returned as it is. The answer has the order asked for,
    /// with ids and positions. New network checks are due from now on (`trun_schedule`).
    pub async fn create_modules(
        &self,
        w: &Writer,
        agent: AgentId,
        m: &[Module],
        now: i64,
    ) -> Result<Vec<Module>, CommitError> {
        check_names("x", m).map_err(CommitError::NotDone)?;
        Ok(fenced!(self, w, "creating modules", |c| add_modules(c, agent, m, now).await)?)
    }
}

fn check_names(agent: &str, modules: &[Module]) -> Result<(), StoreError> {
    let bad = |name: &str, max: usize| name.is_empty() || name.chars().count() > max;
    if bad(agent, AGENT_NAME) {
        return Err(StoreError::Invalid(format!(
            "the agent name {:?} has no or more than {AGENT_NAME} characters",
            cut(agent, 40)
        )));
    }
    match modules.iter().find(|m| bad(&m.name, MODULE_NAME)) {
        Some(m) => Err(StoreError::Invalid(format!(
            "the module name {:?} has no or more than {MODULE_NAME} characters",
            cut(&m.name, 40)
        ))),
        None => Ok(()),
    }
}

/// The agent's id; its row, counters, event and change when it is new.
pub(crate) async fn insert_agent(c: &mut MySqlConnection, a: &Agent) -> Result<AgentId, Stop> {
    if let Some(row) = sqlx::query(FIND).bind(&a.name).fetch_optional(&mut *c).await? {
        return Ok(columns::agent(&mut Reader::new(&row))?.0.id);
    }
    let short = |text: &str| cut(text, 255).to_owned();
    let shard = Shard::of_agent(&a.name).number();
    let inserted = sqlx::query(INSERT)
        .bind(&a.name)
        .bind(short(if a.alias.is_empty() { &a.name } else { &a.alias }))
        .bind(short(&a.address))
        .bind(a.group.0)
        .bind(a.interval_s)
        .bind(a.mode as u8)
        .bind(u8::from(a.disabled))
        .bind(u8::from(a.quiet))
        .bind(u8::from(a.ignore_unknown))
        .bind(u8::from(a.fixed_ip))
        .bind(a.os)
        .bind(short(&a.os_version))
        .bind(short(&a.agent_version))
        .bind(cut(&a.comments, 16_000).to_owned())
        .bind(short(&a.custom_id))
        .bind(a.parent.0)
        .bind(a.timezone_offset_h)
        .bind(a.last_contact)
        .bind(a.last_remote_contact)
        .bind(shard)
        .execute(&mut *c)
        .await;
    let new = match inserted {
        // Somebody else was first, and has committed.
        Err(error) if number(&error) == Some(DUPLICATE) => false,
        other => other.map(|_| true)?,
    };
    let row = sqlx::query(FIND).bind(&a.name).fetch_one(&mut *c).await?;
    let (stands, _) = columns::agent(&mut Reader::new(&row))?;
    if new {
        sqlx::query(COUNT_ROW).bind(stands.id.0).execute(&mut *c).await?;
        sqlx::query(CHANGE).bind(shard).bind(stands.id.0).execute(&mut *c).await?;
        write::events(c, &[new_agent(&stands)]).await?;
    }
    Ok(stands.id)
}

/// Inserts what is missing. Locks the agent's counters, then its row: the order of every writer.
pub(crate) async fn add_modules(
    c: &mut MySqlConnection,
    id: AgentId,
    modules: &[Module],
    now: i64,
) -> Result<Vec<Module>, Stop> {
    if modules.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query(COUNT_ROW).bind(id.0).execute(&mut *c).await?;
    let row = sqlx::query(LOCK).bind(id.0).fetch_optional(&mut *c).await?;
    let row = row.ok_or_else(|| StoreError::NotFound(format!("agent {id}")))?;
    let (agent, mut position) = columns::agent(&mut Reader::new(&row))?;
    let stands = by_name(c, id).await?;
    let mut names = HashSet::new();
    let mut new = Vec::new();
    for module in modules.iter().filter(|m| !stands.contains_key(&m.name) && names.insert(m.name.clone())) {
        new.push(Module { agent: id, position, ..module.clone() });
        position = position.checked_add(1).ok_or_else(|| {
            StoreError::Invalid(format!("agent {} has had 65,535 modules; no more fit", agent.name))
        })?;
    }
    if !new.is_empty() {
        sqlx::query(POSITION).bind(position).bind(id.0).execute(&mut *c).await?;
        MODULES.run(c, &new, module_bytes, bind_module).await?;
    }
    let all = by_name(c, id).await?;
    let new: Vec<&Module> = new.iter().filter_map(|m| all.get(&m.name)).collect();
    if !new.is_empty() {
        introduce(c, &agent, &new, now).await?;
    }
    modules
        .iter()
        .map(|m| all.get(&m.name).cloned())
        .collect::<Option<Vec<Module>>>()
        .ok_or_else(|| StoreError::NotFound(format!("modules of agent {id} just created")).into())
}

/// States, counters, schedule and change of new modules.
async fn introduce(c: &mut MySqlConnection, agent: &Agent, new: &[&Module], now: i64) -> Result<(), Stop> {
    let mut states: Vec<_> = new.iter().map(|m| (m.id, agent.id, ModuleState::new(m))).collect();
    states.sort_by_key(|s| s.0);
    write::states(c, &states.iter().collect::<Vec<_>>()).await?;
    let mut counts = Counts::default();
    for module in new.iter().filter(|m| !m.disabled) {
        counts.add(ModuleState::new(module).status, 1);
    }
    write::counts(c, &[(agent.id, counts)]).await?;
    let checks: Vec<_> =
        new.iter().filter(|m| m.module_type.is_network()).map(|m| (m.id, now, runs_each(agent, m))).collect();
    schedule(c, &checks).await?;
    sqlx::query(CHANGE).bind(agent.shard().number()).bind(agent.id.0).execute(&mut *c).await?;
    Ok(())
}

/// Says from when on checks run, and how often (seconds; 0 = not).
pub(crate) async fn schedule(
    c: &mut MySqlConnection,
    rows: &[(ModuleId, i64, u32)],
) -> Result<(), sqlx::Error> {
    SCHEDULE
        .run(
            c,
            rows,
            |_| 24,
            |q, (module, from, interval)| {
                q.add(module.0);
                q.add(*from);
                q.add(*interval);
            },
        )
        .await
}

/// Seconds between the slots of a check as the ledger expects them; 0 = it does not run on the grid.
pub(crate) fn runs_each(agent: &Agent, module: &Module) -> u32 {
    let stands = agent.disabled || module.disabled || !module.cron.is_empty();
    if stands { 0 } else { interval_of(agent, module) }
}

async fn by_name(c: &mut MySqlConnection, id: AgentId) -> Result<BTreeMap<String, Module>, Stop> {
    let mut all = BTreeMap::new();
    for row in sqlx::query(ALL_MODULES).bind(id.0).fetch_all(&mut *c).await? {
        let module = columns::module(&mut Reader::new(&row))?;
        all.insert(module.name.clone(), module);
    }
    Ok(all)
}

fn module_bytes(m: &Module) -> usize {
    let texts = [&m.description, &m.extended_info, &m.critical_instructions, &m.warning_instructions];
    texts.iter().map(|t| t.len()).sum::<usize>() + m.unknown_instructions.len() + m.name.len() + 1000
}
