//! The database as far as the fence needs it: one row a writer, transactions that hold a share lock on it, state of
//! shards. It stands outside the hosts and never fails; messages to it are late.
//!
//! There is no slot key here on purpose: a slot recorded twice must be a violation, not a refusal.

use crate::rt::{place, sleep_us, spawn_at, virtual_ms};
use crate::world::world;
use elpis_watch::NodeId;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// `idle_transaction_timeout`.
const IDLE_MS: u64 = 1000;

#[derive(Clone, Copy, Debug, Default)]
struct Row {
    session: u64,
    incarnation: u64,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    writer: NodeId,
    since_ms: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    last_slot: i64,
    /// Highest epoch whose owner has read this state.
    read_epoch: u64,
}

/// A result of a shard.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Result {
    pub(crate) shard: u16,
    pub(crate) epoch: u64,
    pub(crate) slot: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Db {
    fence: BTreeMap<NodeId, Row>,
    open: BTreeMap<u64, Open>,
    shards: BTreeMap<u16, State>,
    next: u64,
    pub(crate) recorded: u64,
    pub(crate) fenced: u64,
}

impl Db {
    fn begin(&mut self, writer: NodeId, session: u64, incarnation: u64) -> Option<u64> {
        let row = self.fence.get(&writer)?;
        if (row.session, row.incarnation) != (session, incarnation) {
            self.fenced += 1;
            return None;
        }
        self.next += 1;
        self.open.insert(self.next, Open { writer, since_ms: virtual_ms() });
        Some(self.next)
    }

    /// Applies, or says that the transaction was gone; with what is wrong about it.
    fn commit(&mut self, txn: u64, results: &[Result]) -> (bool, Vec<String>) {
        let mut wrong = Vec::new();
        let Some(open) = self.open.remove(&txn) else { return (false, wrong) };
        if virtual_ms() - open.since_ms > IDLE_MS {
            return (false, wrong);
        }
        for one in results {
            let state = self.shards.entry(one.shard).or_default();
            if one.epoch < state.read_epoch {
                wrong.push(format!(
                    "a result of shard {} from epoch {} (node {}) was stored after epoch {} had read its state",
                    one.shard, one.epoch, open.writer, state.read_epoch
                ));
            }
            if one.slot <= state.last_slot {
                wrong.push(format!(
                    "slot {} of shard {} was recorded again by node {} (epoch {})",
                    one.slot, one.shard, open.writer, one.epoch
                ));
            }
            state.last_slot = state.last_slot.max(one.slot);
            self.recorded += 1;
        }
        (true, wrong)
    }

    /// Whether transactions of these writers are in the way; idle ones are thrown out.
    fn busy(&mut self, rows: &[(NodeId, u64, u64)]) -> bool {
        let now = virtual_ms();
        self.open.retain(|_, open| now - open.since_ms <= IDLE_MS);
        self.open.values().any(|open| rows.iter().any(|(writer, ..)| *writer == open.writer))
    }
}

/// Runs a query after a delay and answers after another; both go on when the asker dies.
async fn query<T: Send + 'static>(work: impl Fn() -> Option<T> + Send + 'static) -> Option<T> {
    let (tx, rx) = oneshot::channel();
    let (there, back) = world(|w| {
        let late = if w.rng.chance(1) { w.rng.between(100_000, 1_800_000) } else { 0 };
        (w.rng.between(300, 6000) + late, w.rng.between(300, 3000))
    });
    spawn_at(0, async move {
        sleep_us(there).await;
        let answer = loop {
            match work() {
                Some(answer) => break answer,
                None => sleep_us(10_000).await,
            }
        };
        sleep_us(back).await;
        drop(tx.send(answer));
    });
    debug_assert!(place() != 0, "asked by a process");
    rx.await.ok()
}

/// Raises rows to at least these sessions and incarnations, after the transactions in the way.
pub(crate) async fn raise(rows: Vec<(NodeId, u64, u64)>) -> bool {
    let raised = query(move || {
        world(|w| {
            if w.db.busy(&rows) {
                return None;
            }
            for (writer, session, incarnation) in &rows {
                let row = w.db.fence.entry(*writer).or_default();
                row.session = row.session.max(*session);
                row.incarnation = row.incarnation.max(*incarnation);
            }
            Some(())
        })
    });
    raised.await.is_some()
}

/// Reads the last slots of shards for their new owner.
pub(crate) async fn read(shards: Vec<(u16, u64)>) -> Option<Vec<(u16, u64, i64)>> {
    query(move || {
        world(|w| {
            let read = |(shard, epoch): &(u16, u64)| {
                let state = w.db.shards.entry(*shard).or_default();
                state.read_epoch = state.read_epoch.max(*epoch);
                (*shard, *epoch, state.last_slot)
            };
            Some(shards.iter().map(read).collect())
        })
    })
    .await
}

/// Begins a transaction: its first statement is the fence. `None` = no such row.
pub(crate) async fn begin(writer: NodeId, session: u64, incarnation: u64) -> Option<u64> {
    query(move || Some(world(|w| w.db.begin(writer, session, incarnation)))).await.flatten()
}

/// Commits; false = nothing was written.
pub(crate) async fn commit(txn: u64, results: Vec<Result>) -> bool {
    let done = query(move || {
        Some(world(|w| {
            let (done, wrong) = w.db.commit(txn, &results);
            for one in wrong {
                w.violation(one);
            }
            done
        }))
    });
    done.await.unwrap_or(false)
}
