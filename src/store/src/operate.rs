//! An operator's changes. Each tells the servers in its own transaction (`tchange`), and the ledger what is due
//! (`trun_schedule`).

use crate::batch::{Stop, fenced, write};
use crate::columns::{self, Reader};
use crate::create::{CHANGE, COUNT_ROW, LOCK, add_modules, insert_agent, schedule};
use crate::statements::statements;
use crate::{CommitError, Store, StoreError, Writer};
use elpis_monitor::{Agent, AgentId, Counts, GroupId, Module, ModuleId, Status};
use sqlx::mysql::MySqlConnection;
use std::collections::BTreeMap;

/// Checks of one transaction.
const CHECKS: usize = 500;

/// A check to add.
#[derive(Clone, Debug)]
pub struct NewCheck {
    /// Name of the agent, made if it is missing; `None` = the agent named after the check's target.
    pub agent: Option<String>,
    /// The module: name, network type, `check`; agent, id and position are given by the store.
    pub module: Module,
}

statements! {
    MODULE_STATE = "SELECT status FROM tmodule_state WHERE id_agent_module=? FOR UPDATE";
    AGENT_STATES = "SELECT id_agent_module FROM tmodule_state WHERE id_agent=? ORDER BY id_agent_module FOR UPDATE";
    MODULE_AGENT = "SELECT id_agent, disabled, id_module FROM tagent_module WHERE id_agent_module=? AND delete_pending=0";
    AGENT_CHECKS = "SELECT id_agent_module FROM tagent_module WHERE id_agent=? AND id_module=2 AND delete_pending=0 \
        ORDER BY id_agent_module";
    DOUBT = "UPDATE tagent SET update_module_count=? WHERE id_agent=?";
    PENDING = "UPDATE tagent_module SET delete_pending=1, disabled=1, name=CONCAT('deleted ', id_agent_module) \
        WHERE id_agent_module=? AND delete_pending=0";
    ALL_PENDING = "UPDATE tagent_module SET delete_pending=1, disabled=1, name=CONCAT('deleted ', id_agent_module) \
        WHERE id_agent=? AND delete_pending=0";
    DROP_STATE = "DELETE FROM tmodule_state WHERE id_agent_module=?";
    DROP_STATES = "DELETE FROM tmodule_state WHERE id_agent=?";
    DROP_CONTACTS = "DELETE FROM tagent_contact WHERE id_agent=?";
    DROP_COUNTS = "DELETE FROM tagent_count WHERE id_agent=?";
    DROP_AGENT = "DELETE FROM tagent WHERE id_agent=?";
    FORCE = "UPDATE tagent_module SET flag=1 WHERE id_agent_module=? AND delete_pending=0";
}

impl Store {
    /// Adds a check; one of that name in that agent is returned as it stands. `now` is the server clock.
    pub async fn add_check(&self, w: &Writer, check: &NewCheck, now: i64) -> Result<Module, CommitError> {
        let mut added = self.add_checks(w, std::slice::from_ref(check), now).await?;
        added.pop().ok_or_else(|| CommitError::NotDone(StoreError::Invalid("no check was given".to_owned())))
    }

    /// Adds many, a few hundred in one transaction; the answer has the order asked for. After an error the ones of
    /// finished transactions stand: adding all again is harmless.
    pub async fn add_checks(
        &self,
        w: &Writer,
        checks: &[NewCheck],
        now: i64,
    ) -> Result<Vec<Module>, CommitError> {
        for check in checks {
            let target = check.module.check.as_ref().map_or("", |c| c.target.as_str());
            let name = check.agent.as_deref().unwrap_or(target);
            if !check.module.module_type.is_network() || name.is_empty() || name.len() > 255 {
                return Err(CommitError::NotDone(StoreError::Invalid(format!(
                    "the check {:?} needs a network type, and an agent or a target of at most 255 bytes",
                    check.module.name
                ))));
            }
            if check.module.name.is_empty() || check.module.name.chars().count() > 600 {
                return Err(CommitError::NotDone(StoreError::Invalid(
                    "the name of a check has 1 to 600 characters".to_owned(),
                )));
            }
        }
        let mut added = Vec::with_capacity(checks.len());
        for chunk in checks.chunks(CHECKS) {
            added.extend(fenced!(self, w, "adding checks", |c| add_chunk(c, chunk, now).await)?);
        }
        Ok(added)
    }

    /// Deletes a module: gone from every page at once; stored samples age out.
    pub async fn delete_module(&self, w: &Writer, module: ModuleId, now: i64) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "deleting a module", |c| delete_module(c, module, now).await)?)
    }

    /// Deletes an agent with its modules.
    pub async fn delete_agent(&self, w: &Writer, agent: AgentId, now: i64) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "deleting an agent", |c| delete_agent(c, agent, now).await)?)
    }

    /// Has a network check run once, as soon as its owner reads the change.
    pub async fn force_run(&self, w: &Writer, module: ModuleId) -> Result<(), CommitError> {
        Ok(fenced!(self, w, "forcing a run", |c| force(c, module).await)?)
    }
}

async fn add_chunk(c: &mut MySqlConnection, checks: &[NewCheck], now: i64) -> Result<Vec<Module>, Stop> {
    // By agent, in name order.
    let mut by_agent: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (i, check) in checks.iter().enumerate() {
        let target = check.module.check.as_ref().map(|c| c.target.clone()).unwrap_or_default();
        by_agent.entry(check.agent.clone().unwrap_or(target)).or_default().push(i);
    }
    // Agents first, then counters and rows in id order, as every writer locks them.
    let mut agents: BTreeMap<AgentId, Vec<usize>> = BTreeMap::new();
    for (name, list) in by_agent {
        let id = insert_agent(c, &named(&name, now)).await?;
        agents.entry(id).or_default().extend(list);
    }
    // All counters before the first agent's row, as a batch takes them.
    for id in agents.keys() {
        sqlx::query(COUNT_ROW).bind(id.0).execute(&mut *c).await?;
    }
    let mut added: Vec<Option<Module>> = vec![None; checks.len()];
    for (id, list) in agents {
        let modules: Vec<Module> = list.iter().map(|i| checks[*i].module.clone()).collect();
        for (i, module) in list.into_iter().zip(add_modules(c, id, &modules, now).await?) {
            added[i] = Some(module);
        }
    }
    Ok(added.into_iter().flatten().collect())
}

/// An agent that exists because something about it is checked.
fn named(name: &str, now: i64) -> Agent {
    Agent {
        name: name.to_owned(),
        alias: name.to_owned(),
        address: name.to_owned(),
        group: GroupId(10),
        interval_s: 300,
        os: 10,
        last_contact: now,
        ..Agent::default()
    }
}

/// Agent, disabled, kind of a module that stands.
async fn standing(c: &mut MySqlConnection, module: ModuleId) -> Result<(AgentId, bool, u16), Stop> {
    let row: Option<(u32, u8, u16)> =
        sqlx::query_as(MODULE_AGENT).bind(module.0).fetch_optional(&mut *c).await?;
    let (agent, disabled, kind) = row.ok_or_else(|| StoreError::NotFound(format!("module {module}")))?;
    Ok((AgentId(agent), disabled != 0, kind))
}

async fn tell(c: &mut MySqlConnection, agent: AgentId) -> Result<(), Stop> {
    let row = sqlx::query(LOCK).bind(agent.0).fetch_optional(&mut *c).await?;
    if let Some(row) = row {
        let (agent, _) = columns::agent(&mut Reader::new(&row))?;
        sqlx::query(CHANGE).bind(agent.shard().number()).bind(agent.id.0).execute(&mut *c).await?;
    }
    Ok(())
}

async fn force(c: &mut MySqlConnection, module: ModuleId) -> Result<(), Stop> {
    let (agent, _, kind) = standing(c, module).await?;
    if kind != 2 {
        let text = format!("module {module} is no network check: its agent sends it when it sends it");
        return Err(Stop::Error(StoreError::Invalid(text)));
    }
    // The agent's row comes before its modules' in every writer's order.
    tell(c, agent).await?;
    sqlx::query(FORCE).bind(module.0).execute(&mut *c).await?;
    Ok(())
}

async fn delete_module(c: &mut MySqlConnection, module: ModuleId, now: i64) -> Result<(), Stop> {
    let (agent, disabled, kind) = standing(c, module).await?;
    let status: Option<u8> = sqlx::query_scalar(MODULE_STATE).bind(module.0).fetch_optional(&mut *c).await?;
    if let Some(status) = status.and_then(Status::from_number) {
        sqlx::query(DROP_STATE).bind(module.0).execute(&mut *c).await?;
        if !disabled {
            let mut counts = Counts::default();
            counts.add(status, -1);
            write::counts(c, &[(agent, counts)]).await?;
        }
    }
    // Its owner may commit one more change of it within the next second: the purge counts this agent anew.
    sqlx::query(DOUBT).bind(now).bind(agent.0).execute(&mut *c).await?;
    tell(c, agent).await?;
    let gone = sqlx::query(PENDING).bind(module.0).execute(&mut *c).await?;
    if gone.rows_affected() == 0 {
        return Err(Stop::Error(StoreError::NotFound(format!("module {module}"))));
    }
    if kind == 2 {
        schedule(c, &[(module, now, 0)]).await?;
    }
    Ok(())
}

async fn delete_agent(c: &mut MySqlConnection, agent: AgentId, now: i64) -> Result<(), Stop> {
    // Locks in the order of every writer: states, contacts, counters, agent, modules.
    sqlx::query(AGENT_STATES).bind(agent.0).fetch_all(&mut *c).await?;
    sqlx::query(DROP_STATES).bind(agent.0).execute(&mut *c).await?;
    sqlx::query(DROP_CONTACTS).bind(agent.0).execute(&mut *c).await?;
    sqlx::query(COUNT_ROW).bind(agent.0).execute(&mut *c).await?;
    sqlx::query(DROP_COUNTS).bind(agent.0).execute(&mut *c).await?;
    let row = sqlx::query(LOCK).bind(agent.0).fetch_optional(&mut *c).await?;
    if row.is_none() {
        return Err(Stop::Error(StoreError::NotFound(format!("agent {agent}"))));
    }
    tell(c, agent).await?;
    let checks: Vec<u32> = sqlx::query_scalar(AGENT_CHECKS).bind(agent.0).fetch_all(&mut *c).await?;
    let ends: Vec<_> = checks.into_iter().map(|id| (ModuleId(id), now, 0)).collect();
    sqlx::query(ALL_PENDING).bind(agent.0).execute(&mut *c).await?;
    sqlx::query(DROP_AGENT).bind(agent.0).execute(&mut *c).await?;
    schedule(c, &ends).await?;
    Ok(())
}
