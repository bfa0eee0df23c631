//! This machine's real figures as an agent: CPU, memory, disk, load, every few seconds, over Tentacle.
//!
//! Reads `/proc`; a figure that cannot be read is left out. A file that no node takes is dropped, as the next one
//! is already there.

use super::layout::{Layout, NodePorts, local};
use crate::cli::Feed;
use crate::output;
use anyhow::{Result, bail};
use elpis_tentacle::client::{self, ClientConfig, Tls};
use jiff::Timestamp;
use nix::sys::statvfs::statvfs;
use std::fs;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// A node that is silent this long is given up for this file.
const PATIENCE: Duration = Duration::from_secs(4);

/// Sends until it is ended; with `once` one file.
pub(super) async fn run(layout: &Layout, options: &Feed) -> Result<()> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let name = if name.is_empty() { "localhost".to_owned() } else { name };
    let mut ticks = interval(Duration::from_secs(u64::from(options.interval)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Ticks::read();
    let mut last = None;
    loop {
        ticks.tick().await;
        if options.once {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let now = Ticks::read();
        let figures = figures(before, now);
        before = now;
        // Names of files differ also when the interval is a second and the clock steps.
        let second = Timestamp::now().as_second().max(last.map_or(0, |last: i64| last + 1));
        last = Some(second);
        let text = report(&name, options.interval, Timestamp::now(), &figures);
        let sent = send(layout, format!("{name}.{second}.data"), text).await;
        match (sent, options.once) {
            (Ok(node), _) => output::line(&format!("{} figures of {name} sent to {node}", figures.len())),
            (Err(e), true) => return Err(e),
            (Err(e), false) => eprintln!("elpis: {e:#}"),
        }
        if options.once {
            return Ok(());
        }
    }
}

/// To the first node that takes it; returns its name.
async fn send(layout: &Layout, file: String, text: String) -> Result<String> {
    let mut failures = Vec::new();
    let nodes: Vec<NodePorts> = layout.ports()?.nodes;
    let file = [(file, text.into_bytes())];
    for node in nodes.iter().filter(|node| !layout.down_mark(&node.name).exists()) {
        let config = ClientConfig {
            address: local(node.tentacle).to_string(),
            tls: Tls::Off,
            password: None,
            idle: PATIENCE,
            size: 0,
        };
        match tokio::time::timeout(PATIENCE, client::send_contents(&config, &file)).await {
            Ok(Ok(())) => return Ok(node.name.clone()),
            Ok(Err(e)) => failures.push(format!("{}: {:#}", node.name, anyhow::Error::from(e))),
            Err(_) => failures.push(format!("{}: silent for {} s", node.name, PATIENCE.as_secs())),
        }
    }
    bail!("no node took the file ({})", failures.join("; "))
}

/// One module of the report.
struct Figure {
    name: &'static str,
    unit: &'static str,
    value: f64,
}

/// CPU time since the machine started, in clock ticks.
#[derive(Clone, Copy)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    fn read() -> Option<Ticks> {
        Ticks::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Ticks> {
        let line = stat.lines().next()?.strip_prefix("cpu ")?;
        // user nice system idle iowait irq softirq steal; guest time is in user already.
        let times: Vec<u64> = line.split_whitespace().take(8).filter_map(|t| t.parse().ok()).collect();
        let idle = times.get(3)?.saturating_add(*times.get(4)?);
        let all = times.iter().fold(0, |sum: u64, t| sum.saturating_add(*t));
        Some(Ticks { busy: all.saturating_sub(idle), all })
    }
}

fn figures(before: Option<Ticks>, now: Option<Ticks>) -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut add = |name, unit, value: Option<f64>| {
        if let Some(value) = value.filter(|v| v.is_finite()) {
            figures.push(Figure { name, unit, value });
        }
    };
    add("CPU Load", "%", before.zip(now).and_then(|(before, now)| cpu(before, now)));
    let memory = fs::read_to_string("/proc/meminfo").ok();
    add("Memory Used", "%", memory.as_deref().and_then(|text| used(text, "MemTotal", "MemAvailable")));
    add("Swap Used", "%", memory.as_deref().and_then(|text| used(text, "SwapTotal", "SwapFree")));
    add("Disk Used /", "%", disk());
    let load = fs::read_to_string("/proc/loadavg").ok();
    let load: Vec<&str> = load.as_deref().unwrap_or_default().split_whitespace().collect();
    add("Load Average", "", load.first().and_then(|l| l.parse().ok()));
    let processes = load.get(3).and_then(|p| p.split('/').nth(1)).and_then(|p| p.parse().ok());
    add("Tasks", "", processes);
    let uptime = fs::read_to_string("/proc/uptime").ok();
    add("Uptime", "s", uptime.and_then(|u| u.split_whitespace().next().and_then(|u| u.parse().ok())));
    figures
}

#[allow(clippy::cast_precision_loss)] // percentages
fn cpu(before: Ticks, now: Ticks) -> Option<f64> {
    let all = now.all.checked_sub(before.all).filter(|all| *all > 0)?;
    Some(now.busy.saturating_sub(before.busy) as f64 * 100.0 / all as f64)
}

/// Percent of `total` that is not `free`; `None` when there is none of it.
fn used(meminfo: &str, total: &str, free: &str) -> Option<f64> {
    let kib = |name: &str| -> Option<f64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let total = kib(total).filter(|total| *total > 0.0)?;
    Some((total - kib(free)?) * 100.0 / total)
}

#[allow(clippy::cast_precision_loss)] // a percentage
fn disk() -> Option<f64> {
    let root = statvfs("/").ok()?;
    let (free, all) = (root.blocks_available() as f64, root.blocks() as f64);
    (all > 0.0).then_some((all - free) * 100.0 / all)
}

/// The agent data file.
fn report(name: &str, interval: u32, now: Timestamp, figures: &[Figure]) -> String {
    let name = escaped(name);
    let time = now.strftime("%Y/%m/%d %H:%M:%S");
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<agent_data agent_name=\"{name}\" agent_alias=\"{name}\" \
         description=\"the machine that runs this cluster\" os_name=\"Linux\" interval=\"{interval}\" \
         version=\"{}\" timestamp=\"{time}\" timezone_offset=\"0\" address=\"127.0.0.1\">\n",
        env!("CARGO_PKG_VERSION")
    );
    for figure in figures {
        text.push_str(&format!(
            "  <module><name><![CDATA[{}]]></name><type>generic_data</type><unit>{}</unit><data>{:.2}</data></module>\n",
            figure.name, figure.unit, figure.value
        ));
    }
    text.push_str("</agent_data>\n");
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_one_that_the_data_server_reads() {
        let now = Ticks::read();
        let figures = figures(now, now);
        assert!(figures.iter().any(|f| f.name == "Memory Used" && (0.0..=100.0).contains(&f.value)));
        let text = report("a&b", 10, Timestamp::UNIX_EPOCH, &figures);
        let parsed = elpis_agentxml::parse(&text, &elpis_agentxml::Limits::default()).unwrap();
        assert_eq!(parsed.modules.len(), figures.len());
    }

    #[test]
    fn cpu_time_is_a_difference() {
        let before = Ticks::parse("cpu  10 0 10 70 10 0 0 0 5 0\n").unwrap();
        let now = Ticks::parse("cpu  20 0 20 80 10 0 0 0 9 0\n").unwrap();
        assert!((cpu(before, now).unwrap() - 66.666).abs() < 0.01);
        assert!(cpu(now, now).is_none());
        assert!(Ticks::parse("cpu  10").is_none());
    }
}
