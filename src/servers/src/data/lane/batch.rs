//! How large a batch grows, and when it is handed to the writer.

use super::{Lane, Ticket};
use crate::flush::Job;
use elpis_store::ServerKind;
use tokio::time::Instant;

/// Values that make a batch, and that are read at once.
const BATCH: usize = 1000;
/// A batch that writes less waits for more files, if they are there already: most values of an agent do not change.
const LIGHT: usize = 400;
/// Values of a batch that writes little.
const BATCH_MAX: usize = 5000;

impl Lane {
    /// Enough for one transaction.
    fn is_full(&self) -> bool {
        let heavy = self.pack.writes() >= LIGHT && self.pack.values() >= BATCH;
        heavy || self.pack.values() >= BATCH_MAX || self.finish.len() >= BATCH
    }

    /// More files wait, and their batch may be this one.
    fn is_growing(&self) -> bool {
        let light = self.pack.writes() < LIGHT && self.pack.values() < BATCH_MAX && self.finish.len() < BATCH;
        light && self.more && self.may_gather()
    }

    pub(super) fn may_gather(&self) -> bool {
        let open = self.base.link.gate().session_if_valid() == Some(self.writer.session);
        open && !self.detect
            && self.waiting.is_empty()
            && self.drains.is_empty()
            && !self.is_full()
            && !self.start.stopping.is_cancelled()
    }

    pub(super) fn gather(&mut self) {
        if Instant::now() < self.next_gather || !self.may_gather() {
            return;
        }
        let Some(mut scanner) = self.scanner.take() else { return };
        for (shard, id) in self.finished.drain(..) {
            scanner.finished(shard, id);
        }
        self.gathering = Some(tokio::task::spawn_blocking(move || {
            let parsed = scanner.gather(BATCH);
            (scanner, parsed)
        }));
    }

    /// Hands the open batch to the writer when that is free. All earlier ones stand then, so that what is stored in a
    /// second is known for sure.
    pub(super) async fn hand_over(&mut self) {
        if self.sealed != self.done || self.is_growing() || (self.pack.is_empty() && self.finish.is_empty()) {
            return;
        }
        let Ok(permit) = self.queue.try_reserve() else { return };
        let again = self.pack.again();
        if !again.is_empty() {
            self.base.health.begin("ordinals");
            match self.base.store.next_ordinals(&again).await {
                Ok(next) => self.pack.follow(&next),
                // The next round asks again; the batch waits.
                Err(error) => return self.base.health.failed("ordinals", &error),
            }
            self.base.health.ok("ordinals");
        }
        let now = self.base.link.cluster_now_ms().div_euclid(1000);
        let pack = std::mem::take(&mut self.pack);
        let stored = !pack.is_empty();
        let roster = &self.roster;
        let seen = |agent| roster.get(agent).map(|held| held.seen.clone());
        let batch = pack.seal(self.writer.clone(), ServerKind::Data, None, now, seen);
        let (finish, keys) = (std::mem::take(&mut self.finish), batch.reports.clone());
        self.sealed += 1;
        permit.send(Job { batch, ticket: Ticket { finish, keys, revision: self.revision, stored } });
    }
}
