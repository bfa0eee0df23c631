//! The nodes' own database when links fail: the primary alone with its clients, heard by nobody, and cut off from those
//! that acknowledge while its node is well.

use crate::world::World;
use crate::writers::{Writers, well};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// Written again: five times the bar of a lost host.
const WRITTEN: Duration = Duration::from_millis(17_500);
const WELL: Duration = Duration::from_secs(90);
/// Longer than any lease: afterwards nothing that the old primary says counts.
const OVER: Duration = Duration::from_secs(6);

#[test]
fn the_primary_is_cut_off_with_its_clients() {
    let Some(_machine) = crate::machine("the_primary_is_cut_off_with_its_clients") else { return };
    let mut world = World::managed();
    world.form();
    world.add_checks(30, 2);
    let runtime = Runtime::new().unwrap();
    let mut writers = Writers::default();
    runtime.block_on(Writers::prepare(&world.through_gate(1))).unwrap();
    {
        let _runtime = runtime.enter();
        for writer in 0..6u8 {
            let node = writer % 3 + 1;
            writers.start(node.into(), world.through_gate(node));
        }
    }
    let from = world.unix_s();
    for (what, cut, heal) in [
        ("cut off", World::cut as fn(&World, u8), World::heal as fn(&World, u8)),
        ("heard by nobody", World::mute, World::unmute),
    ] {
        let (primary, epoch) = well_again(&world);
        cut(&world, primary);
        let since = Instant::now();
        world.until("rows are written", WRITTEN, |_| writers.written_after(since).is_some());
        println!("{what}: written again after {:?}", writers.written_after(since).unwrap());
        std::thread::sleep(OVER);
        let alone = Instant::now();
        std::thread::sleep(OVER);
        let there = writers.acknowledged();
        let wrong = there.iter().find(|one| one.asked >= alone && one.node == usize::from(primary));
        assert!(wrong.is_none(), "{what}: the minority acknowledged {wrong:?}");
        assert!(there.iter().any(|one| one.asked >= alone), "{what}: the majority writes");
        heal(&world, primary);
        let (_, after) = well_again(&world);
        assert!(after > epoch, "{what}: nobody else became primary");
        judge(&world, &runtime, &writers);
    }

    // Its node is heard, and Raft goes on; no database gets to it.
    let (primary, epoch) = well_again(&world);
    world.cut_gate(primary);
    let since = Instant::now();
    world.until("rows are written", WRITTEN, |_| writers.written_after(since).is_some());
    println!("no way to its database: written again after {:?}", writers.written_after(since).unwrap());
    std::thread::sleep(OVER);
    world.unmute(primary);
    let (_, after) = well_again(&world);
    assert!(after > epoch, "nobody else became primary");
    judge(&world, &runtime, &writers);
    println!("{} rows acknowledged", writers.count());

    std::thread::sleep(Duration::from_secs(4));
    let ledger = world.ledger(from, world.unix_s() - 3);
    assert_eq!(ledger["recorded_twice"], 0, "{ledger}");
    assert!(ledger["recorded"].as_u64() > Some(100), "{ledger}");
}

/// Waits for it; says who is primary, and in which epoch.
fn well_again(world: &World) -> (u8, u64) {
    let mut seen = None;
    world.until("the database is well", WELL, |world| {
        seen = world.any_status().filter(well);
        seen.is_some()
    });
    let status = seen.unwrap();
    (World::primary(&status), status["database"]["epoch"].as_u64().unwrap())
}

fn judge(world: &World, runtime: &Runtime, writers: &Writers) {
    let (primary, _) = well_again(world);
    let others = (1..=3).filter(|node| *node != primary).map(|node| world.own_socket(node));
    let others: Vec<_> = others.collect();
    let others: Vec<_> = others.iter().map(std::path::PathBuf::as_path).collect();
    runtime.block_on(writers.judge(&world.own_socket(primary), &others)).unwrap();
}
