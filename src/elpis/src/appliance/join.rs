//! This machine's node goes into a cluster, or back to where it was new.

use super::{STATE, status};
use crate::find::Cluster;
use crate::operate;
use anyhow::{Context, Result, bail, ensure};
use elpis_appliance::answers::Join;
use elpis_appliance::view::mine;
use elpis_cluster::agent::Status;
use elpis_watch::Method;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::sleep;

/// The cluster that is joined after a reset.
const WANTED: &str = "join.json";
/// Why the last join failed.
const FAILED: &str = "join.failed";
/// What a reset leaves: the machine's name, where it goes, why it could not.
const KEPT: [&str; 3] = ["identity.json", WANTED, FAILED];
/// Units that a reset stops, in this order, and starts again.
const UNITS: [&str; 7] = [
    "elpis-form",
    "elpis-console",
    "elpis-network-server",
    "elpis-data-server",
    "elpis-tentacle-server",
    "elpis-db-gate",
    "elpis-node",
];
const RESET: &str = "elpis-reset.service";
const LOOK: Duration = Duration::from_millis(500);
/// Pause after a join that was refused.
const AGAIN: Duration = Duration::from_secs(5);

fn file(name: &str) -> PathBuf {
    Path::new(STATE).join(name)
}

/// Why the last join failed, for the screen.
pub(super) fn failed() -> Option<String> {
    fs::read_to_string(file(FAILED)).ok().filter(|text| !text.is_empty())
}

/// Until this node belongs to a cluster: the one that a person named, the one of the kernel's command line, or its own.
pub(super) async fn form(answered: Option<&Join>) -> Result<()> {
    let node = Cluster::of_machine();
    loop {
        let Some(status) = status(&node).await else {
            sleep(LOOK).await;
            continue;
        };
        match status.state.as_str() {
            "no-cluster" => {}
            "joining" => {
                sleep(LOOK).await;
                continue;
            }
            _ => {
                let _ = fs::remove_file(file(WANTED));
                return Ok(());
            }
        }
        let named = wanted()?;
        let Some(join) = named.as_ref().or(answered) else {
            let body = json!({ "name": "elpis", "managed": {} });
            node.node(Method::POST, "/v1/cluster/init", Some(&body)).await?;
            println!("formed a cluster of one");
            continue;
        };
        match go(&node, join).await {
            Ok(()) => {
                let _ = fs::remove_file(file(FAILED));
                println!("joined the cluster at {}", join.address);
            }
            Err(error) => {
                let text = format!("no join of {}: {error:#}", join.address);
                eprintln!("elpis: {text}");
                fs::write(file(FAILED), text).context("cannot keep why the join failed")?;
                // Words that a person typed are not tried again: the node goes on by itself and says why.
                if named.is_some() {
                    fs::remove_file(file(WANTED)).context("cannot forget the cluster to join")?;
                }
                sleep(AGAIN).await;
            }
        }
    }
}

async fn go(node: &Cluster, join: &Join) -> Result<()> {
    let body = json!({ "address": join.address, "words": join.words });
    node.node(Method::POST, "/v1/cluster/join", Some(&body)).await?;
    operate::cluster::follow_join(node, |step, seconds| println!("{step} ({seconds:.1} s)")).await
}

fn wanted() -> Result<Option<Join>> {
    let path = file(WANTED);
    let Ok(bytes) = fs::read(&path) else { return Ok(None) };
    let held: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
    ensure!(held["version"] == 1, "{} is of another version; remove it", path.display());
    let text = |key: &str| held[key].as_str().unwrap_or_default().to_owned();
    Ok(Some(Join { address: text("address"), words: text("words") }))
}

/// A person's order: join the cluster at this address. A node with agents of its own gives them up only when `confirm`
/// is its name.
pub(super) async fn order(node: &Cluster, join: &Join, confirm: Option<&str>) -> Result<String> {
    let seen = status(node).await.context("the node agent does not answer yet")?;
    if seen.state == "no-cluster" {
        go(node, join).await?;
        return Ok(format!("joined the cluster at {}", join.address));
    }
    let agents = match node.api(Method::GET, "/api/v1/agents", None).await {
        Ok(agents) => agents.as_array().map_or(0, Vec::len),
        // Not known: as if there were some.
        Err(_) => 1,
    };
    may(&seen, agents, confirm)?;
    let body = json!({ "version": 1, "address": join.address, "words": join.words });
    let path = file(WANTED);
    let _ = fs::remove_file(&path);
    let mut out = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
    std::io::Write::write_all(&mut out, body.to_string().as_bytes())?;
    out.sync_all()?;
    let _ = fs::remove_file(file(FAILED));
    systemctl(&["start", "--no-block", RESET])?;
    Ok(format!("this node gives its own cluster up and joins the one at {}", join.address))
}

/// PURE: whether a node may leave what it has.
fn may(seen: &Status, agents: usize, confirm: Option<&str>) -> Result<()> {
    let mine = mine(seen).map(|one| one.name.as_str());
    let name = mine.unwrap_or("this node");
    if seen.state != "member" || seen.nodes.len() != 1 {
        bail!(
            "{name} belongs to a cluster of {}: remove it there first (elpis node remove {name})",
            seen.nodes.len()
        );
    }
    if agents > 0 && confirm != mine {
        bail!("{name} has {agents} agents of its own, which would be lost: type its name as well to confirm");
    }
    Ok(())
}

/// Everything but the name goes; the units start as on the first day.
pub(super) fn reset() -> Result<()> {
    systemctl(&[&["stop"], &UNITS[..]].concat())?;
    // The database goes on without the node agent, by intention; not here.
    if let Ok(text) = fs::read_to_string(file("run/mariadbd.pid"))
        && let Ok(pid) = text.trim().parse()
    {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    for entry in fs::read_dir(STATE).with_context(|| format!("cannot read {STATE}"))? {
        let entry = entry?;
        if KEPT.iter().any(|kept| entry.file_name() == *kept) {
            continue;
        }
        let path = entry.path();
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    systemctl(&[&["start", "--no-block"], &UNITS[..]].concat())
}

pub(super) fn systemctl(arguments: &[&str]) -> Result<()> {
    let done = Command::new("systemctl").args(arguments).output().context("systemctl cannot be started")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "systemctl {} failed: {}", arguments.join(" "), said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use elpis_cluster::agent::NodeLine;

    fn status(names: &[&str]) -> Status {
        let node = |(name, id): (&&str, u64)| NodeLine { id, name: (*name).into(), ..NodeLine::default() };
        Status {
            state: "member".into(),
            node: Some(1),
            nodes: names.iter().zip(1..).map(node).collect(),
            ..Status::default()
        }
    }

    #[test]
    fn only_a_node_without_others_and_agents_leaves_unasked() {
        let alone = status(&["kite-4412"]);
        assert!(may(&alone, 0, None).is_ok());
        assert!(may(&alone, 3, Some("kite-4412")).is_ok());
        let why = |seen: &Status, agents, confirm| {
            may(seen, agents, confirm).map_or_else(|error| error.to_string(), |()| "it may".to_owned())
        };
        assert!(why(&alone, 3, None).contains("3 agents"));
        assert!(why(&alone, 3, Some("other")).contains("to confirm"));
        assert!(why(&status(&["kite-4412", "wren-1177"]), 0, None).contains("elpis node remove kite-4412"));
    }
}
