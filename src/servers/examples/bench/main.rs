//! `make bench`: how much a data server and a network server store in a second, against what the database can do.
//!
//! The servers are real processes of the product; the node agent is a fake that gives them all shards. The database is
//! a private MariaDB with durable settings on the same machine, so that all of it shares the cores.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a tool for developers

mod bare;
mod cost;
mod data;
#[allow(dead_code)] // the tests use the rest
#[path = "../../tests/servers/fake.rs"]
mod fake;
mod files;
mod memory;
mod network;
mod process;
#[allow(dead_code)] // `make proof` uses the rest
#[path = "../../../../tests/examples/proof/report.rs"]
mod report;
mod snmp;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use report::Report;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Files from the spool to committed samples, against bare statements
    Data,
    /// TCP, ICMP and SNMP results stored
    Network,
    /// What the run ledger costs
    Ledger,
    /// A network server with 100,000 modules
    Memory,
    /// What the database gate and acknowledging replicas cost
    Database,
}

/// Measures how much the servers store in a second; exit code 1 when a bar is missed.
#[derive(Debug, Parser)]
struct Options {
    /// Only these parts
    #[arg(long, value_enum)]
    part: Vec<Part>,
    /// The program under test
    #[arg(long, default_value = "target/release/elpis")]
    program: PathBuf,
    /// Files of each of the 1,000 agents, all values changing; part database: half as many
    #[arg(long, default_value_t = 40)]
    files: u32,
    /// Seconds a kind of check is measured
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Also write the figures as JSON here
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let program = std::fs::canonicalize(&options.program)
        .with_context(|| format!("{} is not built; `make build` makes it", options.program.display()))?;
    let wanted = |part: Part| options.part.is_empty() || options.part.contains(&part);
    let mut report = Report::default();
    let begin = Instant::now();
    tokio::runtime::Runtime::new()?.block_on(async {
        if wanted(Part::Data) {
            data::run(&program, options.files, &mut report).await?;
        }
        if wanted(Part::Network) {
            network::run(&program, options.seconds, &mut report).await?;
        }
        if wanted(Part::Ledger) {
            network::ledger(&program, options.seconds, &mut report).await?;
        }
        if wanted(Part::Memory) {
            memory::run(&program, &mut report).await?;
        }
        if wanted(Part::Database) {
            cost::run(&program, options.files / 2, &mut report).await?;
        }
        anyhow::Ok(())
    })?;
    report.close(begin.elapsed(), options.json.as_deref())
}
