//! Stalls of the machine while it is measured: a thread that wants to wake every 10 ms.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WAKE: Duration = Duration::from_millis(10);
/// Later than this is a stall.
const STALL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Stalls {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    longest_ms: Arc<AtomicU64>,
}

impl Stalls {
    pub(crate) fn watch() -> Stalls {
        let stalls = Stalls { stop: Arc::default(), count: Arc::default(), longest_ms: Arc::default() };
        let (stop, count, longest) = (stalls.stop.clone(), stalls.count.clone(), stalls.longest_ms.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let begin = Instant::now();
                std::thread::sleep(WAKE);
                let late = begin.elapsed().saturating_sub(WAKE);
                longest.fetch_max(u64::try_from(late.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                if late > STALL {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        stalls
    }

    /// "3 stalls over 100 ms, longest 140 ms".
    pub(crate) fn text(&self) -> String {
        format!(
            "{} stalls of the machine over {} ms, longest {} ms",
            self.count.load(Ordering::Relaxed),
            STALL.as_millis(),
            self.longest_ms.load(Ordering::Relaxed)
        )
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
