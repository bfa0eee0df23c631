//! The database group, 300 seeds. A failure prints its seed; `cargo run -p elpis-sim --release --example sim --
//! --database --seed n --verbose` prints what happens in it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

use elpis_sim::group::run;

const SEEDS: u64 = 300;

#[test]
fn nothing_acknowledged_is_ever_lost() {
    let (mut promotions, mut epochs, mut rebuilt, mut acknowledged) = (0, 0, 0, 0);
    let mut failed = Vec::new();
    for seed in 1..=SEEDS {
        let report = run(seed, false);
        promotions += report.promotions;
        epochs += report.epochs;
        rebuilt += report.rebuilt;
        acknowledged += report.acknowledged;
        if !report.violations.is_empty() {
            failed.push(format!("seed {seed}: {}", report.violations.join("; ")));
        }
    }
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
