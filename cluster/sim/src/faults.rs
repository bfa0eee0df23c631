//! Faults by chance, and healing.

use crate::directed;
use crate::node::{self, host, running};
use crate::rt::{sleep_ms, spawn_at, virtual_ms};
use crate::server::Server;
use crate::world::world;
use crate::{Group, leader};
use elpis_cluster::state::Command;
use elpis_watch::NodeId;

/// Runs faults until this virtual time.
pub(crate) async fn run(group: &Group, until_ms: u64) {
    loop {
        let wait = world(|w| w.rng.between(1500, 11_000));
        sleep_ms(wait).await;
        if virtual_ms() >= until_ms && world(|w| w.faults >= 6) {
            return;
        }
        if !world(|w| w.violations.is_empty()) {
            return;
        }
        world(|w| w.faults += 1);
        if world(|w| w.rng.chance(40)) {
            directed::any(group).await;
        } else {
            any(group);
        }
    }
}

/// Everything is whole again; faults under way undo nothing afterwards.
pub(crate) async fn heal(group: &Group) {
    let mut wakers = Vec::new();
    world(|w| {
        w.note(|| "healing".to_owned());
        w.calm = true;
        w.links = Default::default();
        w.slow_disk = Default::default();
        (w.kill_after_vote, w.still_clients) = (false, false);
        for at in &group.hosts {
            if w.frozen(*at) {
                w.freeze(*at, false);
                w.frozen_until_ms = virtual_ms() + 6000;
            }
            wakers.extend(w.pause(*at, false));
            w.step_wall(*at, 0);
        }
    });
    wakers.into_iter().for_each(std::task::Waker::wake);
    for at in &group.hosts {
        host(*at, |host| host.disk.clone()).heal();
        if !host(*at, |host| host.up) {
            node::start(*at, group.timing);
        } else if !world(|w| w.alive(host(*at, |host| host.server_place))) {
            Server::start(*at);
        }
    }
    for id in group.hosts.iter().map(|at| host(*at, |host| host.id)) {
        spawn_at(0, tell(group.hosts.clone(), Command::Undrain { node: id }));
    }
}

/// Writes a command through whoever leads, until it is there or the time is up.
async fn tell(hosts: Vec<usize>, command: Command) {
    for _ in 0..100 {
        if let Some(node) = leader(&hosts).and_then(running) {
            let done = node.write(command.clone()).await;
            if done.is_some() {
                return;
            }
        }
        sleep_ms(100).await;
    }
}

/// Stops a host and starts it again later.
pub(crate) async fn restart(group: &Group, at: usize, after_ms: u64, machine: bool) {
    if !host(at, |host| host.up) {
        return;
    }
    node::crash(at, machine);
    sleep_ms(after_ms).await;
    if !host(at, |host| host.up) {
        node::start(at, group.timing);
    }
}

/// After so long, unless everything was healed meanwhile.
fn later(ms: u64, undo: impl FnOnce() + Send + 'static) {
    spawn_at(0, async move {
        sleep_ms(ms).await;
        if !world(|w| w.calm) {
            undo();
        }
    });
}

fn wake(wakers: Vec<std::task::Waker>) {
    wakers.into_iter().for_each(std::task::Waker::wake);
}

/// Stops the processes of a host for a while; its clock goes on, or stands as in a virtual machine that is stopped.
fn pause(at: usize, ms: u64, frozen: bool) {
    wake(world(|w| {
        if frozen {
            w.freeze(at, true);
            w.frozen_until_ms = w.frozen_until_ms.max(virtual_ms() + ms + 8000);
        }
        w.pause(at, true)
    }));
    later(ms, move || {
        wake(world(|w| {
            if w.frozen(at) {
                w.freeze(at, false);
            }
            w.pause(at, false)
        }));
    });
}

fn cut(pairs: Vec<(usize, usize)>, ms: u64) {
    world(|w| pairs.iter().for_each(|(a, b)| w.cut(*a, *b, true)));
    later(ms, move || world(|w| pairs.iter().for_each(|(a, b)| w.cut(*a, *b, false))));
}

/// One fault by chance; it ends by itself.
fn any(group: &Group) {
    let all = &group.hosts;
    let (kind, mut at, ms, other) = world(|w| {
        let at = w.rng.pick(all).unwrap_or(1);
        (w.rng.between(0, 17), at, w.rng.between(200, 9000), w.rng.pick(all).unwrap_or(1))
    });
    // Half of the time it is the one that leads.
    if world(|w| w.rng.chance(50)) {
        at = leader(all).unwrap_or(at);
    }
    let rest: Vec<usize> = all.iter().copied().filter(|b| *b != at).collect();
    world(|w| w.note(|| format!("fault {kind} at host {at} for {ms} ms (other {other})")));
    match kind {
        0 | 1 => {
            let (quick, group) = (world(|w| w.rng.chance(40)), group.clone());
            let after = if quick { 20 + ms % 300 } else { ms };
            spawn_at(0, async move { restart(&group, at, after, kind == 0).await });
        }
        2 => cut(rest.iter().flat_map(|b| [(at, *b), (*b, at)]).collect(), ms),
        3 => cut(rest.iter().map(|b| (at, *b)).collect(), ms),
        4 => cut(rest.iter().map(|b| (*b, at)).collect(), ms),
        5 => cut(vec![(at, other), (other, at)], ms),
        6 => cut(vec![(at, other)], ms),
        7 | 8 => {
            let (drop, slow) =
                world(|w| if kind == 7 { (w.rng.between(2, 30), 0) } else { (0, w.rng.between(5, 200)) });
            set_links(all, drop, slow);
            let all = all.clone();
            later(ms, move || set_links(&all, 0, 0));
        }
        9 => pause(at, ms, false),
        10 => all.iter().for_each(|at| pause(*at, ms / 3, false)),
        11 => pause(at, ms, true),
        12 => {
            let step = world(|w| w.rng.pick(&[3_600_000, -3_600_000, 31_536_000_000, -31_536_000_000, 700]));
            world(|w| w.step_wall(at, step.unwrap_or(0)));
            later(ms * 3, move || world(|w| w.step_wall(at, 0)));
        }
        13 => {
            Server::kill(at);
            later(300 + ms % 800, move || {
                let (up, server) = host(at, |host| (host.up, host.server_place));
                if up && !world(|w| w.alive(server)) {
                    Server::start(at);
                }
            });
        }
        14 => {
            // A hung server, and moves that wait for it.
            let server = host(at, |host| host.server_place);
            wake(world(|w| w.pause_place(server, true)));
            later(ms + 6000, move || wake(world(|w| w.pause_place(server, false))));
            drain(all.clone(), host(at, |host| host.id), ms + 12_000);
        }
        15 => drain(all.clone(), host(at, |host| host.id), ms * 2),
        16 => {
            let slow = world(|w| w.rng.between(20, 400));
            world(|w| w.slow_disk[at] = slow);
            later(ms, move || world(|w| w.slow_disk[at] = 0));
        }
        _ => {
            // In the middle of a write.
            let writes = world(|w| w.rng.between(0, 60));
            let group = group.clone();
            host(at, |host| host.disk.clone()).fail_in(writes);
            later(ms + 1000, move || {
                host(at, |host| host.disk.clone()).heal();
                if !host(at, |host| host.up) {
                    node::start(at, group.timing);
                }
            });
        }
    }
}

fn set_links(all: &[usize], drop: u64, slow: u64) {
    world(|w| {
        for a in all {
            for b in all {
                (w.links[*a][*b].drop, w.links[*a][*b].slow) = (drop, slow);
            }
        }
    });
}

fn drain(hosts: Vec<usize>, node: NodeId, ms: u64) {
    spawn_at(0, tell(hosts.clone(), Command::Drain { node }));
    spawn_at(0, async move {
        sleep_ms(ms).await;
        tell(hosts, Command::Undrain { node }).await;
    });
}

/// A voter granted its vote: where that is the plan, it dies straight after, and its candidate is cut off.
pub(crate) fn voted(voter: usize, candidate: NodeId) {
    let Some((group, back)) = directed::vote_plan() else { return };
    spawn_at(0, async move {
        let candidate = world(|w| w.hosts.get(&candidate).copied().unwrap_or(0));
        world(|w| w.note(|| format!("host {voter} dies straight after its vote for host {candidate}")));
        let (after, cut_in) = world(|w| (w.rng.between(10, 200), w.rng.between(4, 12)));
        let mut cutting = group.clone();
        cutting.hosts.retain(|at| *at != candidate);
        spawn_at(0, async move {
            sleep_ms(cut_in).await;
            let pairs = cutting.hosts.iter().flat_map(|b| [(candidate, *b), (*b, candidate)]).collect();
            cut(pairs, back);
        });
        restart(&group, voter, after, true).await;
    });
}
