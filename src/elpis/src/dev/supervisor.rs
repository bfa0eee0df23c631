//! The process that keeps the cluster's processes running: starts them, restarts those that end, stops all at the end.
//!
//! It decides nothing about the cluster. A node marked down stays down; a node's servers start once it is a member.

use super::layout::{Layout, NodePorts, local};
use super::{mariadb, process};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::sys::socket::sockopt::BindToDevice;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Processes of a node, in start order.
pub(crate) const PROCESSES: [&str; 6] =
    ["node", "db-gate", "tentacle-server", "data-server", "network-server", "console"];
/// A node's database server, started by its node agent.
pub(crate) const MARIADBD: &str = "mariadbd";
/// Memory for the pages of a node's database: several nodes share a machine.
const DATABASE_MIB: u32 = 256;
/// And a disk.
const RESERVE_MIB: u32 = 32;
/// How often marks and ports are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// First pause before a restart; doubled while the process keeps ending at once.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A process that lived this long did not crash at once.
const LIVED: Duration = Duration::from_secs(5);
/// Time for an orderly end.
const PATIENCE: Duration = Duration::from_secs(6);
/// A larger log is moved to `.1`.
const LARGEST_LOG: u64 = 32 << 20;

/// Held by the supervisor while it runs: `None` = another one runs in this folder.
pub(crate) fn lock(layout: &Layout) -> Result<Option<File>> {
    let path = layout.path("supervisor.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(e)) => Err(e).with_context(|| format!("cannot lock {}", path.display())),
    }
}

pub(crate) fn pid_file(layout: &Layout) -> PathBuf {
    layout.path("supervisor.pid")
}

pub(crate) fn feed_pid_file(layout: &Layout) -> PathBuf {
    layout.path("feed.pid")
}

/// Runs until SIGTERM.
pub(crate) async fn run(layout: Layout) -> Result<()> {
    let Some(_lock) = lock(&layout)? else { bail!("another supervisor runs in {}", layout.dir.display()) };
    // Away from the terminal: Ctrl-C is for the one who started us.
    let _ = nix::unistd::setsid();
    let mut terminate = signal(SignalKind::terminate())?;
    fs::write(pid_file(&layout), std::process::id().to_string())?;
    let stages = Stages::default();
    let mut database_task = match layout.is_managed() {
        true => tokio::spawn(std::future::pending()),
        false => stages.start_database(&layout)?,
    };
    drop(
        stages.servers.start(Keeper {
            program: own_program()?,
            arguments: ["dev", "feed", "--dir"]
                .map(str::to_owned)
                .into_iter()
                .chain([layout.path("").display().to_string()])
                .collect(),
            pid_file: feed_pid_file(&layout),
            log: layout.path("feed.log"),
            needs: Some(layout.feed_mark()),
            refuses: None,
        }),
    );
    let sink = tokio::spawn(sink(listen(layout.ports()?.sink)));
    let mut known = HashSet::new();
    let ended = loop {
        for node in layout.ports().map(|ports| ports.nodes).unwrap_or_default() {
            if known.insert(node.name.clone()) {
                stages.start_node(&layout, &node)?;
            }
        }
        tokio::select! {
            _ = terminate.recv() => break None,
            ended = &mut database_task => break Some(ended),
            () = sleep(LOOK) => {}
        }
    };
    sink.abort();
    stages.servers.end().await;
    stages.nodes.end().await;
    stages.database.end().await;
    database_task.abort();
    end_copies(&layout).await;
    let _ = fs::remove_file(pid_file(&layout));
    match ended {
        Some(Err(e)) => Err(e).context("the keeper of MariaDB failed"),
        _ => Ok(()),
    }
}

/// The nodes' database servers, once nobody starts them any more.
async fn end_copies(layout: &Layout) {
    let nodes = layout.ports().map(|ports| ports.nodes).unwrap_or_default();
    let files: Vec<_> =
        nodes.iter().map(|node| (layout.pid_file(&node.name, MARIADBD), layout.node(&node.name))).collect();
    for order in [Signal::SIGTERM, Signal::SIGCONT, Signal::SIGKILL] {
        for found in files.iter().filter_map(|(file, folder)| process::find(file, folder)) {
            if let Err(error) = process::signal(found.pid, order) {
                tracing::warn!(%error, "cannot end a database server");
            }
        }
        let begin = Instant::now();
        let runs = || files.iter().any(|(file, folder)| process::find(file, folder).is_some());
        while order != Signal::SIGTERM && runs() && begin.elapsed() < PATIENCE {
            sleep(LOOK).await;
        }
    }
}

/// On every loopback address, so that there may be thousands of targets; on no other network.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    let address = match nix::sys::socket::setsockopt(&socket, BindToDevice, &"lo".into()) {
        Ok(()) => (std::net::Ipv4Addr::UNSPECIFIED, port).into(),
        Err(_) => local(port),
    };
    socket.bind(address)?;
    socket.listen(1024)
}

/// Takes connections and closes them: a target for checks.
async fn sink(listener: std::io::Result<TcpListener>) {
    match listener {
        Ok(listener) => loop {
            if listener.accept().await.is_err() {
                sleep(LOOK).await;
            }
        },
        Err(error) => tracing::warn!(%error, "no target for checks: its port is taken"),
    }
}

/// What is stopped together: servers, then node agents, then the database.
#[derive(Default)]
struct Stages {
    servers: Stage,
    nodes: Stage,
    database: Stage,
}

#[derive(Default)]
struct Stage {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Stage {
    fn start(&self, keeper: Keeper) -> tokio::task::JoinHandle<()> {
        let stop = self.stop.clone();
        self.tasks.spawn(async move { keeper.run(&stop).await })
    }

    async fn end(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Stages {
    fn start_database(&self, layout: &Layout) -> Result<tokio::task::JoinHandle<()>> {
        let (program, arguments) = mariadb::command(layout)?;
        Ok(self.database.start(Keeper {
            program,
            arguments,
            pid_file: mariadb::pid_file(layout),
            log: mariadb::log_file(layout),
            needs: None,
            refuses: None,
        }))
    }

    fn start_node(&self, layout: &Layout, node: &NodePorts) -> Result<()> {
        let built = |name: &str| name == "node" || crate::run::BUILT.iter().any(|role| role.as_str() == name);
        for name in PROCESSES.into_iter().filter(|name| built(name)) {
            let keeper = Keeper {
                program: own_program()?,
                arguments: arguments(layout, node, name),
                pid_file: layout.pid_file(&node.name, name),
                log: layout.node(&node.name).join("log").join(format!("{name}.log")),
                needs: (name != "node").then(|| layout.member_mark(&node.name)),
                refuses: Some(layout.down_mark(&node.name)),
            };
            let stage = if name == "node" { &self.nodes } else { &self.servers };
            drop(stage.start(keeper));
        }
        Ok(())
    }
}

/// This program's file; it may have been replaced by a newer build meanwhile, which is then what starts.
pub(crate) fn own_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("cannot find this program's own file")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), PathBuf::from))
}

fn arguments(layout: &Layout, node: &NodePorts, name: &str) -> Vec<String> {
    let data = layout.node(&node.name).display().to_string();
    let socket = layout.node_socket(&node.name).display().to_string();
    let text = |port: u16| local(port).to_string();
    let given: Vec<(&str, String)> = match name {
        "node" => vec![
            ("--data", data),
            ("--name", node.name.clone()),
            ("--listen", text(node.cluster)),
            ("--spool-address", text(node.spool)),
            ("--console-address", text(node.console)),
            ("--gate-address", text(node.gate)),
            ("--database-memory", DATABASE_MIB.to_string()),
            ("--database-reserve", RESERVE_MIB.to_string()),
        ],
        "db-gate" => vec![("--socket", socket), ("--data", data), ("--listen", text(node.gate))],
        "tentacle-server" => vec![
            ("--socket", socket),
            ("--data", data),
            ("--listen", text(node.tentacle)),
            ("--spool-listen", text(node.spool)),
        ],
        "data-server" => vec![("--socket", socket), ("--data", data)],
        "console" => vec![
            ("--socket", socket),
            ("--data", data),
            ("--listen", text(node.console)),
            ("--admin-password", layout.path("admin.password").display().to_string()),
        ],
        _ => vec![("--socket", socket)],
    };
    let options = given.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
    std::iter::once(name.to_owned()).chain(options).collect()
}

/// Keeps one process running.
struct Keeper {
    program: PathBuf,
    arguments: Vec<String>,
    pid_file: PathBuf,
    log: PathBuf,
    /// Starts only while this file is there.
    needs: Option<PathBuf>,
    /// Does not start while this file is there.
    refuses: Option<PathBuf>,
}

impl Keeper {
    async fn run(&self, stop: &CancellationToken) {
        let mut pause = PAUSE;
        loop {
            while !self.allowed() {
                if stop.run_until_cancelled(sleep(LOOK)).await.is_none() {
                    return;
                }
            }
            let begin = Instant::now();
            match self.spawn() {
                Ok(mut child) => {
                    // A kill order that came between the look and the start has not seen this process.
                    if self.refused() {
                        let _ = child.start_kill();
                    }
                    tokio::select! {
                        ended = child.wait() => {
                            let ended = ended.map(|status| status.to_string()).unwrap_or_default();
                            tracing::info!(process = %self.pid_file.display(), %ended, "process ended");
                        }
                        () = stop.cancelled() => {
                            end(&mut child).await;
                            let _ = fs::remove_file(&self.pid_file);
                            return;
                        }
                    }
                    let _ = fs::remove_file(&self.pid_file);
                }
                Err(error) => tracing::warn!(program = %self.program.display(), %error, "cannot start"),
            }
            if begin.elapsed() > LIVED || self.refused() {
                pause = PAUSE;
            }
            let waiting = Instant::now();
            while waiting.elapsed() < pause {
                if stop.run_until_cancelled(sleep(LOOK)).await.is_none() {
                    return;
                }
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn allowed(&self) -> bool {
        !self.refused() && self.needs.as_ref().is_none_or(|mark| mark.exists())
    }

    fn refused(&self) -> bool {
        self.refuses.as_ref().is_some_and(|mark| mark.exists())
    }

    fn spawn(&self) -> std::io::Result<Child> {
        turn_log(&self.log);
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        fs::write(&self.pid_file, child.id().unwrap_or(0).to_string())?;
        Ok(child)
    }
}

fn turn_log(log: &Path) {
    if fs::metadata(log).is_ok_and(|file| file.len() > LARGEST_LOG) {
        let _ = fs::rename(log, log.with_extension("log.1"));
    }
}

/// SIGTERM, and SIGKILL when that is not obeyed. A paused process is let go on first.
async fn end(child: &mut Child) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        for order in [Signal::SIGTERM, Signal::SIGCONT] {
            if let Err(error) = process::signal(pid, order) {
                tracing::warn!(%error, "cannot end a process");
            }
        }
    }
    if timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(dir: &Path, script: &str) -> Keeper {
        Keeper {
            program: "sh".into(),
            arguments: vec!["-c".into(), script.into()],
            pid_file: dir.join("p.pid"),
            log: dir.join("p.log"),
            needs: Some(dir.join("member")),
            refuses: Some(dir.join("down")),
        }
    }

    async fn pid(dir: &Path, not: i32) -> i32 {
        let begin = Instant::now();
        loop {
            let text = fs::read_to_string(dir.join("p.pid")).unwrap_or_default();
            match text.parse() {
                Ok(pid) if pid != not => return pid,
                _ => assert!(begin.elapsed() < Duration::from_secs(10), "no process"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn a_killed_process_is_back_in_time_unless_marked_down() {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::default();
        drop(stage.start(keeper(dir.path(), "exec sleep 60")));
        sleep(LOOK * 2).await;
        assert!(!dir.path().join("p.pid").exists());
        fs::write(dir.path().join("member"), "").unwrap();
        let first = pid(dir.path(), 0).await;
        process::signal(first, Signal::SIGKILL).unwrap();
        let begin = Instant::now();
        let second = pid(dir.path(), first).await;
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        fs::write(dir.path().join("down"), "").unwrap();
        process::signal(second, Signal::SIGKILL).unwrap();
        sleep(PAUSE * 6).await;
        assert!(!dir.path().join("p.pid").exists());
        fs::remove_file(dir.path().join("down")).unwrap();
        pid(dir.path(), second).await;
        stage.end().await;
        assert!(!dir.path().join("p.pid").exists());
    }

    #[tokio::test]
    async fn a_paused_process_ends_too() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("member"), "").unwrap();
        let stage = Stage::default();
        drop(stage.start(keeper(dir.path(), "exec sleep 60")));
        process::signal(pid(dir.path(), 0).await, Signal::SIGSTOP).unwrap();
        let begin = Instant::now();
        stage.end().await;
        assert!(begin.elapsed() < PATIENCE);
    }
}
