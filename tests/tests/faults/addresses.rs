//! A virtual address is where a living node is, and never at two places that can be heard.

use crate::world::World;
use std::time::{Duration, Instant};

const ADDRESS: &str = "10.99.0.100";
/// Five times what it takes here: a lease, or two seconds of the kernel, and a question to the wire.
const MOVED: Duration = Duration::from_secs(15);

#[test]
fn a_virtual_address_follows_the_living() {
    let Some(_machine) = crate::machine("a_virtual_address_follows_the_living") else { return };
    let mut world = World::new();
    world.addresses = true;
    world.form();
    let begin = Instant::now();
    world.set_address(ADDRESS, true).unwrap();
    assert!(world.set_address("10.99.0.100/24", true).unwrap_err().contains("no virtual address"));
    world.until("it answers", MOVED, |world| world.answers(ADDRESS));
    println!("answers {:?} after the order", begin.elapsed());

    // The holder's processes die; its kernel lets the address go.
    let holder = one_holder(&world);
    let begin = Instant::now();
    world.kill_all(holder);
    world.until("another one holds it", MOVED, |world| {
        let holders = world.holders(ADDRESS);
        assert!(holders.len() < 2, "held by {holders:?} at once");
        holders.first().is_some_and(|now| *now != holder)
    });
    world.until("it answers", MOVED, |world| world.answers(ADDRESS));
    println!("holder killed: answers after {:?}", begin.elapsed());
    world.start_all(holder);

    // Its cable is out: it lets go by itself, whatever it hears.
    let holder = one_holder(&world);
    let begin = Instant::now();
    world.cut(holder);
    world.until("it answers elsewhere", MOVED, |world| world.answers(ADDRESS));
    println!("holder cut off: answers after {:?}", begin.elapsed());
    world.until("the one cut off has let it go", MOVED, |world| !world.holders(ADDRESS).contains(&holder));
    world.heal(holder);
    world.until_back(holder);

    // Only its keeper hangs.
    let holder = one_holder(&world);
    let begin = Instant::now();
    world.signal(holder, "address-keeper", "STOP");
    world.until("the kernel has let it go", MOVED, |world| !world.holders(ADDRESS).contains(&holder));
    world.until("it answers", MOVED, |world| world.answers(ADDRESS));
    println!("keeper hung: answers after {:?}", begin.elapsed());
    world.until("the hung one is gone", MOVED, |world| !world.runs(holder, "address-keeper"));
    world.start_again(holder, "address-keeper");

    // By order.
    let holder = one_holder(&world);
    let begin = Instant::now();
    world.drain(holder, true);
    world.until("another one holds it", MOVED, |world| {
        world.holders(ADDRESS).first().is_some_and(|now| *now != holder)
    });
    world.until("it answers", MOVED, |world| world.answers(ADDRESS));
    println!("drained: answers elsewhere after {:?}", begin.elapsed());
    world.drain(holder, false);

    world.set_address(ADDRESS, false).unwrap();
    world.until("nobody holds it", MOVED, |world| world.holders(ADDRESS).is_empty());
    assert!(world.set_address(ADDRESS, false).unwrap_err().contains("there is no virtual address"));
}

fn one_holder(world: &World) -> u8 {
    let mut holders = Vec::new();
    world.until("one node holds it", MOVED, |world| {
        holders = world.holders(ADDRESS);
        holders.len() == 1
    });
    holders[0]
}
