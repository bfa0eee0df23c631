//! Open batches of the network server: agents are divided among lanes, each lane gathers while its writer is busy.

use crate::flush::Job;
use crate::pack::Pack;
use crate::roster::Roster;
use elpis_monitor::{AgentId, ModuleId};
use elpis_store::{ServerKind, Writer};
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A result waits at most this long for its transaction to begin.
pub(crate) const GATHER: Duration = Duration::from_millis(250);
/// Results that make a batch at once.
const BATCH: usize = 1000;
/// Results a lane takes while its writer is busy; above it no more are taken in.
const BATCH_MAX: usize = 5000;

/// What comes back with the outcome of a flush.
#[derive(Debug)]
pub(crate) struct Ticket {
    lane: usize,
    clear_forced: Vec<ModuleId>,
    /// Revision of the map whose shards were all loaded when the batch was closed.
    pub(crate) revision: u64,
}

#[derive(Debug)]
struct Lane {
    pack: Pack,
    since: Option<Instant>,
    queue: mpsc::Sender<Job<Ticket>>,
    sealed: u64,
    done: u64,
}

/// A point in the stream of results: everything taken in before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark(Vec<u64>);

/// All lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    lanes: Vec<Lane>,
    /// Forced runs whose flag is not cleared in the database yet.
    forced: HashSet<ModuleId>,
}

impl Lanes {
    pub(crate) fn new(queues: Vec<mpsc::Sender<Job<Ticket>>>) -> Lanes {
        let lane = |queue| Lane { pack: Pack::default(), since: None, queue, sealed: 0, done: 0 };
        Lanes { lanes: queues.into_iter().map(lane).collect(), forced: HashSet::new() }
    }

    /// The open batch of an agent.
    pub(crate) fn pack(&mut self, agent: AgentId) -> &mut Pack {
        let at = agent.0 as usize % self.lanes.len();
        let lane = &mut self.lanes[at];
        lane.since.get_or_insert_with(Instant::now);
        &mut lane.pack
    }

    /// A forced run is in an open batch.
    pub(crate) fn forced(&mut self, module: ModuleId) {
        self.forced.insert(module);
    }

    /// The database may still say that a run is wanted although it has been made.
    pub(crate) fn is_clearing(&self, module: ModuleId) -> bool {
        self.forced.contains(&module)
    }

    /// No room for more results.
    pub(crate) fn is_full(&self) -> bool {
        self.lanes.iter().any(|lane| lane.pack.values() >= BATCH_MAX)
    }

    /// Everything that was taken in until now.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.lanes.iter().map(|lane| lane.sealed + u64::from(!lane.pack.is_empty())).collect())
    }

    /// Everything before the mark stands in the database.
    pub(crate) fn is_written(&self, mark: &Mark) -> bool {
        self.lanes.iter().zip(&mark.0).all(|(lane, wanted)| lane.done >= *wanted)
    }

    /// When the next batch has waited long enough.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        let idle = self.lanes.iter().filter(|lane| lane.sealed == lane.done);
        idle.filter_map(|lane| lane.since).min().map(|since| since + GATHER)
    }

    /// Hands over every batch that is due (`hurry`: every one that holds something) to a writer that is free.
    pub(crate) fn hand_over(
        &mut self,
        hurry: bool,
        writer: &Writer,
        number: &mut u64,
        now: i64,
        revision: u64,
        roster: &Roster,
    ) {
        for (at, lane) in self.lanes.iter_mut().enumerate() {
            let waited = lane.since.is_some_and(|since| since.elapsed() >= GATHER);
            let due = hurry || waited || lane.pack.values() >= BATCH;
            if lane.pack.is_empty() {
                lane.since = None;
            }
            if lane.sealed != lane.done || lane.pack.is_empty() || !due {
                continue;
            }
            let Ok(permit) = lane.queue.try_reserve() else { continue };
            let pack = std::mem::take(&mut lane.pack);
            lane.since = None;
            lane.sealed += 1;
            *number += 1;
            let seen = |agent| roster.get(agent).map(|held| held.seen.clone());
            let batch = pack.seal(writer.clone(), ServerKind::Network, Some(*number), now, seen);
            let ticket = Ticket { lane: at, clear_forced: batch.clear_forced.clone(), revision };
            permit.send(Job { batch, ticket });
        }
    }

    /// A flush stands.
    pub(crate) fn written(&mut self, ticket: &Ticket) {
        if let Some(lane) = self.lanes.get_mut(ticket.lane) {
            lane.done += 1;
        }
        for module in &ticket.clear_forced {
            self.forced.remove(module);
        }
    }
}
