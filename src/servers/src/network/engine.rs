//! The main loop of a session.

use super::NetworkConfig;
use super::lanes::{Lanes, Mark, Ticket};
use super::planner::Planner;
use super::probes::{PER_ROUND, Probed};
use crate::base::{Base, Turn, local_offset_s};
use crate::flush::{self, Wrote};
use crate::reader::{Read, Reader};
use crate::roster::Roster;
use crate::shards::Shards;
use crate::unknown::Rounds;
use elpis_monitor::{Agent, AgentId, Context, Module, Settings, interval_of};
use elpis_probe::Prober;
use elpis_store::{ServerKind, Writer};
use elpis_watch::Map;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long probes of a shard that is given away may take to end.
const ABANDON: Duration = Duration::from_millis(200);
/// How long a stop may take to write what is there.
const STOP_LIMIT: Duration = Duration::from_secs(3);
/// Longest sleep of the loop.
const ROUND: Duration = Duration::from_millis(250);
/// A loop that does not come round for this long is hung.
const STALL: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
const LOAD_EVERY: Duration = Duration::from_secs(30);
/// After shards came the load is told without waiting for the rest of that.
pub(super) const LOAD_SOON: Duration = Duration::from_secs(1);

/// Shards on their way out: probes end, results are written, then they are given away.
#[derive(Debug)]
pub(super) struct Drain {
    shards: Vec<u16>,
    abandon_at: Instant,
    /// Set once no more results are taken.
    mark: Option<Mark>,
}

pub(super) struct Engine {
    pub(super) base: Arc<Base>,
    pub(super) writer: Writer,
    pub(super) session: CancellationToken,
    pub(super) reader: Reader,
    pub(super) reads: mpsc::Receiver<Read>,
    pub(super) written: mpsc::Receiver<(Ticket, Wrote)>,
    pub(super) probed_in: mpsc::Sender<Probed>,
    pub(super) probed: mpsc::Receiver<Probed>,
    /// Where probes run.
    pub(super) probes: Handle,
    pub(super) prober: Arc<Prober>,
    pub(super) in_flight: usize,
    pub(super) running: usize,
    pub(super) running_of: HashMap<u16, usize>,
    pub(super) map: Arc<Map>,
    /// Newest revision whose shards were all loaded.
    pub(super) revision: u64,
    pub(super) shards: Shards,
    /// Agents that changed while their shard was being read.
    pub(super) changed: BTreeMap<u16, BTreeSet<AgentId>>,
    pub(super) roster: Roster,
    pub(super) planner: Planner,
    pub(super) lanes: Lanes,
    pub(super) drains: Vec<Drain>,
    pub(super) settings: Settings,
    pub(super) offset_s: i64,
    pub(super) rounds: Rounds,
    pub(super) next_tick: Instant,
    pub(super) next_load: Instant,
    pub(super) stopping: Option<Instant>,
}

impl Engine {
    pub(super) fn new(
        base: Arc<Base>,
        config: &NetworkConfig,
        probes: Handle,
        writer: Writer,
        session: CancellationToken,
        settings: Settings,
    ) -> Engine {
        let (out, reads) = mpsc::channel(4);
        let reader = Reader { base: base.clone(), kind: ServerKind::Network, out, session: session.clone() };
        let (wrote, written) = mpsc::channel(16);
        let lane = |part| flush::lane(base.clone(), part, wrote.clone(), session.clone());
        const PARTS: [&str; 8] =
            ["flush 1", "flush 2", "flush 3", "flush 4", "flush 5", "flush 6", "flush 7", "flush 8"];
        let lanes =
            Lanes::new(PARTS.into_iter().take(config.writers.clamp(1, PARTS.len())).map(lane).collect());
        let (probed_in, probed) = mpsc::channel(PER_ROUND);
        let gate = base.link.gate();
        let mine = writer.session;
        let prober =
            Prober::new(config.limits.clone(), Arc::new(move || gate.session_if_valid() == Some(mine)));
        let now = Instant::now();
        Engine {
            reader,
            reads,
            written,
            probed_in,
            probed,
            prober: Arc::new(prober),
            in_flight: config.in_flight.max(1),
            running: 0,
            running_of: HashMap::new(),
            map: Arc::default(),
            revision: 0,
            shards: Shards::default(),
            changed: BTreeMap::new(),
            roster: Roster::default(),
            planner: Planner::default(),
            lanes,
            drains: Vec::new(),
            settings,
            offset_s: 0,
            rounds: Rounds::default(),
            next_tick: now,
            next_load: now + LOAD_EVERY,
            stopping: None,
            base,
            writer,
            session,
            probes,
        }
    }

    /// Follows the operators' changes after this number.
    pub(super) fn follow(&self, seq: u64) {
        self.reader.follow(seq);
    }

    pub(super) async fn run(&mut self, stop: &CancellationToken, flushes: &mut u64) -> Turn {
        let progress = self.base.link.progress();
        progress.expect_bumps(STALL);
        let mut maps = self.base.link.map();
        maps.mark_changed();
        let mut results = Vec::with_capacity(PER_ROUND);
        loop {
            progress.bump();
            let until = self.next_at();
            let room = !self.lanes.is_full();
            tokio::select! {
                changed = maps.changed() => {
                    if changed.is_err() {
                        return Turn::Again;
                    }
                    self.map = maps.borrow_and_update().clone();
                    if self.base.database_moved(&self.map) || !self.obey() {
                        return Turn::Again;
                    }
                }
                Some((ticket, wrote)) = self.written.recv() => match wrote {
                    Wrote::Done => {
                        self.lanes.written(&ticket);
                        progress.stored(self.base.link.cluster_now_ms(), ticket.revision);
                    }
                    // Refused: its slots stay open in the ledger, the checks run again; the log names the reason.
                    Wrote::Fenced | Wrote::Stale | Wrote::Refused(_) => return Turn::Again,
                },
                Some(read) = self.reads.recv() => self.take_read(read),
                _ = self.probed.recv_many(&mut results, PER_ROUND), if room => {}
                () = stop.cancelled(), if self.stopping.is_none() => {
                    self.stopping = Some(Instant::now() + STOP_LIMIT);
                    let held: Vec<u16> = self.shards.held().map(|(shard, _)| shard).collect();
                    self.drain(held);
                }
                () = tokio::time::sleep_until(until) => {}
            }
            if self.base.link.gate().lease().session != self.writer.session {
                return Turn::Again;
            }
            for result in results.drain(..) {
                self.take_result(result);
            }
            self.dispatch();
            self.tick();
            self.finish_drains();
            let now = self.base.link.cluster_now_ms().div_euclid(1000);
            let hurry = !self.drains.is_empty();
            self.lanes.hand_over(hurry, &self.writer, flushes, now, self.revision, &self.roster);
            if self.stopping.is_some_and(|limit| self.drains.is_empty() || Instant::now() > limit) {
                return Turn::End(crate::Ended::Stopped);
            }
        }
    }

    /// When there is something to do without a message.
    fn next_at(&mut self) -> Instant {
        let now = Instant::now();
        let now_ms = self.base.link.cluster_now_ms();
        let mut until = (now + ROUND).min(self.next_tick);
        if self.may_begin()
            && let Some(at) = self.planner.next_at()
        {
            until = until.min(now + Duration::from_millis(u64::try_from(at - now_ms).unwrap_or(0)));
        }
        if let Some(at) = self.lanes.next_at() {
            until = until.min(at);
        }
        if !self.drains.is_empty() {
            until = until.min(now + Duration::from_millis(10));
        }
        until
    }

    pub(super) fn may_begin(&self) -> bool {
        self.stopping.is_none()
            && self.running < self.in_flight
            && self.base.link.gate().session_if_valid() == Some(self.writer.session)
    }

    /// Brings shards in line with the map. `false` = a shard was lost: nothing in memory may be written any more.
    fn obey(&mut self) -> bool {
        if self.stopping.is_some() {
            return true;
        }
        let owned = self.base.link.owned(&self.map);
        let orders = self.shards.obey(&owned, &self.base.link.releasing(&self.map));
        if !orders.forget.is_empty() {
            tracing::warn!(shards = orders.forget.len(), "shards were lost without a handover");
            return false;
        }
        if !orders.ack.is_empty() {
            self.base.link.released(&orders.ack);
        }
        self.drain(orders.drain);
        if !orders.load.is_empty() {
            tracing::info!(shards = orders.load.len(), revision = self.map.revision, "taking shards over");
            self.reader.shards(self.map.clone(), orders.load);
        }
        self.note_revision();
        true
    }

    pub(super) fn note_revision(&mut self) {
        if !self.shards.is_loading() {
            self.revision = self.map.revision;
        }
    }

    fn drain(&mut self, shards: Vec<u16>) {
        if shards.is_empty() {
            return;
        }
        for shard in &shards {
            for agent in self.roster.shard_agents(*shard) {
                for held in self.roster.get(*agent).into_iter().flat_map(|agent| &agent.modules) {
                    self.planner.remove(held.module.id);
                }
            }
        }
        self.drains.push(Drain { shards, abandon_at: Instant::now() + ABANDON, mark: None });
    }

    fn finish_drains(&mut self) {
        let now = Instant::now();
        let mut given = Vec::new();
        for drain in &mut self.drains {
            let ended = drain.shards.iter().all(|shard| !self.running_of.contains_key(shard));
            if drain.mark.is_none() && (ended || now >= drain.abandon_at) {
                drain.mark = Some(self.lanes.mark());
            }
            if drain.mark.as_ref().is_some_and(|mark| self.lanes.is_written(mark)) {
                given.append(&mut drain.shards);
            }
        }
        if given.is_empty() {
            return;
        }
        self.drains.retain(|drain| !drain.shards.is_empty());
        for shard in &given {
            self.roster.remove_shard(*shard);
        }
        let acks: Vec<(u16, u64)> = given.iter().filter_map(|shard| self.shards.drained(*shard)).collect();
        if !acks.is_empty() {
            tracing::info!(shards = acks.len(), "shards given away");
            self.base.link.released(&acks);
        }
        self.obey();
    }

    /// Results of this shard still count.
    pub(super) fn takes(&self, shard: u16, epoch: u64) -> bool {
        let draining = self.drains.iter().any(|drain| drain.mark.is_none() && drain.shards.contains(&shard));
        (self.shards.is_held(shard) || draining) && self.shards.epoch(shard) == Some(epoch)
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        self.base.health.check();
        let now_s = self.base.link.cluster_now_ms().div_euclid(1000);
        self.offset_s = local_offset_s(now_s);
        let open = self.base.link.gate().session_if_valid() == Some(self.writer.session);
        if open && self.stopping.is_none() && !self.lanes.is_full() {
            let ctx =
                Context { now: now_s, local_offset_s: self.offset_s, mute: false, settings: &self.settings };
            let (shards, lanes) = (&self.shards, &mut self.lanes);
            let write =
                |agent: &Agent, module: &Module, outcome| lanes.pack(agent.id).add(agent, module, outcome);
            self.rounds.look(&mut self.roster, |shard| shards.is_held(shard), &ctx, write);
        } else {
            self.rounds.blind(now_s);
        }
        if now >= self.next_load {
            self.next_load = now + LOAD_EVERY;
            let load = self.shards.held().map(|(shard, _)| (shard, self.load_of(shard))).collect();
            self.base.link.progress().load(load);
        }
    }

    /// Checks a second of a shard.
    fn load_of(&self, shard: u16) -> f32 {
        let agents = self.roster.shard_agents(shard).iter().filter_map(|agent| self.roster.get(*agent));
        agents
            .flat_map(|agent| agent.modules.iter().map(|held| (&agent.agent, &held.module)))
            .filter(|(agent, module)| !module.disabled && !agent.disabled)
            .map(|(agent, module)| 1.0 / interval_of(agent, module).max(1) as f32)
            .sum()
    }
}
