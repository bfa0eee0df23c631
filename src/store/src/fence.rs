//! Who may write: one row a writer.

use crate::statements::statements;
use crate::{Store, StoreError};
use std::time::Duration;

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
        self.repeat(RAISE_FOR, "registering the writer", async || {
            let mut conn = self.acquire().await?;
            conn.run("registering the writer", async |c| {
                sqlx::query(REGISTER)
                    .bind(&w.name)
                    .bind(w.session)
                    .bind(w.incarnation)
                    .execute(&mut *c)
                    .await?;
                Ok(())
            })
            .await
        })
        .await?;
        let mut conn = self.acquire().await?;
        let (session, incarnation): (u64, u64) = conn
            .run("reading the fence", async |c| {
                Ok(sqlx::query_as(STANDS).bind(&w.name).fetch_one(&mut *c).await?)
            })
            .await?;
        if (session, incarnation) == (w.session, w.incarnation) {
            Ok(())
        } else {
            Err(StoreError::Superseded(w.name.clone()))
        }
    }

    /// Takeover: shuts out these writers below the given session. Waits for their transactions in flight; repeats
    /// itself until the outcome is known, for at most 5 s. State may be read after it succeeded, not before.
    pub async fn raise(&self, rows: &[(String, u64)]) -> Result<(), StoreError> {
        let mut rows: Vec<&(String, u64)> = rows.iter().collect();
        rows.sort();
        for (writer, session) in rows {
            // One statement a row: no lock is held while another one is waited for.
            self.repeat(RAISE_FOR, "taking over", async || {
                let mut conn = self.acquire().await?;
                conn.run("taking over", async |c| {
                    sqlx::query(RAISE).bind(writer).bind(session).execute(&mut *c).await?;
                    Ok(())
                })
                .await
            })
            .await?;
        }
        Ok(())
    }

    /// Repeats work that is idempotent as a whole until it succeeds, fails for good, or `limit` has passed.
    pub(crate) async fn repeat<T>(
        &self,
        limit: Duration,
        doing: &'static str,
        work: impl AsyncFn() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            let error = match tokio::time::timeout_at(until, work()).await {
                Ok(Ok(done)) => return Ok(done),
                Ok(Err(error)) => error,
                Err(_) => StoreError::Timeout { seconds: limit.as_secs(), doing },
            };
            if !(error.is_tie() || error.is_connection()) || tokio::time::Instant::now() >= until {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
