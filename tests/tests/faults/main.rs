//! Faults that loopback cannot play: three nodes of real processes, each in a network namespace of its own, whose links
//! are cut both ways, one way and again and again, whose processes are killed, stopped and kept dead. The run ledger
//! says in the end whether anything ran twice or stood still for long.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

mod addresses;
mod partition;
mod world;
#[path = "../support/writers.rs"]
mod writers;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use world::World;

/// One cluster at a time: two make each other late, and namespaces have names.
static MACHINE: Mutex<()> = Mutex::new(());

/// The right to make namespaces; `None` where none can be.
fn machine(test: &str) -> Option<MutexGuard<'static, ()>> {
    if let Some(why) = World::impossible() {
        println!("SKIPPED {test}: {why}");
        return None;
    }
    Some(MACHINE.lock().unwrap_or_else(PoisonError::into_inner))
}

const CHECKS: u32 = 60;
const YEAR_S: i64 = 31_536_000;
/// A node cut off or dead: owned again within the bar times a busy machine.
const MOVED: Duration = Duration::from_secs(12);

#[test]
fn links_and_processes_fail_and_nothing_runs_twice() {
    let Some(_machine) = machine("links_and_processes_fail_and_nothing_runs_twice") else { return };
    let mut world = World::new();
    world.form();
    world.add_checks(CHECKS, 2);
    let from = world.unix_s();

    // A node comes back with its clock a year ahead, works by the cluster's time, and goes through all that follows.
    let node = world.busiest_but(None);
    world.kill_all(node);
    world.until_lost(node, MOVED);
    world.set_clock(node, YEAR_S);
    world.start_all(node);
    world.until("it owns shards again", Duration::from_secs(60), |world| {
        world.any_status().is_some_and(|status| world.shards(&status, node) > 10)
    });
    let since = world.unix_s();
    world.until("it has stored results", Duration::from_secs(20), |world| {
        let ledger = world.ledger(since, world.unix_s() + 1);
        ledger["by_node"][world::name(node)].as_u64() > Some(10)
    });
    let modules = world.api(node, "/api/v1/modules").unwrap();
    for module in modules.as_array().unwrap() {
        let at = module["timestamp"].as_i64().unwrap();
        assert!((at - world.unix_s()).abs() < 60, "a year off: {module}");
    }

    // The master is cut off: it stops by itself, the others go on.
    let master = world.master();
    world.cut(master);
    let took = world.until_lost(master, MOVED);
    println!("master cut off: owned again after {took:?}");
    world.until("the one cut off holds no lease", Duration::from_secs(5), |world| {
        world.status(master).is_some_and(|status| status["master"].is_null())
    });
    world.heal(master);
    world.until_back(master);

    // A follower is heard by nobody, though it hears.
    let mute = world.busiest_but(Some(world.master()));
    world.mute(mute);
    let took = world.until_lost(mute, MOVED);
    println!("mute: owned again after {took:?}");
    world.unmute(mute);
    world.until_back(mute);

    // A link that comes and goes, faster than a lease and slower: it is held down, and gets no work to lose again.
    let flapping = world.busiest_but(Some(world.master()));
    let before = world.reassignments(flapping);
    for round in 0..8u64 {
        world.cut(flapping);
        std::thread::sleep(Duration::from_millis(200 + round * 300));
        world.heal(flapping);
        std::thread::sleep(Duration::from_millis(400));
    }
    world.until_back(flapping);
    let moved = world.reassignments(flapping) - before;
    println!("a flapping link: its work moved {moved} times");
    assert!(moved <= 3, "8 cuts moved work {moved} times");

    // Servers die and hang; each is started again as a supervisor would.
    for (role, signal) in [
        ("network-server", "KILL"),
        ("data-server", "KILL"),
        ("tentacle-server", "KILL"),
        ("network-server", "STOP"),
        ("data-server", "STOP"),
    ] {
        let node = world.busiest_but(None);
        world.signal(node, role, signal);
        world.until("the process is gone", Duration::from_secs(8), |world| !world.runs(node, role));
        world.start_again(node, role);
        println!("{role} {signal}: back");
    }

    // Stopped at any moment of its transactions: between fence and COMMIT too.
    let node = world.busiest_but(None);
    for pause in [40u64, 170, 310, 90] {
        std::thread::sleep(Duration::from_millis(pause));
        world.signal(node, "network-server", "STOP");
        std::thread::sleep(Duration::from_millis(1_200));
        world.signal(node, "network-server", "CONT");
    }
    world.until_back(node);

    // A node agent dies under its servers: they stop by themselves, and the others take over.
    let node = world.busiest_but(Some(world.master()));
    world.signal(node, "node", "KILL");
    let took = world.until_lost(node, MOVED);
    println!("node agent killed: owned again after {took:?}");
    world.start(node, "node");
    world.until_back(node);

    // A server that stays dead under a living node agent, on the master: its shards go to others in the end.
    let node = world.master();
    world.signal(node, "data-server", "KILL");
    let took = world.until("its shards have gone", Duration::from_secs(60), |world| {
        world.any_status().is_some_and(|status| world.shards(&status, node) == 0 && world::all_owned(&status))
    });
    println!("a data server that stays dead: its node owns nothing after {took:?}");
    world.start_again(node, "data-server");

    // A node dies with a COMMIT in flight, which the database makes good after its death.
    let mut caught = None;
    world.until("a COMMIT is in flight", Duration::from_secs(60), |world| {
        world.hold_commits();
        // Longer than an interval of the checks. None in that time: a takeover's COMMIT holds the rows back that the
        // others' transactions begin with.
        for _ in 0..40 {
            caught = world.in_commit().first().copied();
            if caught.is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        world.let_commits_go();
        std::thread::sleep(Duration::from_millis(1_500));
        false
    });
    let caught = caught.unwrap();
    let node = world.numbered(caught);
    world.kill_all(node);
    let outlived = world.in_commit();
    assert!(
        outlived.contains(&caught),
        "{caught}'s COMMIT did not outlive its client, those of {outlived:?} did"
    );
    world.let_commits_go();
    let took = world.until_lost(node, MOVED);
    println!("killed with a COMMIT in flight: owned again after {took:?}");
    world.start_all(node);

    // Slots of the last seconds may be on their way.
    std::thread::sleep(Duration::from_secs(4));
    let ledger = world.ledger(from, world.unix_s() - 3);
    println!("{ledger}");
    assert_eq!(ledger["recorded_twice"], 0, "{ledger}");
    // Most of what was due ran, however quickly all of this went by.
    let count = |name: &str| ledger[name].as_u64().unwrap_or(0);
    assert!(count("due") > u64::from(CHECKS) * 15 && count("recorded") * 10 > count("due") * 6, "{ledger}");
    assert!(ledger["longest_gap_ms"].as_i64() <= Some(40_000), "{ledger}");
}
