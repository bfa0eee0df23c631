//! Writers that never stop, and what must hold of their rows: what was acknowledged is there, and all copies are equal.

use anyhow::{Result, ensure};
use serde_json::Value;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Executor, Row};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const LOOK: Duration = Duration::from_millis(20);
/// A writer gives an answer up after this: its outcome is unknown.
const ANSWER: Duration = Duration::from_secs(4);

/// A row that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) row: u64,
    /// The node whose gate it went through.
    #[allow(dead_code)] // for those whose nodes are cut off
    pub(crate) node: usize,
    pub(crate) asked: Instant,
    pub(crate) answered: Instant,
}

/// What the writers know.
#[derive(Default)]
struct Known {
    next: AtomicU64,
    pause: AtomicBool,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

/// Writers of single rows, ended when this is dropped.
#[derive(Default)]
pub(crate) struct Writers {
    known: Arc<Known>,
    tasks: JoinSet<()>,
}

#[allow(dead_code)] // each of its users needs other parts
impl Writers {
    /// Makes the table. The connection is a gate's.
    pub(crate) async fn prepare(options: &MySqlConnectOptions) -> Result<()> {
        let mut conn = options.connect().await?;
        let table = "CREATE TABLE IF NOT EXISTS elpis.fault_rows (id BIGINT UNSIGNED NOT NULL PRIMARY KEY) ENGINE=InnoDB";
        conn.execute(table).await?;
        Ok(())
    }

    /// One more, through the gate of this node.
    pub(crate) fn start(&mut self, node: usize, options: MySqlConnectOptions) {
        let known = Arc::clone(&self.known);
        self.tasks.spawn(async move { write(node, &options, &known).await });
    }

    pub(crate) fn stop(&mut self) {
        self.tasks.abort_all();
    }

    pub(crate) fn pause(&self, pause: bool) {
        self.known.pause.store(pause, Ordering::SeqCst);
    }

    fn held(&self) -> MutexGuard<'_, Vec<Acknowledged>> {
        self.known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All that were acknowledged.
    pub(crate) fn acknowledged(&self) -> Vec<Acknowledged> {
        self.held().clone()
    }

    pub(crate) fn count(&self) -> usize {
        self.held().len()
    }

    /// These rows may be lost: a disaster was ordered to be one.
    pub(crate) fn forget(&self, rows: &BTreeSet<u64>) {
        self.held().retain(|one| !rows.contains(&one.row));
    }

    /// Time from `since` to the first acknowledgement of a row that was asked for after it.
    pub(crate) fn written_after(&self, since: Instant) -> Option<Duration> {
        let held = self.held();
        let first =
            held.iter().rev().take(20_000).filter(|one| one.asked >= since).map(|one| one.answered).min();
        first.map(|first| first.saturating_duration_since(since))
    }

    /// The longest time without an acknowledgement since then.
    pub(crate) fn longest_pause(&self, since: Instant) -> Duration {
        let mut answers: Vec<Instant> =
            self.held().iter().map(|one| one.answered).filter(|answered| *answered >= since).collect();
        answers.sort();
        answers.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }

    /// Answer times of the rows asked for in this time, ms, sorted.
    pub(crate) fn answers(&self, from: Instant, to: Instant) -> Vec<f64> {
        let held = self.held();
        let rows = held.iter().filter(|one| one.asked >= from && one.asked <= to);
        let mut answers: Vec<f64> = rows.map(|one| (one.answered - one.asked).as_secs_f64() * 1e3).collect();
        answers.sort_by(f64::total_cmp);
        answers
    }

    /// Pauses them and says whether every acknowledged row is on the primary, and all copies are equal in every table.
    /// Servers by their own sockets, as the user that runs them.
    pub(crate) async fn judge(&self, primary: &Path, others: &[&Path]) -> Result<()> {
        self.pause(true);
        let judged = self.judge_locked(primary, others).await;
        self.pause(false);
        judged
    }

    async fn judge_locked(&self, primary: &Path, others: &[&Path]) -> Result<()> {
        let mut lock = server(primary).await?;
        // Nothing is written meanwhile but by the supervisor's probe: a primary that cannot write is replaced.
        let locks: Vec<String> =
            tables(&mut lock).await?.into_iter().map(|table| format!("{table} READ")).collect();
        lock.execute(AssertSqlSafe(format!("LOCK TABLES {}", locks.join(", ")))).await?;
        let judged = self.compare(primary, others).await;
        lock.execute("UNLOCK TABLES").await?;
        judged
    }

    async fn compare(&self, primary: &Path, others: &[&Path]) -> Result<()> {
        let mut first = server(primary).await?;
        let rows: Vec<u64> =
            sqlx::query_scalar("SELECT id FROM elpis.fault_rows").fetch_all(&mut first).await?;
        let there: BTreeSet<u64> = rows.into_iter().collect();
        let lost: Vec<Acknowledged> =
            self.acknowledged().into_iter().filter(|one| !there.contains(&one.row)).collect();
        ensure!(
            lost.is_empty(),
            "{} acknowledged rows are lost, the first is {:?}",
            lost.len(),
            lost.first()
        );
        let position: String = sqlx::query_scalar("SELECT @@gtid_binlog_pos").fetch_one(&mut first).await?;
        let sums = checksums(&mut first).await?;
        for other in others {
            let mut replica = server(other).await?;
            let reached: i32 = sqlx::query_scalar("SELECT MASTER_GTID_WAIT(?, 20)")
                .bind(&position)
                .fetch_one(&mut replica)
                .await?;
            ensure!(reached == 0, "{} does not reach {position}", other.display());
            let theirs = checksums(&mut replica).await?;
            ensure!(
                theirs == sums,
                "{} differs from {}: {:?}",
                other.display(),
                primary.display(),
                differing(&sums, &theirs)
            );
        }
        Ok(())
    }
}

/// A server at its own socket.
pub(crate) async fn server(socket: &Path) -> Result<MySqlConnection> {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())?;
    let user = user.ok_or_else(|| anyhow::anyhow!("this user has no name"))?.name;
    let options = MySqlConnectOptions::new().socket(socket).username(&user).disable_statement_logging();
    Ok(timeout(Duration::from_secs(5), options.connect()).await??)
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

/// One row after the other, for ever.
async fn write(node: usize, options: &MySqlConnectOptions, known: &Known) {
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
                let one = Acknowledged { row, node, asked, answered };
                known.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(one);
            }
        }
        sleep(LOOK).await;
    }
}
