//! Orders to a running development cluster: kill, stop, pause, resume, start a node; stop all.

use super::layout::Layout;
use super::process::{self, Condition};
use super::{mariadb, supervisor};
use crate::output;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Time in which the supervisor stops everything: three stages of at most six seconds.
const DOWN: Duration = Duration::from_secs(25);
const STOP: Duration = Duration::from_secs(6);

/// SIGKILL to all processes of a node at once; returns how many.
pub(crate) fn kill_now(layout: &Layout, node: &str) -> Result<usize> {
    let files = files_of(layout, node)?;
    mark_down(layout, node)?;
    let killed = signal_all(&files, Signal::SIGKILL)?;
    ensure!(process::wait_gone(&files, STOP), "processes of {node} are still there after SIGKILL");
    Ok(killed)
}

/// `elpis dev kill`.
pub(crate) fn kill(layout: &Layout, node: &str) -> Result<()> {
    let killed = kill_now(layout, node)?;
    output::line(&format!("{node} killed ({killed} processes); back with: elpis dev start {node}"));
    Ok(())
}

/// SIGTERM: servers first, then the node agent.
pub(crate) fn stop(layout: &Layout, node: &str) -> Result<()> {
    let begin = Instant::now();
    let files = files_of(layout, node)?;
    mark_down(layout, node)?;
    let is = |file: &Path, name: &str| file.file_stem().is_some_and(|stem| stem == name);
    let (database, files): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(file, _)| is(file, supervisor::MARIADBD));
    let (agent, servers): (Vec<_>, Vec<_>) = files.into_iter().partition(|(file, _)| is(file, "node"));
    for stage in [servers, agent, database] {
        // An orderly end of a primary would store what nobody acknowledged.
        let database = stage.iter().any(|(file, _)| is(file, supervisor::MARIADBD));
        signal_all(&stage, if database { Signal::SIGKILL } else { Signal::SIGTERM })?;
        signal_all(&stage, Signal::SIGCONT)?;
        if !process::wait_gone(&stage, STOP) {
            signal_all(&stage, Signal::SIGKILL)?;
            ensure!(process::wait_gone(&stage, STOP), "processes of {node} are still there after SIGKILL");
            output::line(&format!(
                "{node}: not all processes stopped within {} s and were killed",
                STOP.as_secs()
            ));
        }
    }
    let seconds = begin.elapsed().as_secs_f32();
    output::line(&format!("{node} stopped in {seconds:.1} s; back with: elpis dev start {node}"));
    Ok(())
}

/// SIGSTOP to all processes of a node.
pub(crate) fn pause(layout: &Layout, node: &str) -> Result<()> {
    let paused = signal_all(&files_of(layout, node)?, Signal::SIGSTOP)?;
    ensure!(paused > 0, "no process of {node} runs; start it with: elpis dev start {node}");
    output::line(&format!("{node} paused ({paused} processes); on with: elpis dev resume {node}"));
    Ok(())
}

/// SIGCONT to all processes of a node.
pub(crate) fn resume(layout: &Layout, node: &str) -> Result<()> {
    let files = files_of(layout, node)?;
    let paused = files.iter().filter_map(|(file, folder)| process::find(file, folder));
    let paused = paused.filter(|p| p.condition == Condition::Paused).count();
    signal_all(&files, Signal::SIGCONT)?;
    output::line(&format!("{node} goes on ({paused} processes)"));
    Ok(())
}

/// `elpis dev start`.
pub(crate) fn start(layout: &Layout, node: &str) -> Result<()> {
    start_now(layout, node)?;
    output::line(&format!("{node} starts"));
    Ok(())
}

/// Lets a node run again.
pub(crate) fn start_now(layout: &Layout, node: &str) -> Result<()> {
    let files = files_of(layout, node)?;
    ensure!(is_up(layout)?, "the cluster does not run; start it with: elpis dev up");
    match fs::remove_file(layout.down_mark(node)) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(e).context("cannot remove the mark that keeps the node down"),
    }
    let begin = Instant::now();
    let agent = files.first().context("a node has processes")?;
    while process::find(&agent.0, &agent.1).is_none() {
        ensure!(
            begin.elapsed() < STOP,
            "the node agent of {node} does not start; see {}",
            supervisor_log(layout).display()
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Stops everything; nothing is left when this returns without an error.
pub(crate) fn down(layout: &Layout) -> Result<()> {
    let begin = Instant::now();
    if let Some(running) = process::find(&supervisor::pid_file(layout), &layout.path("")) {
        process::signal(running.pid, Signal::SIGTERM)?;
        process::signal(running.pid, Signal::SIGCONT)?;
        let own = [(supervisor::pid_file(layout), layout.path(""))];
        if !process::wait_gone(&own, DOWN) {
            process::signal(running.pid, Signal::SIGKILL)?;
        }
    }
    end_orphans(layout)?;
    layout.forget_link();
    output::line(&format!("stopped in {:.1} s", begin.elapsed().as_secs_f32()));
    Ok(())
}

/// Ends processes that a killed supervisor left behind.
pub(crate) fn end_orphans(layout: &Layout) -> Result<()> {
    let mut files = Vec::new();
    for node in layout.ports()?.nodes {
        files.extend(files_of(layout, &node.name)?);
    }
    files.push((supervisor::feed_pid_file(layout), layout.path("")));
    signal_all(&files, Signal::SIGKILL)?;
    let database = vec![(mariadb::pid_file(layout), mariadb::folder(layout))];
    signal_all(&database, Signal::SIGTERM)?;
    if !process::wait_gone(&database, STOP) {
        signal_all(&database, Signal::SIGKILL)?;
    }
    files.extend(database);
    ensure!(
        process::wait_gone(&files, STOP),
        "some processes are still there after SIGKILL; see `elpis dev status`"
    );
    for (file, _) in files {
        let _ = fs::remove_file(file);
    }
    Ok(())
}

pub(crate) fn is_up(layout: &Layout) -> Result<bool> {
    Ok(supervisor::lock(layout)?.is_none())
}

pub(crate) fn supervisor_log(layout: &Layout) -> PathBuf {
    layout.path("supervisor.log")
}

fn mark_down(layout: &Layout, node: &str) -> Result<()> {
    fs::write(layout.down_mark(node), "").context("cannot mark the node as down")
}

/// Pid files of a node's processes, the node agent first, each with the folder that its command line names.
pub(crate) fn files_of(layout: &Layout, node: &str) -> Result<Vec<(PathBuf, PathBuf)>> {
    let nodes = layout.ports()?.nodes;
    if !nodes.iter().any(|n| n.name == node) {
        let names: Vec<&str> = nodes.iter().map(|n| n.name.as_str()).collect();
        bail!("there is no node {node} in {}: it has {}", layout.dir.display(), names.join(", "));
    }
    let names = supervisor::PROCESSES.into_iter().chain([supervisor::MARIADBD]);
    Ok(names.map(|name| (layout.pid_file(node, name), layout.node(node))).collect())
}

/// Signals all of them that run; returns how many.
fn signal_all(files: &[(PathBuf, PathBuf)], signal: Signal) -> Result<usize> {
    let found: Vec<_> = files.iter().filter_map(|(file, folder)| process::find(file, folder)).collect();
    for process in &found {
        process::signal(process.pid, signal)?;
    }
    Ok(found.len())
}
