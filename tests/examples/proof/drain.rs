//! Nodes drained while checks run: how late the moved checks run, and that none runs twice or not at all.

use crate::dev::{Dev, all_owned, line};
use crate::kills::{Checks, INTERVAL_S};
use crate::report::{Report, percentile, spread};
use crate::tail::unix_ms;
use anyhow::Result;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(60);

pub(crate) async fn run(dev: &Dev, checks: &Checks, drains: u32, report: &mut Report) -> Result<()> {
    let settle = Duration::from_secs(u64::from(INTERVAL_S) + 2);
    let begun = Instant::now();
    let seen = checks.tail.len();
    sleep(settle).await;
    let calm: Vec<f64> =
        checks.tail.runs(seen)?.iter().map(|run| late_s(run.seen_unix_ms, run.slot)).collect();
    let from = unix_ms() / 1000;
    let (mut moved, mut took) = (Vec::new(), Vec::new());
    for (_, node) in (0..drains).zip(dev.nodes()?.into_iter().cycle()) {
        let before = checks.tail.last()?;
        let seen = checks.tail.len();
        let begin = Instant::now();
        dev.run(&["node", "drain", &node])?;
        let empty = |status: &serde_json::Value| {
            all_owned(status) && line(status, &node).is_some_and(|line| line["shards"] == 0)
        };
        took.push(dev.until("the node is empty", "", begin, LIMIT, empty).await?.as_secs_f64());
        sleep(settle).await;
        // Of each moved module the first slot that another node stored: due in the gap, it would come late.
        let mut first = std::collections::BTreeMap::new();
        for run in checks.tail.runs(seen)? {
            let was_here = before.get(&run.module).is_some_and(|before| *before.node == *node);
            if was_here && *run.node != *node {
                first.entry(run.module).or_insert(late_s(run.seen_unix_ms, run.slot));
            }
        }
        println!("drain of {node}: {:.2} s, {} checks moved", took[took.len() - 1], first.len());
        moved.extend(first.into_values());
        dev.run(&["node", "undrain", &node])?;
        let begin = Instant::now();
        dev.until("shards come back", "", begin, LIMIT, |status| {
            all_owned(status)
                && status["moves"] == 0
                && line(status, &node).is_some_and(|line| line["shards"].as_u64() > Some(300))
        })
        .await?;
    }
    sleep(settle).await;
    let to = unix_ms() / 1000 - i64::from(INTERVAL_S);
    let said = dev.json(&["ledger", "check", "--from", &from.to_string(), "--to", &to.to_string()])?;
    let (missed, twice) = (&said["missed"], &said["recorded_twice"]);
    let p99 = percentile(&moved, 99.0);
    report.row(
        format!("{drains} planned drains, each moved check: its first result by the new owner, stored after its due time"),
        "p99 0.5 s",
        format!("{} (undisturbed p99 {:.2} s); a drain takes {}; {} s", spread(&moved), percentile(&calm, 99.0), spread(&took), begun.elapsed().as_secs()),
        p99 <= 0.5 && !moved.is_empty(),
    );
    report.row(
        "the same: slots missed, recorded twice",
        "0, 0",
        format!("{missed}, {twice} of {}", said["due"]),
        *missed == 0 && *twice == 0,
    );
    Ok(())
}

fn late_s(seen_unix_ms: i64, slot: i64) -> f64 {
    (seen_unix_ms - slot * 1000) as f64 / 1000.0
}
