//! A development cluster in a scratch folder, driven by the program under test; it ends with the value.

use anyhow::{Context, Result, bail, ensure};
use elpis_watch::Method;
use serde_json::Value;
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Pause between two looks.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
const QUESTION: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Dev {
    program: PathBuf,
    folder: tempfile::TempDir,
}

impl Dev {
    /// Starts one of so many nodes.
    pub(crate) fn up(program: &Path, nodes: u32) -> Result<Dev> {
        let folder = tempfile::Builder::new().prefix("elpis-proof").tempdir()?;
        let dev = Dev { program: program.to_owned(), folder };
        dev.grow(nodes)?;
        Ok(dev)
    }

    pub(crate) fn grow(&self, nodes: u32) -> Result<()> {
        self.run(&["dev", "up", "--detach", "--one-database", "--nodes", &nodes.to_string()]).map(drop)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a command of the program; returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let done = Command::new(&self.program)
            .args(arguments)
            .arg("--dir")
            .arg(self.dir())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(
            done.status.success(),
            "elpis {} failed: {text}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(text)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&[arguments, &["--json"]].concat())?)?)
    }

    /// What `elpis dev env` says.
    pub(crate) fn env(&self) -> Result<HashMap<String, String>> {
        let text = self.run(&["dev", "env"])?;
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned())).collect())
    }

    /// Names of its nodes.
    pub(crate) fn nodes(&self) -> Result<Vec<String>> {
        let status = self.json(&["dev", "status"])?;
        let nodes = status["nodes"].as_array().context("no nodes")?;
        Ok(nodes.iter().filter_map(|node| Some(node["name"].as_str()?.to_owned())).collect())
    }

    /// Process ids, by node (`""`: supervisor and database).
    pub(crate) fn processes(&self) -> Result<Vec<(String, i32)>> {
        let mut found = Vec::new();
        let folder = self.dir().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc")? {
            let Ok(entry) = entry else { continue };
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(&folder) {
                found.push((line, pid));
            }
        }
        Ok(found)
    }

    /// The status as the first answering node tells it, `but` not asked.
    pub(crate) async fn status(&self, but: &str) -> Result<Value> {
        for node in self.nodes_by_folder()? {
            if node == but {
                continue;
            }
            let socket = self.dir().join(&node).join("run/node.sock");
            let asked = elpis_watch::request::<Value>(&socket, Method::GET, "/v1/status", None::<&()>);
            if let Ok(Ok(status)) = timeout(QUESTION, asked).await {
                return Ok(status);
            }
        }
        bail!("no node answers")
    }

    fn nodes_by_folder(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.dir())? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.strip_prefix('n').is_some_and(|rest| rest.parse::<u32>().is_ok()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Asks until the status is good; returns how long that took from `since`.
    pub(crate) async fn until(
        &self,
        what: &str,
        but: &str,
        since: Instant,
        limit: Duration,
        good: impl Fn(&Value) -> bool,
    ) -> Result<Duration> {
        let mut last = Value::Null;
        while since.elapsed() < limit {
            if let Ok(status) = self.status(but).await {
                if good(&status) {
                    return Ok(since.elapsed());
                }
                last = status;
            }
            sleep(LOOK).await;
        }
        bail!("not within {} s: {what}; last status: {last}; logs: {}", limit.as_secs(), self.dir().display())
    }

    /// Adds checks through the API of a node.
    pub(crate) async fn add_checks(&self, checks: &[Value]) -> Result<()> {
        let socket = self.dir().join("n1/run/api.sock");
        for part in checks.chunks(2_500) {
            let body = serde_json::json!({ "checks": part });
            let _: Value =
                elpis_watch::request(&socket, Method::POST, "/api/v1/checks/bulk", Some(&body)).await?;
        }
        Ok(())
    }

    /// Connections of our own to its database.
    pub(crate) async fn database(&self) -> Result<MySqlPool> {
        let env = self.env()?;
        let of = |name: &str| env.get(name).with_context(|| format!("`elpis dev env` has no {name}"));
        let password = std::fs::read_to_string(of("ELPIS_DATABASE_PASSWORD_FILE")?)?;
        let options = MySqlConnectOptions::from_str(of("ELPIS_DATABASE_URL")?)?
            .username(of("ELPIS_DATABASE_USER")?)
            .password(password.trim_end());
        Ok(MySqlPoolOptions::new().max_connections(3).connect_with(options).await?)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["dev", "down"]) {
            eprintln!("the cluster in {} was not stopped: {error:#}", self.dir().display());
        }
    }
}

/// Every shard is owned by a node with a live lease.
pub(crate) fn all_owned(status: &Value) -> bool {
    let shards = &status["shards"];
    !status["master"].is_null() && shards["total"].as_u64().is_some() && shards["owned"] == shards["total"]
}

/// A node's line in the status.
pub(crate) fn line<'a>(status: &'a Value, node: &str) -> Option<&'a Value> {
    status["nodes"].as_array()?.iter().find(|line| line["name"] == node)
}

/// Up, with a lease.
pub(crate) fn is_up(status: &Value, node: &str) -> bool {
    line(status, node)
        .is_some_and(|line| line["state"] == "up" && line["lease_ms_left"].as_i64().is_some_and(|ms| ms > 0))
}
