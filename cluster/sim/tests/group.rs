//! The database group, 150 seeds. A failure prints its seed; `cargo run -p elpis-sim --release --example sim --
//! --database --seed n --verbose` prints what happens in it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use elpis_sim::group::{Report, run};

const SEEDS: u64 = 150;

#[test]
fn nothing_acknowledged_is_ever_lost() {
    let reports = elpis_sim::seeds(1..=SEEDS, |seed| run(seed, false));
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
