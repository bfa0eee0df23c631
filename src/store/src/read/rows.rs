//! Rows as readers see them.

use super::*;
use crate::ServerKind;
use sqlx::mysql::{MySqlConnection, MySqlRow};

/// Which agents.
#[derive(Clone, Debug)]
pub struct AgentFilter {
    /// Part of name, alias or address; empty = all.
    pub search: String,
    /// Of this group.
    pub group: Option<GroupId>,
    /// At most so many.
    pub limit: u32,
    /// After so many.
    pub offset: u32,
}

impl Default for AgentFilter {
    fn default() -> AgentFilter {
        AgentFilter { search: String::new(), group: None, limit: MOST, offset: 0 }
    }
}

/// An agent as shown.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentRow {
    /// The agent.
    pub agent: Agent,
    /// Name of its group.
    pub group: String,
    /// Enabled modules by state.
    pub counts: Counts,
    /// What it shows.
    pub shown: Shown,
}

/// Which modules.
#[derive(Clone, Debug)]
pub struct ModuleFilter {
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// Run by this kind of server.
    pub kind: Option<ServerKind>,
    /// At most so many.
    pub limit: u32,
    /// After so many.
    pub offset: u32,
}

impl Default for ModuleFilter {
    fn default() -> ModuleFilter {
        ModuleFilter { agent: None, kind: None, limit: MOST, offset: 0 }
    }
}

/// A module as shown.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleRow {
    /// Settings.
    pub module: Module,
    /// State right after the last sample.
    pub state: ModuleState,
    /// Name of its agent.
    pub agent: String,
    /// Name of its agent as shown.
    pub agent_alias: String,
    /// Node whose server ran it last; empty = none yet.
    pub running_by: String,
}

/// Which events.
#[derive(Clone, Debug, Default)]
pub struct EventFilter {
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// Of this module.
    pub module: Option<ModuleId>,
    /// Older than this event (the last one of the page before).
    pub before: Option<u64>,
    /// At most so many; 0 = 100.
    pub limit: u32,
}

/// An event as shown.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[allow(missing_docs)] // as in `elpis_monitor::Event`
pub struct EventRow {
    pub id: u64,
    pub agent: AgentId,
    pub module: ModuleId,
    /// Empty when the agent is gone, or there is none.
    pub agent_alias: String,
    /// Empty when the module is gone, or there is none.
    pub module_name: String,
    pub group: GroupId,
    pub event_type: String,
    pub severity: u8,
    /// 0 new, 1 validated, 2 in process.
    pub status: u8,
    pub utimestamp: i64,
    pub ack_utimestamp: i64,
    pub text: String,
    pub data: String,
    /// State of the module.
    pub module_status: Status,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Id.
    pub id: GroupId,
    /// Name.
    pub name: String,
    /// 0 = none.
    pub parent: GroupId,
    /// What a new agent has to know; empty = nothing.
    pub password: Secret,
    /// No alerts.
    pub disabled: bool,
}

/// A group as shown.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupRow {
    /// Id.
    pub id: GroupId,
    /// Name.
    pub name: String,
    /// Number of its agents.
    pub agents: u32,
    /// Their modules.
    pub counts: Counts,
    /// The worst of its agents.
    pub shown: Shown,
}

/// All at one look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// Number of agents by what they show.
    pub agents: BTreeMap<Shown, u32>,
    /// All modules by state.
    pub modules: Counts,
    /// Groups with agents, worst first.
    pub groups: Vec<GroupRow>,
    /// Modules that are critical, in warning or unknown, in this order, latest change first.
    pub problems: Vec<ModuleRow>,
}

/// Stored samples of a module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// The last one before the span, of any age.
    pub before: Option<(i64, Value)>,
    /// Those in the span, ascending.
    pub rows: Vec<(i64, Value)>,
    /// The first one at or after the end.
    pub after: Option<(i64, Value)>,
    /// There were more than asked for; the latest ones are missing.
    pub cut: bool,
}

fn counts(r: &mut Reader<'_>) -> Result<Counts, sqlx::Error> {
    let mut next = || r.take::<i64>();
    Ok(Counts {
        normal: next()?,
        critical: next()?,
        warning: next()?,
        unknown: next()?,
        not_init: next()?,
        fired: next()?,
    })
}

pub(super) fn agent(row: &MySqlRow, now: i64) -> Result<AgentRow, StoreError> {
    let mut r = Reader::new(row);
    let (agent, _) = columns::agent(&mut r)?;
    let group = r.take()?;
    let counts = counts(&mut r)?;
    let synchronous: bool = r.take::<i64>()? != 0;
    let shown = Shown::of_agent(&counts, &agent, synchronous, now);
    Ok(AgentRow { agent, group, counts, shown })
}

pub(super) fn roll_up(row: &MySqlRow, now: i64) -> Result<(GroupId, Counts, Shown), StoreError> {
    let mut r = Reader::new(row);
    let mut agent = Agent { id: AgentId(r.take()?), ..Agent::default() };
    agent.group = GroupId(r.take()?);
    agent.interval_s = r.take()?;
    agent.last_contact = r.take()?;
    agent.disabled = r.flag()?;
    let counts = counts(&mut r)?;
    let synchronous: bool = r.take::<i64>()? != 0;
    Ok((agent.group, counts, Shown::of_agent(&counts, &agent, synchronous, now)))
}

pub(super) fn module(row: &MySqlRow) -> Result<ModuleRow, StoreError> {
    let mut r = Reader::new(row);
    let module = columns::module(&mut r)?;
    let seen = (r.take::<Option<i64>>()?.unwrap_or(0), r.take::<Option<i64>>()?.unwrap_or(0));
    let (running_by, agent, agent_alias) = (r.take()?, r.take()?, r.take()?);
    let state = columns::state(&mut r, &module, seen)?;
    Ok(ModuleRow { module, state, agent, agent_alias, running_by })
}

pub(super) fn sample(row: &MySqlRow, text: bool) -> Result<(i64, Value), StoreError> {
    let mut r = Reader::new(row);
    let time = r.take()?;
    Ok((time, if text { Value::Text(r.take()?) } else { Value::Number(r.take()?) }))
}

/// Each filter has a text of its own, so that each finds its key.
const EVENT_TAILS: [&str; 3] = [
    "WHERE e.id_event<? ORDER BY e.id_event DESC LIMIT ?",
    "WHERE e.id_agent=? AND e.id_event<? ORDER BY e.id_event DESC LIMIT ?",
    "WHERE e.id_agent_module=? AND e.id_event<? ORDER BY e.id_event DESC LIMIT ?",
];

/// Texts that are put together here.
#[cfg(feature = "testdb")]
pub(crate) fn texts() -> Vec<String> {
    EVENT_TAILS.iter().map(|tail| format!("{EVENTS}{tail}")).collect()
}

pub(super) async fn events(c: &mut MySqlConnection, f: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
    let (tail, key) = match (f.module, f.agent) {
        (Some(module), _) => (EVENT_TAILS[2], Some(module.0)),
        (None, Some(agent)) => (EVENT_TAILS[1], Some(agent.0)),
        (None, None) => (EVENT_TAILS[0], None),
    };
    let mut query = sqlx::query(sqlx::AssertSqlSafe(format!("{EVENTS}{tail}")));
    if let Some(key) = key {
        query = query.bind(key);
    }
    let limit = if f.limit == 0 { 100 } else { f.limit.min(10_000) };
    let rows = query.bind(f.before.unwrap_or(u64::MAX)).bind(limit).fetch_all(&mut *c).await?;
    rows.iter().map(event).collect()
}

fn event(row: &MySqlRow) -> Result<EventRow, StoreError> {
    let mut r = Reader::new(row);
    Ok(EventRow {
        id: r.take()?,
        agent: AgentId(r.take()?),
        module: ModuleId(r.take()?),
        agent_alias: r.take()?,
        module_name: r.take()?,
        group: GroupId(r.take()?),
        event_type: r.take()?,
        severity: r.take()?,
        status: r.take()?,
        utimestamp: r.take()?,
        ack_utimestamp: r.take()?,
        text: r.take()?,
        data: r.take()?,
        module_status: r.status()?,
    })
}
