//! The server processes of this node: who holds which role, who is silent, what they have released and stored.
//!
//! A table without clock and tasks: `now` is `CLOCK_BOOTTIME` in milliseconds. It looks at processes and keeps the
//! incarnation counters on disk; whom to kill it only says.

use super::incarnation::Incarnations;
use super::messages::{MAX_LOADS, MAX_RELEASED};
use super::process::Process;
use elpis_watch::{Heartbeat, Hello, Released, Role, SHARDS};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A process silent for so long is killed.
pub const SILENCE_MS: i64 = 2000;
/// The same while it holds a planned move up.
pub const SILENCE_IN_MOVE_MS: i64 = 1500;
/// After the start of the node agent a role without a process counts as starting for so long.
const STARTING_MS: i64 = 10_000;
/// A superseded process has so long to go by itself.
const LEAVE_MS: i64 = 2000;
/// So many ends in [`ENDS_MS`] make the node unfit until a process lasted [`LASTS_MS`].
const ENDS: usize = 3;
const ENDS_MS: i64 = 60_000;
const LASTS_MS: i64 = 10_000;
/// Most superseded processes that are watched on their way out.
const MAX_LEAVING: usize = 16;
/// Longest text of unfitness kept, in characters.
const MAX_UNFIT: usize = 400;
/// A number this far above the last one handed out is no lost file but nonsense.
const MAX_AHEAD: u64 = 1_000_000;

/// Why a process is not taken or not heard.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unwanted {
    #[error("{0}")]
    Superseded(String),
    #[error("{0} is not registered at this node agent, which has just started; register again")]
    Unknown(&'static str),
    #[error("this node runs no {0}; start the node agent with this role, or do not start the process")]
    NoRole(&'static str),
    #[error("the incarnation counter cannot be kept: {0}; free space in the data folder")]
    Disk(String),
}

/// State of a service as the status shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceState {
    Up,
    Starting,
    Hung,
    Down,
}

impl ServiceState {
    /// Its word in the status.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ServiceState::Up => "up",
            ServiceState::Starting => "starting",
            ServiceState::Hung => "hung",
            ServiceState::Down => "down",
        }
    }
}

#[derive(Debug)]
struct Registered {
    process: Process,
    incarnation: u64,
    since: i64,
    beat_at: i64,
    beaten: bool,
    unfit: String,
    stored_ms: i64,
    stored_revision: u64,
}

#[derive(Debug, Default)]
struct Seat {
    held: Option<Registered>,
    /// When its last processes ended.
    ends: VecDeque<i64>,
    /// Shard -> epoch of the move that was acknowledged. Outlives the process: what was released is never taken back.
    released: BTreeMap<u16, u64>,
    load: BTreeMap<u16, f32>,
}

/// The table.
#[derive(Debug)]
pub struct Registry {
    counters: Incarnations,
    seats: BTreeMap<Role, Seat>,
    leaving: Vec<(Process, i64)>,
    /// Shards whose load the leader has not heard yet.
    fresh: BTreeSet<u16>,
    started: i64,
}

/// Something that happened to a process, for the log and the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    pub role: Role,
    pub kind: &'static str,
    pub text: String,
}

impl Registry {
    /// For these roles.
    #[must_use]
    pub fn new(roles: &[Role], counters: Incarnations, now: i64) -> Registry {
        let seats = roles.iter().map(|role| (*role, Seat::default())).collect();
        Registry { counters, seats, leaving: Vec::new(), fresh: BTreeSet::new(), started: now }
    }

    /// From now on incarnations are above this number.
    pub fn above(&mut self, base: u64) {
        self.counters.above(base);
    }

    /// Registers a process; the answer is its incarnation. A new process supersedes the one before.
    ///
    /// # Errors
    /// When another one has the role, or the counter cannot be kept.
    pub fn hello(&mut self, hello: &Hello, process: Process, now: i64) -> Result<u64, Unwanted> {
        let role = hello.role;
        let seat = self.seats.get_mut(&role).ok_or(Unwanted::NoRole(role.as_str()))?;
        let disk = |error: std::io::Error| Unwanted::Disk(error.to_string());
        let last = self.counters.last(role);
        let incarnation = match hello.incarnation {
            None => self.counters.next(role).map_err(disk)?,
            Some(held) if held < last || held > last.saturating_add(MAX_AHEAD) => {
                return Err(Unwanted::Superseded(format!(
                    "another {} was started since: incarnation {last}, yours is {held}",
                    role.as_str()
                )));
            }
            Some(held) => {
                self.counters.seen(role, held).map_err(disk)?;
                held
            }
        };
        if let Some(before) = seat.held.take() {
            if before.incarnation == incarnation && before.process != process && before.process.runs() {
                let holder = before.process.pid();
                seat.held = Some(before);
                return Err(Unwanted::Superseded(format!(
                    "process {holder} holds incarnation {incarnation}"
                )));
            }
            if before.process != process && self.leaving.len() < MAX_LEAVING {
                self.leaving.push((before.process, now + LEAVE_MS));
            }
        }
        seat.held = Some(Registered {
            process,
            incarnation,
            since: now,
            beat_at: now,
            beaten: false,
            unfit: String::new(),
            stored_ms: 0,
            stored_revision: 0,
        });
        Ok(incarnation)
    }

    /// Takes a heartbeat.
    ///
    /// # Errors
    /// When it comes from a process that does not hold the role.
    pub fn beat(&mut self, role: Role, beat: &Heartbeat, now: i64) -> Result<(), Unwanted> {
        self.wanted(role, beat.incarnation)?;
        let Some(seat) = self.seats.get_mut(&role) else { return Ok(()) };
        let Some(held) = seat.held.as_mut() else { return Ok(()) };
        held.beat_at = now;
        held.beaten = true;
        held.unfit = beat.unfit.chars().take(MAX_UNFIT).collect();
        (held.stored_ms, held.stored_revision) = (beat.stored_ms, beat.stored_revision);
        for &(shard, load) in beat.load.iter().take(SHARDS) {
            if usize::from(shard) < SHARDS && load.is_finite() && load >= 0.0 {
                seat.load.insert(shard, load);
                self.fresh.insert(shard);
            }
        }
        Ok(())
    }

    /// Takes acknowledgements of released shards.
    ///
    /// # Errors
    /// When they come from a process that does not hold the role.
    pub fn released(&mut self, released: &Released) -> Result<(), Unwanted> {
        self.wanted(released.role, released.incarnation)?;
        let Some(seat) = self.seats.get_mut(&released.role) else { return Ok(()) };
        for &(shard, epoch) in &released.shards {
            if usize::from(shard) < SHARDS {
                let held = seat.released.entry(shard).or_insert(epoch);
                *held = epoch.max(*held);
            }
        }
        Ok(())
    }

    /// Whether this incarnation holds the role.
    ///
    /// # Errors
    /// When it does not.
    pub fn wanted(&self, role: Role, incarnation: u64) -> Result<(), Unwanted> {
        let seat = self.seats.get(&role).ok_or(Unwanted::NoRole(role.as_str()))?;
        match &seat.held {
            Some(held) if held.incarnation == incarnation => Ok(()),
            _ if incarnation < self.counters.last(role) => Err(Unwanted::Superseded(format!(
                "another {} was started since: incarnation {}, yours is {incarnation}",
                role.as_str(),
                self.counters.last(role)
            ))),
            _ => Err(Unwanted::Unknown(role.as_str())),
        }
    }

    /// Looks after everybody: whom to kill, and what happened. `releasing`: a planned move waits for this node.
    pub fn tick(&mut self, releasing: bool, now: i64) -> (Vec<Process>, Vec<Happened>) {
        let (mut kill, mut happened) = (Vec::new(), Vec::new());
        let limit = if releasing { SILENCE_IN_MOVE_MS } else { SILENCE_MS };
        for (role, seat) in &mut self.seats {
            let Some(held) = &seat.held else { continue };
            let silent = now - held.beat_at;
            let limit = if bears(*role) { limit } else { SILENCE_MS };
            if !held.process.runs() {
                let text =
                    format!("process {} (incarnation {}) has ended", held.process.pid(), held.incarnation);
                happened.push(Happened { role: *role, kind: "ended", text });
                seat.ends.push_back(now);
                while seat.ends.len() > ENDS {
                    seat.ends.pop_front();
                }
                seat.held = None;
            } else if silent > limit {
                kill.push(held.process.clone());
                let text = format!("process {} was silent for {silent} ms and is killed", held.process.pid());
                happened.push(Happened { role: *role, kind: "hung", text });
            }
        }
        self.leaving.retain(|(process, until)| {
            if now > *until {
                kill.push(process.clone());
            }
            now <= *until && process.runs()
        });
        (kill, happened)
    }

    /// This process stood still: silence up to now says nothing.
    pub fn pardon(&mut self, now: i64) {
        for held in self.seats.values_mut().filter_map(|seat| seat.held.as_mut()) {
            held.beat_at = held.beat_at.max(now - SILENCE_IN_MOVE_MS / 2);
        }
    }

    fn state_of(&self, seat: &Seat, now: i64) -> ServiceState {
        match &seat.held {
            Some(held) if now - held.beat_at > SILENCE_IN_MOVE_MS => ServiceState::Hung,
            Some(held) if held.beaten => ServiceState::Up,
            Some(_) => ServiceState::Starting,
            None if seat.ends.is_empty() && now - self.started < STARTING_MS => ServiceState::Starting,
            None => ServiceState::Down,
        }
    }

    /// State of each service that should run.
    #[must_use]
    pub fn services(&self, now: i64) -> BTreeMap<String, String> {
        let state = |seat| self.state_of(seat, now).as_str().to_owned();
        self.seats.iter().map(|(role, seat)| (role.as_str().to_owned(), state(seat))).collect()
    }

    /// The last incarnation of each role.
    #[must_use]
    pub fn incarnations(&self) -> Vec<(Role, u64)> {
        self.seats.keys().map(|role| (*role, self.counters.last(*role))).collect()
    }

    /// Whether virtual addresses can be held here: their keeper runs, and holds those that it has.
    #[must_use]
    pub fn keeps_addresses(&self, now: i64) -> bool {
        let Some(seat) = self.seats.get(&Role::AddressKeeper) else { return false };
        let well = seat.held.as_ref().is_some_and(|held| held.unfit.is_empty());
        well && self.state_of(seat, now) == ServiceState::Up
    }

    /// Why this node should own no shards, at this moment; empty = it is fit. The leader acts when it lasts.
    #[must_use]
    pub fn unfit(&self, now: i64) -> String {
        for (role, seat) in self.seats.iter().filter(|(role, _)| bears(**role)) {
            let name = role.as_str();
            match &seat.held {
                Some(held) if !held.unfit.is_empty() => return format!("{name}: {}", held.unfit),
                _ => {}
            }
            let state = self.state_of(seat, now);
            if state != ServiceState::Up {
                return format!("{name} is {}", state.as_str());
            }
            let lately = seat.ends.iter().filter(|at| now - **at < ENDS_MS).count();
            let lasted = seat.held.as_ref().is_some_and(|held| now - held.since >= LASTS_MS);
            if lately >= ENDS && !lasted {
                return format!("{name} ended {lately} times in a minute");
            }
        }
        String::new()
    }

    /// Which of these moves all servers that act on shards have acknowledged.
    #[must_use]
    pub fn acknowledged(&self, moves: &[(u16, u64)]) -> Vec<(u16, u64)> {
        let done = |(shard, epoch): &(u16, u64)| {
            let mut seats = self.seats.iter().filter(|(role, _)| releases(**role));
            seats.all(|(_, seat)| seat.released.get(shard).is_some_and(|acknowledged| acknowledged >= epoch))
        };
        moves.iter().copied().filter(|a_move| done(a_move)).take(MAX_RELEASED).collect()
    }

    /// Loads that the leader has not heard yet, summed over the roles.
    #[must_use]
    pub fn loads(&self) -> Vec<(u16, f32)> {
        let sum = |shard: &u16| self.seats.values().filter_map(|seat| seat.load.get(shard)).sum();
        self.fresh.iter().take(MAX_LOADS).map(|shard| (*shard, sum(shard))).collect()
    }

    /// Another leader has heard of no load.
    pub fn all_loads_unheard(&mut self) {
        self.fresh = self.seats.values().flat_map(|seat| seat.load.keys().copied()).collect();
    }

    /// The leader has heard these.
    pub fn loads_heard(&mut self, loads: &[(u16, f32)]) {
        for (shard, _) in loads {
            self.fresh.remove(shard);
        }
    }

    /// Cluster time of the newest transaction that stored results, and the map revision it was stored under.
    #[must_use]
    pub fn stored(&self) -> (i64, u64) {
        let held = self.seats.values().filter_map(|seat| seat.held.as_ref());
        held.map(|held| (held.stored_ms, held.stored_revision)).max().unwrap_or_default()
    }
}

/// Without this server the node should own no shards.
fn bears(role: Role) -> bool {
    !matches!(role, Role::Console | Role::AddressKeeper)
}

/// This server works on shards and has to release them.
fn releases(role: Role) -> bool {
    matches!(role, Role::DataServer | Role::NetworkServer)
}

#[cfg(test)]
mod tests;
