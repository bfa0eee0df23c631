//! Singleton jobs: run here while Raft names this node for them.

use crate::base::Base;
use elpis_store::{CommitError, Writer};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The job that deletes what is older than the settings allow.
const PURGE: &str = "purge";
const LOOK: Duration = Duration::from_secs(5);
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// Looks for jobs of this node until the session ends.
pub(super) async fn run(base: Arc<Base>) {
    // A minute after a takeover, so that the takeover itself is not slowed down.
    let mut next = Instant::now() + Duration::from_secs(60);
    loop {
        sleep(LOOK).await;
        let job = base.link.map().borrow().jobs.get(PURGE).copied();
        let Some(job) = job.filter(|job| job.node == base.link.welcome().node) else { continue };
        if Instant::now() < next || base.link.gate().session_if_valid().is_none() {
            continue;
        }
        // The epoch alone tells holders apart: incarnations of different nodes cannot be compared.
        let writer = Writer { name: format!("job/{PURGE}"), session: job.epoch, incarnation: 0 };
        next = Instant::now() + PURGE_EVERY;
        match purge(&base, &writer).await {
            Ok(()) => tracing::info!(epoch = job.epoch, "old rows purged"),
            Err(error) => {
                tracing::warn!(epoch = job.epoch, %error, "purge not finished; it goes on in a minute");
                next = Instant::now() + Duration::from_secs(60);
            }
        }
    }
}

async fn purge(base: &Base, writer: &Writer) -> Result<(), CommitError> {
    base.store.register(writer).await.map_err(CommitError::NotDone)?;
    base.store.purge(writer, base.link.cluster_now_ms().div_euclid(1000)).await?;
    Ok(())
}
