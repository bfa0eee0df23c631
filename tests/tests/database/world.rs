//! A cluster whose nodes run the database, writers that never stop, and what must hold after each fault.

use crate::writers::{self, Writers, well};
use anyhow::{Context, Result, bail, ensure};
use elpis_watch::Method;
use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

pub(crate) const WRITERS: usize = 16;
const LOOK: Duration = Duration::from_millis(20);
pub(crate) const HEALED: Duration = Duration::from_secs(60);

pub(crate) struct World {
    program: PathBuf,
    dir: PathBuf,
    /// What all processes of the cluster inherit.
    env: Vec<(String, String)>,
    /// Removed at the end, unless the folder was named.
    _scratch: Option<tempfile::TempDir>,
    pub(crate) writers: Writers,
}

impl World {
    /// A cluster of so many nodes; no writers yet.
    pub(crate) fn up(program: &Path, nodes: usize, folder: Option<PathBuf>) -> Result<World> {
        World::up_with(program, nodes, folder, &[])
    }

    /// The same with variables in the environment of all its processes.
    pub(crate) fn up_with(
        program: &Path,
        nodes: usize,
        folder: Option<PathBuf>,
        env: &[(&str, &str)],
    ) -> Result<World> {
        let scratch = match folder {
            None => Some(tempfile::Builder::new().prefix("elpis-db").tempdir()?),
            Some(_) => None,
        };
        let dir = folder.or_else(|| Some(scratch.as_ref()?.path().to_owned())).context("no folder")?;
        let world = World {
            program: program.to_owned(),
            dir,
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            _scratch: scratch,
            writers: Writers::default(),
        };
        world.run(&["dev", "up", "--detach", "--nodes", &nodes.to_string()])?;
        Ok(world)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs a command of the program; returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--dir").arg(self.dir()).stdin(Stdio::null());
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let done = command.output().with_context(|| format!("cannot start {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(done.status.success(), "elpis {} failed: {text}{said}{}", arguments.join(" "), self.logs());
        Ok(text)
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        Ok(serde_json::from_str(&self.run(&[arguments, &["--json"]].concat())?)?)
    }

    /// Ends of the nodes' logs.
    pub(crate) fn logs(&self) -> String {
        let script = "tail -n 12 n*/log/node.log n*/log/mariadbd.log 2>/dev/null";
        let done = Command::new("sh").args(["-c", script]).current_dir(self.dir()).output();
        done.map(|done| format!("\n{}", String::from_utf8_lossy(&done.stdout))).unwrap_or_default()
    }

    /// Starts the writers, through the gates of all nodes in turn.
    pub(crate) async fn write(&mut self, nodes: usize) -> Result<()> {
        Writers::prepare(&self.through_gate(1).await?).await?;
        for writer in 0..WRITERS {
            let node = writer % nodes + 1;
            let options = self.through_gate(node).await?;
            self.writers.start(node, options);
        }
        Ok(())
    }

    /// Network checks of the sink, a second apart: the servers' own load.
    pub(crate) async fn checks(&self, count: u32) -> Result<()> {
        let env = self.run(&["dev", "env"])?;
        let sink =
            env.lines().find_map(|line| line.strip_prefix("ELPIS_SINK=127.0.0.1:")).context("no sink")?;
        let check = |number: u32| {
            let target = format!("127.{}.{}.{}", 1 + number / 60_000, number / 250 % 250, number % 250 + 1);
            serde_json::json!({ "check": format!("tcp {target}:{sink}"), "name": "sink", "interval_s": 1 })
        };
        let body = serde_json::json!({ "checks": (0..count).map(check).collect::<Vec<_>>() });
        let socket = self.dir().join("n1/run/api.sock");
        let begin = Instant::now();
        loop {
            // A console that registers with the fence just now asks to be asked again.
            let path = "/api/v1/checks/bulk";
            match elpis_watch::request::<Value>(&socket, Method::POST, path, Some(&body)).await {
                Err(elpis_watch::LinkError::Refused { status: 503, .. }) if begin.elapsed() < HEALED => {
                    sleep(LOOK).await;
                }
                done => return Ok(done.map(drop)?),
            }
        }
    }

    async fn through_gate(&self, node: usize) -> Result<MySqlConnectOptions> {
        let password = std::fs::read_to_string(self.dir().join("db.password"))?;
        let socket = self.dir().join(format!("n{node}/run/gate/db.sock"));
        let options = MySqlConnectOptions::new().socket(socket).username("elpis-admin").database("elpis");
        Ok(options.password(password.trim_end()).disable_statement_logging())
    }

    /// The socket of a node's server.
    fn own_socket(&self, node: &str) -> PathBuf {
        self.dir().join(node).join("database/gate/s")
    }

    /// The server of a node, as its supervisor sees it.
    pub(crate) async fn server(&self, node: &str) -> Result<MySqlConnection> {
        writers::server(&self.own_socket(node)).await
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        for node in self.nodes()? {
            let socket = self.dir().join(&node).join("run/node.sock");
            let asked = elpis_watch::request::<Value>(&socket, Method::GET, "/v1/status", None::<&()>);
            if let Ok(Ok(status)) = timeout(Duration::from_millis(800), asked).await
                && !status["master"].is_null()
            {
                return Ok(status);
            }
        }
        bail!("no node knows a master")
    }

    pub(crate) fn nodes(&self) -> Result<Vec<String>> {
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

    /// Asks until the status is good.
    pub(crate) async fn until(
        &self,
        what: &str,
        limit: Duration,
        good: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let begin = Instant::now();
        let mut last = Value::Null;
        while begin.elapsed() < limit {
            if let Ok(status) = self.status().await {
                if good(&status) {
                    return Ok(status);
                }
                last = status;
            }
            sleep(LOOK).await;
        }
        bail!("not within {} s: {what}; last: {}{}", limit.as_secs(), brief(&last), self.logs())
    }

    pub(crate) async fn primary(&self) -> Result<String> {
        let status =
            self.until("a primary", HEALED, |status| status["database"]["primary"].is_string()).await?;
        Ok(status["database"]["primary"].as_str().unwrap_or_default().to_owned())
    }

    /// Those that acknowledge.
    pub(crate) async fn ackers(&self) -> Result<Vec<String>> {
        let status = self.status().await?;
        let set = status["database"]["ack_set"].as_array().context("no ack set")?;
        Ok(set.iter().filter_map(|name| Some(name.as_str()?.to_owned())).collect())
    }

    pub(crate) fn pid(&self, node: &str, process: &str) -> Result<i32> {
        let file = self.dir().join(node).join("run").join(format!("{process}.pid"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?;
        Ok(text.trim().parse()?)
    }

    pub(crate) fn signal(&self, node: &str, process: &str, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(self.pid(node, process)?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Time from `since` to the first acknowledgement of a row that was asked for after it.
    pub(crate) async fn written_again(&self, since: Instant, limit: Duration) -> Result<Duration> {
        while since.elapsed() < limit {
            if let Some(after) = self.writers.written_after(since) {
                return Ok(after);
            }
            sleep(Duration::from_millis(5)).await;
        }
        bail!("no row was acknowledged within {} s{}", limit.as_secs(), self.logs())
    }

    /// The primary and two that acknowledge, all well.
    pub(crate) async fn healed(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.until("the database is well", HEALED, well).await?;
        Ok(begin.elapsed())
    }

    /// What must hold: every acknowledged row is on the primary, and all copies are equal in every table.
    pub(crate) async fn judge(&self) -> Result<()> {
        let primary = self.primary().await?;
        let others = self.nodes()?.into_iter().filter(|node| *node != primary);
        let others: Vec<PathBuf> = others.map(|node| self.own_socket(&node)).collect();
        let others: Vec<&Path> = others.iter().map(PathBuf::as_path).collect();
        self.writers.judge(&self.own_socket(&primary), &others).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.writers.stop();
        if let Err(error) = self.run(&["dev", "down"]) {
            eprintln!("the cluster in {} was not stopped: {error:#}", self.dir().display());
        }
    }
}

fn brief(status: &Value) -> String {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let nodes: Vec<String> =
        nodes.iter().map(|node| format!("{} {} {}", node["name"], node["state"], node["database"])).collect();
    format!("{} {}", status["database"], nodes.join("; "))
}
