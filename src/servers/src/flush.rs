//! Writes batches beside the main loop: one or more lanes, each with at most one transaction under way.

use crate::base::Base;
use elpis_store::{Batch, CommitError, Committed, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

const AGAIN_MIN: Duration = Duration::from_millis(20);
const AGAIN_MAX: Duration = Duration::from_millis(500);

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrote {
    /// It stands, once.
    Done,
    /// The fence refused it: this session or process is over, or somebody wrote a newer row.
    Fenced,
    /// What it was computed from is stale: nothing was written, state has to be read again.
    Stale,
    /// The database refuses the content, for good; nothing was written. With the reason.
    Refused(String),
}

/// Commits a batch, the same one again until its outcome is known. Ends only with an answer; cancel it with the session.
pub(crate) async fn commit(base: &Base, part: &'static str, batch: &Batch) -> Wrote {
    let gate = base.link.gate();
    let mut again = AGAIN_MIN;
    loop {
        base.health.begin(part);
        match base.store.commit(batch).await {
            Ok(Committed::Done | Committed::AlreadyDone) => {
                base.health.ok(part);
                return Wrote::Done;
            }
            Err(CommitError::Fenced) => {
                base.health.ok(part);
                tracing::warn!(writer = %batch.writer.name, session = batch.writer.session, "refused by the fence");
                return Wrote::Fenced;
            }
            Err(CommitError::NoLease) => {
                // Not the database's fault. The same session may get its lease back.
                base.health.ok(part);
                if gate.lease().session != batch.writer.session {
                    return Wrote::Fenced;
                }
            }
            Err(CommitError::NotDone(StoreError::PartlyKnown)) => {
                base.health.ok(part);
                return Wrote::Stale;
            }
            Err(CommitError::NotDone(error)) if error.is_for_good() => {
                base.health.ok(part);
                tracing::error!(writer = %batch.writer.name, reports = batch.reports.len(), %error,
                    "the database refuses a batch for what is in it");
                return Wrote::Refused(error.to_string());
            }
            Err(CommitError::Unknown(error) | CommitError::NotDone(error)) => {
                base.health.failed(part, &error);
            }
        }
        sleep(again).await;
        again = (again * 2).min(AGAIN_MAX);
    }
}

/// A batch on its way.
#[derive(Debug)]
pub(crate) struct Job<T> {
    pub(crate) batch: Batch,
    /// Comes back with the outcome.
    pub(crate) ticket: T,
}

/// Starts a lane; it ends with the session. One batch waits at most.
pub(crate) fn lane<T: 'static>(
    base: Arc<Base>,
    part: &'static str,
    out: mpsc::Sender<(T, Wrote)>,
    session: CancellationToken,
) -> mpsc::Sender<Job<T>> {
    let (queue, mut jobs) = mpsc::channel::<Job<T>>(1);
    tokio::task::spawn_local(session.run_until_cancelled_owned(async move {
        while let Some(Job { batch, ticket }) = jobs.recv().await {
            let wrote = commit(&base, part, &batch).await;
            if out.send((ticket, wrote)).await.is_err() {
                return;
            }
        }
    }));
    queue
}
