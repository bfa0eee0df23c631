//! The only clock that decides about leases.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME` in milliseconds: runs on in suspend, never steps, and is the same for all processes of a machine.
pub fn boottime_ms() -> i64 {
    match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(t) => t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000,
        // The kernel has had this clock since 2.6.39; without it no lease may ever be valid.
        Err(_) => i64::MAX,
    }
}
