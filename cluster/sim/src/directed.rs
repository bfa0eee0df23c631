//! Faults that need several things at the right moment: each aims at a rule around elections and transfers.

use crate::faults::restart;
use crate::node::{host, running};
use crate::rt::{sleep_ms, spawn_at, virtual_ms};
use crate::world::world;
use crate::{Group, leader};
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    static VOTE_PLAN: RefCell<Option<(Group, u64)>> = const { RefCell::new(None) };
}

/// Takes the plan for the voter that votes next: the group, and for how long its candidate is cut off.
pub(crate) fn vote_plan() -> Option<(Group, u64)> {
    if !world(|w| std::mem::take(&mut w.kill_after_vote)) {
        return None;
    }
    VOTE_PLAN.take()
}

/// One of them, until it is over.
pub(crate) async fn any(group: &Group) {
    let kind = world(|w| w.rng.between(0, 5));
    world(|w| w.note(|| format!("directed fault {kind}")));
    match kind {
        0 => drop(transfer(group).await),
        1 => transfer_and_lose_the_old_leader(group).await,
        2 => transfer_and_lose_the_new_leader(group).await,
        3 => vote_and_die(group).await,
        _ => promise_and_restart(group).await,
    }
    world(|w| w.still_clients = false);
}

fn pair(a: usize, b: usize, on: bool) {
    world(|w| {
        w.cut(a, b, on);
        w.cut(b, a, on);
    });
}

/// Cuts or joins one host from these.
fn apart(at: usize, from: &[usize], on: bool) {
    from.iter().filter(|b| **b != at).for_each(|b| pair(at, *b, on));
}

/// A leader that may give its leadership away, and who follows it.
async fn settled(group: &Group) -> Option<(usize, Vec<usize>)> {
    let until = virtual_ms() + 14_000;
    let mut seen = (0, 0, virtual_ms());
    loop {
        let at = leader(&group.hosts)?;
        let (term, _, id, _) = running(at)?.hint();
        if (seen.0, seen.1) != (at, term) {
            seen = (at, term, virtual_ms());
        }
        let follows = |b: &usize| *b != at && running(*b).is_some_and(|node| node.hint().2 == id);
        let followers: Vec<usize> = group.voters.iter().copied().filter(follows).collect();
        if virtual_ms() - seen.2 > 10_200 && followers.len() * 2 >= group.voters.len() {
            return Some((at, followers));
        }
        if virtual_ms() > until {
            return None;
        }
        sleep_ms(100).await;
    }
}

fn begin_transfer(from: usize, to: usize) -> Option<()> {
    let (node, to) = (running(from)?, host(to, |host| host.id));
    spawn_at(node.place, {
        let node = Arc::clone(&node);
        async move {
            let _ = node.transfer(to).await;
        }
    });
    Some(())
}

async fn transfer(group: &Group) -> Option<(usize, usize)> {
    let (at, followers) = settled(group).await?;
    let to = world(|w| w.rng.pick(&followers))?;
    world(|w| w.still_clients = true);
    // So that the follower has everything.
    sleep_ms(250).await;
    begin_transfer(at, to)?;
    Some((at, to))
}

/// The old leader is cut off right after, alone or with one that hears nobody else.
async fn transfer_and_lose_the_old_leader(group: &Group) {
    let Some((at, followers)) = settled(group).await else { return };
    let Some(to) = world(|w| w.rng.pick(&followers)) else { return };
    world(|w| w.still_clients = true);
    let others: Vec<usize> = group.hosts.iter().copied().filter(|b| *b != at && *b != to).collect();
    let spare: Vec<usize> =
        others.iter().copied().filter(|b| !group.voters.contains(b) || group.voters.len() == 5).collect();
    let friend = world(|w| if w.rng.chance(70) { w.rng.pick(&spare) } else { None });
    let without: Vec<usize> =
        group.hosts.iter().copied().filter(|b| Some(*b) != friend && *b != at).collect();
    sleep_ms(250).await;
    if let Some(friend) = friend {
        apart(friend, &without, true);
    }
    let _ = begin_transfer(at, to);
    let (wait, hold, deaf) = world(|w| (w.rng.between(3, 20), w.rng.between(2500, 7000), w.rng.chance(60)));
    // Deaf at once, it does not hear its successor's call for votes and goes on as if it led.
    if deaf {
        world(|w| without.iter().for_each(|b| w.cut(*b, at, true)));
    }
    sleep_ms(wait).await;
    apart(at, &without, true);
    sleep_ms(hold).await;
    apart(at, &without, false);
    if deaf {
        world(|w| without.iter().for_each(|b| w.cut(*b, at, false)));
    }
    if let Some(friend) = friend {
        apart(friend, &without, false);
    }
}

/// The new leader is cut off as soon as it leads, and a follower restarts at once.
async fn transfer_and_lose_the_new_leader(group: &Group) {
    let Some((at, to)) = transfer(group).await else { return };
    let others: Vec<usize> = group.voters.iter().copied().filter(|b| *b != at && *b != to).collect();
    let Some(third) = world(|w| w.rng.pick(&others)) else { return };
    for _ in 0..100 {
        sleep_ms(1).await;
        if running(to).is_some_and(|node| node.hint().1) {
            break;
        }
    }
    let (wait, after, hold) =
        world(|w| (w.rng.between(3, 25), w.rng.between(5, 60), w.rng.between(2500, 6000)));
    sleep_ms(wait).await;
    apart(to, &group.hosts, true);
    restart(group, third, after, true).await;
    sleep_ms(hold).await;
    apart(to, &group.hosts, false);
}

/// The leader dies; the first voter for another one dies straight after its vote; the leader comes back.
async fn vote_and_die(group: &Group) {
    let Some(at) = leader(&group.hosts) else { return };
    let (back, after) = world(|w| (w.rng.between(4000, 8000), w.rng.between(200, 2500)));
    world(|w| (w.kill_after_vote, w.still_clients) = (true, true));
    VOTE_PLAN.set(Some((group.clone(), back)));
    restart(group, at, after, true).await;
    sleep_ms(6000).await;
    world(|w| w.kill_after_vote = false);
}

/// A follower that has just given its leader a majority restarts at once, cut off from it, while another voter has not
/// heard that leader for longer than its promise holds; a third node hears the old leader only.
async fn promise_and_restart(group: &Group) {
    let Some(at) = leader(&group.hosts) else { return };
    let Some(node) = running(at) else { return };
    let lease = u64::try_from(node.lease_timings().lease_ms).unwrap_or(1500);
    let longest = node.patience.timings().election_max_ms;
    drop(node);
    let voters: Vec<usize> = group.voters.iter().copied().filter(|b| *b != at).collect();
    // With three voters one follower makes the majority, with five two do.
    let (near, far) = voters.split_at(voters.len() / 2);
    let (near, far) = if world(|w| w.rng.chance(50)) { (near, far) } else { (far, near) };
    let learners: Vec<usize> = group.hosts.iter().copied().filter(|b| !group.voters.contains(b)).collect();
    world(|w| w.still_clients = true);
    sleep_ms(300).await;
    far.iter().for_each(|b| pair(at, *b, true));
    let wait = world(|w| w.rng.between(longest + 60, lease - 50));
    sleep_ms(wait).await;
    near.iter().for_each(|b| pair(at, *b, true));
    for learner in &learners {
        voters.iter().for_each(|b| pair(*learner, *b, true));
    }
    let after = world(|w| w.rng.between(5, 40));
    for b in near {
        let (group, b) = (group.clone(), *b);
        spawn_at(0, async move { restart(&group, b, after, true).await });
    }
    let hold = world(|w| w.rng.between(lease + 1500, lease + 4000));
    sleep_ms(hold).await;
    near.iter().chain(far).for_each(|b| pair(at, *b, false));
    for learner in &learners {
        voters.iter().for_each(|b| pair(*learner, *b, false));
    }
}
