//! The simulator, 300 seeds at least. A failure prints its seed; `ELPIS_SIM_SEED=n` runs that one alone, and
//! `cargo run -p elpis-sim --release --example sim -- --seed n` prints what happens in it.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEEDS: u64 = 300;

#[test]
fn seeds_hold() {
    let (from, to) = match std::env::var("ELPIS_SIM_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => (seed, seed),
        None => (1, SEEDS),
    };
    let reports = elpis_sim::seeds(from..=to, |seed| {
        let report = elpis_sim::run(seed, false);
        assert!(report.faults >= 6 || !report.violations.is_empty(), "{report}");
        assert!(report.virtual_ms >= 120_000 || !report.violations.is_empty(), "{report}");
        report
    });
    let failed = reports.iter().filter(|report| !report.violations.is_empty());
    let failed: Vec<String> = failed.map(ToString::to_string).collect();
    assert!(failed.is_empty(), "replay with ELPIS_SIM_SEED=seed\n{}", failed.join("\n"));
}

#[test]
fn a_seed_replays_to_the_same_trace() {
    let (first, again, other) =
        (elpis_sim::run(7, false), elpis_sim::run(7, false), elpis_sim::run(8, false));
    assert_eq!(first.trace, again.trace);
    assert_ne!(first.trace, other.trace);
}
