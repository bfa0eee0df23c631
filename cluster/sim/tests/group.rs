//! The database group, 150 seeds. A failure prints its seed; `cargo run -p elpis-sim --release --example sim --
//! --database --seed n --verbose` prints what happens in it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use elpis_sim::group::{Report, run};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 150;

#[test]
fn nothing_acknowledged_is_ever_lost() {
    let next = AtomicU64::new(1);
    let reports = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > SEEDS {
                        return;
                    }
                    let report = run(seed, false);
                    reports.lock().unwrap().push(report);
                }
            });
        }
    });
    let reports = reports.into_inner().unwrap();
    let failed: Vec<String> =
        reports.iter().filter(|report| !report.violations.is_empty()).map(ToString::to_string).collect();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (epochs, promotions) = (sum(|report| report.epochs), sum(|report| report.promotions));
    let (rebuilt, acknowledged) = (sum(|report| report.rebuilt), sum(|report| report.acknowledged as u64));
    println!(
        "{epochs} epochs, {promotions} promotions, {rebuilt} copies made anew, {acknowledged} rows acknowledged"
    );
    assert!(
        failed.is_empty(),
        "{} of {SEEDS} seeds failed\n{}",
        failed.len(),
        failed[..failed.len().min(5)].join("\n")
    );
    assert!(promotions > SEEDS && rebuilt > 0, "the seeds fail nothing over");
}
