//! What an owner of shards works from. Read on the primary, after the fence.

use crate::columns::{self, Reader, agent_columns, module_columns, state_columns};
use crate::pool::run;
use crate::{LoadedAgent, Seen, ServerKind, Store, StoreError};
use elpis_monitor::{AgentId, ModuleId, Settings};
use futures_util::TryStreamExt;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Row};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Keys of one query; shorter lists are filled up by repeating the last one, so that few texts are prepared.
const KEYS: usize = 256;

const AGENTS: &str = concat!("SELECT ", agent_columns!(), " FROM tagent a WHERE ");
const CONTACTS: &str = "SELECT c.id_agent, c.seen FROM tagent a JOIN tagent_contact c ON c.id_agent=a.id_agent \
    WHERE c.server_type=? AND ";
const MODULES: &str = concat!(
    "SELECT ",
    module_columns!(),
    ", ",
    state_columns!(),
    " FROM tagent a JOIN tagent_module m ON m.id_agent=a.id_agent \
     LEFT JOIN tmodule_state s ON s.id_agent_module=m.id_agent_module \
     LEFT JOIN tagent_data_inc i ON i.id_agent_module=m.id_agent_module \
     WHERE m.id_module=? AND m.delete_pending=0 AND "
);
const KNOWN: &str = "SELECT report_key FROM treport_done WHERE report_key IN (";
/// Samples that stand under these seconds of modules. Written out as alternatives: each is a range of the key.
const STANDING: [&str; 2] = [
    "SELECT id_agent_module, utimestamp, MAX(n) FROM tagent_data WHERE ",
    "SELECT id_agent_module, utimestamp, MAX(n) FROM tagent_data_string WHERE ",
];
/// Seconds of modules asked for at once.
const SECONDS: usize = 64;
const SETTINGS: &str = "SELECT token, value FROM tconfig WHERE token IN ('unknown_interval', 'unknown_events', \
    'async_recovery', 'event_auto_validation', 'dataserver_lifo', 'graph_precision', 'text_going_down_normal', \
    'text_going_up_critical', 'text_going_up_warning', 'text_going_down_warning', 'text_going_unknown')";

/// The texts of this file, for the tests that prepare them.
#[cfg(feature = "testdb")]
pub(crate) fn texts() -> Vec<String> {
    let mut texts = vec![SETTINGS.to_owned()];
    for column in ["a.shard", "a.id_agent"] {
        texts.extend([AGENTS, CONTACTS, MODULES].map(|head| list(head, column, KEYS)));
    }
    texts
}

/// Those that only agents' files need.
#[cfg(feature = "testdb")]
pub(crate) fn texts_of_files() -> Vec<String> {
    let mut texts = vec![list(KNOWN, "", 32)];
    texts.extend(STANDING.map(standing));
    texts
}

fn list(head: &str, column: &str, keys: usize) -> String {
    let open = if column.is_empty() { "" } else { " IN (" };
    format!("{head}{column}{open}{})", crate::bulk::marks(keys))
}

fn standing(head: &str) -> String {
    let one = "(id_agent_module=? AND utimestamp=?)";
    format!("{head}{} GROUP BY 1, 2", vec![one; SECONDS].join(" OR "))
}

impl Store {
    /// All agents of these shards with their modules of one kind; one query a table for 256 shards. For the network
    /// kind, agents without network modules are left out. Disabled ones are there, and say so.
    pub async fn load_shards(
        &self,
        shards: &[u16],
        kind: ServerKind,
    ) -> Result<Vec<LoadedAgent>, StoreError> {
        let keys: Vec<u32> = shards.iter().map(|s| u32::from(*s)).collect();
        self.load("a.shard", &keys, kind).await
    }

    /// These agents; one that is not in the answer is gone (or has no network module, for the network kind).
    pub async fn load_agents(
        &self,
        ids: &[AgentId],
        kind: ServerKind,
    ) -> Result<Vec<LoadedAgent>, StoreError> {
        let keys: Vec<u32> = ids.iter().map(|id| id.0).collect();
        self.load("a.id_agent", &keys, kind).await
    }

    async fn load(
        &self,
        column: &'static str,
        keys: &[u32],
        kind: ServerKind,
    ) -> Result<Vec<LoadedAgent>, StoreError> {
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        keys.dedup();
        let mut loaded = Vec::new();
        let mut conn = self.acquire().await?;
        for chunk in keys.chunks(KEYS) {
            loaded.extend(run!(conn, "loading agents", |c| load_chunk(c, column, chunk, kind).await)?);
        }
        if kind == ServerKind::Network {
            loaded.retain(|agent| !agent.modules.is_empty());
        }
        Ok(loaded)
    }

    /// Which of these reports are recorded.
    pub async fn known_reports(&self, keys: &[[u8; 32]]) -> Result<HashSet<[u8; 32]>, StoreError> {
        let mut known = HashSet::new();
        if keys.is_empty() {
            return Ok(known);
        }
        let mut conn = self.acquire().await?;
        for chunk in keys.chunks(KEYS) {
            let padded = if chunk.len() <= 32 { 32 } else { KEYS };
            let rows: Vec<Vec<u8>> = run!(conn, "reading known reports", |c| {
                let mut query = sqlx::query_scalar(AssertSqlSafe(list(KNOWN, "", padded)));
                for key in fill(chunk, padded) {
                    query = query.bind(key.as_slice());
                }
                Ok(query.fetch_all(&mut *c).await?)
            })?;
            known.extend(rows.iter().filter_map(|row| <[u8; 32]>::try_from(row.as_slice()).ok()));
        }
        Ok(known)
    }

    /// The ordinal that comes next in these seconds (Unix) of modules; one without a sample is not in the answer.
    pub async fn next_ordinals(
        &self,
        seconds: &[(ModuleId, i64)],
    ) -> Result<HashMap<(ModuleId, i64), u16>, StoreError> {
        let mut next = HashMap::new();
        if seconds.is_empty() {
            return Ok(next);
        }
        let mut conn = self.acquire().await?;
        for chunk in seconds.chunks(SECONDS) {
            for head in STANDING {
                let rows: Vec<(u32, i64, u16)> = run!(conn, "reading stored ordinals", |c| {
                    let mut query = sqlx::query_as(AssertSqlSafe(standing(head)));
                    for (module, second) in fill(chunk, SECONDS) {
                        query = query.bind(module.0).bind(*second);
                    }
                    Ok(query.fetch_all(&mut *c).await?)
                })?;
                let following = rows.into_iter().map(|(id, at, n)| ((ModuleId(id), at), n.saturating_add(1)));
                next.extend(following);
            }
        }
        Ok(next)
    }

    /// Cluster-wide settings of the rules; what `tconfig` does not name, or names badly, is as by default.
    pub async fn settings(&self) -> Result<Settings, StoreError> {
        let mut conn = self.acquire().await?;
        let rows: Vec<(String, String)> =
            run!(conn, "reading settings", |c| Ok(sqlx::query_as(SETTINGS).fetch_all(&mut *c).await?))?;
        Ok(settings(rows))
    }
}

/// The keys, and the last one again until there are `n`.
fn fill<T>(keys: &[T], n: usize) -> impl Iterator<Item = &T> {
    keys.iter().chain(keys.last().into_iter().cycle()).take(n)
}

async fn load_chunk(
    c: &mut MySqlConnection,
    column: &'static str,
    keys: &[u32],
    kind: ServerKind,
) -> Result<Vec<LoadedAgent>, StoreError> {
    let mut query = sqlx::query(AssertSqlSafe(list(AGENTS, column, KEYS)));
    for key in fill(keys, KEYS) {
        query = query.bind(*key);
    }
    let mut agents = BTreeMap::new();
    for row in query.fetch_all(&mut *c).await? {
        let (agent, next_position) = columns::agent(&mut Reader::new(&row))?;
        let loaded = LoadedAgent { agent, modules: Vec::new(), seen: Seen::default(), next_position };
        agents.insert(loaded.agent.id, loaded);
    }
    let mut query = sqlx::query(AssertSqlSafe(list(CONTACTS, column, KEYS))).bind(kind.number());
    for key in fill(keys, KEYS) {
        query = query.bind(*key);
    }
    for row in query.fetch_all(&mut *c).await? {
        if let Some(agent) = agents.get_mut(&AgentId(row.try_get(0)?)) {
            agent.seen = Seen::from_bytes(row.try_get(1)?);
        }
    }
    let mut query = sqlx::query(AssertSqlSafe(list(MODULES, column, KEYS))).bind(kind.number());
    for key in fill(keys, KEYS) {
        query = query.bind(*key);
    }
    // One at a time: a row as the driver keeps it is larger than the module.
    let mut rows = query.fetch(&mut *c);
    while let Some(row) = rows.try_next().await? {
        let mut reader = Reader::new(&row);
        let module = columns::module(&mut reader)?;
        // An agent that came between the queries is told as a change.
        if let Some(agent) = agents.get_mut(&module.agent) {
            let state = columns::state(&mut reader, &module, agent.seen.get(module.position))?;
            agent.modules.push((module, state));
        }
    }
    drop(rows);
    let mut agents: Vec<LoadedAgent> = agents.into_values().collect();
    for agent in &mut agents {
        agent.modules.shrink_to_fit();
        agent.modules.sort_by_key(|(module, _)| module.id);
    }
    Ok(agents)
}

fn settings(rows: Vec<(String, String)>) -> Settings {
    let rows: HashMap<String, String> = rows.into_iter().collect();
    let defaults = Settings::default();
    let number = |token: &str| rows.get(token).and_then(|value| value.trim().parse::<u32>().ok());
    let flag = |token: &str, default: bool| number(token).map_or(default, |n| n != 0);
    let text = |token: &str, default: &str| {
        rows.get(token).filter(|value| !value.is_empty()).cloned().unwrap_or_else(|| default.to_owned())
    };
    Settings {
        unknown_interval: number("unknown_interval").filter(|n| *n > 0).unwrap_or(defaults.unknown_interval),
        unknown_events: flag("unknown_events", defaults.unknown_events),
        async_recovery: flag("async_recovery", defaults.async_recovery),
        event_auto_validation: flag("event_auto_validation", defaults.event_auto_validation),
        lifo: flag("dataserver_lifo", defaults.lifo),
        graph_precision: number("graph_precision").map_or(defaults.graph_precision, |n| n.min(10) as usize),
        text_normal: text("text_going_down_normal", &defaults.text_normal),
        text_critical: text("text_going_up_critical", &defaults.text_critical),
        text_up_warning: text("text_going_up_warning", &defaults.text_up_warning),
        text_down_warning: text("text_going_down_warning", &defaults.text_down_warning),
        text_unknown: text("text_going_unknown", &defaults.text_unknown),
    }
}
