//! What grows is cut, in small deletes that a takeover can wait for.

use crate::batch::fenced;
use crate::pool::run;
use crate::statements::statements;
use crate::{CommitError, Store, StoreError, Writer};
use std::collections::HashMap;

mod months;
#[cfg(feature = "testdb")]
pub(crate) use months::LIST as MONTHS;
pub(crate) use months::ahead as months_ahead;

/// Rows of one delete.
const BLOCK: u32 = 1000;
/// Deletes of one kind in one call; what is left waits for the next one.
const ROUNDS: u32 = 500;
/// Days that keys of reports, ledger and changes are kept.
const KEEP_DAYS: i64 = 7;
const DAY: i64 = 86_400;
/// Seconds after a deletion at which its agent's counters are counted anew: owners have followed by then.
const SETTLED_S: i64 = 60;

statements! {
    LIMITS = "SELECT token, value FROM tconfig WHERE token IN ('days_purge', 'string_purge', 'event_purge')";
    TEXTS = "DELETE FROM tagent_data_string WHERE utimestamp<? ORDER BY utimestamp LIMIT ?";
    EVENTS = "DELETE FROM tevent WHERE utimestamp<? ORDER BY utimestamp LIMIT ?";
    REPORTS = "DELETE FROM treport_done WHERE utimestamp<? ORDER BY utimestamp LIMIT ?";
    LEDGER = "DELETE FROM trun_ledger WHERE utimestamp<? ORDER BY utimestamp LIMIT ?";
    CHANGES = "DELETE FROM tchange WHERE utimestamp<? ORDER BY utimestamp LIMIT ?";
    SCHEDULE = "DELETE FROM trun_schedule WHERE seq IN (SELECT seq FROM (SELECT s.seq FROM trun_schedule s \
        JOIN trun_schedule n ON n.id_agent_module=s.id_agent_module AND n.seq>s.seq AND n.utimestamp<? \
        GROUP BY s.seq ORDER BY s.seq LIMIT ?) old)";
    MODULES = "DELETE FROM tagent_module WHERE delete_pending=1 ORDER BY id_agent_module LIMIT ?";
    STATES = "DELETE FROM tmodule_state WHERE id_agent_module IN (SELECT id FROM (SELECT s.id_agent_module AS id \
        FROM tmodule_state s LEFT JOIN tagent_module m ON m.id_agent_module=s.id_agent_module \
        WHERE m.id_agent_module IS NULL LIMIT ?) gone)";
    BASES = "DELETE FROM tagent_data_inc WHERE id_agent_module IN (SELECT id FROM (SELECT i.id_agent_module AS id \
        FROM tagent_data_inc i LEFT JOIN tagent_module m ON m.id_agent_module=i.id_agent_module \
        WHERE m.id_agent_module IS NULL LIMIT ?) gone)";
    CONTACTS = "DELETE FROM tagent_contact WHERE id_agent IN (SELECT id FROM (SELECT DISTINCT c.id_agent AS id \
        FROM tagent_contact c LEFT JOIN tagent a ON a.id_agent=c.id_agent WHERE a.id_agent IS NULL LIMIT ?) gone)";
    COUNTS = "DELETE FROM tagent_count WHERE id_agent IN (SELECT id FROM (SELECT c.id_agent AS id \
        FROM tagent_count c LEFT JOIN tagent a ON a.id_agent=c.id_agent WHERE a.id_agent IS NULL LIMIT ?) gone)";
    DOUBTFUL = "SELECT id_agent, update_module_count FROM tagent WHERE update_module_count>0 \
        AND update_module_count<? ORDER BY id_agent LIMIT ?";
    COUNT_LOCK = "SELECT fired_count FROM tagent_count WHERE id_agent=? FOR UPDATE";
    RECOUNT = "UPDATE tagent_count n JOIN (SELECT COALESCE(SUM(s.status=0), 0)+0e0 AS c0, \
        COALESCE(SUM(s.status=1), 0)+0e0 AS c1, COALESCE(SUM(s.status=2), 0)+0e0 AS c2, \
        COALESCE(SUM(s.status=3), 0)+0e0 AS c3, COALESCE(SUM(s.status=4), 0)+0e0 AS c4 \
        FROM tagent_module m JOIN tmodule_state s ON s.id_agent_module=m.id_agent_module \
        WHERE m.id_agent=? AND m.delete_pending=0 AND m.disabled=0) v \
        SET n.normal_count=v.c0, n.critical_count=v.c1, n.warning_count=v.c2, n.unknown_count=v.c3, \
        n.notinit_count=v.c4 WHERE n.id_agent=?";
    CERTAIN = "UPDATE tagent SET update_module_count=0 WHERE id_agent=? AND update_module_count=?";
}

/// What a purge removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Rows by table.
    pub rows: HashMap<&'static str, u64>,
    /// Months of samples dropped whole.
    pub months: u32,
    /// Agents whose counters were counted anew.
    pub recounted: u32,
    /// More is left for the next call.
    pub more: bool,
}

/// Keep times in days; 0 = for ever.
struct Limits {
    samples: i64,
    texts: i64,
    events: i64,
}

impl Store {
    /// Removes what is older than its keep time (`tconfig`: `days_purge` 45, `string_purge` 7, `event_purge` 7; 0 = for
    /// ever; samples go by whole months), what deletions left behind, and makes the months ahead. `now` = server clock.
    pub async fn purge(&self, w: &Writer, now: i64) -> Result<Purged, CommitError> {
        let limits = self.limits().await.map_err(CommitError::NotDone)?;
        let mut purged = Purged::default();
        let older = |days: i64| if days == 0 { None } else { Some(now - days * DAY) };
        let by_age = [
            ("tagent_data_string", TEXTS, older(limits.texts)),
            ("tevent", EVENTS, older(limits.events)),
            ("treport_done", REPORTS, older(KEEP_DAYS)),
            ("trun_ledger", LEDGER, older(KEEP_DAYS)),
            ("tchange", CHANGES, older(KEEP_DAYS)),
            ("trun_schedule", SCHEDULE, older(KEEP_DAYS)),
        ];
        for (table, sql, limit) in by_age {
            if let Some(limit) = limit {
                self.delete(w, table, sql, Some(limit), &mut purged).await?;
            }
        }
        let left = [
            ("tagent_module", MODULES),
            ("tmodule_state", STATES),
            ("tagent_data_inc", BASES),
            ("tagent_contact", CONTACTS),
            ("tagent_count", COUNTS),
        ];
        for (table, sql) in left {
            self.delete(w, table, sql, None, &mut purged).await?;
        }
        purged.recounted = self.recount(w, now).await?;
        let oldest = older(limits.samples);
        // Under the fence like everything: dropping a month cannot be taken back.
        let months = fenced!(self, w, "looking at months", |c| Ok(months::list(c).await?))?;
        let mut conn = self.acquire().await.map_err(CommitError::NotDone)?;
        purged.months = run!(conn, "keeping months", |c| months::keep(c, &months, now, oldest).await)
            .map_err(CommitError::NotDone)?;
        Ok(purged)
    }

    async fn limits(&self) -> Result<Limits, StoreError> {
        let mut conn = self.acquire().await?;
        let rows: Vec<(String, String)> =
            run!(conn, "reading keep times", |c| Ok(sqlx::query_as(LIMITS).fetch_all(&mut *c).await?))?;
        let days = |token: &str, default: i64| {
            let value = rows.iter().find(|(t, _)| t == token).and_then(|(_, v)| v.trim().parse::<i64>().ok());
            value.filter(|days| (0..=36_500).contains(days)).unwrap_or(default)
        };
        Ok(Limits {
            samples: days("days_purge", 45),
            texts: days("string_purge", 7),
            events: days("event_purge", 7),
        })
    }

    async fn delete(
        &self,
        w: &Writer,
        table: &'static str,
        sql: &'static str,
        limit: Option<i64>,
        purged: &mut Purged,
    ) -> Result<(), CommitError> {
        for round in 0..ROUNDS {
            let gone = fenced!(self, w, "purging", |c| {
                let mut query = sqlx::query(sql);
                if let Some(limit) = limit {
                    query = query.bind(limit);
                }
                Ok(query.bind(BLOCK).execute(&mut *c).await?.rows_affected())
            })?;
            *purged.rows.entry(table).or_default() += gone;
            if gone < u64::from(BLOCK) {
                return Ok(());
            }
            purged.more |= round + 1 == ROUNDS;
        }
        Ok(())
    }

    /// Exact counters for agents of which something was deleted. With the counters' row locked, a writer's states are
    /// either committed with their difference, or both come later.
    async fn recount(&self, w: &Writer, now: i64) -> Result<u32, CommitError> {
        let mut conn = self.acquire().await.map_err(CommitError::NotDone)?;
        let doubtful: Vec<(u32, i64)> = run!(conn, "looking for doubtful counters", |c| {
            Ok(sqlx::query_as(DOUBTFUL).bind(now - SETTLED_S).bind(BLOCK).fetch_all(&mut *c).await?)
        })
        .map_err(CommitError::NotDone)?;
        drop(conn);
        for (agent, since) in &doubtful {
            fenced!(self, w, "counting anew", |c| {
                sqlx::query(COUNT_LOCK).bind(agent).fetch_optional(&mut *c).await?;
                sqlx::query(RECOUNT).bind(agent).bind(agent).execute(&mut *c).await?;
                sqlx::query(CERTAIN).bind(agent).bind(since).execute(&mut *c).await?;
                Ok(())
            })?;
        }
        Ok(u32::try_from(doubtful.len()).unwrap_or(u32::MAX))
    }
}
