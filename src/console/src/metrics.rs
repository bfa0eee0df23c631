//! Counters of the console in the text format of Prometheus.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper ends of the time buckets in milliseconds.
const BUCKETS_MS: [u64; 8] = [5, 10, 25, 50, 100, 250, 1000, 5000];

/// Requests by class of status, and their server time.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    classes: [AtomicU64; 6],
    buckets: [AtomicU64; BUCKETS_MS.len()],
    sum_us: AtomicU64,
    count: AtomicU64,
    sign_in_failed: AtomicU64,
}

impl Metrics {
    pub(crate) fn answered(&self, status: u16, took: Duration) {
        let class = usize::from(status / 100).min(self.classes.len() - 1);
        self.classes[class].fetch_add(1, Ordering::Relaxed);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        for (bucket, end) in self.buckets.iter().zip(BUCKETS_MS) {
            if ms < end {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.sum_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(0), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn sign_in_failed(&self) {
        self.sign_in_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// The text, with what the process knows of itself.
    pub(crate) fn text(&self, writable: bool, live_streams: usize) -> String {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let mut text = String::from("# TYPE elpis_console_requests_total counter\n");
        for (class, n) in self.classes.iter().enumerate().skip(1) {
            let _ = writeln!(text, "elpis_console_requests_total{{class=\"{class}xx\"}} {}", get(n));
        }
        text.push_str("# TYPE elpis_console_request_seconds histogram\n");
        for (n, end) in self.buckets.iter().zip(BUCKETS_MS) {
            let end = Duration::from_millis(end).as_secs_f64();
            let _ = writeln!(text, "elpis_console_request_seconds_bucket{{le=\"{end}\"}} {}", get(n));
        }
        let count = get(&self.count);
        let sum = Duration::from_micros(get(&self.sum_us)).as_secs_f64();
        let _ = writeln!(text, "elpis_console_request_seconds_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "elpis_console_request_seconds_sum {sum}");
        let _ = writeln!(text, "elpis_console_request_seconds_count {count}");
        let _ = writeln!(text, "# TYPE elpis_console_sign_in_failures_total counter");
        let _ = writeln!(text, "elpis_console_sign_in_failures_total {}", get(&self.sign_in_failed));
        let _ = writeln!(text, "# TYPE elpis_console_writable gauge");
        let _ = writeln!(text, "elpis_console_writable {}", u8::from(writable));
        let _ = writeln!(text, "# TYPE elpis_console_live_streams gauge");
        let _ = writeln!(text, "elpis_console_live_streams {live_streams}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative() {
        let metrics = Metrics::default();
        metrics.answered(200, Duration::from_millis(7));
        metrics.answered(503, Duration::from_millis(70));
        let text = metrics.text(true, 0);
        for line in [
            "requests_total{class=\"2xx\"} 1",
            "requests_total{class=\"5xx\"} 1",
            "bucket{le=\"0.005\"} 0",
            "bucket{le=\"0.01\"} 1",
            "bucket{le=\"0.1\"} 2",
            "seconds_count 2",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
