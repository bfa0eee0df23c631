//! Cluster time: a boot clock plus an offset that follows the wall clocks of the voters.
//!
//! PURE. Slots and receive times are made of it, and a slot of the future shuts a module out until then: so no time is
//! told before most clocks are known, and one that is far off moves it only when most agree with it.

use crate::planted;

/// Clocks so close agree; cluster time further from the middle of the clocks than this jumps.
const AGREE_MS: i64 = 10_000;
/// Most clocks are known but no majority agrees: so long a further one is waited for, then the earliest of the middle
/// ones is taken.
const UNCLEAR_MS: i64 = 5_000;

/// The offset, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ClusterTime {
    /// Cluster time minus boot time.
    offset_ms: Option<i64>,
    unclear_since: Option<i64>,
}

impl ClusterTime {
    /// What the leader before told.
    pub(super) fn follow(&mut self, offset_ms: i64) {
        *self = ClusterTime { offset_ms: Some(offset_ms), unclear_since: None };
    }

    /// Unix milliseconds.
    pub(super) fn at(&self, boot_ms: i64) -> Option<i64> {
        Some(boot_ms + self.offset_ms?)
    }

    /// Takes what is known of the voters' wall clocks, each as its distance from the boot clock. Cluster time goes
    /// towards their middle by a tenth of the time that passed, so it never goes backwards, and jumps only where a
    /// majority of all voters agrees.
    pub(super) fn keep(&mut self, mut clocks: Vec<i64>, voters: usize, boot_ms: i64, passed_ms: i64) {
        clocks.sort_unstable();
        let count = clocks.len();
        // Few clocks decide nothing once there are others.
        if count * 2 <= voters {
            return;
        }
        let (Some(&low), Some(&high)) = (clocks.get((count - 1) / 2), clocks.get(count / 2)) else { return };
        let agreed = |target: i64| {
            clocks.iter().filter(|clock| (**clock - target).abs() <= AGREE_MS).count() * 2 > voters
        };
        let Some(at) = self.offset_ms else {
            let since = *self.unclear_since.get_or_insert(boot_ms);
            let sure = [low, high].into_iter().find(|target| agreed(*target));
            self.offset_ms = sure.or((boot_ms - since >= UNCLEAR_MS).then_some(low));
            return;
        };
        let any = planted::on("few-clocks-jump");
        let target = if (low - at).abs() <= (high - at).abs() && !any { low } else { high };
        let apart = target - at;
        if apart.abs() <= AGREE_MS {
            let step = (passed_ms / 10).max(1);
            self.offset_ms = Some(at + apart.clamp(-step, step));
        } else if agreed(target) || any {
            self.offset_ms = Some(target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: i64 = 31_536_000_000;

    fn kept(offset: Option<i64>, clocks: &[i64], voters: usize) -> Option<i64> {
        let mut time = ClusterTime { offset_ms: offset, unclear_since: None };
        time.keep(clocks.to_vec(), voters, 0, 50);
        time.offset_ms
    }

    #[test]
    fn a_clock_that_is_far_off_moves_nothing_however_early_it_is_heard() {
        for off in [YEAR, -YEAR] {
            // A new leader has heard itself and one other, in both orders.
            assert_eq!(kept(Some(0), &[0, off], 3), Some(0));
            assert_eq!(kept(Some(0), &[off, 0, 0], 3), Some(0));
            assert_eq!(kept(Some(0), &[off, off, 0, 0, 0], 5), Some(0));
            // Nobody has told the time yet: the one that is off leads, or is heard first.
            assert_eq!(kept(None, &[off], 3), None);
            assert_eq!(kept(None, &[off, 0], 3), None);
            assert_eq!(kept(None, &[off, 0, 0], 3), Some(0));
        }
        assert_eq!(kept(None, &[7], 1), Some(7));
        assert_eq!(kept(None, &[7, 9], 2), Some(7));
    }

    #[test]
    fn two_clocks_of_three_that_disagree_are_waited_for_and_then_the_earlier_counts() {
        let mut time = ClusterTime::default();
        time.keep(vec![YEAR, 0], 3, 1_000, 50);
        assert_eq!(time.at(1_000), None);
        time.keep(vec![YEAR, 0], 3, 1_000 + UNCLEAR_MS, 50);
        assert_eq!(time.offset_ms, Some(0));
        // The third says who was right.
        time.keep(vec![YEAR, 0, YEAR], 3, 7_000, 50);
        assert_eq!(time.offset_ms, Some(YEAR));
    }

    #[test]
    fn it_walks_to_the_middle_and_jumps_when_most_are_far_away() {
        assert_eq!(kept(Some(0), &[900, 1000, 1100], 3), Some(5));
        assert_eq!(kept(Some(0), &[-1000, -1000, 0], 3), Some(-5));
        assert_eq!(kept(Some(0), &[3, 3, 3], 3), Some(3));
        assert_eq!(kept(Some(0), &[YEAR, YEAR, 0], 3), Some(YEAR));
        // Even numbers: the middle one that is nearer.
        assert_eq!(kept(Some(4), &[4, 2000], 3), Some(4));
        // No two agree.
        assert_eq!(kept(Some(0), &[-YEAR, 20_000, YEAR], 3), Some(0));
    }
}
