//! Reading for pages, API and command line.

use crate::columns::{self, Reader, agent_columns, module_columns, state_columns};
use crate::pool::run;
use crate::statements::statements;
use crate::{Secret, Store, StoreError};
use elpis_monitor::{Agent, AgentId, Counts, GroupId, Module, ModuleId, ModuleState, Shown, Status, Value};
use std::collections::BTreeMap;

/// Most rows of one answer.
const MOST: u32 = 100_000;

macro_rules! agent_select {
    () => {
        concat!(
            "SELECT ",
            agent_columns!(),
            ", COALESCE(g.name, ''), COALESCE(n.normal_count, 0), COALESCE(n.critical_count, 0), \
             COALESCE(n.warning_count, 0), COALESCE(n.unknown_count, 0), COALESCE(n.notinit_count, 0), \
             COALESCE(n.fired_count, 0), EXISTS (SELECT 1 FROM tagent_module m WHERE m.id_agent=a.id_agent \
             AND m.delete_pending=0 AND m.disabled=0 AND m.id_type_module NOT IN (21, 22, 23, 100)) \
             FROM tagent a LEFT JOIN tgroup g ON g.id_group=a.id_group \
             LEFT JOIN tagent_count n ON n.id_agent=a.id_agent "
        )
    };
}
macro_rules! module_select {
    () => {
        concat!(
            "SELECT ",
            module_columns!(),
            ", CAST(CONV(HEX(SUBSTRING(c.seen, m.position * 8 + 1, 4)), 16, 10) AS SIGNED), \
             CAST(CONV(HEX(SUBSTRING(c.seen, m.position * 8 + 5, 4)), 16, 10) AS SIGNED), \
             COALESCE(c.running_by, ''), a.name, a.alias, ",
            state_columns!(),
            " FROM tagent_module m JOIN tagent a ON a.id_agent=m.id_agent \
             LEFT JOIN tmodule_state s ON s.id_agent_module=m.id_agent_module \
             LEFT JOIN tagent_data_inc i ON i.id_agent_module=m.id_agent_module \
             LEFT JOIN tagent_contact c ON c.id_agent=m.id_agent AND c.server_type=m.id_module "
        )
    };
}

statements! {
    AGENTS = concat!(agent_select!(), "WHERE (?='' OR a.name LIKE ? OR a.alias LIKE ? OR a.address LIKE ?) \
        AND (?=0 OR a.id_group=?) ORDER BY a.alias, a.id_agent LIMIT ? OFFSET ?");
    AGENT_BY_NAME = concat!(agent_select!(), "WHERE a.name=?");
    AGENT_BY_ID = concat!(agent_select!(), "WHERE a.id_agent=?");
    ALL_MODULES = concat!(module_select!(), "WHERE m.delete_pending=0 AND (?=0 OR m.id_module=?) \
        ORDER BY a.alias, a.id_agent, m.name LIMIT ? OFFSET ?");
    MODULES_OF = concat!(module_select!(), "WHERE m.id_agent=? AND m.delete_pending=0 AND (?=0 OR m.id_module=?) \
        ORDER BY m.name LIMIT ? OFFSET ?");
    MODULE = concat!(module_select!(), "WHERE m.id_agent_module=? AND m.delete_pending=0");
    PROBLEMS = concat!(module_select!(), "JOIN (SELECT p.id_agent_module FROM tmodule_state p \
        WHERE p.status IN (1, 2, 3) ORDER BY FIELD(p.status, 1, 2, 3), p.last_status_change DESC LIMIT ?) w \
        ON w.id_agent_module=m.id_agent_module WHERE m.delete_pending=0 AND m.disabled=0 AND a.disabled=0 \
        ORDER BY FIELD(s.status, 1, 2, 3), s.last_status_change DESC");
    EVENTS = "SELECT e.id_event, e.id_agent, e.id_agent_module, COALESCE(a.alias, ''), COALESCE(m.name, ''), \
        e.id_group, e.event_type, e.severity, e.status, e.utimestamp, e.ack_utimestamp, e.event, e.data, \
        e.module_status FROM tevent e LEFT JOIN tagent a ON a.id_agent=e.id_agent \
        LEFT JOIN tagent_module m ON m.id_agent_module=e.id_agent_module ";
    GROUPS = "SELECT id_group, name, parent, password, disabled FROM tgroup ORDER BY name";
    SYSTEMS = "SELECT id_os, name FROM tconfig_os ORDER BY id_os";
    ROLL_UP = "SELECT a.id_agent, a.id_group, a.`interval`, a.last_contact, a.disabled, COALESCE(n.normal_count, 0), \
        COALESCE(n.critical_count, 0), COALESCE(n.warning_count, 0), COALESCE(n.unknown_count, 0), \
        COALESCE(n.notinit_count, 0), COALESCE(n.fired_count, 0), EXISTS (SELECT 1 FROM tagent_module m \
        WHERE m.id_agent=a.id_agent AND m.delete_pending=0 AND m.disabled=0 \
        AND m.id_type_module NOT IN (21, 22, 23, 100)) \
        FROM tagent a LEFT JOIN tagent_count n ON n.id_agent=a.id_agent";
    NUMBERS = "SELECT utimestamp, data FROM tagent_data WHERE id_agent_module=? AND utimestamp>=? AND utimestamp<? \
        ORDER BY utimestamp, n LIMIT ?";
    NUMBER_BEFORE = "SELECT utimestamp, data FROM tagent_data WHERE id_agent_module=? AND utimestamp<? \
        ORDER BY utimestamp DESC, n DESC LIMIT 1";
    NUMBER_AFTER = "SELECT utimestamp, data FROM tagent_data WHERE id_agent_module=? AND utimestamp>=? \
        ORDER BY utimestamp, n LIMIT 1";
    TEXTS = "SELECT utimestamp, data FROM tagent_data_string WHERE id_agent_module=? AND utimestamp>=? \
        AND utimestamp<? ORDER BY utimestamp, n LIMIT ?";
    TEXT_BEFORE = "SELECT utimestamp, data FROM tagent_data_string WHERE id_agent_module=? AND utimestamp<? \
        ORDER BY utimestamp DESC, n DESC LIMIT 1";
    TEXT_AFTER = "SELECT utimestamp, data FROM tagent_data_string WHERE id_agent_module=? AND utimestamp>=? \
        ORDER BY utimestamp, n LIMIT 1";
}

/// `read!(store, "doing what", |c| work)`.
macro_rules! read {
    ($store:expr, $doing:expr, |$c:ident| $body:expr) => {{
        let mut conn = $store.acquire().await?;
        run!(conn, $doing, |$c| $body)
    }};
}

mod rows;
#[cfg(feature = "testdb")]
pub(crate) use rows::texts;
pub use rows::*;

impl Store {
    /// Agents by alias. `now` (server clock) decides who is silent.
    pub async fn agents(&self, f: &AgentFilter, now: i64) -> Result<Vec<AgentRow>, StoreError> {
        // A search text is no pattern: its own marks stand for themselves.
        let like = format!("%{}%", f.search.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_"));
        let group = f.group.map_or(0, |g| g.0);
        read!(self, "reading agents", |c| {
            let query = sqlx::query(AGENTS).bind(&f.search).bind(&like).bind(&like).bind(&like);
            let query = query.bind(group).bind(group).bind(f.limit.min(MOST)).bind(f.offset);
            query.fetch_all(&mut *c).await?.iter().map(|row| rows::agent(row, now)).collect()
        })
    }

    /// One agent by name, or by id when nobody has that name.
    pub async fn agent(&self, key: &str, now: i64) -> Result<Option<AgentRow>, StoreError> {
        read!(self, "reading an agent", |c| {
            let mut found = sqlx::query(AGENT_BY_NAME).bind(key).fetch_optional(&mut *c).await?;
            if let (None, Ok(id)) = (&found, key.parse::<u32>()) {
                found = sqlx::query(AGENT_BY_ID).bind(id).fetch_optional(&mut *c).await?;
            }
            found.map(|row| rows::agent(&row, now)).transpose()
        })
    }

    /// Modules with state, by agent and name.
    pub async fn modules(&self, f: &ModuleFilter) -> Result<Vec<ModuleRow>, StoreError> {
        let kind = f.kind.map_or(0, crate::ServerKind::number);
        read!(self, "reading modules", |c| {
            let query = match f.agent {
                Some(agent) => sqlx::query(MODULES_OF).bind(agent.0),
                None => sqlx::query(ALL_MODULES),
            };
            let query = query.bind(kind).bind(kind).bind(f.limit.min(MOST)).bind(f.offset);
            query.fetch_all(&mut *c).await?.iter().map(rows::module).collect()
        })
    }

    /// One module with state.
    pub async fn module(&self, id: ModuleId) -> Result<Option<ModuleRow>, StoreError> {
        read!(self, "reading a module", |c| {
            let row = sqlx::query(MODULE).bind(id.0).fetch_optional(&mut *c).await?;
            row.map(|row| rows::module(&row)).transpose()
        })
    }

    /// Events, newest first.
    pub async fn events(&self, f: &EventFilter) -> Result<Vec<EventRow>, StoreError> {
        read!(self, "reading events", |c| rows::events(c, f).await)
    }

    /// Groups by name.
    pub async fn groups(&self) -> Result<Vec<Group>, StoreError> {
        read!(self, "reading groups", |c| {
            let rows: Vec<(u32, String, u32, String, u8)> = sqlx::query_as(GROUPS).fetch_all(&mut *c).await?;
            let group = |(id, name, parent, password, disabled): (u32, String, u32, String, u8)| Group {
                id: GroupId(id),
                name,
                parent: GroupId(parent),
                password: Secret::new(password),
                disabled: disabled != 0,
            };
            Ok(rows.into_iter().map(group).collect())
        })
    }

    /// Operating systems: id, name.
    pub async fn operating_systems(&self) -> Result<Vec<(u16, String)>, StoreError> {
        read!(self, "reading systems", |c| Ok(sqlx::query_as(SYSTEMS).fetch_all(&mut *c).await?))
    }

    /// Counts, groups, and the worst modules first (at most `problems`). `now` is the server clock.
    pub async fn overview(&self, now: i64, problems: u32) -> Result<Overview, StoreError> {
        let groups = self.groups().await?;
        read!(self, "reading the overview", |c| {
            let mut overview = Overview::default();
            let mut by_group: BTreeMap<GroupId, GroupRow> = BTreeMap::new();
            for row in sqlx::query(ROLL_UP).fetch_all(&mut *c).await? {
                let (group, counts, shown) = rows::roll_up(&row, now)?;
                overview.modules.merge(counts);
                *overview.agents.entry(shown).or_default() += 1;
                let entry = by_group.entry(group).or_insert_with(|| GroupRow {
                    id: group,
                    name: groups.iter().find(|g| g.id == group).map_or_else(String::new, |g| g.name.clone()),
                    agents: 0,
                    counts: Counts::default(),
                    shown: Shown::default(),
                });
                entry.agents += 1;
                entry.counts.merge(counts);
                entry.shown = entry.shown.max(shown);
            }
            overview.groups = by_group.into_values().collect();
            overview.groups.sort_by(|a, b| b.shown.cmp(&a.shown).then_with(|| a.name.cmp(&b.name)));
            let worst = sqlx::query(PROBLEMS).bind(problems.min(1000)).fetch_all(&mut *c).await?;
            overview.problems = worst.iter().map(rows::module).collect::<Result<_, _>>()?;
            Ok(overview)
        })
    }

    /// Stored samples of a module in `[from, to)`, at most `max`, with the one before and the one at or after the end.
    pub async fn samples(
        &self,
        module: &Module,
        from: i64,
        to: i64,
        max: u32,
    ) -> Result<Samples, StoreError> {
        let text = module.is_text();
        let sql =
            if text { [TEXTS, TEXT_BEFORE, TEXT_AFTER] } else { [NUMBERS, NUMBER_BEFORE, NUMBER_AFTER] };
        let id = module.id.0;
        read!(self, "reading samples", |c| {
            let value = |row: &sqlx::mysql::MySqlRow| rows::sample(row, text);
            let limit = max.min(MOST);
            let query = sqlx::query(sql[0]).bind(id).bind(from).bind(to).bind(limit.saturating_add(1));
            let mut rows =
                query.fetch_all(&mut *c).await?.iter().map(value).collect::<Result<Vec<_>, StoreError>>()?;
            let cut = rows.len() > limit as usize;
            rows.truncate(limit as usize);
            let before = sqlx::query(sql[1]).bind(id).bind(from).fetch_optional(&mut *c).await?;
            let after = sqlx::query(sql[2]).bind(id).bind(to).fetch_optional(&mut *c).await?;
            Ok(Samples {
                before: before.as_ref().map(value).transpose()?,
                rows,
                after: after.as_ref().map(value).transpose()?,
                cut,
            })
        })
    }
}
