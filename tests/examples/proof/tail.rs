//! Follows the run ledger in the database: when each execution was first seen there, and who stored it.

use crate::dev::{Dev, LOOK};
use anyhow::{Context, Result, ensure};
use sqlx::mysql::MySqlPool;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Rows sealed up to so many seconds ago are looked for at each look, and at every twentieth.
const NEAR_S: i64 = 3;
const FAR_S: i64 = 40;
/// A database that moves may be away for so long, and an answer takes no longer than this.
const LOST: Duration = Duration::from_secs(30);
const ANSWER: Duration = Duration::from_secs(2);

/// An execution as it appeared.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) module: u32,
    pub(crate) slot: i64,
    pub(crate) node: Arc<str>,
    /// Session of that node: raised when it is declared dead.
    pub(crate) session: u64,
    /// When it was first seen: at most one look after its commit.
    pub(crate) seen: Instant,
    pub(crate) seen_unix_ms: i64,
}

#[derive(Debug, Default)]
struct Seen {
    keys: BTreeSet<(String, u64, u64)>,
    runs: Vec<Run>,
    last: BTreeMap<u32, Run>,
    failed: Option<String>,
}

/// The follower; ends with the value.
#[derive(Debug)]
pub(crate) struct Tail {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

/// Unix milliseconds now.
#[allow(clippy::disallowed_methods)] // the nodes of this machine share its clock, so cluster time is this
pub(crate) fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

impl Tail {
    pub(crate) async fn of(dev: &Dev) -> Result<Tail> {
        let mut ways = dev.databases()?.into_iter().cycle();
        let mut pool = ways.next().context("no database")?.connect().await?;
        let lost = if dev.managed() { LOST } else { Duration::ZERO };
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut good = Instant::now();
            for look in 0u64.. {
                // After a pause, what came meanwhile is looked for too.
                let back = if look % 20 == 0 || good.elapsed() > LOOK * 10 { FAR_S } else { NEAR_S };
                let asked = timeout(ANSWER, once(&pool, &shared, unix_ms() / 1000 - back)).await;
                let error = match asked {
                    Ok(Ok(())) => {
                        good = Instant::now();
                        sleep(LOOK).await;
                        continue;
                    }
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(_) => format!("no answer within {ANSWER:?}"),
                };
                if good.elapsed() > lost {
                    locked(&shared).failed = Some(error);
                    return;
                }
                // Its node is dead, or the primary has moved: by another node's gate.
                let Some(way) = ways.next() else { return };
                if let Ok(other) = way.connect().await {
                    pool = other;
                }
                sleep(LOOK).await;
            }
        });
        Ok(Tail { seen, task })
    }

    /// The newest execution of each module.
    pub(crate) fn last(&self) -> Result<BTreeMap<u32, Run>> {
        self.check()?;
        Ok(locked(&self.seen).last.clone())
    }

    /// How many were seen, and those after the first `from`.
    pub(crate) fn runs(&self, from: usize) -> Result<Vec<Run>> {
        self.check()?;
        Ok(locked(&self.seen).runs.get(from..).unwrap_or_default().to_vec())
    }

    pub(crate) fn len(&self) -> usize {
        locked(&self.seen).runs.len()
    }

    fn check(&self) -> Result<()> {
        let failed = locked(&self.seen).failed.clone();
        ensure!(failed.is_none(), "the ledger cannot be followed: {}", failed.unwrap_or_default());
        Ok(())
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn once(pool: &MySqlPool, shared: &Mutex<Seen>, from: i64) -> Result<()> {
    const NEWEST: &str =
        "SELECT writer, incarnation, number, session, packed FROM trun_ledger WHERE utimestamp >= ?";
    let rows: Vec<(String, u64, u64, u64, Vec<u8>)> =
        sqlx::query_as(NEWEST).bind(from).fetch_all(pool).await?;
    let (now, now_ms) = (Instant::now(), unix_ms());
    let mut seen = locked(shared);
    for (writer, incarnation, number, session, packed) in rows {
        let node: Arc<str> = writer.split_once('/').map_or(writer.as_str(), |(node, _)| node).into();
        if !seen.keys.insert((writer, incarnation, number)) {
            continue;
        }
        for (module, slot) in elpis_store::unpack_runs(&packed).context("a ledger row cannot be read")? {
            let run =
                Run { module: module.0, slot, node: node.clone(), session, seen: now, seen_unix_ms: now_ms };
            let last = seen.last.entry(run.module).or_insert_with(|| run.clone());
            if last.slot <= run.slot {
                *last = run.clone();
            }
            seen.runs.push(run);
        }
    }
    Ok(())
}
