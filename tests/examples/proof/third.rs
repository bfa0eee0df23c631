//! A node is added to a cluster that works: from the command to the first result that it stored.

use crate::dev::{Dev, LOOK};
use crate::kills::Checks;
use crate::report::Report;
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const LIMIT: Duration = Duration::from_secs(90);

pub(crate) async fn run(program: &Path, count: u32, report: &mut Report) -> Result<()> {
    let dev = Dev::up(program, 2, false)?;
    let checks = Checks::add(&dev, count, 0).await?;
    let begin = Instant::now();
    dev.grow(3)?;
    let first = loop {
        if let Some(run) =
            checks.tail.last()?.values().filter(|run| &*run.node == "n3").min_by_key(|run| run.seen)
        {
            break run.seen.duration_since(begin).as_secs_f64();
        }
        ensure!(begin.elapsed() < LIMIT, "the third node stored no result within {} s", LIMIT.as_secs());
        sleep(LOOK).await;
    };
    report.row(
        "third node: from the command to the first result that it stored",
        "30 s",
        format!("{first:.1} s"),
        first <= 30.0,
    );
    Ok(())
}
