//! Nodes killed and hung while checks run: when every shard is owned again, when every orphaned module has its next
//! result in the database, and what the ledger says in the end.

use crate::dev::{Dev, LOOK, all_owned, database_well, is_up, line};
use crate::machine::Stalls;
use crate::report::{Report, percentile, spread};
use crate::tail::{Run, Tail, unix_ms};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(30);
/// The old primary is a compared copy again.
const HEALED: Duration = Duration::from_secs(90);
/// A hung node hangs for so long: beyond every lease.
const HANG: Duration = Duration::from_secs(4);
pub(crate) const INTERVAL_S: u32 = 10;
const EXTRA_INTERVAL_S: u32 = 5;
/// Later first results are listed, so that their cause can be found.
const LATE_S: f64 = 5.0;
/// Without results of all checks for so long, something is wrong.
const SETTLE: Duration = Duration::from_secs(90);

/// The checks of a cluster, and the follower of their results.
#[derive(Debug)]
pub(crate) struct Checks {
    pub(crate) tail: Tail,
    /// Module -> interval in seconds.
    intervals: BTreeMap<u32, i64>,
    from: i64,
}

impl Checks {
    /// TCP checks, each on an agent of its own; returns once each has a result.
    pub(crate) async fn add(dev: &Dev, count: u32, extra: u32) -> Result<Checks> {
        let env = dev.env()?;
        let sink =
            env.get("ELPIS_SINK").and_then(|sink| sink.rsplit_once(':')).context("no sink")?.1.to_owned();
        let check = |net: u32, number: u32, interval: u32| {
            json!({
                "check": format!("tcp 127.{net}.{}.{}:{sink}", number / 250, 1 + number % 250),
                "name": "sink",
                "interval_s": interval,
            })
        };
        let mut checks: Vec<Value> = (0..count).map(|number| check(1, number, INTERVAL_S)).collect();
        checks.extend((0..extra).map(|number| check(2, number, EXTRA_INTERVAL_S)));
        let tail = Tail::of(dev).await?;
        let from = unix_ms() / 1000;
        dev.add_checks(&checks).await?;
        let pool = dev.database().await?;
        const INTERVALS: &str = "SELECT id_agent_module, CAST(module_interval AS SIGNED) FROM tagent_module \
            WHERE id_module = 2";
        let intervals: BTreeMap<u32, i64> =
            sqlx::query_as(INTERVALS).fetch_all(&pool).await?.into_iter().collect();
        ensure!(intervals.len() == checks.len(), "{} of {} checks were added", intervals.len(), checks.len());
        let begin = Instant::now();
        while tail.last()?.len() < checks.len() {
            ensure!(
                begin.elapsed() < SETTLE,
                "only {} of {} checks have run",
                tail.last()?.len(),
                checks.len()
            );
            sleep(LOOK).await;
        }
        println!("{} checks have run after {:.1} s", checks.len(), begin.elapsed().as_secs_f32());
        Ok(Checks { tail, intervals, from })
    }

    /// Seconds between two runs of a module.
    pub(crate) fn interval_s(&self, module: u32) -> i64 {
        self.intervals.get(&module).copied().unwrap_or(i64::from(INTERVAL_S))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Master,
    Other,
    Hung,
    /// The node of the database's primary.
    Primary,
}

/// What a round measured, in seconds.
#[derive(Debug)]
struct Round {
    owned: f64,
    /// For each orphaned module: first stored result minus the later of kill and due time.
    first: Vec<f64>,
}

pub(crate) async fn run(
    dev: &Dev,
    checks: &Checks,
    kills: u32,
    executions: u64,
    report: &mut Report,
) -> Result<()> {
    let stalls = Stalls::watch();
    let begin = Instant::now();
    let (mut owned, mut first) = (Vec::new(), Vec::new());
    for number in 1u32.. {
        if number > kills && checks.tail.len() as u64 >= executions {
            break;
        }
        let how = match dev.managed() {
            true => How::Primary,
            false => [How::Master, How::Other, How::Hung][number as usize % 3],
        };
        let (node, was_master) = victim(dev, how, number).await?;
        let round = round(dev, checks, &node, how)
            .await
            .with_context(|| format!("round {number}: {node} {how:?}"))?;
        println!(
            "{number:4} {node} {how:?}{}: owned again {:.2} s, first results of {} orphans p95 {:.2} max {:.2} s, {} executions",
            if was_master { " (master)" } else { "" },
            round.owned,
            round.first.len(),
            percentile(&round.first, 95.0),
            percentile(&round.first, 100.0),
            checks.tail.len(),
        );
        owned.push(round.owned);
        first.extend(round.first);
    }
    let took = begin.elapsed().as_secs();
    let rounds = owned.len();
    let whom = match dev.managed() {
        true => "of the node that holds the database's primary",
        false => "(thirds: master, other, hung for 4 s)",
    };
    report.row(
        format!("{rounds} kills {whom}: every shard owned again, seen from outside"),
        "p95 2.5 s, max 4 s",
        format!("{}, {took} s, {}", spread(&owned), stalls.text()),
        percentile(&owned, 95.0) <= 2.5 && percentile(&owned, 100.0) <= 4.0,
    );
    // With the database gone as well, storing waits for its next primary.
    let (bar, p95, max) = match dev.managed() {
        true => ("p95 4.5 s", 4.5, f64::MAX),
        false => ("p95 3.5 s, max 6 s", 3.5, 6.0),
    };
    report.row(
        "the same, each orphaned module: first stored result minus max(kill, due)",
        bar,
        spread(&first),
        percentile(&first, 95.0) <= p95 && percentile(&first, 100.0) <= max,
    );
    ledger(dev, checks.from, executions, report).await
}

async fn ledger(dev: &Dev, from: i64, executions: u64, report: &mut Report) -> Result<()> {
    sleep(Duration::from_secs(u64::from(INTERVAL_S) + 2)).await;
    let to = unix_ms() / 1000 - i64::from(INTERVAL_S);
    let said = dev.json(&["ledger", "check", "--from", &from.to_string(), "--to", &to.to_string()])?;
    let of = |name: &str| said[name].as_u64().unwrap_or(u64::MAX);
    report.row(
        "slots recorded twice, with those faults",
        &format!("0 of {executions} or more"),
        format!(
            "{} of {} recorded; {} due, {} missed, longest gap {} ms",
            of("recorded_twice"),
            of("recorded"),
            of("due"),
            of("missed"),
            of("longest_gap_ms")
        ),
        of("recorded_twice") == 0 && of("recorded") >= executions,
    );
    Ok(())
}

/// Whom to hit: a hung one is in turn the master and another.
async fn victim(dev: &Dev, how: How, number: u32) -> Result<(String, bool)> {
    let status = dev.status("").await?;
    let master = status["master"].as_str().context("the cluster has no master")?.to_owned();
    if how == How::Primary {
        let primary = status["database"]["primary"].as_str().context("no primary")?.to_owned();
        let leads = primary == master;
        return Ok((primary, leads));
    }
    if how == How::Master || (how == How::Hung && number.is_multiple_of(2)) {
        return Ok((master, true));
    }
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let others = nodes.iter().filter(|node| node["name"] != master.as_str() && node["state"] == "up");
    let busiest = others.max_by_key(|node| node["shards"].as_u64()).context("no other node")?;
    Ok((busiest["name"].as_str().unwrap_or_default().to_owned(), false))
}

async fn round(dev: &Dev, checks: &Checks, node: &str, how: How) -> Result<Round> {
    // What it stored last, is its own now; what it stored while dying, it stored.
    let before = checks.tail.last()?;
    let seen = checks.tail.len();
    let (kill, kill_ms) = (Instant::now(), unix_ms());
    dev.run(&["dev", if how == How::Hung { "pause" } else { "kill" }, node])?;
    let gone =
        |status: &Value| line(status, node).is_some_and(|line| line["state"] == "down") && all_owned(status);
    let owned = dev.until("every shard owned", node, kill, LIMIT, gone).await?.as_secs_f64();
    if how == How::Hung {
        sleep(HANG.saturating_sub(kill.elapsed())).await;
        dev.run(&["dev", "resume", node])?;
    } else {
        dev.run(&["dev", "start", node])?;
    }
    let orphans: BTreeMap<u32, Run> = before.into_iter().filter(|(_, run)| &*run.node == node).collect();
    let first = first_results(checks, &orphans, node, seen, kill, kill_ms).await?;
    let managed = dev.managed();
    dev.until("the node is back", "", Instant::now(), if managed { HEALED } else { LIMIT }, |status| {
        all_owned(status) && is_up(status, node) && (!managed || database_well(status))
    })
    .await?;
    Ok(Round { owned, first })
}

/// Waits until each orphan has a result of a new owner, and says how late it was.
async fn first_results(
    checks: &Checks,
    orphans: &BTreeMap<u32, Run>,
    dead: &str,
    seen: usize,
    kill: Instant,
    kill_ms: i64,
) -> Result<Vec<f64>> {
    loop {
        let runs = checks.tail.runs(seen)?;
        let mut first: BTreeMap<u32, Run> = BTreeMap::new();
        let mut base: BTreeMap<u32, i64> = orphans.iter().map(|(module, run)| (*module, run.slot)).collect();
        for run in runs {
            let (Some(slot), Some(before)) = (base.get_mut(&run.module), orphans.get(&run.module)) else {
                continue;
            };
            // Back in a new session, the node may be the new owner as well.
            if &*run.node != dead || run.session > before.session {
                first.entry(run.module).or_insert(run);
            } else if !first.contains_key(&run.module) {
                *slot = (*slot).max(run.slot);
            }
        }
        if first.len() == orphans.len() {
            let late = first.values().map(|run| {
                let interval_s = checks.interval_s(run.module);
                let due_ms = (base[&run.module] + interval_s) * 1000;
                let late = (run.seen_unix_ms - due_ms.max(kill_ms)) as f64 / 1000.0;
                if late > LATE_S {
                    let after_kill = |ms: i64| (ms - kill_ms) as f64 / 1000.0;
                    println!(
                        "     late: module {} of {interval_s} s on {}: due {:.2} s after the kill, slot {:.2}, stored {:.2}",
                        run.module,
                        run.node,
                        after_kill(due_ms),
                        after_kill(run.slot * 1000),
                        after_kill(run.seen_unix_ms),
                    );
                }
                late
            });
            return Ok(late.collect());
        }
        ensure!(
            kill.elapsed() < LIMIT,
            "{} of {} orphaned modules have no result after {} s",
            orphans.len() - first.len(),
            orphans.len(),
            LIMIT.as_secs()
        );
        sleep(LOOK * 2).await;
    }
}
