//! A cluster whose nodes run the database, writers that never stop, and what must hold after each fault.

use anyhow::{Context, Result, bail, ensure};
use elpis_watch::Method;
use serde_json::Value;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub(crate) const WRITERS: usize = 16;
const LOOK: Duration = Duration::from_millis(20);
/// A writer gives an answer up after this: its outcome is unknown.
const ANSWER: Duration = Duration::from_secs(4);
pub(crate) const HEALED: Duration = Duration::from_secs(60);

/// What the writers know.
#[derive(Default)]
struct Known {
    next: AtomicU64,
    pause: AtomicBool,
    /// (row, asked, answered) of acknowledged rows.
    acknowledged: Mutex<Vec<(u64, Instant, Instant)>>,
}

pub(crate) struct World {
    program: PathBuf,
    dir: PathBuf,
    /// What all processes of the cluster inherit.
    env: Vec<(String, String)>,
    /// Removed at the end, unless the folder was named.
    _scratch: Option<tempfile::TempDir>,
    known: Arc<Known>,
    writers: JoinSet<()>,
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
            known: Arc::default(),
            writers: JoinSet::new(),
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
        let mut conn = self.through_gate(1).await?.connect().await?;
        let table = "CREATE TABLE IF NOT EXISTS elpis.fault_rows (id BIGINT UNSIGNED NOT NULL PRIMARY KEY) ENGINE=InnoDB";
        conn.execute(table).await?;
        for writer in 0..WRITERS {
            let options = self.through_gate(writer % nodes + 1).await?;
            let known = Arc::clone(&self.known);
            self.writers.spawn(async move { write(&options, &known).await });
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
        let socket = self.dir().join(format!("n{node}/run/db.sock"));
        let options = MySqlConnectOptions::new().socket(socket).username("elpis-admin").database("elpis");
        Ok(options.password(password.trim_end()).disable_statement_logging())
    }

    /// The server of a node, as its supervisor sees it.
    pub(crate) async fn server(&self, node: &str) -> Result<MySqlConnection> {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?.context("no user")?.name;
        let socket = self.dir().join(node).join("database/s");
        let options = MySqlConnectOptions::new().socket(socket).username(&user).disable_statement_logging();
        Ok(timeout(Duration::from_secs(5), options.connect()).await??)
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
            let first = {
                let held = self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                held.iter().rev().take(20_000).filter(|row| row.1 >= since).map(|row| row.2).min()
            };
            if let Some(first) = first {
                return Ok(first.saturating_duration_since(since));
            }
            sleep(Duration::from_millis(5)).await;
        }
        bail!("no row was acknowledged within {} s{}", limit.as_secs(), self.logs())
    }

    /// The longest time without an acknowledgement since then.
    pub(crate) fn longest_pause(&self, since: Instant) -> Duration {
        let held = self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers: Vec<Instant> =
            held.iter().map(|row| row.2).filter(|answered| *answered >= since).collect();
        answers.sort();
        answers.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }

    /// Answer times of the rows asked for in this time, ms, sorted.
    #[allow(dead_code)] // only the join is measured so
    pub(crate) fn answers(&self, from: Instant, to: Instant) -> Vec<f64> {
        let held = self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = held.iter().filter(|row| row.1 >= from && row.1 <= to);
        let mut answers: Vec<f64> = rows.map(|row| (row.2 - row.1).as_secs_f64() * 1e3).collect();
        answers.sort_by(f64::total_cmp);
        answers
    }

    /// Rows that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The same, by number.
    #[allow(dead_code)] // the example has no disasters
    pub(crate) fn acknowledged_rows(&self) -> Vec<u64> {
        let held = self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().map(|row| row.0).collect()
    }

    /// These rows may be lost: a disaster was ordered to be one.
    #[allow(dead_code)] // the example has no disasters
    pub(crate) fn forget(&self, rows: &BTreeSet<u64>) {
        let mut held = self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|row| !rows.contains(&row.0));
    }

    /// The primary and two that acknowledge, all well.
    pub(crate) async fn healed(&self) -> Result<Duration> {
        let begin = Instant::now();
        self.until("the database is well", HEALED, well).await?;
        Ok(begin.elapsed())
    }

    /// What must hold: every acknowledged row is on the primary, and all copies are equal in every table.
    pub(crate) async fn judge(&self) -> Result<()> {
        self.known.pause.store(true, Ordering::SeqCst);
        let judged = self.judge_paused().await;
        self.known.pause.store(false, Ordering::SeqCst);
        judged
    }

    async fn judge_paused(&self) -> Result<()> {
        let primary = self.primary().await?;
        let mut lock = self.server(&primary).await?;
        // Nothing is written meanwhile but by the supervisor's probe: a primary that cannot write is replaced.
        let locks: Vec<String> =
            tables(&mut lock).await?.into_iter().map(|table| format!("{table} READ")).collect();
        lock.execute(AssertSqlSafe(format!("LOCK TABLES {}", locks.join(", ")))).await?;
        let judged = self.judge_locked(&primary).await;
        lock.execute("UNLOCK TABLES").await?;
        lock.close().await?;
        judged
    }

    async fn judge_locked(&self, primary: &str) -> Result<()> {
        let mut server = self.server(primary).await?;
        let rows: Vec<u64> =
            sqlx::query_scalar("SELECT id FROM elpis.fault_rows").fetch_all(&mut server).await?;
        let there: BTreeSet<u64> = rows.into_iter().collect();
        let lost: Vec<u64> = {
            let held = self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            held.iter().map(|row| row.0).filter(|row| !there.contains(row)).collect()
        };
        ensure!(
            lost.is_empty(),
            "{} acknowledged rows are lost, the first is {:?}",
            lost.len(),
            lost.first()
        );
        let position: String = sqlx::query_scalar("SELECT @@gtid_binlog_pos").fetch_one(&mut server).await?;
        let sums = checksums(&mut server).await?;
        for node in self.nodes()? {
            if node == primary {
                continue;
            }
            let mut replica = self.server(&node).await?;
            let reached: i32 = sqlx::query_scalar("SELECT MASTER_GTID_WAIT(?, 20)")
                .bind(&position)
                .fetch_one(&mut replica)
                .await?;
            ensure!(reached == 0, "{node} does not reach {position}");
            let theirs = checksums(&mut replica).await?;
            ensure!(theirs == sums, "{node} differs from {primary}: {:?}", differing(&sums, &theirs));
            replica.close().await?;
        }
        server.close().await?;
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.writers.abort_all();
        if let Err(error) = self.run(&["dev", "down"]) {
            eprintln!("the cluster in {} was not stopped: {error:#}", self.dir().display());
        }
    }
}

fn differing(a: &[(String, String)], b: &[(String, String)]) -> Vec<String> {
    a.iter().filter(|sum| !b.contains(sum)).map(|sum| sum.0.clone()).collect()
}

/// Every table of the product, no views.
async fn tables(server: &mut MySqlConnection) -> Result<Vec<String>> {
    let tables = "SELECT CONCAT(TABLE_SCHEMA, '.', TABLE_NAME) FROM information_schema.TABLES \
        WHERE TABLE_SCHEMA='elpis' AND TABLE_TYPE='BASE TABLE' ORDER BY 1";
    Ok(sqlx::query_scalar(tables).fetch_all(&mut *server).await?)
}

async fn checksums(server: &mut MySqlConnection) -> Result<Vec<(String, String)>> {
    let text = format!("CHECKSUM TABLE {}", tables(server).await?.join(", "));
    let rows = sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut *server).await?;
    let of = |row: &sqlx::mysql::MySqlRow| {
        let sum: Option<String> = row.try_get_unchecked(1).ok().flatten();
        Ok::<_, anyhow::Error>((row.try_get_unchecked(0)?, sum.unwrap_or_default()))
    };
    rows.iter().map(of).collect()
}

/// The primary is open and two others acknowledge.
pub(crate) fn well(status: &Value) -> bool {
    let database = &status["database"];
    let works = |name: &Value| {
        let nodes = status["nodes"].as_array();
        nodes
            .and_then(|nodes| nodes.iter().find(|node| node["name"] == *name))
            .is_some_and(|node| node["database"]["works"] == true)
    };
    let set = database["ack_set"].as_array().cloned().unwrap_or_default();
    database["mode"] == "sync"
        && database["failing_over"] == false
        && set.len() == 2
        && works(&database["primary"])
        && set.iter().all(works)
}

fn brief(status: &Value) -> String {
    let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
    let nodes: Vec<String> =
        nodes.iter().map(|node| format!("{} {} {}", node["name"], node["state"], node["database"])).collect();
    format!("{} {}", status["database"], nodes.join("; "))
}

/// One row after the other, for ever.
async fn write(options: &MySqlConnectOptions, known: &Known) {
    loop {
        if let Ok(Ok(mut conn)) = timeout(ANSWER, options.connect()).await {
            loop {
                while known.pause.load(Ordering::SeqCst) {
                    sleep(LOOK).await;
                }
                let row = known.next.fetch_add(1, Ordering::SeqCst) + 1;
                let asked = Instant::now();
                let insert =
                    sqlx::query("INSERT INTO fault_rows (id) VALUES (?)").bind(row).execute(&mut conn);
                // Nothing is known of a row without an answer, and its connection is not used again.
                let Ok(Ok(_)) = timeout(ANSWER, insert).await else { break };
                let answered = Instant::now();
                known
                    .acknowledged
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push((row, asked, answered));
            }
        }
        sleep(LOOK).await;
    }
}
