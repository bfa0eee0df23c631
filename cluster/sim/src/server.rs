//! A model of the server processes of a host: they act on a grid of slots under the gate, and store under the fence.

use crate::check::{Right, ShardSet, shard_set};
use crate::db;
use crate::node::host;
use crate::rt::{place, sleep_ms, sleep_us, spawn_at, virtual_ms};
use crate::world::{HOSTS, world};
use elpis_cluster::state::ClusterState;
use elpis_watch::{Gate, Lease, NodeId, SHARDS};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Of so many shards each does work; of all others only the right to do it is looked at.
const SAMPLE: u16 = 128;
const SAMPLES: usize = SHARDS / SAMPLE as usize;
const SLOT_MS: i64 = 200;

/// A frame of the watch stream, and when it arrives (boot clock of the host, microseconds).
struct Frame {
    at_us: u64,
    lease: Lease,
    state: Arc<ClusterState>,
}

thread_local! {
    static INBOX: RefCell<[VecDeque<Frame>; HOSTS]> = RefCell::default();
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading(u64),
    Held {
        epoch: u64,
        last_slot: i64,
    },
    /// Nothing new is begun; what was begun is written first. `ack` = epoch of the planned move.
    Draining {
        epoch: u64,
        ack: Option<u64>,
    },
}

/// Phases of the shards that work is done for.
#[derive(Default)]
struct Phases([Option<Phase>; SAMPLES]);

impl Phases {
    fn of(&self, shard: u16) -> Option<Phase> {
        self.0.get(usize::from(shard / SAMPLE)).copied().flatten()
    }
}

/// What a server knows; its tasks share it by a thread-local (one server a host).
struct Kept {
    place: u64,
    id: NodeId,
    incarnation: u64,
    gate: Gate,
    map: Option<Arc<ClusterState>>,
    /// The map that all shards were last compared with, when, and whether it asks for releases.
    compared: Option<(Arc<ClusterState>, u64, bool)>,
    shards: ShardSet,
    session: u64,
    registered: bool,
    registering: bool,
    phases: Phases,
    /// Epoch in which a shard was given away, by number; 0 = none.
    given: Vec<u64>,
    raised: BTreeMap<NodeId, u64>,
    results: Vec<db::Result>,
    flushing: Vec<db::Result>,
}

thread_local! {
    static KEPT: RefCell<[Option<Kept>; HOSTS]> = RefCell::default();
}

/// Works on the server of the host whose task asks, if that task belongs to its present process.
fn kept<T>(at: usize, work: impl FnOnce(&mut Kept) -> T) -> Option<T> {
    KEPT.with_borrow_mut(|kept| kept[at].as_mut().filter(|kept| kept.place == place()).map(work))
}

pub(crate) struct Server;

impl Server {
    /// Starts the server process of a host.
    pub(crate) fn start(at: usize) {
        let place = world(|w| {
            w.check.rights[at] = None;
            w.process(at)
        });
        let (id, incarnation) = host(at, |host| {
            host.server_place = place;
            host.incarnation += 1;
            (host.id, host.incarnation)
        });
        INBOX.with_borrow_mut(|inbox| inbox[at].clear());
        let new = Kept {
            place,
            id,
            incarnation,
            gate: Gate::with_lease(Lease::default()),
            map: None,
            compared: None,
            shards: [0; 64],
            session: 0,
            registered: false,
            registering: false,
            phases: Phases::default(),
            given: vec![0; SHARDS],
            raised: BTreeMap::new(),
            results: Vec::new(),
            flushing: Vec::new(),
        };
        KEPT.with_borrow_mut(|kept| kept[at] = Some(new));
        spawn_at(place, run(at));
    }

    /// Kills it.
    pub(crate) fn kill(at: usize) {
        let server = host(at, |host| host.server_place);
        let wakers = world(|w| {
            w.check.rights[at] = None;
            w.note(|| format!("server of host {at} killed"));
            w.kill(server)
        });
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// The node agent sends a frame; frames of one stream stay in order.
    pub(crate) fn frame(at: usize, lease: Lease, state: Arc<ClusterState>) {
        let at_us = world(|w| {
            let late = if w.rng.chance(2) { w.rng.between(5, 60) * 1000 } else { 0 };
            w.local_ns(at) / 1000 + w.rng.between(100, 2000) + late
        });
        INBOX.with_borrow_mut(|inbox| {
            let queue = &mut inbox[at];
            let at_us = queue.back().map_or(at_us, |last| last.at_us.max(at_us));
            queue.push_back(Frame { at_us, lease, state });
            // Of a stopped server: the buffer is bounded, what it reads last counts.
            if queue.len() > 64 {
                queue.pop_front();
            }
        });
    }
}

async fn run(at: usize) {
    loop {
        take_frames(at);
        if kept(at, |me| me.obey(at)).is_none() {
            return;
        }
        act(at);
        flush(at);
        sleep_us(10_000).await;
    }
}

fn take_frames(at: usize) {
    let now = world(|w| w.local_ns(at) / 1000);
    while let Some(frame) = INBOX.with_borrow_mut(|inbox| inbox[at].pop_front_if(|frame| frame.at_us <= now))
    {
        kept(at, |me| {
            me.gate.set(frame.lease);
            me.map = Some(frame.state);
        });
    }
}

impl Kept {
    /// The session, when the lease is valid right now.
    fn session_if_valid(&self, at: usize) -> Option<u64> {
        let lease = self.gate.lease();
        (world(|w| w.boot_ms(at)) < lease.until_boot_ms).then_some(lease.session)
    }

    /// Follows lease and map.
    fn obey(&mut self, at: usize) {
        let lease = self.gate.lease();
        if lease.session != self.session {
            // Another session: nothing of the old one counts.
            self.session = lease.session;
            self.registered = false;
            self.compared = None;
            self.phases = Phases::default();
            self.given.fill(0);
            self.results.clear();
        }
        let valid = self.session_if_valid(at);
        if !self.registered {
            if valid.is_some() && !self.registering {
                self.registering = true;
                let row = (self.id, self.session, self.incarnation);
                spawn_at(self.place, register(at, row));
            }
            world(|w| w.check.rights[at] = None);
            return;
        }
        let Some(map) = self.map.clone() else { return };
        // All shards when the map is new, and releases now and then: a new node agent wants to hear them again.
        let all = self.compared.as_ref().is_none_or(|(last, when, releases)| {
            !last.shards.shared(&map.shards) || (*releases && virtual_ms() - when >= 200)
        });
        let releases = self.follow(at, &map, all);
        if all {
            let owned = map.shards.iter().zip(&self.given).zip(0u16..).filter(|((shard, given), _)| {
                (shard.owner == self.id) & shard.to.is_none() & (**given != shard.epoch)
            });
            self.shards = shard_set(owned.map(|(_, number)| number));
            self.compared = Some((map, virtual_ms(), releases));
        }
        let right = Some(Right { node: self.id, until_boot_ms: lease.until_boot_ms, shards: self.shards });
        world(|w| {
            // A right that stays only runs out: two can begin to clash by a new one alone.
            if w.check.rights[at] != right {
                w.check.rights[at] = right;
                w.scan();
            }
        });
    }

    /// Whether the map asks for releases.
    fn follow(&mut self, at: usize, map: &Arc<ClusterState>, all: bool) -> bool {
        let mut releases = false;
        let mut acks: Vec<(u16, u64)> = Vec::new();
        let mut load: Vec<(u16, u64)> = Vec::new();
        let step = usize::from(if all { 1 } else { SAMPLE });
        for (shard, number) in map.shards.iter().step_by(step).zip((0u16..).step_by(step)) {
            let mine = shard.owner == self.id;
            let releasing = shard.to.filter(|_| mine).map(|_| shard.named);
            releases |= releasing.is_some();
            if number % SAMPLE != 0 {
                if let Some(epoch) = releasing {
                    self.given[usize::from(number)] = shard.epoch;
                    acks.push((number, epoch));
                }
                continue;
            }
            let given = &mut self.given[usize::from(number)];
            let phase = &mut self.phases.0[usize::from(number / SAMPLE)];
            let owned = (mine && releasing.is_none()).then_some(shard.epoch);
            match (*phase, owned, releasing) {
                (Some(Phase::Loading(epoch) | Phase::Held { epoch, .. }), Some(now), _) if epoch == now => {}
                (Some(Phase::Held { epoch, .. }), Some(_), _) => {
                    *phase = Some(Phase::Draining { epoch, ack: None });
                }
                (Some(Phase::Held { epoch, .. } | Phase::Draining { epoch, .. }), None, Some(ack)) => {
                    *phase = Some(Phase::Draining { epoch, ack: Some(ack) });
                }
                (Some(Phase::Draining { .. }), Some(_), _) => {}
                (Some(Phase::Loading(epoch)), None, Some(_)) => {
                    *phase = None;
                    *given = epoch;
                }
                (Some(_), _, _) => {
                    *phase = None;
                    self.results.retain(|result| result.shard != number);
                }
                (None, Some(epoch), _) if *given != epoch => {
                    *phase = Some(Phase::Loading(epoch));
                    load.push((number, epoch));
                }
                (None, _, Some(ack)) => {
                    *given = shard.epoch;
                    acks.push((number, ack));
                }
                (None, _, _) => {}
            }
            // Drained: nothing of it waits or is under way.
            if let Some(Phase::Draining { epoch, ack }) = *phase
                && !self.results.iter().chain(&self.flushing).any(|result| result.shard == number)
            {
                *phase = None;
                if let Some(ack) = ack {
                    *given = epoch;
                    acks.push((number, ack));
                }
            }
        }
        if !acks.is_empty() {
            world(|w| {
                for (shard, epoch) in acks {
                    let kept = w.seats[at].entry(shard).or_default();
                    *kept = epoch.max(*kept);
                }
            });
        }
        if !load.is_empty() {
            let rows = map.nodes.iter().filter(|(id, _)| **id != self.id);
            let rows = rows
                .filter(|(id, node)| self.raised.get(id).is_none_or(|done| *done < node.session))
                .map(|(id, node)| (*id, node.session, 0))
                .collect();
            spawn_at(self.place, load_shards(at, self.session, rows, load));
        }
        releases
    }
}

async fn register(at: usize, row: (NodeId, u64, u64)) {
    let done = db::raise(vec![row]).await;
    kept(at, |me| {
        me.registering = false;
        me.registered = done && me.session == row.1;
    });
}

/// Raises the fence, then reads state.
async fn load_shards(at: usize, session: u64, rows: Vec<(NodeId, u64, u64)>, shards: Vec<(u16, u64)>) {
    if !rows.is_empty() {
        let told = rows.clone();
        db::raise(rows).await;
        kept(at, |me| {
            for (id, session, _) in told {
                let done = me.raised.entry(id).or_default();
                *done = session.max(*done);
            }
        });
    }
    // Only who still may reads: a reader that is over must not look like the owner.
    let wanted = kept(at, |me| {
        let valid = me.session == session && me.session_if_valid(at) == Some(session);
        let loading = |(shard, epoch): &(u16, u64)| me.phases.of(*shard) == Some(Phase::Loading(*epoch));
        if valid { shards.iter().copied().filter(loading).collect() } else { Vec::new() }
    });
    let read = db::read(wanted.unwrap_or_default()).await.unwrap_or_default();
    kept(at, |me| {
        if me.session != session {
            return;
        }
        for (shard, epoch) in &shards {
            if me.phases.of(*shard) != Some(Phase::Loading(*epoch)) {
                continue;
            }
            // Not read: it will be asked for again.
            let found = read.iter().find(|(number, ..)| number == shard);
            me.phases.0[usize::from(*shard / SAMPLE)] =
                found.map(|(_, _, last_slot)| Phase::Held { epoch: *epoch, last_slot: *last_slot });
        }
    });
}

/// Probes what is due.
fn act(at: usize) {
    kept(at, |me| {
        let cluster_now = world(|w| w.boot_ms(at)) + me.gate.lease().cluster_offset_ms;
        if !me.registered {
            return;
        }
        let mut done = Vec::new();
        for (phase, shard) in me.phases.0.iter().zip((0u16..).step_by(SAMPLE.into())) {
            let Some(Phase::Held { epoch, last_slot }) = phase else { continue };
            let slot = (cluster_now + i64::from(shard % 199)).div_euclid(SLOT_MS);
            if slot > *last_slot {
                done.push(db::Result { shard, epoch: *epoch, slot });
            }
        }
        for result in done {
            // The gate is asked right before each probe.
            if me.session_if_valid(at) != Some(me.session) {
                return;
            }
            world(|w| {
                w.acts(me.id, result.shard, result.epoch);
                w.works_at(me.id, cluster_now);
            });
            if let Some(Phase::Held { last_slot, .. }) = &mut me.phases.0[usize::from(result.shard / SAMPLE)]
            {
                *last_slot = result.slot;
            }
            me.results.push(result);
        }
    });
}

/// Stores what there is, one batch at a time.
fn flush(at: usize) {
    kept(at, |me| {
        if !me.flushing.is_empty() || me.results.is_empty() || !me.registered {
            return;
        }
        me.flushing = std::mem::take(&mut me.results);
        spawn_at(me.place, store(at, me.id, me.session, me.incarnation, me.flushing.clone()));
    });
}

async fn store(at: usize, id: NodeId, session: u64, incarnation: u64, batch: Vec<db::Result>) {
    let valid = || kept(at, |me| me.session_if_valid(at) == Some(session)).unwrap_or(false);
    let mut fenced = false;
    if valid() {
        match db::begin(id, session, incarnation).await {
            None => fenced = true,
            Some(txn) => {
                let work = world(|w| {
                    let late = if w.rng.chance(3) { w.rng.between(50, 900) } else { 0 };
                    w.rng.between(0, 4) + late
                });
                sleep_ms(work).await;
                // Right before COMMIT; what comes after it only the fence can stop.
                if valid() {
                    db::commit(txn, batch).await;
                }
            }
        }
    }
    kept(at, |me| {
        me.flushing.clear();
        if fenced && me.session == session {
            // Raise the own row again and read state again, while lease and session are valid.
            me.registered = false;
            me.phases = Phases::default();
            me.results.clear();
        }
    });
}

/// Forgets all servers and frames.
pub(crate) fn stop_all() {
    KEPT.set(Default::default());
    INBOX.set(Default::default());
}
