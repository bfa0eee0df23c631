//! One round of the demo: kill a node, watch its shards get owners, bring it back.

use super::super::layout::Layout;
use super::super::{control, process};
use crate::find::Cluster;
use crate::operate::status::when;
use crate::output;
use anyhow::{Context, Result, bail, ensure};
use elpis_watch::Method;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How often a living node is asked.
const LOOK: Duration = Duration::from_millis(50);
/// A takeover that takes longer is given up.
const LIMIT: Duration = Duration::from_secs(30);
/// Time for the first result by the new owners, and for a node to be back.
const AFTER: Duration = Duration::from_secs(30);

/// What a node is beside a worker.
#[derive(Clone, Copy, Debug)]
struct Part {
    master: bool,
    /// Its copy of the database led.
    primary: bool,
}

/// What was seen.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) number: u32,
    /// Name of the killed node.
    pub(super) node: String,
    /// What it was.
    part: Part,
    /// From the kill until a living node said that it is down.
    pub(super) detected: Duration,
    /// From the kill until every shard had an owner with a live lease again.
    pub(super) reassigned: Duration,
    /// The cluster's own record of it.
    own: Value,
}

/// Names of the columns.
pub(super) fn head() -> String {
    format!(
        "\n{:<19} {:>23}  {:>43}\n{:<6} {:<13} {:>11} {:>11}  {:>10} {:>11} {:>12} {:>7}",
        "",
        "SEEN AFTER THE KILL",
        "THE CLUSTER'S OWN RECORD",
        "ROUND",
        "KILLED",
        "DOWN",
        "ALL OWNED",
        "DETECTED",
        "REASSIGNED",
        "FIRST RESULT",
        "MOVED"
    )
}

impl Round {
    /// Odd rounds kill the master, even ones the node of the database's primary, or another one.
    pub(super) async fn run(layout: &Layout, cluster: &Cluster, number: u32) -> Result<Round> {
        let (node, part) = victim(cluster, number % 2 == 1).await?;
        let killed_ms = Timestamp::now().as_millisecond();
        let begin = Instant::now();
        control::kill_now(layout, &node)?;
        let survivor = survivor(layout, &node)?;
        let mut detected = None;
        let reassigned = loop {
            ensure!(
                begin.elapsed() < LIMIT,
                "the shards of {node} have no owner after {} s",
                LIMIT.as_secs()
            );
            if let Ok(status) = survivor.node(Method::GET, "/v1/status", None).await {
                let since = begin.elapsed();
                let is_down = line(&status, &node).is_some_and(|line| line["state"] == "down");
                if is_down {
                    detected.get_or_insert(since);
                }
                if is_down && all_owned(&status) {
                    break since;
                }
                live(number, &node, since, &status);
            }
            sleep(LOOK).await;
        };
        let own = own_record(&survivor, &node, killed_ms).await;
        Ok(Round { number, node, part, detected: detected.unwrap_or(reassigned), reassigned, own })
    }

    /// A finished line of the table.
    pub(super) fn line(&self) -> String {
        let seconds = |d: Duration| format!("{:.2} s", d.as_secs_f32());
        let own = |field: &str| match self.own[field].as_f64() {
            Some(ms) => format!("{:.2} s", ms / 1e3),
            None => "-".to_owned(),
        };
        let node = match (self.part.master, self.part.primary) {
            (true, true) => format!("{} (both)", self.node),
            (true, false) => format!("{} (master)", self.node),
            (false, true) => format!("{} (primary)", self.node),
            (false, false) => self.node.clone(),
        };
        let clear = if output::is_terminal() { "\r\u{1b}[K" } else { "" };
        format!(
            "{clear}{:<6} {node:<13} {:>11} {:>11}  {:>10} {:>11} {:>12} {:>7}",
            self.number,
            seconds(self.detected),
            seconds(self.reassigned),
            own("detected_ms"),
            own("reassigned_ms"),
            own("first_result_ms"),
            output::cell(&self.own, "moved"),
        )
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "round": self.number,
            "node": self.node,
            "was_master": self.part.master,
            "was_primary": self.part.primary,
            "seen_down_ms": millis(self.detected),
            "seen_owned_ms": millis(self.reassigned),
            "cluster": self.own,
        })
    }

    /// Starts the node again and waits until it holds a lease. Shards drift back later.
    pub(super) async fn bring_back(&self, layout: &Layout, cluster: &Cluster) -> Result<()> {
        control::start_now(layout, &self.node)?;
        let begin = Instant::now();
        loop {
            if let Ok(status) = cluster.node(Method::GET, "/v1/status", None).await {
                let back = line(&status, &self.node);
                let leased = back.is_some_and(|line| line["lease_ms_left"].as_i64().unwrap_or(0) > 0);
                if leased && all_owned(&status) && database_is_well(&status) {
                    return Ok(());
                }
            }
            if begin.elapsed() > AFTER {
                bail!(
                    "{} holds no lease, or the database is not well, {} s after its start",
                    self.node,
                    AFTER.as_secs()
                );
            }
            sleep(LOOK * 4).await;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The next node may be lost, where the nodes run the database.
fn database_is_well(status: &Value) -> bool {
    status["database"]["primary"].is_null() || status["can_lose"] != 0
}

async fn victim(cluster: &Cluster, master: bool) -> Result<(String, Part)> {
    let status = cluster.node(Method::GET, "/v1/status", None).await?;
    let now = status["master"].as_str().context("the cluster has no master")?.to_owned();
    let primary = status["database"]["primary"].as_str();
    let part = |node: &str| Part { master: node == now, primary: primary == Some(node) };
    if master {
        return Ok((now.clone(), part(&now)));
    }
    if let Some(primary) = primary.filter(|primary| *primary != now) {
        return Ok((primary.to_owned(), part(primary)));
    }
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let others = nodes.iter().filter(|n| n["name"] != now.as_str() && n["state"] == "up");
    let busiest = others.max_by_key(|n| n["shards"].as_u64());
    let other = busiest.context("there is no other node to kill: the demo needs two at least")?;
    let other = other["name"].as_str().unwrap_or_default();
    Ok((other.to_owned(), part(other)))
}

/// A node whose agent runs.
fn survivor(layout: &Layout, dead: &str) -> Result<Cluster> {
    let nodes = layout.ports()?.nodes;
    let alive = nodes
        .into_iter()
        .filter(|node| node.name != dead)
        .find(|node| process::find(&layout.pid_file(&node.name, "node"), &layout.node(&node.name)).is_some());
    Ok(Cluster::of(layout.clone(), Some(alive.context("no other node runs")?.name)))
}

fn line<'a>(status: &'a Value, node: &str) -> Option<&'a Value> {
    status["nodes"].as_array()?.iter().find(|line| line["name"] == node)
}

fn all_owned(status: &Value) -> bool {
    let shards = &status["shards"];
    !status["master"].is_null() && shards["total"].as_u64().is_some() && shards["owned"] == shards["total"]
}

/// One line that is written over while the round goes on.
fn live(number: u32, node: &str, since: Duration, status: &Value) {
    if output::is_terminal() {
        let master = status["master"].as_str().unwrap_or("none");
        output::print(&format!(
            "\r\u{1b}[K{number:<6} {node:<13} {:.2} s  master {}, {} of {} shards owned",
            since.as_secs_f32(),
            output::safe(master),
            output::cell(&status["shards"], "owned"),
            output::cell(&status["shards"], "total"),
        ));
    }
}

/// What the cluster wrote down about this failover, once the first result is in it.
async fn own_record(survivor: &Cluster, node: &str, killed_ms: i64) -> Value {
    let begin = Instant::now();
    let mut seen = Value::Null;
    while begin.elapsed() < AFTER && seen["first_result_ms"].is_null() {
        if let Ok(status) = survivor.node(Method::GET, "/v1/status", None).await {
            let all = status["failovers"].as_array().cloned().unwrap_or_default();
            let mine = |f: &&Value| f["node"] == node && when(f) > killed_ms - 2_000;
            if let Some(newest) = all.iter().filter(mine).max_by_key(|f| when(f)) {
                seen = newest.clone();
            }
        }
        sleep(LOOK * 2).await;
    }
    seen
}
