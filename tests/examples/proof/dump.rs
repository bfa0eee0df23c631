//! What agents' files left in the database, by natural key: without auto ids and columns of the server's clock.

use anyhow::{Context, Result};
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlPool;
use std::collections::BTreeMap;

/// Table, and its rows as text in an order of their own.
const QUERIES: &[(&str, &str)] = &[
    (
        "agents",
        "SELECT CONCAT_WS('|', a.name, a.alias, g.name, a.`interval`, a.id_os, a.disabled, a.mode, a.shard) \
         FROM tagent a LEFT JOIN tgroup g ON g.id_group = a.id_group WHERE a.name LIKE 'proof-%' ORDER BY a.name",
    ),
    (
        "counts",
        "SELECT CONCAT_WS('|', a.name, c.normal_count, c.critical_count, c.warning_count, c.unknown_count, \
         c.notinit_count, c.fired_count) FROM tagent_count c JOIN tagent a USING (id_agent) \
         WHERE a.name LIKE 'proof-%' ORDER BY a.name",
    ),
    (
        "states",
        "SELECT CONCAT_WS('|', a.name, m.name, m.id_type_module, m.min_critical, m.max_critical, s.data, s.status, \
         s.known_status, s.last_status, s.last_known_status, s.status_changes, s.timestamp, s.current_interval, \
         s.ff_normal, s.ff_warning, s.ff_critical, s.warning_count, s.last_error) \
         FROM tagent_status s JOIN tagent_module m USING (id_agent_module) JOIN tagent a ON a.id_agent = m.id_agent \
         WHERE a.name LIKE 'proof-%' ORDER BY a.name, m.name",
    ),
    (
        "numbers",
        "SELECT CONCAT_WS('|', a.name, m.name, d.utimestamp, d.n, d.data) FROM tagent_data d \
         JOIN tagent_module m USING (id_agent_module) JOIN tagent a ON a.id_agent = m.id_agent \
         WHERE a.name LIKE 'proof-%' ORDER BY a.name, m.name, d.utimestamp, d.n",
    ),
    (
        "texts",
        "SELECT CONCAT_WS('|', a.name, m.name, d.utimestamp, d.n, d.data) FROM tagent_data_string d \
         JOIN tagent_module m USING (id_agent_module) JOIN tagent a ON a.id_agent = m.id_agent \
         WHERE a.name LIKE 'proof-%' ORDER BY a.name, m.name, d.utimestamp, d.n",
    ),
    (
        "counters",
        "SELECT CONCAT_WS('|', a.name, m.name, d.utimestamp, d.value) FROM tagent_data_inc d \
         JOIN tagent_module m USING (id_agent_module) JOIN tagent a ON a.id_agent = m.id_agent \
         WHERE a.name LIKE 'proof-%' ORDER BY a.name, m.name",
    ),
    (
        "events",
        "SELECT CONCAT_WS('|', a.name, m.name, e.event_type, e.severity, e.status, e.event, e.data, e.module_status) \
         FROM tevent e JOIN tagent a ON a.id_agent = e.id_agent \
         LEFT JOIN tagent_module m ON m.id_agent_module = e.id_agent_module \
         WHERE a.name LIKE 'proof-%' \
         ORDER BY a.name, m.name, e.event_type, e.severity, e.module_status, e.event, e.data",
    ),
    ("reports", "SELECT HEX(report_key) FROM treport_done ORDER BY report_key"),
];

/// Rows by table.
pub(crate) type Dump = BTreeMap<&'static str, Vec<String>>;

pub(crate) async fn dump(pool: &MySqlPool) -> Result<Dump> {
    let mut dump = Dump::new();
    for (table, query) in QUERIES {
        let rows: Vec<(Vec<u8>,)> = sqlx::query_as(AssertSqlSafe(*query))
            .fetch_all(pool)
            .await
            .with_context(|| format!("dump of {table}"))?;
        dump.insert(
            table,
            rows.into_iter().map(|row| String::from_utf8_lossy(&row.0).into_owned()).collect(),
        );
    }
    Ok(dump)
}

/// Where two dumps differ: the first rows of each table that one has and the other has not.
pub(crate) fn differences(a: &Dump, b: &Dump) -> Vec<String> {
    let mut found = Vec::new();
    for (table, rows) in a {
        let other = b.get(table).map(Vec::as_slice).unwrap_or_default();
        if rows == other {
            continue;
        }
        let lost: Vec<&String> = rows
            .iter()
            .filter(|row| other.binary_search(row).is_err() && !other.contains(row))
            .take(3)
            .collect();
        let new: Vec<&String> = other.iter().filter(|row| !rows.contains(row)).take(3).collect();
        found.push(format!(
            "{table}: {} rows against {}; missing {lost:?}; new {new:?}",
            rows.len(),
            other.len()
        ));
    }
    found
}
