//! How far replicas are behind, and how much slower the primary has to write for them: what a replica has received and
//! not applied is the time that a failover waits.

use std::collections::VecDeque;

/// Positions of the primary are kept for so long.
const KEPT_MS: i64 = 60_000;
/// And no closer than this.
const APART_MS: i64 = 50;
/// A replica behind by more than [`HIGH_MS`] slows writers down; below [`LOW_MS`] they get faster again.
const HIGH_MS: i64 = 500;
const LOW_MS: i64 = 300;
/// Pause of a writer at each statement, at most: a transaction of many statements has to end, too.
const MOST_MS: f64 = 25.0;
/// The pause is looked at so often: what it brings about shows in the next report.
const LOOK_MS: i64 = 200;

/// When the primary stood where, in the time of one master.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    head: VecDeque<(i64, u64)>,
    slow_ms: f64,
    looked: i64,
}

impl Pace {
    /// The primary stands here now.
    pub(super) fn head(&mut self, seq: u64, now_ms: i64) {
        if self.head.back().is_some_and(|last| last.1 > seq) {
            // Another one's positions.
            self.head.clear();
        }
        if self.head.back().is_none_or(|last| now_ms - last.0 >= APART_MS && last.1 != seq) {
            self.head.push_back((now_ms, seq));
        }
        while self.head.front().is_some_and(|first| now_ms - first.0 > KEPT_MS) && self.head.len() > 1 {
            self.head.pop_front();
        }
    }

    /// For how long the primary has been beyond this position; `None` = it was already when it was first seen, so
    /// nobody knows.
    pub(super) fn lag_ms(&self, applied: u64, now_ms: i64) -> Option<i64> {
        let first = self.head.front()?;
        if applied < first.1 {
            return None;
        }
        let beyond = self.head.iter().find(|(_, seq)| *seq > applied);
        Some(beyond.map_or(0, |(at, _)| now_ms - at))
    }

    /// The pause of writers at each statement, for the slowest of those that acknowledge.
    pub(super) fn slow_ms(&mut self, worst_lag_ms: i64, now_ms: i64) -> u32 {
        if now_ms - self.looked >= LOOK_MS {
            self.looked = now_ms;
            if worst_lag_ms > HIGH_MS {
                self.slow_ms = (self.slow_ms * 1.5 + 1.0).min(MOST_MS);
            } else if worst_lag_ms < LOW_MS {
                self.slow_ms = if self.slow_ms < 1.0 { 0.0 } else { self.slow_ms * 0.8 };
            }
        }
        self.slow_ms as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_the_age_of_what_is_not_applied_yet() {
        let mut pace = Pace::default();
        assert_eq!(pace.lag_ms(5, 0), None);
        for step in 0..20 {
            pace.head(100 + 10 * step, 100 * step.cast_signed());
        }
        assert_eq!(pace.lag_ms(290, 1_950), Some(0));
        assert_eq!(pace.lag_ms(255, 1_950), Some(350), "position 260 was reached at 1,600");
        assert_eq!(pace.lag_ms(99, 1_950), None, "behind what was ever seen");
        pace.head(3, 2_000);
        assert_eq!(pace.lag_ms(3, 2_500), Some(0), "another primary");
    }

    #[test]
    fn writers_slow_down_for_a_replica_and_get_faster_again() {
        let mut pace = Pace::default();
        assert_eq!(pace.slow_ms(0, 1_000), 0);
        let slow: Vec<u32> = (0..12).map(|step| pace.slow_ms(5_000, 2_000 + 200 * step)).collect();
        assert!(slow.is_sorted() && slow[0] == 1 && slow[11] == 25, "{slow:?}");
        assert_eq!(pace.slow_ms(400, 10_000), slow[11], "near enough to stay so");
        let fast = (0..40).map(|step| pace.slow_ms(0, 20_000 + 200 * step)).last();
        assert_eq!(fast, Some(0));
    }
}
