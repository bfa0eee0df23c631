//! What is simulated around the nodes: processes, clocks, links; and what every part writes its findings into.

use crate::check::Check;
use crate::db::Db;
use crate::rt::{virtual_ms, virtual_ns};
use elpis_watch::NodeId;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Waker;

/// Most hosts.
pub(crate) const HOSTS: usize = 6;

/// A small seeded generator (SplitMix64).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() {
            return None;
        }
        let at = self.next() % of.len() as u64;
        of.get(usize::try_from(at).unwrap_or(0)).copied()
    }
}

/// The clocks of a host: boot time and monotonic time are one here (nothing is suspended).
#[derive(Clone, Copy, Debug)]
struct Clock {
    base: u64,
    base_virtual: u64,
    /// Rate: 1 + ppm / 10^6.
    ppm: i64,
    /// A virtual machine that is stopped: its clock stands.
    frozen: bool,
    wall_ms: i64,
}

impl Clock {
    fn at(&self, virtual_ns: u64) -> u64 {
        if self.frozen {
            return self.base;
        }
        let passed = i64::try_from(virtual_ns - self.base_virtual).unwrap_or(i64::MAX);
        self.base.saturating_add_signed(passed + share(passed, self.ppm))
    }
}

/// So many millionths of it.
fn share(of: i64, ppm: i64) -> i64 {
    of / 1_000_000 * ppm + of % 1_000_000 * ppm / 1_000_000
}

/// A process.
#[derive(Debug)]
struct Place {
    host: usize,
    alive: bool,
    paused: bool,
    wakers: BTreeMap<u64, Waker>,
}

/// Whether a task may run.
pub(crate) enum Poll {
    Run,
    Paused,
    Dead,
}

/// The way from a host to another.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Link {
    /// So many faults cut it.
    pub(crate) cut: u32,
    /// Percent of messages lost.
    pub(crate) drop: u64,
    /// Added delay at most, milliseconds.
    pub(crate) slow: u64,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    clocks: [Clock; HOSTS],
    /// By id - 1.
    places: Vec<Place>,
    next: u64,
    pub(crate) links: [[Link; HOSTS]; HOSTS],
    pub(crate) hosts: BTreeMap<NodeId, usize>,
    /// Slow disks: added milliseconds at most.
    pub(crate) slow_disk: [u64; HOSTS],
    /// A voter that grants a vote dies at once, and its candidate is cut off.
    pub(crate) kill_after_vote: bool,
    /// Clients write nothing: a fault needs logs of the same length.
    pub(crate) still_clients: bool,
    /// Acknowledged releases by host: what the node agent keeps of its server.
    pub(crate) seats: [BTreeMap<u16, u64>; HOSTS],
    /// Virtual time until which clocks that stood may have let two act at once.
    pub(crate) frozen_until_ms: u64,
    /// Hosts that vote.
    pub(crate) voters: Vec<usize>,
    /// Virtual time until which no majority of right clocks may have been heard.
    pub(crate) unsure_until_ms: u64,
    pub(crate) calm: bool,
    pub(crate) faults: u32,
    pub(crate) check: Check,
    pub(crate) db: Db,
    pub(crate) trace: u64,
    pub(crate) verbose: bool,
    pub(crate) violations: Vec<String>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Works on this thread's world. Nothing inside may wake or poll a task.
pub(crate) fn world<T>(work: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| work(world.as_mut().expect("a world")))
}

/// Makes a world for a seed.
pub(crate) fn begin(seed: u64, verbose: bool) {
    let mut rng = Rng::new(seed);
    let clocks = std::array::from_fn(|host| {
        if host == 0 {
            return Clock { base: 86_400_000_000_000, base_virtual: 0, ppm: 0, frozen: false, wall_ms: 0 };
        }
        let ppm = match rng.between(0, 3) {
            0 => 500,
            1 => -500,
            _ => i64::try_from(rng.between(0, 1000)).unwrap_or(0) - 500,
        };
        // Half of the drift each: two clocks differ by 500 ppm at most.
        let base = rng.between(100, 1_000_000) * 1_000_000_000;
        let wall_ms = i64::try_from(rng.between(0, 40)).unwrap_or(0) - 20;
        Clock { base, base_virtual: 0, ppm: ppm / 2, frozen: false, wall_ms }
    });
    let made = World {
        clocks,
        places: Vec::new(),
        next: 1,
        links: Default::default(),
        hosts: BTreeMap::new(),
        slow_disk: [0; HOSTS],
        kill_after_vote: false,
        still_clients: false,
        seats: Default::default(),
        frozen_until_ms: 0,
        voters: Vec::new(),
        unsure_until_ms: 0,
        calm: false,
        faults: 0,
        check: Check::default(),
        db: Db::default(),
        trace: 0xCBF2_9CE4_8422_2325,
        verbose,
        violations: Vec::new(),
        rng,
    };
    WORLD.with_borrow_mut(|world| *world = Some(made));
}

/// Takes the world apart.
pub(crate) fn end() -> World {
    WORLD.with_borrow_mut(Option::take).expect("a world")
}

/// Where a place is kept; 0, the world itself, is nowhere.
fn at(place: u64) -> usize {
    usize::try_from(place).unwrap_or(0).wrapping_sub(1)
}

impl World {
    fn place(&mut self, place: u64) -> Option<&mut Place> {
        self.places.get_mut(at(place))
    }

    /// Writes a line of the trace: part of its hash, printed when verbose.
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        for byte in line.bytes().chain(virtual_ns().to_be_bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if self.verbose {
            eprintln!("{:>9.3} {line}", virtual_ns() as f64 / 1e9);
        }
    }

    pub(crate) fn violation(&mut self, what: impl std::fmt::Display) {
        self.note(|| format!("VIOLATION {what}"));
        if self.violations.len() < 10 {
            self.violations.push(format!("at {} ms: {what}", virtual_ms()));
        }
    }

    pub(crate) fn host_of(&self, place: u64) -> usize {
        self.places.get(at(place)).map_or(0, |place| place.host)
    }

    pub(crate) fn local_ns(&self, host: usize) -> u64 {
        self.clocks[host].at(virtual_ns())
    }

    pub(crate) fn boot_ms(&self, host: usize) -> i64 {
        i64::try_from(self.local_ns(host) / 1_000_000).unwrap_or(0)
    }

    /// Its wall clock, Unix milliseconds.
    pub(crate) fn unix_ms(&self, host: usize) -> i64 {
        1_800_000_000_000 + i64::try_from(virtual_ms()).unwrap_or(0) + self.clocks[host].wall_ms
    }

    pub(crate) fn step_wall(&mut self, host: usize, by_ms: i64) {
        self.clocks[host].wall_ms = by_ms;
    }

    /// Whether the wall clock of a host is far off.
    pub(crate) fn wall_is_wrong(&self, host: usize) -> bool {
        self.clocks[host].wall_ms.abs() > 5_000
    }

    /// Virtual nanoseconds until the host's clock shows this; 0 = it does.
    pub(crate) fn virtual_left(&self, host: usize, until: u64) -> u64 {
        let clock = &self.clocks[host];
        let left = until.saturating_sub(self.local_ns(host));
        match left {
            0 => 0,
            _ if clock.frozen => 10_000_000,
            left => {
                let left = i64::try_from(left).unwrap_or(i64::MAX / 2);
                u64::try_from(left - share(left, clock.ppm)).unwrap_or(1).max(1)
            }
        }
    }

    pub(crate) fn freeze(&mut self, host: usize, frozen: bool) {
        let now = self.local_ns(host);
        let clock = &mut self.clocks[host];
        (clock.base, clock.base_virtual, clock.frozen) = (now, virtual_ns(), frozen);
    }

    pub(crate) fn frozen(&self, host: usize) -> bool {
        self.clocks[host].frozen
    }

    pub(crate) fn cage(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A new process of a host.
    pub(crate) fn process(&mut self, host: usize) -> u64 {
        self.places.push(Place { host, alive: true, paused: false, wakers: BTreeMap::new() });
        self.places.len() as u64
    }

    pub(crate) fn may_poll(&mut self, place: u64, cage: u64, waker: &Waker) -> Poll {
        let Some(place) = self.place(place) else { return Poll::Run };
        if !place.alive {
            return Poll::Dead;
        }
        place.wakers.entry(cage).or_insert_with(|| waker.clone());
        if place.paused { Poll::Paused } else { Poll::Run }
    }

    pub(crate) fn done(&mut self, place: u64, cage: u64) {
        if let Some(place) = self.place(place) {
            place.wakers.remove(&cage);
        }
    }

    /// Kills a process; wake what is returned.
    #[must_use]
    pub(crate) fn kill(&mut self, place: u64) -> Vec<Waker> {
        let Some(place) = self.place(place) else { return Vec::new() };
        place.alive = false;
        std::mem::take(&mut place.wakers).into_values().collect()
    }

    pub(crate) fn alive(&self, place: u64) -> bool {
        self.places.get(at(place)).is_some_and(|place| place.alive)
    }

    /// Stops or continues all processes of a host; wake what is returned.
    #[must_use]
    pub(crate) fn pause(&mut self, host: usize, paused: bool) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for place in self.places.iter_mut().filter(|place| place.host == host && place.alive) {
            place.paused = paused;
            wakers.extend(place.wakers.values().cloned());
        }
        wakers
    }

    /// The same for one process.
    #[must_use]
    pub(crate) fn pause_place(&mut self, place: u64, paused: bool) -> Vec<Waker> {
        let Some(place) = self.place(place) else { return Vec::new() };
        place.paused = paused;
        place.wakers.values().cloned().collect()
    }

    /// Delay of a message in microseconds; `None` = it is lost.
    pub(crate) fn send(&mut self, from: usize, to: usize) -> Option<u64> {
        if from == to {
            return Some(10);
        }
        let link = self.links[from][to];
        if link.cut > 0 || (link.drop > 0 && self.rng.chance(link.drop)) {
            return None;
        }
        let slow = if link.slow > 0 { self.rng.between(0, link.slow * 1000) } else { 0 };
        Some(self.rng.between(100, 1500) + slow)
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, on: bool) {
        if from != to {
            let link = &mut self.links[from][to];
            link.cut = if on { link.cut + 1 } else { link.cut.saturating_sub(1) };
        }
    }
}
