//! `make proof`: the bars of a failover, measured from outside on a development cluster of real processes.
//!
//! It believes nothing that the cluster says about itself but who owns what: results are seen in the database by a
//! reader of its own, files are sent by a client of its own, and both are compared with what must be there.

mod dev;
mod drain;
mod dump;
mod files;
mod kills;
mod machine;
mod report;
mod sender;
mod stalls;
mod tail;
mod third;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use dev::Dev;
use report::Report;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Nodes killed and hung while checks run
    Kills,
    /// A node drained
    Drain,
    /// The whole machine stands still for 300 ms
    Stalls,
    /// A node added
    Third,
    /// Files sent while a node dies for good
    Files,
}

const ALL: [Part; 5] = [Part::Kills, Part::Drain, Part::Stalls, Part::Third, Part::Files];

/// Measures failover, moves, stalls and files on a cluster of this machine; exit code 1 when a bar is missed.
#[derive(Debug, Parser)]
struct Options {
    /// Only these parts
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// The program under test
    #[arg(long, default_value = "target/release/elpis")]
    program: PathBuf,
    /// Kills: a third the master, a third another node, a third hung
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// Checks at 10 s
    #[arg(long, default_value_t = 3_000)]
    checks: u32,
    /// Further checks at 5 s, for the number of executions
    #[arg(long, default_value_t = 2_500)]
    extra: u32,
    /// Rounds go on until so many executions are recorded
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// Drains
    #[arg(long, default_value_t = 10)]
    drains: u32,
    /// Stalls
    #[arg(long, default_value_t = 100)]
    stalls: u32,
    /// Rounds with files, each on a cluster of its own
    #[arg(long, default_value_t = 30)]
    rounds: u32,
    /// Files of a round
    #[arg(long, default_value_t = 20_000)]
    files: u32,
    /// The nodes run the database (kills: its primary's node each time; kills, drain and stalls only)
    #[arg(long)]
    managed: bool,
    /// Seed of the random moments
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the figures as JSON here
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let program = std::fs::canonicalize(&options.program)
        .with_context(|| format!("{} is not built; `make build` makes it", options.program.display()))?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut report = Report::default();
    let begin = Instant::now();
    runtime.block_on(run(&options, &program, &mut report))?;
    report.close(begin.elapsed(), options.json.as_deref())
}

async fn run(options: &Options, program: &Path, report: &mut Report) -> Result<()> {
    let wanted = |part: Part| options.part.is_empty() || options.part.contains(&part);
    ensure!(ALL.into_iter().any(wanted), "nothing to do");
    let alone = !(wanted(Part::Third) || wanted(Part::Files));
    ensure!(alone || !options.managed, "--managed goes with --part kills, drain and stalls only");
    // These share one cluster: its checks are there already.
    if wanted(Part::Kills) || wanted(Part::Drain) || wanted(Part::Stalls) {
        let dev = Dev::up(program, 3, options.managed)?;
        let checks = kills::Checks::add(&dev, options.checks, options.extra).await?;
        if wanted(Part::Drain) {
            drain::run(&dev, &checks, options.drains, report).await?;
        }
        if wanted(Part::Stalls) {
            stalls::run(&dev, options.stalls, report).await?;
        }
        if wanted(Part::Kills) {
            kills::run(&dev, &checks, options.kills, options.executions, report).await?;
        }
    }
    if wanted(Part::Third) {
        third::run(program, options.checks, report).await?;
    }
    if wanted(Part::Files) {
        files::run(program, options.files, options.rounds, options.seed, report).await?;
    }
    Ok(())
}
