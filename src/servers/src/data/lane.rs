//! One sequence of the data server: its shards, their state, the batch that is open and the one that is written.

mod batch;

use super::scan::{Parsed, Scanner};
use super::suspects::Suspects;
use super::work::{Finish, Stop};
use crate::base::{Base, Turn, local_offset_s};
use crate::flush::{self, Job, Wrote};
use crate::pack::Pack;
use crate::reader::{Read, Reader};
use crate::roster::Roster;
use crate::shards::Shards;
use crate::unknown::Rounds;
use elpis_monitor::{Agent, AgentId, Context, Module, Settings};
use elpis_store::{ServerKind, Writer};
use elpis_tentacle::spool::Spool;
use elpis_watch::Map;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pause between two looks at an empty spool.
const IDLE: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_secs(1);
const ROUND: Duration = Duration::from_millis(250);

/// What a lane is made of.
pub(super) struct Start {
    pub(super) base: Arc<Base>,
    pub(super) spool: Spool,
    pub(super) writer: Writer,
    pub(super) session: CancellationToken,
    pub(super) stopping: CancellationToken,
    pub(super) settings: Settings,
    pub(super) flushes: Arc<AtomicU64>,
    pub(super) suspects: Arc<Suspects>,
    pub(super) beat: Arc<AtomicU64>,
    pub(super) number: u16,
    pub(super) lanes: u16,
}

/// What comes back with the outcome of a batch.
#[derive(Debug)]
struct Ticket {
    finish: Vec<Finish>,
    keys: Vec<[u8; 32]>,
    revision: u64,
    stored: bool,
}

/// Shards on their way out: given away once this many batches stand.
#[derive(Debug)]
struct Drain {
    shards: Vec<u16>,
    batches: u64,
}

pub(super) struct Lane {
    pub(super) base: Arc<Base>,
    pub(super) writer: Writer,
    pub(super) settings: Settings,
    pub(super) offset_s: i64,
    pub(super) shards: Shards,
    pub(super) roster: Roster,
    pub(super) names: HashMap<String, AgentId>,
    pub(super) pack: Pack,
    pub(super) finish: Vec<Finish>,
    /// Files read that wait until the open batch is handed over.
    pub(super) waiting: Vec<Parsed>,
    pub(super) suspects: Arc<Suspects>,
    /// Reports of batches that are not written yet.
    pub(super) pending: HashSet<[u8; 32]>,
    pub(super) spool: Spool,
    start: Start2,
    pub(super) reader: Reader,
    reads: mpsc::Receiver<Read>,
    queue: mpsc::Sender<Job<Ticket>>,
    written: mpsc::Receiver<(Ticket, Wrote)>,
    sealed: u64,
    done: u64,
    pub(super) map: Arc<Map>,
    revision: u64,
    pub(super) changed: BTreeMap<u16, BTreeSet<AgentId>>,
    pub(super) scanner: Option<Scanner>,
    gathering: Option<JoinHandle<(Scanner, Vec<Parsed>)>>,
    /// What the scanner has to be told when it is back.
    finished: Vec<(u16, elpis_tentacle::spool::EntryId)>,
    next_gather: Instant,
    /// The last gathering left files behind.
    more: bool,
    drains: Vec<Drain>,
    /// The scanner has not heard yet of shards that came.
    pub(super) shards_came: bool,
    rounds: Rounds,
    next_tick: Instant,
    detect: bool,
}

/// The rest of [`Start`].
struct Start2 {
    stopping: CancellationToken,
    flushes: Arc<AtomicU64>,
    beat: Arc<AtomicU64>,
    number: u16,
    lanes: u16,
}

impl Lane {
    pub(super) fn new(start: Start) -> Lane {
        let Start {
            base,
            spool,
            writer,
            session,
            stopping,
            settings,
            flushes,
            suspects,
            beat,
            number,
            lanes,
        } = start;
        let (out, reads) = mpsc::channel(4);
        let reader = Reader { base: base.clone(), kind: ServerKind::Data, out, session: session.clone() };
        let (wrote, written) = mpsc::channel(4);
        let part = if number == 0 { "batch 1" } else { "batch 2" };
        let queue = flush::lane(base.clone(), part, wrote, session);
        Lane {
            scanner: Some(Scanner::new(spool.clone())),
            start: Start2 { stopping, flushes, beat, number, lanes },
            base,
            writer,
            settings,
            offset_s: 0,
            shards: Shards::default(),
            roster: Roster::default(),
            names: HashMap::new(),
            pack: Pack::default(),
            finish: Vec::new(),
            waiting: Vec::new(),
            suspects,
            pending: HashSet::new(),
            spool,
            reader,
            reads,
            queue,
            written,
            sealed: 0,
            done: 0,
            map: Arc::default(),
            revision: 0,
            changed: BTreeMap::new(),
            gathering: None,
            finished: Vec::new(),
            next_gather: Instant::now(),
            more: false,
            drains: Vec::new(),
            shards_came: false,
            rounds: Rounds::default(),
            next_tick: Instant::now(),
            detect: false,
        }
    }

    /// Follows the operators' changes after this number.
    pub(super) fn follow(&self, seq: u64) {
        self.reader.follow(seq);
    }

    pub(super) async fn run(mut self) -> Turn {
        let mut maps = self.base.link.map();
        maps.mark_changed();
        loop {
            self.start.beat.fetch_add(1, Ordering::Relaxed);
            let until = self.next_at();
            tokio::select! {
                changed = maps.changed() => {
                    if changed.is_err() {
                        return Turn::Again;
                    }
                    self.map = maps.borrow_and_update().clone();
                    if !self.obey() {
                        return Turn::Again;
                    }
                }
                Some((ticket, wrote)) = self.written.recv() => match wrote {
                    Wrote::Done => self.batch_stands(ticket).await,
                    Wrote::Fenced | Wrote::Stale => return Turn::Again,
                    Wrote::Refused(why) => {
                        self.suspects.refused(&ticket.keys, &why);
                        return Turn::Again;
                    }
                },
                Some(read) = self.reads.recv() => self.take_read(read),
                gathered = back(&mut self.gathering) => {
                    self.gathering = None;
                    let Ok((scanner, parsed)) = gathered else { return Turn::Again };
                    self.more = scanner.has_waiting();
                    self.scanner = Some(scanner);
                    let pause = if parsed.is_empty() { IDLE } else { Duration::ZERO };
                    self.next_gather = Instant::now() + pause;
                    match self.take_files(parsed).await {
                        Ok(()) => {}
                        Err(Stop::Again) => return Turn::Again,
                    }
                }
                () = tokio::time::sleep_until(until) => {}
            }
            self.tick();
            if self.detect && self.is_idle() {
                self.detect = false;
                self.detect_unknown();
            }
            if self.is_next() {
                let waiting = std::mem::take(&mut self.waiting);
                if let Err(Stop::Again) = self.take_files(waiting).await {
                    return Turn::Again;
                }
            }
            self.gather();
            self.hand_over().await;
            self.finish_drains();
            if self.start.stopping.is_cancelled() && self.gathering.is_none() && self.is_idle() {
                return Turn::End(crate::Ended::Stopped);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.sealed == self.done && self.pack.is_empty() && self.finish.is_empty()
    }

    /// Files wait and a new batch may begin.
    fn is_next(&self) -> bool {
        !self.waiting.is_empty() && self.pack.is_empty() && self.finish.is_empty()
    }

    fn next_at(&self) -> Instant {
        if self.is_next() {
            return Instant::now();
        }
        let mut until = (Instant::now() + ROUND).min(self.next_tick);
        if self.gathering.is_none() && self.may_gather() {
            until = until.min(self.next_gather);
        }
        until
    }

    /// The samples are committed: their files may go.
    async fn batch_stands(&mut self, ticket: Ticket) {
        self.done += 1;
        if ticket.stored {
            self.base.link.progress().stored(self.base.link.cluster_now_ms(), ticket.revision);
        }
        for key in &ticket.keys {
            self.pending.remove(key);
        }
        self.suspects.stands(&ticket.keys);
        self.finished.extend(ticket.finish.iter().map(Finish::place));
        let (spool, finish) = (self.spool.clone(), ticket.finish);
        // Waited for, so that what is done is done before the next batch; a fault leaves the file, whose key is known.
        let gone = tokio::task::spawn_blocking(move || finish.iter().for_each(|file| file.apply(&spool)));
        if gone.await.is_err() {
            tracing::error!("finishing spooled files ended by a panic");
        }
    }

    /// Brings shards in line with the map. `false` = a shard was lost: nothing in memory may be written any more.
    fn obey(&mut self) -> bool {
        let (number, lanes) = (self.start.number, self.start.lanes);
        let mine = |shards: Vec<(u16, u64)>| -> Vec<(u16, u64)> {
            shards.into_iter().filter(|(shard, _)| shard % lanes == number).collect()
        };
        let owned = mine(self.base.link.owned(&self.map));
        let orders = self.shards.obey(&owned, &mine(self.base.link.releasing(&self.map)));
        if !orders.forget.is_empty() {
            tracing::warn!(shards = orders.forget.len(), "shards were lost without a handover");
            return false;
        }
        if !orders.ack.is_empty() {
            self.base.link.released(&orders.ack);
        }
        if !orders.drain.is_empty() {
            let open = !(self.pack.is_empty() && self.finish.is_empty());
            self.drains.push(Drain { shards: orders.drain, batches: self.sealed + u64::from(open) });
        }
        if !orders.load.is_empty() {
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

    fn finish_drains(&mut self) {
        // The scanner must be here: it has to forget them before they may come back.
        let Some(scanner) = self.scanner.as_mut() else { return };
        let mut given = Vec::new();
        for drain in &mut self.drains {
            if self.done >= drain.batches {
                given.append(&mut drain.shards);
            }
        }
        if given.is_empty() {
            return;
        }
        self.drains.retain(|drain| !drain.shards.is_empty());
        for &shard in &given {
            scanner.remove(shard);
            for agent in self.roster.shard_agents(shard) {
                if let Some(held) = self.roster.get(*agent) {
                    self.names.remove(&held.agent.name);
                }
            }
            self.roster.remove_shard(shard);
        }
        let acks: Vec<(u16, u64)> = given.iter().filter_map(|shard| self.shards.drained(*shard)).collect();
        if !acks.is_empty() {
            self.base.link.released(&acks);
        }
        self.obey();
    }

    fn tick(&mut self) {
        let now = Instant::now();
        // Shards whose state is there are looked at as soon as the scanner is back.
        if let (true, Some(scanner)) = (self.shards_came, self.scanner.as_mut()) {
            self.shards_came = false;
            for (shard, epoch) in self.shards.held() {
                scanner.keep(shard, epoch);
            }
        }
        if now < self.next_tick {
            return;
        }
        self.next_tick = now + TICK;
        let now_s = self.base.link.cluster_now_ms().div_euclid(1000);
        self.offset_s = local_offset_s(now_s);
        if self.base.link.gate().session_if_valid() == Some(self.writer.session) {
            self.detect = !self.start.stopping.is_cancelled();
        } else {
            self.rounds.blind(now_s);
        }
    }

    /// A batch of its own, counted once by a flush number. Only while no other batch is open: states keep their order.
    fn detect_unknown(&mut self) {
        let now = self.base.link.cluster_now_ms().div_euclid(1000);
        let ctx = Context { now, local_offset_s: self.offset_s, mute: false, settings: &self.settings };
        let (shards, mut pack) = (&self.shards, Pack::default());
        let write = |agent: &Agent, module: &Module, outcome| pack.add(agent, module, outcome);
        self.rounds.look(&mut self.roster, |shard| shards.is_held(shard), &ctx, write);
        if pack.is_empty() {
            return;
        }
        let Ok(permit) = self.queue.try_reserve() else { return };
        let number = self.start.flushes.fetch_add(1, Ordering::Relaxed) + 1;
        let batch = pack.seal(self.writer.clone(), ServerKind::Data, Some(number), now, |_| None);
        self.sealed += 1;
        let ticket = Ticket { finish: Vec::new(), keys: Vec::new(), revision: self.revision, stored: false };
        permit.send(Job { batch, ticket });
    }
}

/// The gathering's end; never, when there is none.
async fn back<T>(handle: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match handle {
        Some(handle) => handle.await,
        None => std::future::pending().await,
    }
}
