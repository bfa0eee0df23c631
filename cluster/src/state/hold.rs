//! Hold-down: a node that flaps waits before it gets shards back.

use serde::{Deserialize, Serialize};

/// First wait, longest wait, and the time without a loss after which everything is forgotten.
pub const HOLD_MIN_MS: i64 = 10_000;
pub const HOLD_MAX_MS: i64 = 600_000;
pub const HOLD_FORGET_MS: i64 = 60_000;
/// The loss inside [`HOLD_FORGET_MS`] that starts the first wait.
const LOSSES: usize = 3;

/// Losses of a node, in cluster time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The last losses, oldest first, at most three.
    losses: Vec<i64>,
    /// Waits so far without a pause of [`HOLD_FORGET_MS`].
    level: u32,
    /// Until then it gets no shards back.
    pub until_ms: i64,
}

impl Hold {
    /// Counts a loss.
    pub(super) fn lost(&mut self, at_ms: i64) {
        // The wait itself does not count as a time without losses: a node that was kept still proves nothing.
        let calm_since = self.losses.last().copied().unwrap_or(i64::MIN).max(self.until_ms);
        if at_ms.saturating_sub(calm_since) > HOLD_FORGET_MS {
            *self = Hold::default();
        }
        self.losses.push(at_ms);
        if self.losses.len() > LOSSES {
            self.losses.remove(0);
        }
        let quick = self.losses.len() == LOSSES && at_ms.saturating_sub(self.losses[0]) <= HOLD_FORGET_MS;
        if quick || self.level > 0 {
            let wait = HOLD_MIN_MS.saturating_mul(1i64 << self.level.min(16)).min(HOLD_MAX_MS);
            self.level = (self.level + 1).min(16);
            self.until_ms = at_ms.saturating_add(wait);
        }
    }

    /// Whether the node still waits.
    #[must_use]
    pub fn holds(&self, now_ms: i64) -> bool {
        now_ms < self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn third_loss_in_a_minute_waits_and_the_wait_doubles() {
        let mut hold = Hold::default();
        hold.lost(0);
        hold.lost(20_000);
        assert!(!hold.holds(20_000));
        hold.lost(40_000);
        assert_eq!(hold.until_ms, 50_000);
        hold.lost(55_000);
        assert_eq!(hold.until_ms, 75_000);
        hold.lost(76_000);
        assert_eq!(hold.until_ms, 116_000);
        for n in 0..12 {
            hold.lost(hold.until_ms + n);
        }
        assert_eq!(hold.until_ms - hold.losses[2], HOLD_MAX_MS);
    }

    #[test]
    fn a_quiet_minute_forgets() {
        let mut hold = Hold::default();
        for at in [0, 1000, 2000] {
            hold.lost(at);
        }
        assert!(hold.holds(3000));
        hold.lost(12_000 + HOLD_FORGET_MS + 1);
        assert!(!hold.holds(12_000 + HOLD_FORGET_MS + 2));
    }

    #[test]
    fn slow_losses_never_wait() {
        let mut hold = Hold::default();
        for n in 0..20 {
            hold.lost(n * 45_000);
            assert!(!hold.holds(n * 45_000));
        }
    }
}
