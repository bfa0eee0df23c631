//! Which binary logs a node may throw away: none that a member of the group still has to read.
//!
//! PURE. The master tells every supervisor how far the members have applied; each keeps what it heard ([`Notes`]), as a
//! member that is away is known to no new master. What a member receives and does not apply is lost when its server is
//! restarted, so what counts is what it has applied.

use super::group::Group;
use super::plan::Report;
use super::room::Logs;
use elpis_watch::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far each member has applied; `None` = the master does not know.
pub type Applied = BTreeMap<NodeId, Option<u64>>;

/// How far the members have applied, from what the supervisors tell. The primary counts as far as another one has
/// applied: what it has beyond may be cut off when it falls, and it comes back behind it.
#[must_use]
pub fn applied(group: &Group, reports: &BTreeMap<NodeId, Report>) -> Applied {
    let seq = |node: NodeId| {
        let local = &reports.get(&node)?.local;
        (local.up && node != group.primary && local.source.is_some()).then_some(local.applied_seq)
    };
    let others = group.members.keys().filter_map(|node| seq(*node)).max();
    let own = reports.get(&group.primary).filter(|report| report.local.up).map(|head| head.local.binlog_seq);
    let alone = group.members.len() < 2;
    let of = |node: &NodeId| match *node == group.primary {
        true if alone => own,
        true => others.filter(|_| own.is_some()),
        false => seq(*node),
    };
    group.members.keys().map(|node| (*node, of(node))).collect()
}

/// A binary log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinaryLog {
    pub name: String,
    pub bytes: u64,
    /// The last sequence number before it.
    pub after: u64,
}

/// For how long a member that is away is waited for: until the first of these is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A long weekend.
    pub away_s: u64,
    /// Bytes that are kept for its sake: fetching more takes longer than a new copy of most databases.
    pub bytes: u64,
    /// Part of the disk, in hundredths: the primary must not run full for one that is gone.
    pub percent: u64,
    /// The same once the disk is critical, of every member, away or not: two logs, so that one that is near keeps its
    /// place over the begin of a new one. Who falls behind more gets a new copy.
    pub short_bytes: u64,
    pub short_percent: u64,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            away_s: 3 * 24 * 3600,
            bytes: 10 << 30,
            percent: 20,
            short_bytes: 512 << 20,
            short_percent: 5,
        }
    }
}

/// What a supervisor knows of a member.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Note {
    /// How far it had applied when it was last heard of; `None` = it never was.
    pub seq: Option<u64>,
    /// For how long nobody has heard of it.
    pub away_s: u64,
}

/// What a supervisor knows of the members; kept on disk. Time is counted, not read from a clock: one that jumps changes
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Notes(pub BTreeMap<NodeId, Note>);

impl Notes {
    /// Takes what the master says, so many seconds after the last time.
    pub fn hear(&mut self, told: &Applied, passed_s: u64) {
        self.0.retain(|node, _| told.contains_key(node));
        for (node, seq) in told {
            let note = self.0.entry(*node).or_default();
            match seq {
                Some(_) => *note = Note { seq: *seq, away_s: 0 },
                None => note.away_s = note.away_s.saturating_add(passed_s),
            }
        }
    }

    /// The oldest of the logs, oldest first, that has to stay; `None` = all of them. `disk` is its size in bytes, 0 = not
    /// known; `short` = hardly any of it is free.
    #[must_use]
    pub fn keep_from<'a>(
        &self,
        logs: &'a [BinaryLog],
        disk: u64,
        short: bool,
        patience: &Patience,
    ) -> Option<&'a str> {
        let part = |bytes: u64, percent: u64| match disk / 100 * percent {
            0 => bytes,
            part => part.min(bytes),
        };
        let most = part(patience.bytes, patience.percent);
        let most_short = part(patience.short_bytes, patience.short_percent);
        let mut keep = logs.len().checked_sub(1)?;
        for note in self.0.values() {
            let from = first(logs, note.seq);
            let held = bytes(&logs[from..]);
            let away = note.away_s > 0 && (note.away_s >= patience.away_s || held > most);
            // The newest goes in no case: it is not counted.
            let behind = short && bytes(&logs[from..logs.len() - 1]) > most_short;
            if !away && !behind {
                keep = keep.min(from);
            }
        }
        // Of nobody anything is known: nothing goes.
        (keep > 0 && !self.0.is_empty()).then(|| logs[keep].name.as_str())
    }

    /// How much the logs are, and how much of that is there for each member.
    #[must_use]
    pub fn held(&self, logs: &[BinaryLog]) -> Logs {
        let held = self.0.iter().map(|(node, note)| (*node, bytes(&logs[first(logs, note.seq)..])));
        Logs { bytes: bytes(logs), held: held.collect() }
    }
}

/// The log that holds what comes after a position: the last that begins no later.
fn first(logs: &[BinaryLog], seq: Option<u64>) -> usize {
    seq.and_then(|seq| logs.iter().rposition(|log| log.after <= seq)).unwrap_or(0)
}

fn bytes(logs: &[BinaryLog]) -> u64 {
    logs.iter().map(|log| log.bytes).fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::database::{Entry, Local};

    fn logs() -> Vec<BinaryLog> {
        let log = |n: u64| BinaryLog { name: format!("binlog.{n}"), bytes: 1 << 30, after: 100 * n };
        (0..20).map(log).collect()
    }

    #[test]
    fn nothing_goes_that_a_member_needs() {
        const DAY: u64 = 24 * 3600;
        let note = |seq: u64, away_s| Note { seq: Some(seq), away_s };
        let never = |away_s| Note { seq: None, away_s };
        // (what of, notes of the members, bytes of the disk, what is kept from)
        let table: [(&str, Vec<Note>, u64, Option<&str>); 11] = [
            ("nothing is known", vec![], 0, None),
            ("all have applied all", vec![note(5_000, 0), note(5_000, 0)], 0, Some("binlog.19")),
            ("the slowest counts", vec![note(1_950, 0), note(1_234, 0)], 0, Some("binlog.12")),
            ("a log that begins at its position is enough", vec![note(1_300, 0)], 0, Some("binlog.13")),
            ("one that lives is waited for for ever", vec![note(1_950, 0), note(5, 0)], 1, None),
            ("one away for two days", vec![note(1_950, 0), note(1_234, 2 * DAY)], 0, Some("binlog.12")),
            ("one away for three days", vec![note(1_950, 0), note(1_234, 3 * DAY)], 0, Some("binlog.19")),
            ("one away that holds 11 GiB", vec![note(1_950, 0), note(950, 1)], 0, Some("binlog.19")),
            ("20 % of a small disk", vec![note(1_950, 0), note(1_234, 1)], 30 << 30, Some("binlog.19")),
            ("a new one is waited for", vec![note(1_950, 0), never(0)], 0, None),
            ("not for ever", vec![note(1_950, 0), never(3 * DAY)], 0, Some("binlog.19")),
        ];
        for (what, notes, disk, keep) in table {
            let notes = Notes((2..).zip(notes).collect());
            assert_eq!(notes.keep_from(&logs(), disk, false, &Patience::default()), keep, "{what}");
        }
        for short in [false, true] {
            assert_eq!(Notes::default().keep_from(&[], 0, short, &Patience::default()), None);
            let notes = Notes(BTreeMap::from([(2, note(u64::MAX, u64::MAX))]));
            assert_eq!(notes.keep_from(&[], u64::MAX, short, &Patience::default()), None);
        }
    }

    #[test]
    fn on_a_critical_disk_nobody_is_waited_for_long() {
        let note = |seq: Option<u64>, away_s| Note { seq, away_s };
        // A log is 128 MiB; (what of, notes of the members, MiB of the disk, what is kept from)
        let table: [(&str, Vec<Note>, u64, Option<&str>); 6] = [
            ("nothing is known", vec![], 0, None),
            (
                "one that lives and never comes near",
                vec![note(Some(1_950), 0), note(Some(5), 0)],
                0,
                Some("binlog.19"),
            ),
            ("one that is near", vec![note(Some(1_950), 0), note(Some(1_540), 0)], 0, Some("binlog.15")),
            ("one that is not", vec![note(Some(1_950), 0), note(Some(1_440), 0)], 0, Some("binlog.19")),
            ("a small disk", vec![note(Some(1_950), 0), note(Some(1_540), 0)], 8 << 10, Some("binlog.19")),
            ("a new one", vec![note(Some(1_950), 0), note(None, 0)], 0, Some("binlog.19")),
        ];
        let logs: Vec<BinaryLog> =
            logs().into_iter().map(|log| BinaryLog { bytes: 128 << 20, ..log }).collect();
        for (what, notes, disk, keep) in table {
            let notes = Notes((2..).zip(notes).collect());
            assert_eq!(notes.keep_from(&logs, disk << 20, true, &Patience::default()), keep, "{what}");
        }
        let notes =
            Notes(BTreeMap::from([(2, note(Some(1_950), 0)), (3, note(Some(1_750), 0)), (4, note(None, 9))]));
        let held = BTreeMap::from([(2, 128 << 20), (3, 384 << 20), (4, (20 * 128) << 20)]);
        assert_eq!(notes.held(&logs), Logs { bytes: (20 * 128) << 20, held });
        assert_eq!(notes.held(&[]).bytes, 0);
    }

    #[test]
    fn one_that_is_away_keeps_its_place_until_it_is_heard_of() {
        let mut notes = Notes::default();
        notes.hear(&Applied::from([(2, Some(7)), (3, Some(5))]), 10);
        notes.hear(&Applied::from([(2, Some(9)), (3, None)]), 10);
        notes.hear(&Applied::from([(2, Some(9)), (3, None), (4, None)]), 10);
        assert_eq!(notes.0[&3], Note { seq: Some(5), away_s: 20 });
        assert_eq!(notes.0[&4], Note { seq: None, away_s: 10 });
        notes.hear(&Applied::from([(3, Some(6))]), 10);
        assert_eq!(
            notes.0,
            BTreeMap::from([(3, Note { seq: Some(6), away_s: 0 })]),
            "who left counts no more"
        );
    }

    #[test]
    fn the_primary_counts_as_far_as_another_one() {
        let mut group = Group::new(2);
        let local = |seq| Local { up: true, binlog_seq: seq, applied_seq: seq, ..Local::default() };
        let report = |local| Report { local, ..Report::default() };
        let mut reports = BTreeMap::from([(2, report(local(90)))]);
        assert_eq!(applied(&group, &reports), Applied::from([(2, Some(90))]), "alone");
        group.apply(&Entry::Joined { node: 3 }).unwrap();
        group.apply(&Entry::Joined { node: 4 }).unwrap();
        assert_eq!(applied(&group, &reports), Applied::from([(2, None), (3, None), (4, None)]));
        reports.insert(3, report(Local { source: Some(2), ..local(80) }));
        reports.insert(4, report(Local { up: false, ..local(85) }));
        assert_eq!(applied(&group, &reports), Applied::from([(2, Some(80)), (3, Some(80)), (4, None)]));
    }
}
