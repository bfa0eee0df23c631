//! Rows that only have to be acknowledged. Each may hang for as long as nobody acknowledges, so each has a connection and
//! a row of its own; a small number of them at a time.

use crate::Error;
use crate::sql::{connect, fence};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Rows at a time.
const SLOTS: u16 = 12;
/// A row that waits for so long is joined by another one: what a replica had received before it began to acknowledge is
/// acknowledged only with the next transaction.
const AGAIN: Duration = Duration::from_millis(300);

/// What a row is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The server writes.
    Probe,
    /// The fence stands, and somebody else has it.
    Fence { epoch: u64 },
    /// Whoever may acknowledge does.
    Heartbeat,
    /// Brings the acknowledgement of the ones before.
    Nudge,
}

/// A row that was acknowledged, or failed.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) purpose: Purpose,
    /// What the supervisor was at when it asked.
    pub(crate) turn: u64,
    pub(crate) done: Result<(), Error>,
}

/// The rows that are under way.
#[derive(Debug)]
pub(crate) struct Rows {
    socket: PathBuf,
    tasks: JoinSet<()>,
    waiting: BTreeMap<u16, (Purpose, u64)>,
    done: mpsc::Sender<(u16, Written)>,
    last: Option<Instant>,
    /// Connections that wait for their next row.
    idle: Arc<Mutex<Vec<MySqlConnection>>>,
}

impl Rows {
    /// What ends comes out of `done`, and goes through [`Rows::ended`].
    pub(crate) fn new(socket: PathBuf, done: mpsc::Sender<(u16, Written)>) -> Rows {
        Rows {
            socket,
            tasks: JoinSet::new(),
            waiting: BTreeMap::new(),
            done,
            last: None,
            idle: Arc::default(),
        }
    }

    /// Gives all up: another server, or another way to acknowledge.
    pub(crate) fn clear(&mut self) {
        self.tasks = JoinSet::new();
        self.waiting.clear();
        (self.last, self.idle) = (None, Arc::default());
    }

    /// A row that ended; one that was given up is none of ours.
    pub(crate) fn ended(&mut self, slot: u16, written: Written) -> Option<Written> {
        while self.tasks.try_join_next().is_some() {}
        let known = self.waiting.get(&slot) == Some(&(written.purpose, written.turn));
        if known {
            self.waiting.remove(&slot);
        }
        known.then_some(written)
    }

    /// Writes a row, with the fence's in the same transaction; while it waits, others from time to time.
    pub(crate) fn write(&mut self, purpose: Purpose, turn: u64, rows: &[(String, u64)]) -> Result<(), Error> {
        let waits = self.waiting.values().any(|waiting| *waiting == (purpose, turn));
        let recent = self.last.is_some_and(|last| last.elapsed() < AGAIN);
        if waits && (recent || purpose == Purpose::Probe) {
            return Ok(());
        }
        let purpose = if waits { Purpose::Nudge } else { purpose };
        let Some(slot) = (0..SLOTS).find(|slot| !self.waiting.contains_key(slot)) else { return Ok(()) };
        let mut text = "START TRANSACTION; ".to_owned();
        if matches!(purpose, Purpose::Fence { .. }) && !rows.is_empty() {
            text.push_str(&format!("{}; ", fence(rows)?));
        }
        text.push_str(&format!(
            "INSERT INTO elpis_group.heartbeat (slot, n) VALUES ({slot}, 1) ON DUPLICATE KEY UPDATE n=n+1; COMMIT"
        ));
        if purpose != Purpose::Probe {
            self.last = Some(Instant::now());
        }
        self.waiting.insert(slot, (purpose, turn));
        let (socket, done, idle) = (self.socket.clone(), self.done.clone(), Arc::clone(&self.idle));
        self.tasks.spawn(async move {
            let work = async {
                let held = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
                let mut conn = match held {
                    Some(conn) => conn,
                    None => connect(socket).await?,
                };
                let asked = conn.execute(sqlx::raw_sql(AssertSqlSafe(text))).await;
                asked.map_err(|error| Error::Sql("a row of the supervisor", error))?;
                idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
                Ok(())
            };
            let written = Written { purpose, turn, done: work.await };
            // Nobody listens any more only at the end.
            let _ = done.send((slot, written)).await;
        });
        Ok(())
    }
}
