//! What a server tells its node agent every half second: that it lives, gets on, and is fit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::boottime_ms;
use crate::types::{Heartbeat, Role, VERSION};

/// Most load entries in one heartbeat.
const MAX_LOAD: usize = 1024;
/// Longest reason of unfitness sent.
const MAX_UNFIT: usize = 500;

/// Handle by which a server's parts say how they get on. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    bumped_boot_ms: AtomicI64,
    /// 0 = standing still is no fault.
    stall_ms: AtomicI64,
    stored: Mutex<(i64, u64)>,
    unfit: Mutex<String>,
    load: Mutex<BTreeMap<u16, f32>>,
}

impl Progress {
    /// One step of work is done (or the main loop came round).
    pub fn bump(&self) {
        self.inner.count.fetch_add(1, Ordering::Relaxed);
        self.inner.bumped_boot_ms.store(boottime_ms(), Ordering::Relaxed);
    }

    /// From now on a main loop that does not [`bump`](Self::bump) for this long counts as hung: heartbeats stop, and
    /// two seconds later the node agent kills the process. Call it from a loop that comes round without work, too.
    pub fn expect_bumps(&self, every: Duration) {
        self.bump();
        let ms = i64::try_from(every.as_millis()).unwrap_or(i64::MAX);
        self.inner.stall_ms.store(ms, Ordering::Relaxed);
    }

    /// Says what is wrong (database path, spool disk); empty = fit again.
    pub fn set_unfit(&self, why: impl Into<String>) {
        let mut why: String = why.into();
        if why.len() > MAX_UNFIT {
            why = why.chars().take(MAX_UNFIT / 4).collect();
        }
        *self.inner.unfit.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// A transaction that stored results was committed, at this cluster time, under this revision of the map.
    pub fn stored(&self, cluster_ms: i64, revision: u64) {
        *self.inner.stored.lock().unwrap_or_else(PoisonError::into_inner) = (cluster_ms, revision);
    }

    /// Load of owned shards in checks a second; goes out with the next heartbeats, 1,024 shards each.
    pub fn load(&self, load: Vec<(u16, f32)>) {
        self.inner.load.lock().unwrap_or_else(PoisonError::into_inner).extend(load);
    }

    fn next_loads(&self) -> Vec<(u16, f32)> {
        let mut waiting = self.inner.load.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| waiting.pop_first()).take(MAX_LOAD).collect()
    }

    /// The next heartbeat, or `None` while the main loop stands still.
    pub(crate) fn beat(&self, role: Role, incarnation: u64) -> Option<Heartbeat> {
        let stall = self.inner.stall_ms.load(Ordering::Relaxed);
        if stall > 0 && boottime_ms() - self.inner.bumped_boot_ms.load(Ordering::Relaxed) > stall {
            return None;
        }
        let (stored_ms, stored_revision) = *self.inner.stored.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Heartbeat {
            version: VERSION,
            role: Some(role),
            incarnation,
            progress: self.inner.count.load(Ordering::Relaxed),
            unfit: self.inner.unfit.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            stored_ms,
            stored_revision,
            load: self.next_loads(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_falls_silent() {
        let progress = Progress::default();
        assert!(progress.beat(Role::Console, 1).is_some());
        progress.expect_bumps(Duration::from_secs(5));
        assert!(progress.beat(Role::Console, 1).is_some());
        progress.inner.bumped_boot_ms.store(boottime_ms() - 6_000, Ordering::Relaxed);
        assert!(progress.beat(Role::Console, 1).is_none());
        progress.bump();
        assert!(progress.beat(Role::Console, 1).is_some());
    }

    #[test]
    fn all_load_goes_out_once_by_and_by() {
        let progress = Progress::default();
        progress.load((0..1_500).map(|i| (i, 1.0)).collect());
        progress.load(vec![(1_400, 7.0)]);
        let beats: Vec<_> = (0..3).map(|_| progress.beat(Role::NetworkServer, 1).unwrap().load).collect();
        assert_eq!(beats.iter().map(Vec::len).collect::<Vec<_>>(), [1024, 476, 0]);
        assert!(beats[1].contains(&(1_400, 7.0)), "the newest counts");
    }
}
