//! The deterministic simulator: real Raft (openraft on virtual time), log store (redb on a disk that forgets), state
//! machine, leases, planner and leader; simulated are processes, links, clocks, disks, servers and the database.
//!
//! A seed is one run of at least 120 virtual seconds: a cluster is made, at least six faults in at least 112 of them,
//! then everything heals.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a tool of tests: it says what broke by panicking

mod check;
mod db;
mod directed;
mod disk;
mod faults;
pub mod group;
pub mod mariadb;
mod net;
mod node;
mod rt;
mod server;
mod state;
mod world;

use elpis_cluster::profile::{Change, Kept, Profile};
use elpis_cluster::state::{Applied, Command, Secret};
use elpis_cluster::types::{Config, FIRST_NODE, Outcome, Proposal};
use futures_util::future::BoxFuture;
use node::running;
use openraft::{AsyncRuntime, BasicNode, ChangeMembers};
use rt::{Rt, place, sleep_ms, sleep_us, spawn_at, virtual_ms};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use world::world;

openraft::declare_raft_types!(
    /// The product's types on the simulator's runtime.
    pub(crate) SimConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = BasicNode,
        AsyncRuntime = Rt,
);

impl Config for SimConfig {
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        let (before, after) = world(|w| {
            let slow = w.slow_disk[w.host_of(place())];
            let slow = if slow > 0 { w.rng.between(0, slow * 1000) } else { 0 };
            (w.rng.between(50, 600) + slow, w.rng.between(10, 200))
        });
        Box::pin(async move {
            sleep_us(before).await;
            let done = work();
            sleep_us(after).await;
            done
        })
    }
}

/// How the group of a seed is set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timing {
    /// With which the cluster is made.
    pub(crate) profile: Profile,
    pub(crate) snapshot_after: u64,
}

/// The group of a seed.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub(crate) timing: Timing,
    /// Hosts, by number from 1.
    pub(crate) hosts: Vec<usize>,
    /// Those of them that vote.
    pub(crate) voters: Vec<usize>,
}

/// What a seed gave.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed that was run.
    pub seed: u64,
    /// What was not kept; empty = all held.
    pub violations: Vec<String>,
    /// Hash of everything that was noted.
    pub trace: u64,
    /// Length of the run in virtual time.
    pub virtual_ms: u64,
    /// Faults that were made.
    pub faults: u32,
    /// Index of the last Raft entry.
    pub entries: u64,
    /// Terms with a leader.
    pub leaders: usize,
    /// Sessions that were declared over.
    pub deaths: u64,
    /// Shards that changed owner.
    pub moved: u64,
    /// Probes.
    pub acted: u64,
    /// Results the database took.
    pub recorded: u64,
    /// Writes the fence refused.
    pub fenced: u64,
    /// Changes of the profile, and how often nodes started anew for one.
    pub profiles: (u64, u64),
    /// Virtual time from the last fault's end until all was well.
    pub healed_ms: u64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "seed {}: {} virtual s, {} faults, {} entries, {} leaders, {} deaths, {} shards changed owner, {} probes, \
             {} results, {} fenced, {} steps of the profile, {} starts for them, healed in {} ms, trace {:016x}",
            self.seed,
            self.virtual_ms / 1000,
            self.faults,
            self.entries,
            self.leaders,
            self.deaths,
            self.moved,
            self.acted,
            self.recorded,
            self.fenced,
            self.profiles.0,
            self.profiles.1,
            self.healed_ms,
            self.trace
        )?;
        self.violations.iter().try_for_each(|violation| write!(f, "\n  VIOLATION {violation}"))
    }
}

/// Runs a seed on this thread.
pub fn run(seed: u64, verbose: bool) -> Report {
    world::begin(seed, verbose);
    let mut rt = Rt::with_seed(seed);
    let (healed_ms, virtual_ms) = rt.block_on(rt::with_locals(async {
        let healed = life().await;
        (healed, virtual_ms())
    }));
    node::forget_all();
    server::stop_all();
    drop(rt);
    let world = world::end();
    Report {
        seed,
        violations: world.violations,
        trace: world.trace,
        virtual_ms,
        faults: world.faults,
        entries: world.check.last_index(),
        leaders: world.check.leaders(),
        deaths: world.check.deaths,
        moved: world.check.moved,
        acted: world.check.acted,
        recorded: world.db.recorded,
        fenced: world.db.fenced,
        profiles: (world.check.profiles, world.check.anew),
        healed_ms,
    }
}

/// Runs seeds on all cores; what they gave, in no order.
///
/// # Panics
/// When a seed does.
pub fn seeds<T: Send>(seeds: std::ops::RangeInclusive<u64>, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let next = std::sync::Mutex::new(seeds);
    std::thread::scope(|scope| {
        let work = || {
            let take = || next.lock().unwrap().next();
            std::iter::from_fn(take).map(&run).collect::<Vec<T>>()
        };
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// How long the faults go on, and how soon after them everything must be well.
const FAULTS_MS: u64 = 112_000;
const HEAL_MS: u64 = 15_000;

async fn life() -> u64 {
    let group = world(|w| {
        let profile = match w.rng.between(0, 3) {
            0 => Profile::Safe,
            1 => Profile::Metro,
            _ => Profile::Lan,
        };
        let snapshot_after = w.rng.between(20, 150);
        // Half of the groups are of three, as most clusters are.
        let count: u64 = w.rng.pick(&[3, 3, 4, 5]).unwrap_or(3);
        let voters = if count == 5 && w.rng.chance(50) { 5 } else { 3 };
        let hosts: Vec<usize> = (1..=usize::try_from(count).unwrap_or(3)).collect();
        Group { timing: Timing { profile, snapshot_after }, voters: hosts[..voters].to_vec(), hosts }
    });
    world(|w| w.voters = group.voters.clone());
    spawn_at(0, watch());
    if let Err(why) = form(&group).await {
        world(|w| w.violation(format!("the cluster could not be made: {why}")));
        return 0;
    }
    if let Err(why) = well(&group, 60_000).await {
        world(|w| w.violation(format!("a new cluster does not work: {why}")));
        return 0;
    }
    world(|w| w.note(|| format!("faults begin: {group:?}")));
    spawn_at(0, clients(group.hosts.clone()));
    // In half of the seeds the profile changes while faults go on.
    if world(|w| w.rng.chance(50)) {
        spawn_at(0, profiles(group.hosts.clone()));
    }
    faults::run(&group, virtual_ms() + FAULTS_MS).await;
    faults::heal(&group).await;
    let healing = virtual_ms();
    if world(|w| w.violations.is_empty()) {
        match well(&group, HEAL_MS).await {
            Ok(()) => {}
            Err(why) => world(|w| w.violation(format!("not well {HEAL_MS} ms after the last fault: {why}"))),
        }
    }
    let healed_ms = virtual_ms() - healing;
    // What is left in flight lands, and nothing else happens.
    sleep_ms(8000).await;
    if world(|w| w.violations.is_empty())
        && let Err(why) = well(&group, 5000).await
    {
        world(|w| w.violation(format!("not well any more: {why}")));
    }
    world(world::World::nothing_lost);
    healed_ms
}

/// Looks at the rights all the time: every new one is looked at when it comes, so this finds what clocks that stood
/// left behind.
async fn watch() {
    loop {
        sleep_ms(20).await;
        world(world::World::scan);
    }
}

/// The node that leads, by what the nodes believe: of the highest term.
pub(crate) fn leader(hosts: &[usize]) -> Option<usize> {
    let leads = |at: &usize| {
        let (term, leads, ..) = running(*at)?.hint();
        leads.then_some((term, *at))
    };
    hosts.iter().filter_map(leads).max().map(|(_, at)| at)
}

fn admission(at: usize) -> Command {
    Command::AdmitNode {
        uuid: format!("uuid-{at}"),
        name: format!("n{at}"),
        spki: format!("key-{at}"),
        address: format!("host-{at}:1"),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        version: "0".to_owned(),
    }
}

/// Makes the cluster as the product does.
async fn form(group: &Group) -> Result<(), String> {
    let kept = Some(Kept { patience: group.timing.profile, step: 1 });
    node::host(1, |host| (host.id, host.kept) = (FIRST_NODE, kept));
    world(|w| w.hosts.insert(FIRST_NODE, 1));
    node::start(1, group.timing);
    let first = loop {
        sleep_ms(5).await;
        if let Some(node) = running(1) {
            break node;
        }
        if virtual_ms() > 10_000 {
            return Err("the first node does not start".to_owned());
        }
    };
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let members = BTreeMap::from([(FIRST_NODE, BasicNode::new("host-1:1"))]);
    first.raft.initialize(members).await.map_err(|e| text(&e))?;
    let formed = Command::Profile(Change::Formed(group.timing.profile));
    let begin =
        vec![Command::InitCluster { uuid: "u".to_owned(), name: "sim".to_owned() }, formed, admission(1)];
    let mut begun = None;
    for _ in 0..50 {
        sleep_ms(100).await;
        begun = first.write(Command::Batch(begin.clone())).await;
        if begun.is_some() {
            break;
        }
    }
    begun.ok_or("the first entry is not written")?;
    let mut ids = BTreeSet::from([FIRST_NODE]);
    for at in group.hosts.iter().copied().skip(1) {
        let written = first.write(admission(at)).await.ok_or("a node is not admitted")?;
        let Outcome(Some(Ok(Applied::Admitted(id)))) = written.data else {
            return Err(format!("a node is not admitted: {:?}", written.data));
        };
        node::host(at, |host| (host.id, host.kept) = (id, kept));
        world(|w| w.hosts.insert(id, at));
        node::start(at, group.timing);
        first
            .raft
            .add_learner(id, BasicNode::new(format!("host-{at}:1")), true)
            .await
            .map_err(|e| text(&e))?;
        if group.voters.contains(&at) {
            ids.insert(id);
        }
    }
    let change = ChangeMembers::ReplaceAllVoters(ids);
    first.raft.change_membership(change, true).await.map_err(|e| text(&e))?;
    let ready = world(|w| w.rng.chance(70));
    let database = Command::SetDatabase {
        url: "mysql://x".to_owned(),
        user: String::new(),
        password: Secret::default(),
        mode: "endpoint".to_owned(),
        ready,
    };
    first.write(database).await.ok_or("the database is not set")?;
    Ok(())
}

/// An operator changes the profile now and then, sometimes before the last change is done.
async fn profiles(hosts: Vec<usize>) {
    loop {
        let (wait, profile) = world(|w| (w.rng.between(3000, 40_000), w.rng.pick(&Profile::ALL)));
        sleep_ms(wait).await;
        let Some(profile) = profile.filter(|_| !world(|w| w.calm)) else { return };
        let Some(node) = leader(&hosts).and_then(running) else { continue };
        let ordered = Command::Profile(Change::Wanted(profile));
        spawn_at(node.place, {
            let node = std::sync::Arc::clone(&node);
            async move { drop(node.write(ordered).await) }
        });
    }
}

/// Waits until one node leads, all live, every shard has an owner that may act, and all have applied the same.
async fn well(group: &Group, within_ms: u64) -> Result<(), String> {
    let until = virtual_ms() + within_ms;
    loop {
        let why = match unwell(group) {
            None => return Ok(()),
            Some(why) => why,
        };
        if virtual_ms() >= until {
            return Err(why);
        }
        sleep_ms(20).await;
    }
}

fn unwell(group: &Group) -> Option<String> {
    let Some(at) = leader(&group.hosts) else { return Some("nobody leads".to_owned()) };
    let leads = running(at)?;
    let (_, _, _, applied) = leads.hint();
    let state = leads.state();
    for at in &group.hosts {
        let Some(node) = running(*at) else { return Some(format!("host {at} is down")) };
        let (_, _, leader, its) = node.hint();
        if leader != Some(leads.id) {
            return Some(format!("node {} follows {leader:?} instead of {}", node.id, leads.id));
        }
        if its != applied || *node.state() != *state {
            return Some(format!("node {} has applied {its} of {applied}", node.id));
        }
        if !state.live(node.id) {
            return Some(format!("node {} is not live", node.id));
        }
    }
    let covered = world(|w| w.covered());
    (covered < 4096 && state.moves().next().is_none()).then(|| format!("{covered} shards can be worked on"))
}

/// Clients that change something now and then; what is acknowledged must stay.
async fn clients(hosts: Vec<usize>) {
    let mut number = 0u64;
    loop {
        let (wait, at) = world(|w| (w.rng.between(100, 1500), w.rng.pick(&hosts)));
        sleep_ms(wait).await;
        if world(|w| w.still_clients) {
            continue;
        }
        // Sometimes one that does not lead, or not any more.
        let at = if number.is_multiple_of(4) { at } else { leader(&hosts) };
        let Some(node) = at.and_then(running) else { continue };
        number += 1;
        let command = if number.is_multiple_of(3) {
            Command::ConfigChanged
        } else {
            Command::Audit { at_ms: 0, who: "client".to_owned(), what: format!("change {number}") }
        };
        spawn_at(node.place, {
            let node = std::sync::Arc::clone(&node);
            async move { drop(node.write(command).await) }
        });
    }
}
