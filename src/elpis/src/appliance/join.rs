//! This machine's node goes into a cluster, or back to where it was new.

use super::{STATE, status};
use crate::find::Cluster;
use crate::operate;
use anyhow::{Context, Result, bail, ensure};
use elpis_appliance::answers::{Answers, Join};
use elpis_appliance::view::mine;
use elpis_cluster::agent::Status;
use elpis_watch::Method;
use elpis_watch::durable::write_whole;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tokio::time::sleep;

/// The cluster that is joined after a reset.
const WANTED: &str = "join.json";
/// Why the last join failed.
const FAILED: &str = "join.failed";
/// What a reset leaves: the machine's name and answers, how far its journal has been sent, where it goes, why it could not,
/// what a check of the disk found.
const KEPT: [&str; 6] = ["identity.json", "answers", "log-forwarder", "lost+found", WANTED, FAILED];
/// Units that a reset stops, in this order, and starts again.
const UNITS: [&str; 8] = [
    "elpis-form",
    "elpis-address-keeper",
    "elpis-console",
    "elpis-network-server",
    "elpis-data-server",
    "elpis-tentacle-server",
    "elpis-db-gate",
    "elpis-node",
];
const RESET: &str = "elpis-reset.service";
const LOOK: Duration = Duration::from_millis(500);
/// How often a console that starts is asked again.
const ASK_AGAIN: u32 = 20;
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
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
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
    may(&seen, agents(node).await?, confirm)?;
    let body = json!({ "version": 1, "address": join.address, "words": join.words });
    hand_over(&file(WANTED), body.to_string().as_bytes())?;
    let _ = fs::remove_file(file(FAILED));
    systemctl(&["start", "--no-block", RESET])?;
    Ok(format!("this node gives its own cluster up and joins the one at {}", join.address))
}

/// Writes a file that units of user `elpis` read, whatever this unit's umask: the folder lets nobody else in.
pub(super) fn hand_over(path: &Path, bytes: &[u8]) -> Result<()> {
    write_whole(path, bytes, 0o644).with_context(|| format!("cannot write {}", path.display()))
}

/// How many agents there are.
async fn agents(node: &Cluster) -> Result<usize> {
    let mut tries = ASK_AGAIN;
    loop {
        match node.api(Method::GET, "/api/v1/agents", None).await {
            Ok(agents) => return Ok(agents.as_array().map_or(0, Vec::len)),
            Err(error) if tries == 0 => {
                return Err(error).context("whether this node has agents to lose is not known: try again");
            }
            Err(_) => sleep(LOOK).await,
        }
        tries -= 1;
    }
}

/// A person's order: this machine has the address of these options, without any asks DHCP. A node that has an address
/// already is in its cluster under it: it starts anew.
pub(super) async fn move_to(node: &Cluster, options: &str) -> Result<String> {
    let fresh = super::own_address().is_none();
    if !fresh {
        let seen = status(node).await.context("the node agent does not answer yet")?;
        may(&seen, agents(node).await?, None)?;
    }
    let kept = fs::read_to_string(super::ANSWERS).unwrap_or_default();
    let mut answers = Answers::parse(&kept).0;
    answers.address = Answers::parse(options).0.address;
    hand_over(Path::new(super::ANSWERS), answers.options().as_bytes())?;
    if fresh {
        return Ok("set; the start goes on as soon as the network has it".to_owned());
    }
    systemctl(&["start", "--no-block", RESET])?;
    Ok("set; this node starts anew with it".to_owned())
}

/// A person's order: everything that this machine holds is lost, but its name, address, time servers and log server.
pub(super) async fn start_anew(node: &Cluster, confirm: &str) -> Result<String> {
    let name = super::facts().name.context("this machine has no name yet, so there is nothing to lose")?;
    ensure!(confirm == name, "nothing was done: this machine's name is {name}");
    let seen = status(node).await;
    // What was answered stays as far as it is this machine's: its words are used, its networks were another cluster's.
    let kept = Answers::parse(&fs::read_to_string(super::ANSWERS).unwrap_or_default()).0;
    let kept = Answers {
        name: kept.name,
        address: kept.address,
        ntp: kept.ntp,
        logs: kept.logs,
        ..Answers::default()
    };
    hand_over(Path::new(super::ANSWERS), kept.options().as_bytes())?;
    systemctl(&["start", "--no-block", RESET])?;
    Ok(match seen.filter(|seen| seen.nodes.len() > 1) {
        Some(_) => format!("this node starts anew; remove it from its cluster: elpis node remove {name}"),
        None => "this node starts anew".to_owned(),
    })
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
        remove(&path, entry.file_type()?.is_dir())
            .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    // Folders, name and address anew: the other units wait for it.
    systemctl(&["restart", "--no-block", "elpis-owners", "elpis-setup"])?;
    systemctl(&[&["start", "--no-block"], &UNITS[..]].concat())
}

fn remove(path: &Path, folder: bool) -> std::io::Result<()> {
    if !folder {
        return fs::remove_file(path);
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        remove(&entry.path(), entry.file_type()?.is_dir())?;
    }
    match fs::remove_dir(path) {
        // Where another part of the disk is mounted, the folder stays.
        Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => Ok(()),
        done => done,
    }
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
