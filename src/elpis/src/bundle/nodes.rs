//! What the nodes of this machine say, and what lies in their folders: sizes and logs, never contents.

use super::archive::Archive;
use crate::dev::layout::Layout;
use crate::dev::{control, mariadb, process};
use crate::find::{Cluster, Place};
use anyhow::Result;
use elpis_watch::Method;
use nix::fcntl::OFlag;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// Time for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// The ledger of a long time is much reading.
const LEDGER: Duration = Duration::from_secs(30);
/// Most files of a spool that are counted.
const MOST_FILES: u64 = 1_000_000;
/// Files of a node that hold nothing secret.
const OPEN: [&str; 2] = ["node.json", "incarnations.json"];

/// Adds all nodes of this machine.
pub(super) async fn add(archive: &mut Archive, cluster: &Cluster, log_bytes: u64) -> Result<()> {
    let places = cluster.places()?;
    for place in &places {
        answers(archive, place).await?;
        if let Some(folder) = &place.folder {
            contents(archive, &place.name, folder, log_bytes)?;
        }
    }
    ledger(archive, &places).await?;
    match cluster.layout() {
        Some(layout) => development(archive, layout, log_bytes)?,
        None => archive
            .missing("logs: they are in the journal; add them with: journalctl -u 'elpis-*' --since -1h"),
    }
    Ok(())
}

/// Through the sockets of a node. The first silence of a socket is the last question to it.
async fn answers(archive: &mut Archive, place: &Place) -> Result<()> {
    let questions = [
        (&place.node_socket, &["/v1/status", "/metrics"][..], ["status.json", "node-metrics.txt"]),
        (&place.api_socket, &["/metrics", "/api/v1/database"][..], ["console-metrics.txt", "database.json"]),
    ];
    for (socket, paths, names) in questions {
        for (path, name) in paths.iter().zip(names) {
            let answer = ask(socket, path, PATIENCE).await;
            let silent = answer.is_err();
            archive.answer(&format!("nodes/{}/{name}", place.name), answer)?;
            if silent {
                break;
            }
        }
    }
    let question = json!({});
    let levels = elpis_watch::request::<Value>(&place.node_socket, Method::POST, "/v1/log", Some(&question));
    if let Ok(Ok(levels)) = tokio::time::timeout(PATIENCE, levels).await {
        archive.json(&format!("nodes/{}/log-levels.json", place.name), &levels)?;
    }
    Ok(())
}

async fn ask(socket: &Path, path: &str, limit: Duration) -> Result<String, String> {
    match tokio::time::timeout(limit, elpis_watch::request_text(socket, path)).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
    }
}

async fn ledger(archive: &mut Archive, places: &[Place]) -> Result<()> {
    let mut why = "no node".to_owned();
    for place in places {
        match ask(&place.api_socket, "/api/v1/ledger", LEDGER).await {
            Ok(text) => return archive.answer("cluster/ledger.json", Ok(text)),
            Err(error) => why = error,
        }
    }
    archive.answer("cluster/ledger.json", Err(why))
}

/// From the data folder of a node.
fn contents(archive: &mut Archive, node: &str, folder: &Path, log_bytes: u64) -> Result<()> {
    for name in OPEN {
        if let Some(text) = tail(&folder.join(name), 1 << 20) {
            archive.text(&format!("nodes/{node}/{name}"), &text)?;
        }
    }
    let mut files: Vec<Value> = Vec::new();
    for (name, found) in entries(folder) {
        files.push(
            json!({ "name": name, "bytes": found.len(), "mode": format!("{:o}", found.mode() & 0o7777) }),
        );
    }
    archive.json(&format!("nodes/{node}/folder.json"), &Value::Array(files))?;
    archive.json(&format!("nodes/{node}/spool.json"), &spool(&folder.join("spool")))?;
    for (name, _) in entries(&folder.join("log")) {
        if let Some(text) = tail(&folder.join("log").join(&name), log_bytes) {
            archive.text(&format!("nodes/{node}/logs/{name}"), &text)?;
        }
    }
    Ok(())
}

/// Settings, processes and logs of a development cluster.
fn development(archive: &mut Archive, layout: &Layout, log_bytes: u64) -> Result<()> {
    for (name, path) in [("cluster/ports.json", "ports.json"), ("cluster/my.cnf", "mariadb/my.cnf")] {
        if let Some(text) = tail(&layout.dir.join(path), 1 << 20) {
            archive.text(name, &text)?;
        }
    }
    let logs = [
        ("cluster/supervisor.log", control::supervisor_log(layout)),
        ("cluster/feed.log", layout.path("feed.log")),
        ("cluster/mariadb.log", mariadb::log_file(layout)),
    ];
    for (name, path) in logs {
        if let Some(text) = tail(&path, log_bytes) {
            archive.text(name, &text)?;
        }
    }
    for node in layout.ports()?.nodes {
        let found = control::files_of(layout, &node.name)?.into_iter().map(|(file, folder)| {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            (name, process::find(&file, &folder).map_or(Value::Null, |found| describe(found.pid)))
        });
        let found: serde_json::Map<String, Value> = found.collect();
        archive.json(&format!("nodes/{}/processes.json", node.name), &Value::Object(found))?;
    }
    Ok(())
}

/// Command line (no option takes a secret) and figures of a process.
fn describe(pid: i32) -> Value {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line: Vec<String> = line
        .split(|b| *b == 0)
        .filter(|part| !part.is_empty())
        .map(|part| String::from_utf8_lossy(part).into())
        .collect();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let wanted =
        ["State", "VmHWM", "VmRSS", "Threads", "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
    let figures: serde_json::Map<String, Value> = status
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(name, _)| wanted.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().into()))
        .collect();
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    json!({ "pid": pid, "command": line, "status": figures, "open_files": files })
}

/// Files and bytes of each folder of the spool; nothing of what is in them.
fn spool(folder: &Path) -> Value {
    let mut counts = serde_json::Map::new();
    let mut left = MOST_FILES;
    for (name, found) in entries(folder) {
        let (mut files, mut bytes) = (0, 0);
        if found.is_dir() {
            count(&folder.join(&name), &mut left, &mut files, &mut bytes);
            counts.insert(name, json!({ "files": files, "bytes": bytes }));
        }
    }
    if left == 0 {
        counts.insert("note".into(), format!("counting ended after {MOST_FILES} files").into());
    }
    Value::Object(counts)
}

fn count(folder: &Path, left: &mut u64, files: &mut u64, bytes: &mut u64) {
    for (name, found) in entries(folder) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        if found.is_dir() {
            count(&folder.join(name), left, files, bytes);
        } else {
            *files += 1;
            *bytes += found.len();
        }
    }
}

/// Names and facts of what is in a folder, by name; links are not followed.
fn entries(folder: &Path) -> Vec<(String, fs::Metadata)> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_string_lossy().into_owned(), entry.metadata().ok()?)))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// The end of a text file, whole lines; `None` = there is no such file. A link is not followed: who may write in the
/// folder must not choose which file of root's is packed.
fn tail(path: &Path, bytes: u64) -> Option<String> {
    let mut file =
        fs::OpenOptions::new().read(true).custom_flags(OFlag::O_NOFOLLOW.bits()).open(path).ok()?;
    let found = file.metadata().ok().filter(fs::Metadata::is_file)?;
    let skipped = found.len().saturating_sub(bytes);
    file.seek(SeekFrom::Start(skipped)).ok()?;
    let mut end = Vec::new();
    file.take(bytes).read_to_end(&mut end).ok()?;
    let text = String::from_utf8_lossy(&end);
    Some(match text.split_once('\n') {
        Some((_, whole)) if skipped > 0 => whole.to_owned(),
        _ => text.into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_has_whole_lines_and_links_are_no_logs() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("a.log");
        fs::write(&log, "one\ntwo\nthree\n").unwrap();
        assert_eq!(tail(&log, 8).as_deref(), Some("three\n"));
        assert_eq!(tail(&log, 100).as_deref(), Some("one\ntwo\nthree\n"));
        let link = dir.path().join("b.log");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert_eq!((tail(&link, 8), tail(dir.path(), 8)), (None, None));
    }

    #[test]
    fn a_spool_is_counted_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("in/0af")).unwrap();
        fs::write(dir.path().join("in/0af/agent.secret.data"), "12345").unwrap();
        fs::write(dir.path().join("in/x"), "1").unwrap();
        assert_eq!(spool(dir.path()), json!({ "in": { "files": 2, "bytes": 6 } }));
        assert_eq!(spool(&dir.path().join("nowhere")), json!({}));
    }
}
