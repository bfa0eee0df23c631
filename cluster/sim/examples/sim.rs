//! Runs seeds of the simulator: `sim --seed N [--verbose]`, `sim --seeds FROM..TO [--expect-violation]`; with `--database`
//! those of the database group.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a tool for developers

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

thread_local! {
    static SEED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (mut from, mut to, mut verbose, mut expect, mut database) = (1, 100, false, false, false);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seed" => {
                from = arguments.next().expect("a seed").parse().expect("a number");
                to = from;
            }
            "--seeds" => {
                let range = arguments.next().expect("FROM..TO");
                let (low, high) = range.split_once("..").expect("FROM..TO");
                (from, to) = (low.parse().expect("a number"), high.parse().expect("a number"));
            }
            "--planted" => {
                let names: &[&str] = match database {
                    true => &elpis_cluster::planted::DATABASE,
                    false => &elpis_cluster::planted::NAMES,
                };
                println!("{}", names.join("\n"));
                return ExitCode::SUCCESS;
            }
            "--database" => database = true,
            "--verbose" => verbose = true,
            "--expect-violation" => expect = true,
            other => panic!("unknown argument {other}"),
        }
    }
    // A release build ends at a panic: then at least its seed is told.
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        eprintln!("seed {}:", SEED.get());
        told(panic);
    }));
    let started = std::time::Instant::now();
    let (next, failed, stop) = (AtomicU64::new(from), AtomicU64::new(0), AtomicBool::new(false));
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed > to {
                        return;
                    }
                    SEED.set(seed);
                    let (report, good) = if database {
                        let report = elpis_sim::group::run(seed, verbose);
                        (report.to_string(), report.violations.is_empty())
                    } else {
                        let report = elpis_sim::run(seed, verbose);
                        (report.to_string(), report.violations.is_empty())
                    };
                    if good {
                        if from == to || seed.is_multiple_of(500) {
                            println!("{report}");
                        }
                        continue;
                    }
                    println!(
                        "{report}\n  replay: cargo run -p elpis-sim --example sim -- --seed {seed} --verbose"
                    );
                    failed.fetch_add(1, Ordering::SeqCst);
                    if expect {
                        stop.store(true, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    let run = next.into_inner().min(to + 1) - from;
    println!("{run} seeds in {} s, {failed} with violations", started.elapsed().as_secs());
    if (failed > 0) == expect { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
