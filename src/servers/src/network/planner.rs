//! Which check runs next. Pure: a heap over [`schedule::due`], whose first answer is kept.

use elpis_monitor::{ModuleId, schedule};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// A check that is to run now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Which.
    pub module: ModuleId,
    /// The slot it answers for, Unix seconds.
    pub slot: i64,
    /// It was asked for by a person.
    pub forced: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    interval_s: u32,
    /// Newest slot that was run or recorded.
    last_slot: i64,
    /// Heap items of older versions are dead.
    version: u32,
    running: bool,
    forced: bool,
}

/// Times of all checks of the shards that are held. Times in cluster time.
#[derive(Clone, Debug, Default)]
pub struct Planner {
    entries: HashMap<ModuleId, Entry>,
    /// (time in Unix milliseconds, module, slot, version)
    heap: BinaryHeap<Reverse<(i64, ModuleId, i64, u32)>>,
    versions: u32,
}

/// Pause before a check that sent nothing (the lease ran out) is tried again.
const AGAIN_MS: i64 = 500;

impl Planner {
    /// A check comes in, or its interval changes. A running one keeps running; its next slot follows the new interval.
    pub fn set(&mut self, module: ModuleId, interval_s: u32, last_slot: i64, forced: bool, now_ms: i64) {
        if let Some(entry) = self.entries.get_mut(&module) {
            let same = entry.interval_s == interval_s;
            entry.interval_s = interval_s;
            entry.last_slot = entry.last_slot.max(last_slot);
            let news = forced && !entry.forced;
            entry.forced |= forced;
            if entry.running || (same && !news) {
                return;
            }
        } else {
            let entry = Entry { interval_s, last_slot, version: 0, running: false, forced };
            self.entries.insert(module, entry);
        }
        self.push(module, now_ms, now_ms);
    }

    /// A check goes: deleted, disabled, or its shard is not held any more.
    pub fn remove(&mut self, module: ModuleId) {
        self.entries.remove(&module);
    }

    /// When the next check is to run, Unix milliseconds.
    pub fn next_at(&mut self) -> Option<i64> {
        while let Some(Reverse((at, module, _, version))) = self.heap.peek() {
            if self.entries.get(module).is_some_and(|e| e.version == *version && !e.running) {
                return Some(*at);
            }
            self.heap.pop();
        }
        None
    }

    /// Takes the next check that is due; it counts as running until [`finished`](Self::finished).
    pub fn pop(&mut self, now_ms: i64) -> Option<Due> {
        if self.next_at()? > now_ms {
            return None;
        }
        let Reverse((_, module, slot, _)) = self.heap.pop()?;
        let entry = self.entries.get_mut(&module)?;
        entry.running = true;
        // A check that had to wait answers for the newest slot: older ones cannot be measured any more.
        let newest = schedule::current_slot(module, entry.interval_s, now_ms.div_euclid(1000));
        Some(Due { module, slot: if entry.forced { slot } else { slot.max(newest) }, forced: entry.forced })
    }

    /// A check has run for its slot, or (`ran` false) nothing left the machine.
    pub fn finished(&mut self, due: Due, ran: bool, now_ms: i64) {
        let Some(entry) = self.entries.get_mut(&due.module) else { return };
        if !entry.running {
            return;
        }
        entry.running = false;
        if ran {
            entry.last_slot = entry.last_slot.max(due.slot);
            entry.forced &= !due.forced;
        }
        let earliest = if ran { now_ms } else { now_ms + AGAIN_MS };
        self.push(due.module, now_ms, earliest);
    }

    /// Number of checks.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// No checks.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn push(&mut self, module: ModuleId, now_ms: i64, earliest_ms: i64) {
        let Some(entry) = self.entries.get_mut(&module) else { return };
        // Unique over all entries: an item of a removed and re-added module is dead, too.
        self.versions = self.versions.wrapping_add(1);
        entry.version = self.versions;
        let (slot, at) = schedule::due(module, entry.interval_s, entry.last_slot, entry.forced, now_ms);
        self.heap.push(Reverse((at.max(earliest_ms), module, slot, entry.version)));
        // Dead items leave when they come up; before they are most of the heap it is built anew.
        if self.heap.len() > 1024 && self.heap.len() > 2 * self.entries.len() {
            let entries = &self.entries;
            self.heap.retain(|Reverse((_, module, _, version))| {
                entries.get(module).is_some_and(|entry| entry.version == *version)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn each_slot_runs_once_and_in_time() {
        let mut planner = Planner::default();
        for id in 1..=50 {
            planner.set(ModuleId(id), 10, NOW / 1000, false, NOW);
        }
        let mut runs: HashMap<ModuleId, Vec<i64>> = HashMap::new();
        for now in (NOW..NOW + 60_000).step_by(10) {
            while let Some(due) = planner.pop(now) {
                assert!(now - due.slot * 1000 < 20, "late");
                runs.entry(due.module).or_default().push(due.slot);
                planner.finished(due, true, now + 5);
            }
        }
        assert_eq!(runs.len(), 50);
        assert!(runs.values().all(|r| r.len() >= 5 && r.windows(2).all(|w| w[1] - w[0] == 10)));
    }

    #[test]
    fn overdue_ones_are_spread_and_keep_their_first_answer() {
        let mut planner = Planner::default();
        for id in 1..=400 {
            planner.set(ModuleId(id), 300, NOW / 1000 - 1000, false, NOW);
        }
        let at_once = std::iter::from_fn(|| planner.pop(NOW)).count();
        assert!(at_once < 20, "{at_once}");
        for id in 1..=400 {
            planner.set(ModuleId(id), 300, NOW / 1000 - 1000, false, NOW + 2_000);
        }
        assert_eq!(std::iter::from_fn(|| planner.pop(NOW + 5_000)).count() + at_once, 400);
    }

    #[test]
    fn forced_runs_at_once_and_a_running_one_runs_again() {
        let mut planner = Planner::default();
        let module = ModuleId(3);
        planner.set(module, 3_600, NOW / 1000, false, NOW);
        assert_eq!(planner.pop(NOW + 1_000), None);
        planner.set(module, 3_600, 0, true, NOW + 1_000);
        let due = planner.pop(NOW + 1_000).unwrap();
        assert_eq!((due.slot, due.forced), (NOW / 1000 + 1, true));
        assert_eq!(planner.pop(NOW + 2_000), None);
        planner.finished(due, true, NOW + 2_000);
        assert!(planner.next_at().unwrap() > NOW + 2_000);
    }

    #[test]
    fn what_sent_nothing_waits_a_moment_and_keeps_its_slot() {
        let mut planner = Planner::default();
        let module = ModuleId(3);
        let slot = schedule::next_slot(module, 60, NOW / 1000);
        planner.set(module, 60, NOW / 1000, false, NOW);
        let due = planner.pop(slot * 1000).unwrap();
        planner.finished(due, false, slot * 1000);
        assert_eq!(planner.pop(slot * 1000 + 100), None);
        assert_eq!(planner.pop(slot * 1000 + AGAIN_MS).unwrap().slot, slot);
    }

    #[test]
    fn removed_and_changed_ones_leave_nothing_behind() {
        let mut planner = Planner::default();
        for round in 0..5_000 {
            planner.set(ModuleId(1), 60 + round % 2, 0, false, NOW);
            planner.set(ModuleId(2), 60, 0, false, NOW);
            planner.remove(ModuleId(2));
        }
        assert!(planner.heap.len() <= 1025, "{}", planner.heap.len());
        let due = planner.pop(NOW + 10_000).unwrap();
        assert_eq!((due.module, planner.pop(NOW + 10_000)), (ModuleId(1), None));
        planner.remove(ModuleId(1));
        planner.finished(due, true, NOW + 10_000);
        assert!(planner.is_empty() && planner.next_at().is_none());
    }
}
