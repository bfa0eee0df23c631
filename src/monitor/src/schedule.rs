//! When a network check is due: a grid without jitter, so that any owner computes the same slots.

use crate::ModuleId;

/// Longest spread of overdue checks after a takeover.
const TAKEOVER_SPREAD_MS: i64 = 5_000;

/// Offset of a module's grid, in `0..interval` seconds: evenly spread, and the same on every node.
pub fn phase(module: ModuleId, interval_s: u32) -> i64 {
    i64::from(mix(module)) % i64::from(interval_s.max(1))
}

/// Spreads neighbouring ids over all 32 bits (an integer finaliser; no randomness).
fn mix(module: ModuleId) -> u32 {
    let mut x = module.0.wrapping_mul(0x9E37_79B9);
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x ^ (x >> 13)
}

/// First slot after `after` (Unix seconds).
pub fn next_slot(module: ModuleId, interval_s: u32, after: i64) -> i64 {
    let interval = i64::from(interval_s.max(1));
    let phase = phase(module, interval_s);
    (after - phase).div_euclid(interval) * interval + interval + phase
}

/// The latest slot not after `now`.
pub fn current_slot(module: ModuleId, interval_s: u32, now: i64) -> i64 {
    next_slot(module, interval_s, now) - i64::from(interval_s.max(1))
}

/// The slot that is to run next and when (Unix milliseconds): at its time; at once when it is forced; after a
/// takeover an overdue one runs first, spread over at most a quarter of its interval, five seconds, and half of what it is
/// late: little is overdue after a short gap, and waiting longer than the gap protects nobody.
///
/// Only the newest overdue slot runs: older ones cannot be measured any more.
pub fn due(module: ModuleId, interval_s: u32, last_slot: i64, forced: bool, now_ms: i64) -> (i64, i64) {
    let now = now_ms.div_euclid(1000);
    if forced {
        return (now.max(last_slot + 1), now_ms);
    }
    let current = current_slot(module, interval_s, now);
    if current > last_slot {
        let late_ms = now_ms - current * 1000;
        let spread = (i64::from(interval_s) * 250).min(TAKEOVER_SPREAD_MS).min(late_ms / 2);
        // Just reached slots are on time, not overdue.
        let wait = if late_ms < 1000 || spread == 0 { 0 } else { i64::from(mix(module) >> 8) % spread };
        return (current, now_ms + wait);
    }
    let next = next_slot(module, interval_s, now.max(last_slot));
    (next, next * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_fixed_and_only_grows() {
        for id in 1..200 {
            let module = ModuleId(id);
            let first = next_slot(module, 300, 1_700_000_000);
            assert!(first > 1_700_000_000 && first <= 1_700_000_300);
            assert_eq!(next_slot(module, 300, first), first + 300);
            assert_eq!(next_slot(module, 300, first - 1), first);
            assert_eq!(current_slot(module, 300, first), first);
        }
    }

    #[test]
    fn forced_runs_now_and_overdue_within_the_spread() {
        let module = ModuleId(7);
        let now_ms = 1_700_000_123_400;
        assert_eq!(due(module, 300, 0, true, now_ms), (1_700_000_123, now_ms));
        let (slot, at) = due(module, 300, 0, false, now_ms);
        assert!(slot <= 1_700_000_123 && at >= now_ms && at < now_ms + 5_000);
        let (slot, at) = due(module, 4, 0, false, now_ms);
        assert!(at < now_ms + 1_000, "{slot} {at}");
        for late_ms in [1_000, 2_000, 9_000] {
            let slot = current_slot(module, 20, 1_700_000_123);
            let now_ms = slot * 1000 + late_ms;
            let (again, at) = due(module, 20, slot - 20, false, now_ms);
            assert!(again == slot && (now_ms..now_ms + (late_ms / 2).min(5_000)).contains(&at), "{late_ms}");
        }
    }

    #[test]
    fn a_recorded_slot_never_comes_again() {
        let module = ModuleId(9);
        let slot = current_slot(module, 60, 1_700_000_000);
        assert_eq!(due(module, 60, slot, false, 1_700_000_000_000).0, slot + 60);
    }
}
