//! `elpis cluster status` as text.

use super::time;
use crate::find::Cluster;
use crate::output::{self, cell, safe};
use anyhow::Result;
use elpis_watch::Method;
use serde_json::Value;
use std::time::Duration;

const REDRAW: Duration = Duration::from_secs(1);
/// Failovers and events shown.
const NEWEST: usize = 5;

/// Redraws every second; with JSON one line a second.
pub(super) async fn watch(cluster: &Cluster, as_json: bool) -> Result<()> {
    loop {
        let seen = cluster.node(Method::GET, "/v1/status", None).await;
        match (seen, as_json) {
            (Ok(seen), true) => output::line(&seen.to_string()),
            (Ok(seen), false) => output::print(&format!("\u{1b}[H\u{1b}[2J{}", text(&seen))),
            (Err(e), true) => output::line(&serde_json::json!({ "error": format!("{e:#}") }).to_string()),
            (Err(e), false) => output::print(&format!("\u{1b}[H\u{1b}[2J{e:#}\n")),
        }
        tokio::time::sleep(REDRAW).await;
    }
}

/// The whole status.
pub(super) fn text(seen: &Value) -> String {
    match seen["state"].as_str() {
        Some("no-cluster") => {
            return "this node is in no cluster: `elpis cluster init` makes one, `elpis join` enters one\n"
                .into();
        }
        Some("joining") => return "this node is joining a cluster\n".into(),
        Some("given-up") => return format!("{}\n", cell(seen, "reason")),
        _ => {}
    }
    let master = match &seen["master"] {
        Value::Null => "no master".to_owned(),
        name => format!("master {}", safe(name.as_str().unwrap_or("?"))),
    };
    let mut text = format!(
        "cluster {}  {master}  term {}  generation {}\n",
        cell(seen, "cluster"),
        cell(seen, "term"),
        cell(seen, "generation")
    );
    let reason = seen["reason"].as_str().filter(|r| !r.is_empty()).map(|r| format!(": {}", safe(r)));
    text.push_str(&match seen["can_lose"].as_u64() {
        Some(1) => format!("can lose 1 node{}\n", reason.unwrap_or_default()),
        other => format!("can lose {} nodes{}\n", other.unwrap_or(0), reason.unwrap_or_default()),
    });
    text.push_str(&majority(&seen["majority"]));
    let shards = &seen["shards"];
    text.push_str(&format!("{} of {} shards owned", cell(shards, "owned"), cell(shards, "total")));
    text.push_str(&format!(", {} moving\n", seen["moves"].as_u64().unwrap_or(0)));
    text.push_str(&profile_line(&seen["profile"]));
    let accounts = &seen["database"]["accounts"];
    if accounts.is_object() {
        let (made, wanted) = (cell(accounts, "made"), cell(accounts, "wanted"));
        text.push_str(&format!("{made} of {wanted} database accounts made\n"));
    }
    text.push_str(&database(&seen["database"]));
    for (address, node) in seen["addresses"].as_object().into_iter().flatten() {
        let node = node.as_str().filter(|node| !node.is_empty()).unwrap_or("nobody yet");
        text.push_str(&format!("address {} given to {}\n", safe(address), safe(node)));
    }
    text.push('\n');
    text.push_str(&nodes(seen));
    for warning in seen["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        text.push_str(&format!("\nwarning: {}", safe(warning)));
    }
    text.push_str(&failovers(seen));
    text.push_str(&moved(&seen["database"]["moved"]));
    text
}

/// How quickly a silent node is given up.
fn profile_line(profile: &Value) -> String {
    let Some(wanted) = profile["wanted"].as_str() else { return String::new() };
    let mut text = format!("profile {}", safe(wanted));
    if profile["settled"] == false {
        let claim = cell(profile, "claim");
        text.push_str(&format!(" ordered, leases still count by {claim}"));
        if let Some(waits) = profile["waits"].as_str().filter(|waits| !waits.is_empty()) {
            text.push_str(&format!("; waits for {}", safe(waits)));
        }
    }
    text.push('\n');
    text
}

/// `elpis cluster profile`: the profile, and what the machines leave.
pub(super) fn profile(seen: &Value) -> String {
    if !seen["profile"].is_object() {
        return text(seen);
    }
    let row = |node: &Value| {
        let timing = &node["timing"];
        let ms = |field: &str| match timing[field].as_u64() {
            Some(ms) => format!("{ms} ms"),
            None => "-".to_owned(),
        };
        let minutes =
            timing["seconds"].as_u64().map_or_else(|| "-".to_owned(), |s| format!("{} min", s / 60));
        vec![
            cell(node, "name"),
            cell(timing, "runs"),
            cell(timing, "fits"),
            minutes,
            ms("stall_max_ms"),
            ms("stall_p999_ms"),
            ms("sync_p99_ms"),
            ms("greet_p90_ms"),
            ms("trip_p99_ms"),
        ]
    };
    let rows: Vec<Vec<String>> = seen["nodes"].as_array().into_iter().flatten().map(row).collect();
    let head = [
        "name",
        "runs with",
        "fits",
        "over",
        "longest stall",
        "1 in 1,000",
        "disk, 1 in 100",
        "handshake, 1 in 10",
        "to the master, 1 in 100",
    ];
    let fits = match seen["profile"]["fits"].as_str() {
        Some(fits) if !fits.is_empty() => format!("what is measured fits {}\n", safe(fits)),
        _ => String::new(),
    };
    format!("{}{fits}\n{}", profile_line(&seen["profile"]), output::table(&head, &rows, "no nodes"))
}

/// Most voters are away: since when, and the way out.
fn majority(line: &Value) -> String {
    if !line.is_object() {
        return String::new();
    }
    let since = time::show_ms(line["since"].as_i64().unwrap_or(0));
    let mut text = format!("NO MAJORITY (no master heard since {since})\n");
    match line["command"].as_str().filter(|command| !command.is_empty()) {
        Some(command) => {
            let on = cell(line, "on");
            text.push_str(&format!("  if they are lost for good, on {on}: {}\n", safe(command)));
        }
        None => text.push_str("  start them; a way without them is shown after 2 minutes\n"),
    }
    text
}

/// The database that the nodes run, in a line.
fn database(database: &Value) -> String {
    if !database["primary"].is_string() {
        return String::new();
    }
    let set: Vec<String> =
        database["ack_set"].as_array().into_iter().flatten().filter_map(Value::as_str).map(safe).collect();
    let mode = match database["mode"].as_str() {
        _ if database["failing_over"] == true => "its primary is being replaced".to_owned(),
        Some("single") => "ONE COPY: its loss is a loss of data; add a node".to_owned(),
        Some("waiting") => format!("{} follow, not proved yet that they hold all", set.join(", ")),
        _ => format!("every commit is also on one of {}", set.join(", ")),
    };
    let (primary, epoch) = (cell(database, "primary"), cell(database, "epoch"));
    if database["waits"].is_object() {
        return format!("database: epoch {epoch}; {}", waits(&database["waits"]));
    }
    format!("database: primary {primary}, epoch {epoch}; {mode}\n")
}

/// Nobody leads: who is waited for, what each copy has, and the way out.
fn waits(waits: &Value) -> String {
    let since =
        waits["since"].as_i64().filter(|at| *at > 0).map(|at| format!(" (since {})", time::show_ms(at)));
    let mut text = format!("NO PRIMARY{}: {}\n", since.unwrap_or_default(), cell(waits, "text"));
    text.push_str(&positions(&waits["positions"]));
    match waits["command"].as_str().filter(|command| !command.is_empty()) {
        Some(command) => text.push_str(&format!("  if they are lost for good: {}\n", safe(command))),
        None => text.push_str("  start them; a way without them is shown after 2 minutes\n"),
    }
    text
}

/// Where the copies stood.
pub(super) fn positions(positions: &Value) -> String {
    let mut text = String::new();
    for line in positions.as_array().into_iter().flatten() {
        let lives = if line["lives"] == true { "lives" } else { "away" };
        let heard = line["heard"].as_i64().unwrap_or(0);
        let position = match line["position"].as_u64() {
            Some(position) => format!("position {position}, heard {}", time::show_ms(heard)),
            None => "position not known".to_owned(),
        };
        text.push_str(&format!("  {} ({lives}): {position}\n", cell(line, "node")));
    }
    text
}

fn moved(moved: &Value) -> String {
    let all = moved.as_array().cloned().unwrap_or_default();
    if all.is_empty() {
        return String::new();
    }
    let row = |line: &Value| {
        let of = |field: &str| cell(line, field);
        vec![
            of("from"),
            of("to"),
            time::show_ms(when(line)),
            of("epoch"),
            of("promoted_ms"),
            of("opened_ms"),
            of("reason"),
        ]
    };
    let rows: Vec<Vec<String>> = all.iter().take(NEWEST).map(row).collect();
    let head = ["primary before", "after", "at", "epoch", "agreed ms", "open ms", "why"];
    format!("\n{}", output::table(&head, &rows, ""))
}

fn nodes(seen: &Value) -> String {
    let rows: Vec<Vec<String>> = seen["nodes"].as_array().into_iter().flatten().map(node).collect();
    let head = [
        "name", "id", "state", "voter", "session", "shards", "lease", "address", "database", "disk",
        "services",
    ];
    output::table(&head, &rows, "no nodes")
}

fn node(node: &Value) -> Vec<String> {
    let voter = if node["voter"] == true { "yes" } else { "no" };
    let lease = match node["lease_ms_left"].as_i64() {
        Some(ms) if ms > 0 => format!("{ms} ms"),
        _ => "none".to_owned(),
    };
    let services: Vec<String> = node["services"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, state)| format!("{} {}", safe(name), safe(state.as_str().unwrap_or("?"))))
        .collect();
    let services = match services.iter().all(|s| s.ends_with(" up")) {
        true if !services.is_empty() => format!("all {} up", services.len()),
        _ => services.join(", "),
    };
    vec![
        cell(node, "name"),
        cell(node, "id"),
        cell(node, "state"),
        voter.to_owned(),
        cell(node, "session"),
        cell(node, "shards"),
        lease,
        cell(node, "address"),
        copy(&node["database"]),
        disk(&node["disk"]),
        services,
    ]
}

/// The disk of a node's copy; loud where it is short.
fn disk(disk: &Value) -> String {
    let Some(free) = disk["free_bytes"].as_u64() else { return "-".to_owned() };
    let free = match free {
        0..0x4000_0000 => format!("{} MiB free", free >> 20),
        _ => format!("{} GiB free", free >> 30),
    };
    match disk["room"].as_str() {
        Some("enough") | None => free,
        Some(short) => format!("{}, {free}", safe(short).to_uppercase()),
    }
}

/// A node's copy of the database.
fn copy(copy: &Value) -> String {
    let Some(main) = copy["main"].as_str() else { return "-".to_owned() };
    let works = copy["works"] == true;
    let lag = copy["lag_ms"].as_u64().filter(|ms| *ms > 0).map(|ms| format!(", {} s behind", ms / 1000));
    match main {
        "primary" if works => "primary".to_owned(),
        "primary" => "primary, closed".to_owned(),
        "replica" if copy["in_s"] == true && works => {
            format!("replica, acknowledges{}", lag.unwrap_or_default())
        }
        "replica" if copy["in_s"] == true => "replica, does not acknowledge".to_owned(),
        other => format!("{}{}", safe(other), lag.unwrap_or_default()),
    }
}

fn failovers(seen: &Value) -> String {
    let all = seen["failovers"].as_array().cloned().unwrap_or_default();
    if all.is_empty() {
        return String::new();
    }
    let mut newest: Vec<&Value> = all.iter().collect();
    newest.sort_by_key(|f| std::cmp::Reverse(when(f)));
    let rows: Vec<Vec<String>> = newest.into_iter().take(NEWEST).map(failover).collect();
    let head = [
        "node lost",
        "at",
        "detected ms",
        "reassigned ms",
        "first result ms",
        "moved",
        "missed",
        "recorded twice",
    ];
    format!("\n{}", output::table(&head, &rows, ""))
}

/// `at` in Unix milliseconds, whether given in seconds or milliseconds.
pub(crate) fn when(failover: &Value) -> i64 {
    let at = failover["at"].as_i64().or_else(|| failover["at_ms"].as_i64()).unwrap_or(0);
    if at < 100_000_000_000 { at.saturating_mul(1_000) } else { at }
}

fn failover(failover: &Value) -> Vec<String> {
    let number = |field: &str| cell(failover, field);
    vec![
        number("node"),
        time::show_ms(when(failover)),
        number("detected_ms"),
        number("reassigned_ms"),
        number("first_result_ms"),
        number("moved"),
        number("missed"),
        number("recorded_twice"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_reads_well_and_a_broken_one_does_no_harm() {
        let seen = json!({
            "cluster": "dev", "generation": 1, "master": "n1", "term": 3, "can_lose": 1, "reason": "", "moves": 2,
            "nodes": [{"id": 5, "name": "n1", "address": "127.0.0.1:1", "state": "live", "voter": true, "session": 7,
                       "shards": 4096, "lease_ms_left": 800, "services": {"console": "up", "data-server": "hung"}}],
            "shards": {"total": 4096, "owned": 4096}, "warnings": ["one \u{1b}[31m"],
            "database": {"accounts": {"made": 6, "wanted": 9, "error": ""}},
            "failovers": [{"node": "n2", "at": 1_764_064_800, "detected_ms": 900, "reassigned_ms": 1200}]
        });
        let text = text(&seen);
        assert!(text.contains("cluster dev  master n1  term 3"), "{text}");
        assert!(text.contains("data-server hung"), "{text}");
        assert!(text.contains("6 of 9 database accounts made"), "{text}");
        assert!(text.contains("n2         2025-11-25 10:00:00  900"), "{text}");
        assert!(!text.contains('\u{1b}'));
        super::text(&json!({ "nodes": 3, "shards": [] }));
    }

    #[test]
    fn a_lost_majority_is_said_with_the_way_out() {
        let mut seen = json!({
            "state": "member", "cluster": "c", "master": null, "can_lose": 0, "reason": "no majority: n1 does not",
            "majority": {"text": "", "missing": ["n1"], "since": 1_764_064_800_000_i64, "on": "", "command": ""}
        });
        let early = text(&seen);
        assert!(early.contains("no majority: n1 does not") && early.contains("after 2 minutes"), "{early}");
        seen["majority"]["command"] = "elpis cluster recover --survivors n2".into();
        seen["majority"]["on"] = "n2".into();
        let late = text(&seen);
        assert!(late.contains("lost for good, on n2: elpis cluster recover --survivors n2"), "{late}");
        let out = text(&json!({ "state": "given-up", "reason": "the cluster went on without this node" }));
        assert_eq!(out, "the cluster went on without this node\n");
    }
}
