//! The MariaDB of the simulator against MariaDB: the same scripts on both, and the same answers. What they show is what
//! the failover is built on; before another series of MariaDB is used they run on that.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test says what broke by panicking

mod real;
mod scripts;
mod twin;

use scripts::{SCRIPTS, Trio};

/// Trios at work at once: they wait more than they work.
const TRIOS: usize = 3;

#[test]
fn the_twin_answers_as_the_servers_do() {
    let first = match real::Real::new() {
        Ok(real) => real,
        Err(why) => {
            println!("SKIPPED the_twin_answers_as_the_servers_do: {why}");
            return;
        }
    };
    let others = (1..TRIOS).map(|_| real::Real::new().unwrap());
    let trios: Vec<real::Real> = std::iter::once(first).chain(others).collect();
    std::thread::scope(|scope| {
        for (turn, mut real) in trios.into_iter().enumerate() {
            scope.spawn(move || {
                for (name, script) in SCRIPTS.iter().skip(turn).step_by(TRIOS) {
                    let mut twin = twin::Twin::new();
                    script(&mut twin);
                    real.fresh();
                    script(&mut real);
                    assert_eq!(
                        twin.seen(),
                        real.seen(),
                        "{name}: the twin on the left, MariaDB on the right"
                    );
                    println!("{name}: {}", real.seen().join("; "));
                }
            });
        }
    });
}
