//! How much room a machine leaves: how late it wakes, how long its disk takes, how far the master is.
//!
//! PURE: [`Gauge`] is given what was measured and when; nothing here has a clock. The limits are fractions of the shortest
//! election time-out of a profile (300, 500, 1,000 ms), because that is what a heartbeat, its way, the write of a log entry
//! and every stall have to fit into together:
//!
//! | what | times | lan | safe | metro |
//! |---|---|---|---|---|
//! | the third longest stall | 1 | 300 ms | 500 ms | 1,000 ms |
//! | stall, 999 of 1,000 | 3 | 100 ms | 166 ms | 333 ms |
//! | a write that is on the disk (fdatasync), 99 of 100 | 10 | 30 ms | 50 ms | 100 ms |
//! | a TLS handshake with itself, 9 of 10: how quick its processors are | 15 | 20 ms | 33 ms | 66 ms |
//! | round trip to the master, 99 of 100 | 20 | 15 ms | 25 ms | 50 ms |
//!
//! Of few values the worst counts: of the seconds before a cluster is made, each stall. And a machine that does nothing yet
//! shows its best side: for the choice at that moment ([`Margins::first_choice`]) all counts twice.

use super::Profile;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Upper ends of the buckets, in milliseconds; the last takes all above.
const ENDS_MS: [u32; 26] = [
    1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 40, 50, 75, 100, 130, 166, 200, 250, 300, 333, 400, 500, 750, 1000,
    2000,
];
/// What is remembered: so many slots of so long.
const SLOTS: usize = 13;
const SLOT_MS: i64 = 10 * 60 * 1000;
/// Fewer round trips say little: the first of them are of new connections.
const TRIPS: u32 = 500;
/// Stalls so rare harm nobody.
const RARE: u32 = 2;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// How late a sleep of some milliseconds ended.
    Stall,
    /// A small write until it is on the disk.
    Sync,
    /// From a question to the master until its answer.
    Trip,
    /// A handshake as between two nodes, both of its sides here.
    Greet,
}

/// Counts of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Histogram {
    counts: [u32; ENDS_MS.len()],
    most_ms: u32,
}

impl Histogram {
    fn add(&mut self, ms: u32) {
        let at = ENDS_MS.iter().position(|end| ms <= *end).unwrap_or(ENDS_MS.len() - 1);
        self.counts[at] = self.counts[at].saturating_add(1);
        self.most_ms = self.most_ms.max(ms);
    }

    fn count(&self) -> u32 {
        self.counts.iter().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// The value that all but this share do not exceed.
    fn but_one_in(&self, share: u32) -> u32 {
        self.all_but(self.count() / share)
    }

    /// The value that all but so many do not exceed, rounded up to the end of its bucket.
    fn all_but(&self, allowed: u32) -> u32 {
        let mut above = 0u32;
        for (at, (count, end)) in self.counts.iter().zip(ENDS_MS).enumerate().rev() {
            above = above.saturating_add(*count);
            let end = if at + 1 == ENDS_MS.len() { u32::MAX } else { end };
            if above > allowed {
                return end.min(self.most_ms);
            }
        }
        0
    }
}

#[derive(Clone, Debug, Default)]
struct Slot {
    begin_ms: i64,
    of: [Histogram; 4],
}

/// The last two hours of one machine.
#[derive(Clone, Debug, Default)]
pub struct Gauge {
    slots: VecDeque<Slot>,
}

impl Gauge {
    /// Takes a value; `now_ms` only grows.
    pub fn add(&mut self, now_ms: i64, what: What, ms: i64) {
        if self.slots.back().is_none_or(|slot| now_ms - slot.begin_ms >= SLOT_MS) {
            self.slots.push_back(Slot { begin_ms: now_ms, ..Slot::default() });
        }
        while self.slots.len() > SLOTS {
            self.slots.pop_front();
        }
        if let Some(slot) = self.slots.back_mut() {
            slot.of[what as usize].add(u32::try_from(ms.max(0)).unwrap_or(u32::MAX));
        }
    }

    /// What was measured, all in all.
    #[must_use]
    pub fn margins(&self, now_ms: i64) -> Margins {
        let mut all = [const { None }; 4];
        for slot in self.slots.iter().filter(|slot| now_ms - slot.begin_ms < (SLOTS as i64) * SLOT_MS) {
            for (sum, one) in all.iter_mut().zip(&slot.of) {
                let sum = sum.get_or_insert_with(Histogram::default);
                sum.most_ms = sum.most_ms.max(one.most_ms);
                sum.counts
                    .iter_mut()
                    .zip(one.counts)
                    .for_each(|(sum, count)| *sum = sum.saturating_add(count));
            }
        }
        let [stall, sync, trip, greet] = all.map(Option::unwrap_or_default);
        let first = self.slots.front().map_or(now_ms, |slot| slot.begin_ms);
        Margins {
            seconds: u32::try_from((now_ms - first).max(0) / 1000).unwrap_or(u32::MAX),
            stall_max_ms: stall.most_ms,
            stall_third_ms: stall.all_but(RARE),
            stall_p999_ms: stall.but_one_in(1000),
            sync_p99_ms: (sync.count() > 0).then(|| sync.but_one_in(100)),
            greet_p90_ms: (greet.count() > 0).then(|| greet.but_one_in(10)),
            trip_p99_ms: (trip.count() >= TRIPS).then(|| trip.but_one_in(100)),
        }
    }
}

/// What a machine left over the time it was measured for. `None` = too few values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Margins {
    /// For how long it was measured.
    pub seconds: u32,
    pub stall_max_ms: u32,
    /// All but two stalls were no longer.
    pub stall_third_ms: u32,
    pub stall_p999_ms: u32,
    pub sync_p99_ms: Option<u32>,
    pub greet_p90_ms: Option<u32>,
    pub trip_p99_ms: Option<u32>,
}

/// A value that is above the limit of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    pub what: &'static str,
    pub ms: u32,
    pub limit_ms: u32,
}

impl Margins {
    /// What does not fit a profile.
    #[must_use]
    pub fn excesses(&self, profile: Profile) -> Vec<Excess> {
        let shortest = u32::try_from(profile.timings().election_min_ms).unwrap_or(u32::MAX);
        [
            ("its third longest stall", Some(self.stall_third_ms), 1),
            ("one stall in 1,000", Some(self.stall_p999_ms), 3),
            ("one write to its disk in 100", self.sync_p99_ms, 10),
            ("one TLS handshake in 10", self.greet_p90_ms, 15),
            ("one round trip to the master in 100", self.trip_p99_ms, 20),
        ]
        .into_iter()
        .filter_map(|(what, ms, times)| {
            let (ms, limit_ms) = (ms?, shortest / times);
            (ms > limit_ms).then_some(Excess { what, ms, limit_ms })
        })
        .collect()
    }

    /// The quickest profile that fits; the slowest where none does.
    #[must_use]
    pub fn choice(&self) -> Profile {
        Profile::ALL.into_iter().find(|profile| self.excesses(*profile).is_empty()).unwrap_or(Profile::Metro)
    }

    /// The profile of a cluster that is made now, before the machine has any work.
    #[must_use]
    pub fn first_choice(&self) -> Profile {
        self.twice().choice()
    }

    /// With everything twice as slow.
    fn twice(&self) -> Margins {
        Margins {
            stall_max_ms: self.stall_max_ms.saturating_mul(2),
            stall_third_ms: self.stall_third_ms.saturating_mul(2),
            stall_p999_ms: self.stall_p999_ms.saturating_mul(2),
            sync_p99_ms: self.sync_p99_ms.map(|ms| ms.saturating_mul(2)),
            greet_p90_ms: self.greet_p90_ms.map(|ms| ms.saturating_mul(2)),
            trip_p99_ms: self.trip_p99_ms.map(|ms| ms.saturating_mul(2)),
            ..*self
        }
    }

    /// In words, what does not fit a profile; `None` = all fits.
    #[must_use]
    pub fn against(&self, profile: Profile) -> Option<String> {
        let words: Vec<String> = self
            .excesses(profile)
            .iter()
            .map(|excess| format!("{} took {} ms, {} are allowed", excess.what, excess.ms, excess.limit_ms))
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}
