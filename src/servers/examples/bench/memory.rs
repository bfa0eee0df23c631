//! What a network server needs for 100,000 modules.

use crate::fake::number;
use crate::network::{TARGETS, World};
use crate::report::Report;
use anyhow::{Result, ensure};
use std::path::Path;
use std::time::Duration;
use tokio::time::sleep;

const EACH: u32 = 391;
const INTERVAL_S: u32 = 60;
const BAR_MIB: f64 = 200.0;

pub(crate) async fn run(program: &Path, report: &mut Report) -> Result<()> {
    let world = World::pings(EACH, INTERVAL_S).await?;
    let server = world.start(program, &[])?;
    // Every module has run once, some twice.
    sleep(Duration::from_secs(90)).await;
    let ran = number(&world.db, "SELECT COUNT(*) FROM tmodule_state WHERE last_slot>0").await;
    ensure!(ran == i64::from(EACH * TARGETS), "only {ran} modules ran");
    let (now, peak) = (server.mib("VmRSS"), server.mib("VmHWM"));
    report.row(
        format!("network server with {} modules, each run: memory", EACH * TARGETS),
        "200 MiB",
        format!("{now:.0} MiB, {peak:.0} at most"),
        peak <= BAR_MIB,
    );
    Ok(())
}
