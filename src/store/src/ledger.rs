//! The run ledger: what ran, what was due, and where the two differ.

use crate::pool::run;
use crate::statements::statements;
use crate::{Store, StoreError};
use elpis_monitor::{ModuleId, schedule};
use std::collections::BTreeMap;

mod pack;
pub(crate) use pack::Packed;

/// Seconds around a change of settings in which nothing is demanded: servers follow changes within a second or two.
const GRACE_S: i64 = 5;
/// Rows of one query.
const PAGE: u32 = 2_000;

statements! {
    PAGE_OF_RUNS = "SELECT writer, incarnation, number, packed FROM trun_ledger WHERE last_slot>=? AND first_slot<? \
        AND (writer>? OR (writer=? AND (incarnation>? OR (incarnation=? AND number>?)))) \
        ORDER BY writer, incarnation, number LIMIT ?";
    SEGMENTS = "SELECT id_agent_module, utimestamp, interval_s FROM trun_schedule WHERE utimestamp<? \
        ORDER BY id_agent_module, seq";
}

/// What was due and what is recorded in a span of slots. Times in Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct LedgerReport {
    /// First second.
    pub from: i64,
    /// End, exclusive.
    pub to: i64,
    /// Slots that were due.
    pub due: u64,
    /// Executions recorded, forced ones too, each slot once.
    pub recorded: u64,
    /// Due slots without a record.
    pub missed: u64,
    /// Slots recorded more than once.
    pub recorded_twice: u64,
    /// Longest time between two records of a check (or an end of the span) with a missed slot between them.
    pub longest_gap_ms: i64,
    /// Executions by node.
    pub by_node: BTreeMap<String, u64>,
}

/// The executions of a ledger row (`packed`) as (module, slot); `None` when the bytes are torn or of another version.
#[must_use]
pub fn unpack_runs(packed: &[u8]) -> Option<Vec<(ModuleId, i64)>> {
    pack::unpack(packed)
}

impl Store {
    /// Compares ledger and schedule over `[from, to)`. Slots younger than the longest time limit of a check may still be
    /// on their way: let `to` be 30 s ago.
    pub async fn ledger_check(&self, from: i64, to: i64) -> Result<LedgerReport, StoreError> {
        let mut by_node = BTreeMap::new();
        let mut runs = Vec::new();
        let mut last = (String::new(), 0u64, 0u64);
        loop {
            let mut conn = self.acquire().await?;
            let rows: Vec<(String, u64, u64, Vec<u8>)> = run!(conn, "reading the ledger", |c| {
                let query = sqlx::query_as(PAGE_OF_RUNS).bind(from).bind(to);
                let query =
                    query.bind(&last.0).bind(&last.0).bind(last.1).bind(last.1).bind(last.2).bind(PAGE);
                Ok(query.fetch_all(&mut *c).await?)
            })?;
            let Some(end) = rows.last() else { break };
            last = (end.0.clone(), end.1, end.2);
            for (writer, incarnation, number, packed) in rows {
                let list = pack::unpack(&packed).ok_or_else(|| {
                    StoreError::Invalid(format!(
                        "ledger row {writer} {incarnation} {number} cannot be read: it is damaged or of a newer program"
                    ))
                })?;
                let before = runs.len();
                runs.extend(list.into_iter().filter(|(_, slot)| (from..to).contains(slot)));
                let node = writer.split_once('/').map_or(writer.as_str(), |(node, _)| node);
                let n = (runs.len() - before) as u64;
                if n > 0 {
                    *by_node.entry(node.to_owned()).or_default() += n;
                }
            }
        }
        let mut conn = self.acquire().await?;
        let segments: Vec<(u32, i64, u32)> = run!(conn, "reading the schedule", |c| {
            Ok(sqlx::query_as(SEGMENTS).bind(to).fetch_all(&mut *c).await?)
        })?;
        Ok(LedgerReport { by_node, ..compare(from, to, runs, &segments) })
    }
}

/// Segments: (module, from, interval) by module and in order; a later one ends the one before.
fn compare(from: i64, to: i64, mut runs: Vec<(ModuleId, i64)>, segments: &[(u32, i64, u32)]) -> LedgerReport {
    let mut report = LedgerReport { from, to, ..LedgerReport::default() };
    runs.sort_unstable();
    let all = runs.len();
    let twice = runs.chunk_by(|a, b| a == b).filter(|same| same.len() > 1).count();
    report.recorded_twice = twice as u64;
    runs.dedup();
    debug_assert!(all >= runs.len());
    report.recorded = runs.len() as u64;
    for of_module in segments.chunk_by(|a, b| a.0 == b.0) {
        let Some(first) = of_module.first() else { continue };
        let module = ModuleId(first.0);
        let start = runs.partition_point(|run| run.0 < module);
        let end = runs.partition_point(|run| run.0 <= module);
        let slots: Vec<i64> = runs[start..end].iter().map(|run| run.1).collect();
        for (i, (_, begin, interval)) in of_module.iter().enumerate() {
            if *interval == 0 {
                continue;
            }
            // A segment that ends within the span ends early, one that begins in it begins late.
            let until = of_module.get(i + 1).map_or(to, |next| next.1.saturating_sub(GRACE_S).min(to));
            let begin = begin.saturating_add(GRACE_S).max(from);
            demand(module, *interval, begin, until, &slots, &mut report);
        }
    }
    report
}

/// Counts the slots of one segment, `[begin, until)`.
fn demand(module: ModuleId, interval: u32, begin: i64, until: i64, slots: &[i64], report: &mut LedgerReport) {
    let step = i64::from(interval.max(1));
    let mut due = schedule::next_slot(module, interval, begin - 1);
    while due < until {
        report.due += 1;
        if slots.binary_search(&due).is_err() {
            report.missed += 1;
            let after = slots.partition_point(|slot| *slot <= due);
            let left =
                after.checked_sub(1).and_then(|i| slots.get(i)).copied().unwrap_or(begin).max(begin - step);
            let right = slots.get(after).copied().unwrap_or(until).min(until + step);
            report.longest_gap_ms = report.longest_gap_ms.max((right - left).saturating_mul(1000));
        }
        due += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_doubles_and_changes_of_settings_are_told_apart() {
        let id = 7;
        let module = ModuleId(id);
        let slots: Vec<i64> =
            std::iter::successors(Some(schedule::next_slot(module, 10, 1000)), |s| Some(s + 10))
                .take(100)
                .collect();
        let to = slots[99] + 1;
        let all: Vec<_> = slots.iter().map(|s| (module, *s)).collect();
        let clean = compare(1001, to, all.clone(), &[(id, 900, 10)]);
        assert_eq!(
            (clean.due, clean.recorded, clean.missed, clean.recorded_twice, clean.longest_gap_ms),
            (100, 100, 0, 0, 0)
        );
        let mut bad = all.clone();
        bad.retain(|(_, s)| *s != slots[10] && *s != slots[11]);
        bad.push((module, slots[50]));
        bad.push((module, slots[50]));
        let bad = compare(1001, to, bad, &[(id, 900, 10)]);
        assert_eq!(
            (bad.due, bad.recorded, bad.missed, bad.recorded_twice, bad.longest_gap_ms),
            (100, 98, 2, 1, 30_000)
        );
        // Stopped in the middle: nothing is demanded from there on, nor right before.
        let stopped = compare(1001, to, all[..50].to_vec(), &[(id, 900, 10), (id, slots[49] + 1, 0)]);
        assert_eq!((stopped.due, stopped.missed), (49, 0));
        assert_eq!(compare(1001, to, Vec::new(), &[(id, 900, 0)]).due, 0);
    }
}
