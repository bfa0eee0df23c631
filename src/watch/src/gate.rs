//! The gate before each effect: open while this node's lease runs, closed by time alone.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Lease, boottime_ms};

/// The right to act, read right before each probe packet and each COMMIT. Cheap to clone; all clones are one gate.
///
/// Nobody has to close it: when frames stop coming the deadline passes.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    lease: Arc<Mutex<Lease>>,
}

impl Gate {
    /// A gate with a lease that nobody renews: for tests and for programs without a cluster.
    pub fn with_lease(lease: Lease) -> Self {
        Gate { lease: Arc::new(Mutex::new(lease)) }
    }

    /// The session to act in, or `None` when the lease is over.
    pub fn session_if_valid(&self) -> Option<u64> {
        // The clock is read after the lease: a pause between the two can only close the gate.
        let lease = self.lease();
        (boottime_ms() < lease.until_boot_ms).then_some(lease.session)
    }

    /// The lease as the last frame told it, valid or not.
    pub fn lease(&self) -> Lease {
        *self.lease.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cluster time in Unix milliseconds; 0 before the first frame.
    pub fn cluster_now_ms(&self) -> i64 {
        let lease = self.lease();
        if lease == Lease::default() { 0 } else { boottime_ms().saturating_add(lease.cluster_offset_ms) }
    }

    /// Takes what a frame brought. A session never goes back: an older one closes the gate.
    pub fn set(&self, lease: Lease) {
        let mut held = self.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if lease.session < held.session {
            held.until_boot_ms = 0;
        } else {
            *held = lease;
        }
    }

    /// Closes the gate until the next frame.
    pub fn close(&self) {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).until_boot_ms = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closes_by_time_and_never_takes_an_older_session() {
        let gate = Gate::default();
        assert_eq!(gate.session_if_valid(), None);
        let until = boottime_ms() + 60_000;
        gate.set(Lease { session: 7, until_boot_ms: until, ..Lease::default() });
        assert_eq!(gate.session_if_valid(), Some(7));
        gate.set(Lease { session: 6, until_boot_ms: until, ..Lease::default() });
        assert_eq!(gate.session_if_valid(), None);
        gate.set(Lease { session: 7, until_boot_ms: boottime_ms() - 1, ..Lease::default() });
        assert_eq!(gate.session_if_valid(), None);
    }
}
