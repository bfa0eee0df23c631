//! `make faults-db`: faults of a database that the nodes run, many times, under writers.
//!
//! `faults_db [--only Kill,Host] [--often 20] [--rarely 5] [--program PATH]`; `faults_db --join 5120` measures the join
//! of a third node with so much data.

#[path = "../../tests/database/faults.rs"]
mod faults;
mod join;
#[path = "../../tests/database/world.rs"]
mod world;
#[path = "../../tests/support/writers.rs"]
mod writers;

use anyhow::{Context, Result};
use clap::Parser;
use faults::{Fault, Seen};
use std::path::PathBuf;
use world::World;

#[derive(Parser, Debug)]
#[command(
    about = "Faults of the database that the nodes run, under 16 writers and checks; every row that was acknowledged must be there"
)]
struct Options {
    /// Only these, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Runs of kill, stop, host and agent
    #[arg(long, default_value_t = 20)]
    often: usize,
    /// Runs of the others
    #[arg(long, default_value_t = 5)]
    rarely: usize,
    /// The program under test
    #[arg(long, default_value = "target/release/elpis")]
    program: PathBuf,
    /// Folder of the cluster, kept at the end; without: a scratch folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// No faults: how a third node joins, with so many MiB of data (three times as much disk is needed)
    #[arg(long, value_name = "MIB")]
    join: Option<u64>,
    /// Network checks beside the writers
    #[arg(long, default_value_t = 300)]
    checks: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(mib) = options.join {
        return join::run(&options.program, mib, options.dir).await;
    }
    let mut world = World::up(&options.program, 3, options.dir)?;
    world.checks(options.checks).await?;
    world.write(3).await?;
    println!(
        "{:<14} {:>5} {:>28} {:>28}",
        "fault", "runs", "written again p50/p95/max ms", "healed p50/p95/max ms"
    );
    let mut bad = 0;
    for fault in Fault::all() {
        if !options.only.is_empty() && !options.only.contains(&fault.name()) {
            continue;
        }
        let often = matches!(fault, Fault::Kill | Fault::Stop(_) | Fault::Host | Fault::Agent);
        let mut seen = Vec::new();
        for run in 0..if often { options.often } else { options.rarely } {
            let fault = match fault {
                Fault::Stop(_) if options.often > 1 => Fault::Stop(30),
                Fault::MasterToo(_) => Fault::MasterToo(run as u64 * 60),
                Fault::PowerCut(_) => Fault::PowerCut(run),
                other => other,
            };
            match faults::run(&world, fault).await {
                Ok(one) => seen.push(one),
                Err(error) => {
                    bad += 1;
                    println!("  {fault:?}: {error:#}");
                    world.healed().await.context("the cluster does not heal; ending")?;
                }
            }
        }
        println!(
            "{:<14} {:>5} {:>28} {:>28}",
            fault.name(),
            seen.len(),
            spread(&seen, |one| one.written_ms),
            spread(&seen, |one| Some(one.healed_ms))
        );
    }
    world.judge().await?;
    let ledger = world.json(&["ledger", "check"])?;
    println!(
        "acknowledged rows {}; recorded twice {} of {}; bad runs {bad}",
        world.writers.count(),
        ledger["recorded_twice"],
        ledger["recorded"]
    );
    if bad > 0 || ledger["recorded_twice"] != 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn spread(seen: &[Seen], of: impl Fn(&Seen) -> Option<u128>) -> String {
    let mut all: Vec<u128> = seen.iter().filter_map(of).collect();
    all.sort_unstable();
    if all.is_empty() {
        return "-".to_owned();
    }
    let at = |part: usize| all[(all.len() * part).div_ceil(100).saturating_sub(1).min(all.len() - 1)];
    format!("{} / {} / {}", at(50), at(95), at(100))
}
