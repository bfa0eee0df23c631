//! The statements of a batch, in the one order all writers keep.

use super::{AgentSeen, Batch, Contact, ModuleSeen, Row, Stop, known_key};
use crate::bulk::{cut, finite};
use crate::statements::statements;
use elpis_monitor::{AgentId, Counts, Event, ModuleId, ModuleState, Value};
use sqlx::mysql::MySqlConnection;
use std::collections::BTreeMap;

mod tables;
use tables::{BASES, CONTACTS, COUNTS, EVENTS, NUMBERS, REPORTS, STATES, TEXTS, UNFORCE};
#[cfg(feature = "testdb")]
pub(crate) use tables::{texts, texts_of_operators, texts_of_results};

statements! {
    LEDGER = "INSERT INTO trun_ledger (writer, incarnation, number, session, utimestamp, executions, first_slot, \
        last_slot, packed) VALUES (?,?,?,?,?,?,?,?,?)";
    /// The list comes first in the join and in key order: so are the locks.
    AGENTS = "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id INT UNSIGNED PATH '$.i', lc BIGINT PATH '$.c', \
        lr BIGINT PATH '$.r', av VARCHAR(255) PATH '$.v', os SMALLINT UNSIGNED PATH '$.o', \
        ov VARCHAR(255) PATH '$.w', iv INT UNSIGNED PATH '$.n', ad VARCHAR(255) PATH '$.a', \
        pa INT UNSIGNED PATH '$.p', tz TINYINT PATH '$.z', di TINYINT UNSIGNED PATH '$.d')) v \
        STRAIGHT_JOIN tagent a ON a.id_agent=v.id SET a.last_contact=GREATEST(a.last_contact, v.lc), \
        a.last_remote_contact=GREATEST(a.last_remote_contact, v.lr), \
        a.agent_version=COALESCE(v.av, a.agent_version), a.id_os=COALESCE(v.os, a.id_os), \
        a.os_version=COALESCE(v.ov, a.os_version), a.`interval`=COALESCE(v.iv, a.`interval`), \
        a.address=COALESCE(v.ad, a.address), a.id_parent=COALESCE(v.pa, a.id_parent), \
        a.timezone_offset=COALESCE(v.tz, a.timezone_offset), a.disabled=COALESCE(v.di, a.disabled)";
    MODULES = "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id INT UNSIGNED PATH '$.i', de TEXT PATH '$.d', \
        ex TEXT PATH '$.e', iv INT UNSIGNED PATH '$.n')) v \
        STRAIGHT_JOIN tagent_module m ON m.id_agent_module=v.id \
        SET m.description=COALESCE(v.de, m.description), m.extended_info=COALESCE(v.ex, m.extended_info), \
        m.module_interval=COALESCE(v.iv, m.module_interval)";
    /// Before the agents' rows change: checks whose slots the change moves.
    RESCHEDULE = "INSERT INTO trun_schedule (id_agent_module, utimestamp, interval_s) \
        SELECT m.id_agent_module, ?, IF(COALESCE(v.di, a.disabled)=1 OR m.disabled=1, 0, IF(m.module_interval>0, \
        m.module_interval, IF(COALESCE(v.iv, a.`interval`)>0, COALESCE(v.iv, a.`interval`), 300))) \
        FROM JSON_TABLE(?, '$[*]' COLUMNS (id INT UNSIGNED PATH '$.i', iv INT UNSIGNED PATH '$.n', \
        di TINYINT UNSIGNED PATH '$.d')) v STRAIGHT_JOIN tagent a ON a.id_agent=v.id \
        JOIN tagent_module m ON m.id_agent=a.id_agent AND m.id_module=2 AND m.delete_pending=0 AND m.cron_interval='' \
        WHERE COALESCE(v.iv, a.`interval`)<>a.`interval` OR COALESCE(v.di, a.disabled)<>a.disabled";
    TELL = "INSERT INTO tchange (shard, kind, id, utimestamp) SELECT a.shard, 1, a.id_agent, UNIX_TIMESTAMP() \
        FROM JSON_TABLE(?, '$[*]' COLUMNS (id INT UNSIGNED PATH '$.i', iv INT UNSIGNED PATH '$.n', \
        di TINYINT UNSIGNED PATH '$.d')) v STRAIGHT_JOIN tagent a ON a.id_agent=v.id \
        WHERE COALESCE(v.iv, a.`interval`)<>a.`interval` OR COALESCE(v.di, a.disabled)<>a.disabled";
    VALIDATE = "UPDATE tevent SET status=1, ack_utimestamp=? WHERE id_agent_module=? AND status=0";
}

/// A batch in key order, computed once for all attempts.
pub(super) struct Prepared<'a> {
    b: &'a Batch,
    now: i64,
    reports: Vec<&'a [u8; 32]>,
    numbers: Vec<(&'a Row, f64)>,
    texts: Vec<(&'a Row, &'a str)>,
    bases: Vec<(ModuleId, f64, i64)>,
    states: Vec<&'a (ModuleId, AgentId, ModuleState)>,
    contacts: Vec<&'a Contact>,
    counts: Vec<(AgentId, Counts)>,
    agents: Option<String>,
    reschedules: bool,
    modules: Option<String>,
    unforce: Vec<ModuleId>,
    packed: Option<crate::ledger::Packed>,
}

impl<'a> Prepared<'a> {
    pub(super) fn new(b: &'a Batch, ledger: bool) -> Prepared<'a> {
        let mut reports: Vec<_> = b.reports.iter().collect();
        reports.sort();
        let mut numbers = Vec::new();
        let mut texts = Vec::new();
        for row in &b.rows {
            match &row.value {
                Value::Number(number) => numbers.push((row, finite(*number))),
                Value::Text(text) => texts.push((row, text.as_str())),
            }
        }
        let key = |row: &Row| (row.module, row.utimestamp, row.n);
        numbers.sort_by_key(|(row, _)| key(row));
        texts.sort_by_key(|(row, _)| key(row));
        // The later of two for one key is the one that counts.
        let bases: BTreeMap<_, _> = b.increments.iter().map(|i| (i.0, *i)).collect();
        let states: BTreeMap<_, _> = b.states.iter().map(|s| (s.0, s)).collect();
        let contacts: BTreeMap<_, _> = b.contacts.iter().map(|c| ((c.agent, c.kind.number()), c)).collect();
        let mut counts: BTreeMap<AgentId, Counts> = BTreeMap::new();
        for (agent, change) in &b.counts {
            counts.entry(*agent).or_default().merge(*change);
        }
        counts.retain(|_, change| !change.is_zero());
        let mut unforce = b.clear_forced.clone();
        unforce.sort_unstable();
        unforce.dedup();
        Prepared {
            b,
            now: b.now(),
            reports,
            numbers,
            texts,
            bases: bases.into_values().collect(),
            states: states.into_values().collect(),
            contacts: contacts.into_values().collect(),
            counts: counts.into_iter().collect(),
            agents: (!b.agents.is_empty()).then(|| agents_json(&b.agents)),
            reschedules: b.agents.iter().any(|a| a.interval_s.is_some() || a.disabled.is_some()),
            modules: (!b.modules.is_empty()).then(|| modules_json(&b.modules)),
            unforce,
            packed: b.flush.as_ref().map(|flush| crate::ledger::Packed::new(&flush.executions, ledger)),
        }
    }

    pub(super) async fn write(&self, c: &mut MySqlConnection) -> Result<(), Stop> {
        let flat = |_: &_| 64;
        let now = self.now;
        REPORTS
            .run(
                c,
                &self.reports,
                |_| 64,
                |q, key| {
                    q.add(key.as_slice());
                    q.add(now);
                },
            )
            .await
            .map_err(known_key)?;
        self.ledger(c).await?;
        NUMBERS
            .run(
                c,
                &self.numbers,
                |_| 32,
                |q, (row, number)| {
                    q.add(row.module.0);
                    q.add(row.utimestamp);
                    q.add(row.n);
                    q.add(*number);
                },
            )
            .await?;
        TEXTS
            .run(
                c,
                &self.texts,
                |(_, text)| text.len() + 32,
                |q, (row, text)| {
                    q.add(row.module.0);
                    q.add(row.utimestamp);
                    q.add(row.n);
                    q.add(cut(text, MAX_TEXT));
                },
            )
            .await?;
        BASES
            .run(c, &self.bases, flat, |q, (module, value, time)| {
                q.add(module.0);
                q.add(finite(*value));
                q.add(*time);
            })
            .await?;
        states(c, &self.states).await?;
        let running_by = cut(self.b.writer.node(), 100);
        CONTACTS
            .run(
                c,
                &self.contacts,
                |contact| contact.seen.as_bytes().len() + 64,
                |q, contact| {
                    q.add(contact.agent.0);
                    q.add(contact.kind.number());
                    q.add(contact.utimestamp);
                    q.add(running_by);
                    q.add(contact.seen.as_bytes());
                },
            )
            .await?;
        counts(c, &self.counts).await?;
        if let Some(json) = &self.agents {
            if self.reschedules {
                sqlx::query(RESCHEDULE).bind(now).bind(json).execute(&mut *c).await?;
                sqlx::query(TELL).bind(json).execute(&mut *c).await?;
            }
            sqlx::query(AGENTS).bind(json).execute(&mut *c).await?;
        }
        if let Some(json) = &self.modules {
            sqlx::query(MODULES).bind(json).execute(&mut *c).await?;
        }
        UNFORCE.run(c, &self.unforce, |_| 8, |q, module| q.add(module.0)).await?;
        events(c, &self.b.events).await?;
        Ok(())
    }

    async fn ledger(&self, c: &mut MySqlConnection) -> Result<(), Stop> {
        let (Some(flush), Some(packed)) = (&self.b.flush, &self.packed) else { return Ok(()) };
        sqlx::query(LEDGER)
            .bind(&self.b.writer.name)
            .bind(self.b.writer.incarnation)
            .bind(flush.number)
            .bind(self.b.writer.session)
            .bind(flush.now)
            .bind(packed.executions)
            .bind(packed.first_slot)
            .bind(packed.last_slot)
            .bind(packed.bytes.as_slice())
            .execute(&mut *c)
            .await
            .map_err(known_key)?;
        Ok(())
    }
}

/// Characters of a stored text value.
const MAX_TEXT: usize = 1 << 20;

/// State rows, in key order.
pub(crate) async fn states(
    c: &mut MySqlConnection,
    states: &[&(ModuleId, AgentId, ModuleState)],
) -> Result<(), sqlx::Error> {
    STATES
        .run(
            c,
            states,
            |(_, _, state)| state.data.len() + state.last_error.len() + 150,
            |q, (module, agent, s)| {
                q.add(module.0);
                q.add(agent.0);
                q.add(cut(&s.data, MAX_TEXT));
                for status in [s.status, s.known_status, s.last_status, s.last_known_status] {
                    q.add(status as u8);
                }
                q.add(s.status_changes);
                q.add(s.utimestamp);
                q.add(s.timestamp);
                q.add(s.last_execution_try);
                q.add(s.last_try);
                q.add(s.current_interval);
                q.add(s.ff_start_utimestamp);
                q.add(s.ff_normal);
                q.add(s.ff_warning);
                q.add(s.ff_critical);
                q.add(s.last_status_change);
                q.add(s.last_unknown_update);
                q.add(s.warning_count);
                q.add(cut(&s.last_error, 500));
                q.add(s.last_slot);
            },
        )
        .await
}

/// Differences of counters, in key order.
pub(crate) async fn counts(c: &mut MySqlConnection, counts: &[(AgentId, Counts)]) -> Result<(), sqlx::Error> {
    let small = |n: i64| i32::try_from(n).unwrap_or(if n < 0 { i32::MIN } else { i32::MAX });
    COUNTS
        .run(
            c,
            counts,
            |_| 64,
            |q, (agent, change)| {
                q.add(agent.0);
                for n in [
                    change.normal,
                    change.critical,
                    change.warning,
                    change.unknown,
                    change.not_init,
                    change.fired,
                ] {
                    q.add(small(n));
                }
            },
        )
        .await
}

/// Events in order; one that validates earlier ones sees those before it in the batch too.
pub(crate) async fn events(c: &mut MySqlConnection, events: &[Event]) -> Result<(), sqlx::Error> {
    let mut rest = events;
    while !rest.is_empty() {
        // A run of events in which no validating one follows another event of its module.
        let mut modules = std::collections::HashSet::new();
        let run = rest.iter().take_while(|e| modules.insert(e.module) || !e.validates_earlier).count().max(1);
        let (run, later) = rest.split_at(run);
        let mut validate: Vec<_> = run.iter().filter(|e| e.validates_earlier && e.module.0 != 0).collect();
        validate.sort_by_key(|e| e.module);
        for event in validate {
            sqlx::query(VALIDATE).bind(event.utimestamp).bind(event.module.0).execute(&mut *c).await?;
        }
        EVENTS
            .run(
                c,
                run,
                |e| e.text.len() + e.data.len() + 100,
                |q, e| {
                    q.add(e.agent.0);
                    q.add(e.module.0);
                    q.add(e.group.0);
                    q.add(u8::from(e.validated));
                    q.add(e.utimestamp);
                    q.add(if e.validated { e.utimestamp } else { 0 });
                    q.add(e.event_type.name());
                    q.add(e.severity as u8);
                    q.add(cut(&e.text, 2000));
                    q.add(cut(&e.data, 2000));
                    q.add(e.status as u8);
                },
            )
            .await?;
        rest = later;
    }
    Ok(())
}

fn agents_json(agents: &[AgentSeen]) -> String {
    let mut merged: BTreeMap<AgentId, AgentSeen> = BTreeMap::new();
    for seen in agents {
        let entry =
            merged.entry(seen.agent).or_insert_with(|| AgentSeen { agent: seen.agent, ..Default::default() });
        let later = |a: &mut i64, b: i64| *a = (*a).max(b);
        later(&mut entry.last_contact, seen.last_contact);
        later(&mut entry.last_remote_contact, seen.last_remote_contact);
        macro_rules! take { ($($field:ident),*) => { $(if seen.$field.is_some() { entry.$field.clone_from(&seen.$field); })* } }
        take!(agent_version, os, os_version, interval_s, address, parent, timezone_offset_h, disabled);
    }
    let text = |value: &Option<String>| value.as_deref().map(|text| cut(text, 255).to_owned());
    let list: Vec<serde_json::Value> = merged
        .values()
        .map(|a| {
            serde_json::json!({
                "i": a.agent.0, "c": a.last_contact, "r": a.last_remote_contact, "v": text(&a.agent_version),
                "o": a.os, "w": text(&a.os_version), "n": a.interval_s, "a": text(&a.address),
                "p": a.parent.map(|p| p.0), "z": a.timezone_offset_h, "d": a.disabled.map(u8::from),
            })
        })
        .collect();
    serde_json::Value::Array(list).to_string()
}

fn modules_json(modules: &[ModuleSeen]) -> String {
    let merged: BTreeMap<ModuleId, &ModuleSeen> = modules.iter().map(|m| (m.module, m)).collect();
    let text = |value: &Option<String>| value.as_deref().map(|text| cut(text, 16_000).to_owned());
    let list: Vec<serde_json::Value> = merged
        .values()
        .map(|m| {
            let (d, e) = (text(&m.description), text(&m.extended_info));
            serde_json::json!({ "i": m.module.0, "d": d, "e": e, "n": m.interval_s })
        })
        .collect();
    serde_json::Value::Array(list).to_string()
}
