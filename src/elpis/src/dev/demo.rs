//! `elpis dev demo`: many checks, a node is killed, the screen shows how its work moves; then the ledger's word.
//!
//! Two clocks, kept apart: what is seen from outside runs from the kill to the first answer of a living node that says
//! so, and decides; the cluster's own record runs from the node's last sign of life. Its first result is the first
//! stored under the new map by any node, not only one of the moved checks.

mod round;

use super::layout::Layout;
use super::up::{self, Steps};
use super::{control, folder};
use crate::cli::{Demo, Scope, Up};
use crate::find::Cluster;
use crate::operate::monitor;
use crate::output;
use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use round::Round;
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A shard without an owner for longer fails the demo.
const LONGEST_ORPHANED: Duration = Duration::from_secs(4);
const LOOK: Duration = Duration::from_millis(250);

/// Exit code 1 when a shard stayed without an owner for more than 4 s, or a slot was recorded twice.
pub(super) fn demo(scope: &Scope, options: &Demo) -> Result<ExitCode> {
    let layout = Layout::create(folder(scope))?;
    let runtime = crate::run::small_runtime()?;
    let running = layout.is_made() && control::is_up(&layout)?;
    let steps = Steps::begin();
    let up = Up { detach: true, within: 120, nodes: None, one_database: false, feed: false };
    let shown = up::bring_up(&layout, &up, &steps, &runtime)
        .and_then(|_| runtime.block_on(show(&layout, scope, options, &steps)));
    if !running && !options.keep && layout.is_made() {
        control::down(&layout)?;
    }
    shown
}

async fn show(layout: &Layout, scope: &Scope, options: &Demo, steps: &Steps) -> Result<ExitCode> {
    let cluster = Cluster::of(layout.clone(), None);
    let begin = Timestamp::now().as_second();
    add_checks(layout, &cluster, options).await?;
    steps.say(&format!("{} TCP checks, one every {} s each", options.checks, options.interval));
    let first = wait_recorded(&cluster, begin, u64::from(options.checks), options.interval).await?;
    steps.say(&format!("every check has run ({first} results stored)"));
    output::line(&round::head());
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        let round = Round::run(layout, &cluster, number).await?;
        output::line(&round.line());
        round.bring_back(layout, &cluster).await?;
        rounds.push(round);
    }
    // The last slots are stored before the ledger is asked. A late one would show as missed, never as good.
    sleep(Duration::from_secs(u64::from(options.interval) + 2)).await;
    let end = Timestamp::now().as_second() - i64::from(options.interval);
    let ledger = monitor::ledger_report(&cluster, Some(begin), Some(end.max(begin + 1))).await?;
    Ok(verdict(scope, &rounds, &ledger))
}

/// One check on each of many loopback addresses: each makes an agent, so that they spread over all shards. Those that
/// are there stay.
async fn add_checks(layout: &Layout, cluster: &Cluster, options: &Demo) -> Result<()> {
    let sink = layout.ports()?.sink;
    let checks = (0..options.checks).map(|number| {
        json!({
            "check": format!("tcp 127.1.{}.{}:{sink}", number / 250, 1 + number % 250),
            "name": "sink",
            "interval_s": options.interval,
        })
    });
    monitor::add_all(cluster, checks.collect()).await?;
    Ok(())
}

/// Waits until so many results are stored.
async fn wait_recorded(cluster: &Cluster, from: i64, count: u64, interval: u32) -> Result<u64> {
    let limit = Duration::from_secs(30 + 3 * u64::from(interval));
    let begin = Instant::now();
    loop {
        // Without an end the ledger leaves out the newest 30 s.
        let now = Timestamp::now().as_second() + 1;
        let ledger = monitor::ledger_report(cluster, Some(from), Some(now)).await;
        let recorded = ledger.as_ref().ok().and_then(|ledger| ledger["recorded"].as_u64()).unwrap_or(0);
        if recorded >= count {
            return Ok(recorded);
        }
        if begin.elapsed() > limit {
            ledger.context("the ledger does not answer")?;
            bail!(
                "only {recorded} of {count} checks have run within {} s; see `elpis cluster status`",
                limit.as_secs()
            );
        }
        sleep(LOOK).await;
    }
}

fn verdict(scope: &Scope, rounds: &[Round], ledger: &Value) -> ExitCode {
    let longest = rounds.iter().map(|round| round.reassigned).max().unwrap_or_default();
    let twice = ledger["recorded_twice"].as_u64();
    // A ledger in which nothing was due proves nothing.
    let proves = ledger["due"].as_u64().is_some_and(|due| due > 0);
    let good = proves && longest <= LONGEST_ORPHANED && twice == Some(0);
    if scope.json {
        let rounds: Vec<Value> = rounds.iter().map(Round::json).collect();
        output::json(&json!({ "good": good, "rounds": rounds, "ledger": ledger }));
    } else {
        output::line(&format!(
            "\nledger: {} due, {} recorded, {} missed, {} recorded twice, longest gap {} ms",
            output::cell(ledger, "due"),
            output::cell(ledger, "recorded"),
            output::cell(ledger, "missed"),
            output::cell(ledger, "recorded_twice"),
            output::cell(ledger, "longest_gap_ms"),
        ));
        output::line(
            "(runs in the first 5 s of a new check are recorded, but not demanded: recorded may exceed due)",
        );
        let bar = LONGEST_ORPHANED.as_secs();
        output::line(&format!(
            "{}: longest time without an owner {:.1} s (bar {bar} s), recorded twice {} (bar 0)",
            if good { "GOOD" } else { "FAILED" },
            longest.as_secs_f32(),
            twice.map_or_else(|| "unknown".to_owned(), |t| t.to_string()),
        ));
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
