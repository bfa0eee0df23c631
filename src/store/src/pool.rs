//! Connections: a pool that belongs to one database epoch, time limits, and what becomes of a connection after a failure.

use crate::error::{self, NO_VARIABLE};
use crate::{Endpoint, StoreError};
use sqlx::mysql::{MySqlConnection, MySqlPool, MySqlPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{Executor, MySql};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// Session of this node when its lease is valid right now, else `None`. Asked right before each COMMIT.
pub type Gate = Arc<dyn Fn() -> Option<u64> + Send + Sync>;

/// Longest wait for one unit of work on a connection.
pub(crate) const WORK_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);

/// The database as this process uses it. Clones share everything.
#[derive(Clone)]
pub struct Store(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pool: RwLock<MySqlPool>,
    epoch: watch::Sender<u64>,
    max_connections: u32,
    pub(crate) gate: Gate,
    pub(crate) ledger: AtomicBool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("epoch", &*self.0.epoch.borrow()).finish_non_exhaustive()
    }
}

/// A connection in use. Dropped while work is running (a cancelled future), it is closed and not used again: the next
/// user would read the answer meant for the last one.
pub(crate) struct Conn {
    conn: Option<PoolConnection<MySql>>,
    epoch: watch::Receiver<u64>,
    busy: bool,
}

impl Store {
    /// Opens the pool with one connection, so that a wrong address or account is said at once.
    pub async fn connect(e: &Endpoint, max_connections: u32, gate: Gate) -> Result<Store, StoreError> {
        let pool = open(e, max_connections)?;
        let inner = Inner {
            pool: RwLock::new(pool),
            epoch: watch::Sender::new(e.epoch),
            max_connections,
            gate,
            ledger: AtomicBool::new(true),
        };
        let store = Store(Arc::new(inner));
        store.ping().await?;
        Ok(store)
    }

    /// Follows the database to another epoch: work that runs ends now (its outcome may be unknown), all connections are
    /// closed, new ones go to the new address. An epoch that is not newer changes nothing.
    pub async fn switch(&self, e: &Endpoint) -> Result<(), StoreError> {
        let pool = open(e, self.0.max_connections)?;
        let old = {
            let mut held = self.0.pool.write().unwrap_or_else(PoisonError::into_inner);
            if e.epoch <= *self.0.epoch.borrow() {
                return Ok(());
            }
            self.0.epoch.send_replace(e.epoch);
            std::mem::replace(&mut *held, pool)
        };
        // Ends by itself: each connection in use sees the new epoch and is dropped. A farewell that hangs is left.
        let _ = tokio::time::timeout(Duration::from_secs(1), old.close()).await;
        self.ping().await
    }

    /// Asks the server for an answer.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let mut conn = self.acquire().await?;
        run!(conn, "asking for a sign of life", |c| {
            c.execute("SELECT 1").await?;
            Ok(())
        })
    }

    /// Epoch of the endpoint in use.
    pub fn epoch(&self) -> u64 {
        *self.0.epoch.borrow()
    }

    /// Switches the packed list of executions in the run ledger on or off (counts and changes are always kept).
    pub fn set_ledger(&self, on: bool) {
        self.0.ledger.store(on, Ordering::Relaxed);
    }

    pub(crate) async fn acquire(&self) -> Result<Conn, StoreError> {
        let (pool, epoch) = {
            let held = self.0.pool.read().unwrap_or_else(PoisonError::into_inner);
            (held.clone(), self.0.epoch.subscribe())
        };
        let conn = pool.acquire().await.map_err(|error| match error {
            sqlx::Error::PoolTimedOut => StoreError::Timeout {
                seconds: ACQUIRE_LIMIT.as_secs(),
                doing: "waiting for a free connection",
            },
            sqlx::Error::PoolClosed => StoreError::Moved,
            error => StoreError::Sql(error),
        })?;
        Ok(Conn { conn: Some(conn), epoch, busy: false })
    }
}

impl Conn {
    /// The connection and what limits work on it.
    pub(crate) fn parts(&mut self) -> Result<(&mut MySqlConnection, &mut watch::Receiver<u64>), StoreError> {
        match self.conn.as_mut() {
            Some(conn) => {
                self.busy = true;
                Ok((conn, &mut self.epoch))
            }
            None => Err(StoreError::Moved),
        }
    }

    /// Work has ended. After an error of the connection it is closed.
    pub(crate) fn done<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        self.busy = false;
        if result.as_ref().is_err_and(StoreError::is_connection) {
            self.discard();
        }
        result
    }

    /// Closes the connection; the server rolls back what it had open.
    pub(crate) fn discard(&mut self) {
        if let Some(conn) = self.conn.take() {
            drop(conn.detach());
        }
    }
}

/// Work within the time limit and the epoch.
pub(crate) async fn limit<T>(
    epoch: &mut watch::Receiver<u64>,
    doing: &'static str,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    tokio::select! {
        result = work => result,
        _ = epoch.changed() => Err(StoreError::Moved),
        () = tokio::time::sleep(WORK_LIMIT) => Err(StoreError::Timeout { seconds: WORK_LIMIT.as_secs(), doing }),
    }
}

/// `run!(conn, "doing what", |c| work)`: work on a [`Conn`] as a block with `?`. Macros and no closures here: futures of
/// closures that borrow are not `Send` in a way the compiler can see.
macro_rules! run {
    ($conn:expr, $doing:expr, |$c:ident| $body:expr) => {
        match $conn.parts() {
            Ok((conn, epoch)) => {
                let work = async {
                    let $c: &mut sqlx::mysql::MySqlConnection = conn;
                    $body
                };
                let result = crate::pool::limit(epoch, $doing, work).await;
                $conn.done(result)
            }
            Err(error) => Err(error),
        }
    };
}
pub(crate) use run;

impl Drop for Conn {
    fn drop(&mut self) {
        if self.busy {
            self.discard();
        }
    }
}

fn open(e: &Endpoint, max_connections: u32) -> Result<MySqlPool, StoreError> {
    let pool = MySqlPoolOptions::new()
        .max_connections(max_connections.max(1))
        .acquire_timeout(ACQUIRE_LIMIT)
        .idle_timeout(Duration::from_secs(600))
        .after_connect(|conn, _| Box::pin(set_up(conn)))
        .connect_lazy_with(e.options()?);
    Ok(pool)
}

/// Session settings of a writer: a transaction that its client left open must not stand in a takeover's way for long.
async fn set_up(conn: &mut MySqlConnection) -> Result<(), sqlx::Error> {
    conn.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    conn.execute("SET SESSION innodb_lock_wait_timeout=2").await?;
    match conn.execute("SET SESSION idle_transaction_timeout=1").await {
        // MySQL does not know it.
        Err(error) if error::number(&error) == Some(NO_VARIABLE) => Ok(()),
        other => other.map(|_| ()),
    }
}
