//! Which connections are open, and which may be.

use elpis_watch::{NodeId, Traffic};
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Statements of this node's servers, to the primary of an epoch.
    Reach { epoch: u64 },
    /// Statements to this node's server, which leads an epoch.
    Serve { epoch: u64 },
    /// This node's server follows its source.
    Follow { source: NodeId },
    /// Another node's server follows this one.
    Feed { node: NodeId },
    /// Files.
    Copy,
}

/// PURE: whether it may be open.
fn permits(kind: Kind, traffic: &Traffic, epoch: u64) -> bool {
    match kind {
        Kind::Reach { epoch: of } => of == epoch,
        Kind::Serve { epoch: of } => traffic.serve == Some(of) && of == epoch,
        Kind::Follow { source } => traffic.source == Some(source),
        Kind::Feed { node } => !traffic.refuse.contains(&node),
        Kind::Copy => true,
    }
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Table {
    inner: Mutex<Inner>,
    closed: Notify,
    /// What is allowed has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    traffic: Traffic,
    epoch: u64,
    open: BTreeMap<u64, (Kind, CancellationToken)>,
    next: u64,
}

/// An open connection; closed when this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    table: &'a Table,
    number: u64,
    cut: CancellationToken,
}

impl Place<'_> {
    /// Works until it is done, or the connection may not be open any more.
    pub(super) async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let cut = || Error::new(ErrorKind::ConnectionAborted, "it is not allowed any more");
        self.cut.run_until_cancelled(work).await.unwrap_or_else(|| Err(cut()))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.table.lock().open.remove(&self.number);
        self.table.closed.notify_waiters();
    }
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection; `None` = it is not allowed now.
    pub(super) fn open(&self, kind: Kind) -> Option<Place<'_>> {
        let mut inner = self.lock();
        if !permits(kind, &inner.traffic, inner.epoch) {
            return None;
        }
        inner.next += 1;
        let (number, cut) = (inner.next, CancellationToken::new());
        inner.open.insert(number, (kind, cut.clone()));
        Some(Place { table: self, number, cut })
    }

    /// A place as soon as it is allowed. `None`: not within the limit, or never again.
    pub(super) async fn opened(&self, kind: Kind, limit: Duration) -> Option<Place<'_>> {
        let waits = async {
            loop {
                let changed = self.changed();
                if let Some(place) = self.open(kind) {
                    return Some(place);
                }
                if matches!(kind, Kind::Reach { epoch } | Kind::Serve { epoch } if epoch < self.lock().epoch)
                {
                    return None;
                }
                changed.await;
            }
        };
        timeout(limit, waits).await.ok().flatten()
    }

    /// Ends at the next change of what is allowed: counted from this call, not from the first look at the future.
    pub(super) fn changed(&self) -> Pin<Box<Notified<'_>>> {
        let mut changed = Box::pin(self.changed.notified());
        changed.as_mut().enable();
        changed
    }

    /// Pause of a statement, milliseconds.
    pub(super) fn slow_ms(&self) -> u32 {
        self.lock().traffic.slow_ms
    }

    /// Whom this node's server may follow.
    pub(super) fn source(&self) -> Option<NodeId> {
        self.lock().traffic.source
    }

    /// From now on. Returns when nothing is open any more that is not allowed.
    pub(super) async fn allow(&self, traffic: Traffic) {
        self.lock().traffic = traffic;
        self.changed.notify_waiters();
        self.cut().await;
    }

    /// The database is in this epoch.
    pub(super) async fn in_epoch(&self, epoch: u64) {
        self.lock().epoch = epoch;
        self.changed.notify_waiters();
        self.cut().await;
    }

    async fn cut(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            let left = {
                let inner = self.lock();
                let wrong =
                    inner.open.values().filter(|(kind, _)| !permits(*kind, &inner.traffic, inner.epoch));
                wrong.map(|(_, cut)| cut.cancel()).count()
            };
            if left == 0 {
                return;
            }
            closed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test]
    async fn an_order_is_obeyed_when_nothing_of_the_old_one_is_open() {
        let table = Arc::new(Table::default());
        table.in_epoch(3).await;
        assert!(table.open(Kind::Serve { epoch: 3 }).is_none());
        table.allow(Traffic { number: 1, serve: Some(3), ..Traffic::default() }).await;
        assert!(table.open(Kind::Serve { epoch: 2 }).is_none());
        let theirs = Arc::clone(&table);
        let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let place = theirs.open(Kind::Serve { epoch: 3 }).unwrap();
            let cut = place.during(std::future::pending::<Result<()>>()).await;
            // It takes its time to end.
            wait.await.unwrap();
            cut
        });
        while table.lock().open.is_empty() {
            tokio::task::yield_now().await;
        }
        let mut obeying = Box::pin(table.allow(Traffic { number: 2, serve: Some(4), ..Traffic::default() }));
        assert!(timeout(Duration::from_millis(50), &mut obeying).await.is_err(), "one is still open");
        assert!(table.open(Kind::Serve { epoch: 3 }).is_none(), "but no new one");
        go_on.send(()).unwrap();
        obeying.await;
        assert!(serving.await.unwrap().is_err());
        assert!(table.open(Kind::Serve { epoch: 4 }).is_none(), "the map does not know it yet");
        table.in_epoch(4).await;
        assert!(table.open(Kind::Serve { epoch: 4 }).is_some());
    }

    #[tokio::test]
    async fn who_comes_early_waits_and_who_comes_late_is_refused_at_once() {
        let table = Table::default();
        table.in_epoch(3).await;
        let long = Duration::from_secs(3600);
        let wanted = table.opened(Kind::Serve { epoch: 4 }, long);
        let opens = async {
            table.in_epoch(4).await;
            tokio::task::yield_now().await;
            table.allow(Traffic { number: 1, serve: Some(4), ..Traffic::default() }).await;
        };
        assert!(tokio::join!(wanted, opens).0.is_some());
        assert!(table.opened(Kind::Serve { epoch: 3 }, long).await.is_none(), "it does not come back");
        assert!(table.opened(Kind::Serve { epoch: 5 }, Duration::from_millis(20)).await.is_none());
    }

    #[test]
    fn what_is_allowed() {
        let traffic = Traffic { number: 1, serve: None, source: Some(2), refuse: [3].into(), slow_ms: 0 };
        assert!(
            permits(Kind::Follow { source: 2 }, &traffic, 0)
                && !permits(Kind::Follow { source: 4 }, &traffic, 0)
        );
        assert!(
            permits(Kind::Feed { node: 2 }, &traffic, 0) && !permits(Kind::Feed { node: 3 }, &traffic, 0)
        );
        assert!(
            permits(Kind::Reach { epoch: 5 }, &traffic, 5) && !permits(Kind::Reach { epoch: 5 }, &traffic, 6)
        );
        assert!(!permits(Kind::Serve { epoch: 5 }, &traffic, 5));
    }
}
