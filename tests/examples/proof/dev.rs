//! A development cluster in a scratch folder, driven by the program under test; it ends with the value.

use anyhow::{Context, Result, bail, ensure};
use elpis_watch::{LinkError, Method};
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
const CONNECT: Duration = Duration::from_millis(500);
/// Asked again for so long while an API says that it is not ready.
const READY: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Dev {
    program: PathBuf,
    folder: tempfile::TempDir,
    /// The nodes run the database.
    managed: bool,
}

impl Dev {
    /// Starts one of so many nodes, with a database that they run or with one beside them.
    pub(crate) fn up(program: &Path, nodes: u32, managed: bool) -> Result<Dev> {
        let folder = tempfile::Builder::new().prefix("elpis-proof").tempdir()?;
        let dev = Dev { program: program.to_owned(), folder, managed };
        dev.grow(nodes)?;
        Ok(dev)
    }

    pub(crate) fn grow(&self, nodes: u32) -> Result<()> {
        let nodes = nodes.to_string();
        let mut arguments = vec!["dev", "up", "--detach", "--nodes", &nodes];
        if !self.managed {
            arguments.push("--one-database");
        }
        self.run(&arguments).map(drop)
    }

    pub(crate) fn managed(&self) -> bool {
        self.managed
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
            let begin = Instant::now();
            loop {
                let path = "/api/v1/checks/bulk";
                match elpis_watch::request::<Value>(&socket, Method::POST, path, Some(&body)).await {
                    Err(LinkError::Refused { status: 503, .. }) if begin.elapsed() < READY => {
                        sleep(LOOK).await;
                    }
                    done => break done.map(drop)?,
                }
            }
        }
        Ok(())
    }

    /// Connections of our own to its database.
    pub(crate) async fn database(&self) -> Result<MySqlPool> {
        let databases = self.databases()?;
        databases.first().context("no database")?.connect().await
    }

    /// Every way to its database: one, or the gate of each node.
    pub(crate) fn databases(&self) -> Result<Vec<Way>> {
        let env = self.env()?;
        let of = |name: &str| env.get(name).with_context(|| format!("`elpis dev env` has no {name}"));
        let password = std::fs::read_to_string(of("ELPIS_DATABASE_PASSWORD_FILE")?)?;
        let options = MySqlConnectOptions::from_str(of("ELPIS_DATABASE_URL")?)?
            .username(of("ELPIS_DATABASE_USER")?)
            .password(password.trim_end());
        if !self.managed {
            return Ok(vec![Way(options)]);
        }
        let gate = |node: String| Way(options.clone().socket(self.dir().join(node).join("run/gate/db.sock")));
        Ok(self.nodes_by_folder()?.into_iter().map(gate).collect())
    }
}

/// A way to the database.
#[derive(Clone, Debug)]
pub(crate) struct Way(MySqlConnectOptions);

impl Way {
    pub(crate) async fn connect(&self) -> Result<MySqlPool> {
        let pool = MySqlPoolOptions::new().max_connections(3).acquire_timeout(CONNECT);
        Ok(pool.connect_with(self.0.clone()).await?)
    }
}

/// The primary with two that acknowledge, when the nodes run the database.
pub(crate) fn database_well(status: &Value) -> bool {
    let database = &status["database"];
    database["mode"] == "sync"
        && database["failing_over"] == false
        && database["ack_set"].as_array().is_some_and(|set| set.len() == 2)
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
