//! The whole machine stands still for 300 ms, again and again: nothing may move.

use crate::dev::{Dev, all_owned};
use crate::report::Report;
use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const STALL: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(700);

pub(crate) async fn run(dev: &Dev, count: u32, report: &mut Report) -> Result<()> {
    let begin = Instant::now();
    let before = dev.status("").await?;
    for number in 0..count {
        let pids: Vec<Pid> = dev.processes()?.into_iter().map(|(_, pid)| Pid::from_raw(pid)).collect();
        for pid in &pids {
            kill(*pid, Signal::SIGSTOP).with_context(|| format!("cannot stop {pid}"))?;
        }
        std::thread::sleep(STALL);
        for pid in &pids {
            kill(*pid, Signal::SIGCONT).with_context(|| format!("cannot continue {pid}"))?;
        }
        // Another rhythm than that of any timer.
        sleep(PAUSE + Duration::from_millis(u64::from(number * 37 % 200))).await;
    }
    dev.until("all goes on", "", Instant::now(), Duration::from_secs(10), all_owned).await?;
    let after = dev.status("").await?;
    let owned = |status: &Value| -> Vec<Value> {
        let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().map(|node| serde_json::json!([node["name"], node["session"], node["shards"]])).collect()
    };
    let term = |status: &Value| status["term"].as_u64().unwrap_or(0);
    let promoted = |status: &Value| status["database"]["epoch"].as_u64().filter(|_| dev.managed());
    let promotions = promoted(&after).zip(promoted(&before)).map_or(0, |(after, before)| after - before);
    // The revision moves with the acknowledging copies too.
    let moved = !dev.managed() && before["revision"] != after["revision"];
    let same = owned(&before) == owned(&after) && !moved && promotions == 0;
    report.row(
        format!("{count} stalls of 300 ms of all processes: shard moves, promotions of a database"),
        "0",
        format!(
            "{}; {promotions} promotions; {} changes of leader; {} s",
            if same {
                "0".to_owned()
            } else {
                format!("{:?} before, {:?} after", owned(&before), owned(&after))
            },
            term(&after) - term(&before),
            begin.elapsed().as_secs()
        ),
        same,
    );
    Ok(())
}
