//! Who may write: one row a writer.

use crate::pool::run;
use crate::statements::statements;
use crate::{Store, StoreError};
use std::time::Duration;
use tokio::time::Instant;

/// A process that writes, as its fence row knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// `<node name>/<role>` or `job/<name>`.
    pub name: String,
    /// Session of the node; of a job: its epoch.
    pub session: u64,
    /// Counter of process starts on the node.
    pub incarnation: u64,
}

impl Writer {
    /// Name of the node, or `job`.
    pub fn node(&self) -> &str {
        self.name.split_once('/').map_or(self.name.as_str(), |(node, _)| node)
    }
    /// A singleton job, whose session is not the node's.
    pub(crate) fn is_job(&self) -> bool {
        self.name.starts_with("job/")
    }
}

statements! {
    FENCE = "SELECT 1 FROM cluster_fence WHERE writer=? AND session=? AND incarnation=? LOCK IN SHARE MODE";
    REGISTER = "INSERT INTO cluster_fence (writer, session, incarnation) VALUES (?,?,?) ON DUPLICATE KEY UPDATE \
        session=GREATEST(session, VALUES(session)), incarnation=GREATEST(incarnation, VALUES(incarnation))";
    RAISE = "INSERT INTO cluster_fence (writer, session, incarnation) VALUES (?,?,0) ON DUPLICATE KEY UPDATE \
        session=GREATEST(session, VALUES(session)), bump=bump+1";
    STANDS = "SELECT session, incarnation FROM cluster_fence WHERE writer=?";
}

/// How long a takeover repeats itself.
const RAISE_FOR: Duration = Duration::from_secs(5);

impl Store {
    /// Makes or raises this writer's own row. Waits for a transaction in flight of an earlier process of the same
    /// writer. [`StoreError::Superseded`]: a newer one is registered already.
    pub async fn register(&self, w: &Writer) -> Result<(), StoreError> {
        let again = Again::until(RAISE_FOR, "registering the writer");
        loop {
            match again.judge(again.limit(self.register_once(w)).await).await {
                Some(Ok(stands)) if stands == (w.session, w.incarnation) => return Ok(()),
                Some(Ok(_)) => return Err(StoreError::Superseded(w.name.clone())),
                Some(Err(error)) => return Err(error),
                None => {}
            }
        }
    }

    async fn register_once(&self, w: &Writer) -> Result<(u64, u64), StoreError> {
        let mut conn = self.acquire().await?;
        run!(conn, "registering the writer", |c| {
            sqlx::query(REGISTER).bind(&w.name).bind(w.session).bind(w.incarnation).execute(&mut *c).await?;
            Ok(sqlx::query_as(STANDS).bind(&w.name).fetch_one(&mut *c).await?)
        })
    }

    /// Takeover: shuts out these writers below the given session. Waits for their transactions in flight; repeats
    /// itself until the outcome is known, for at most 5 s a row. State may be read after it succeeded, not before.
    pub async fn raise(&self, rows: &[(String, u64)]) -> Result<(), StoreError> {
        let mut rows: Vec<&(String, u64)> = rows.iter().collect();
        rows.sort();
        // One statement a row: no lock is held while another one is waited for.
        for (writer, session) in rows {
            let again = Again::until(RAISE_FOR, "taking over");
            loop {
                let result = again.limit(self.raise_once(writer, *session)).await;
                if let Some(result) = again.judge(result).await {
                    break result?;
                }
            }
        }
        Ok(())
    }

    async fn raise_once(&self, writer: &str, session: u64) -> Result<(), StoreError> {
        let mut conn = self.acquire().await?;
        run!(conn, "taking over", |c| {
            sqlx::query(RAISE).bind(writer).bind(session).execute(&mut *c).await?;
            Ok(())
        })
    }
}

/// Repeating of what is the same when done twice, until it succeeds, fails for good, or its time is over.
struct Again {
    until: Instant,
    limit: Duration,
    doing: &'static str,
}

impl Again {
    fn until(limit: Duration, doing: &'static str) -> Again {
        Again { until: Instant::now() + limit, limit, doing }
    }

    async fn limit<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let late = |_| StoreError::Timeout { seconds: self.limit.as_secs(), doing: self.doing };
        tokio::time::timeout_at(self.until, work).await.map_err(late)?
    }

    /// `None` = once more.
    async fn judge<T>(&self, result: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
        match result {
            Err(error) if (error.is_tie() || error.is_connection()) && Instant::now() < self.until => {
                tokio::time::sleep(Duration::from_millis(50)).await;
                None
            }
            other => Some(other),
        }
    }
}
