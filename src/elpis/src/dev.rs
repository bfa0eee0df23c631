//! The development cluster: real processes of several nodes with one private MariaDB, all in one folder.

pub(crate) mod control;
mod demo;
mod feed;
pub(crate) mod layout;
pub(crate) mod mariadb;
pub(crate) mod process;
mod remove;
mod show;
mod supervisor;
mod up;

use crate::cli::{Dev, Scope};
use crate::find::HERE;
use anyhow::Result;
use layout::Layout;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::ExitCode;

pub(crate) fn main(scope: &Scope, order: Dev) -> ExitCode {
    let done = match order {
        Dev::Demo(options) => demo::demo(scope, &options),
        order => run(scope, order).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|e| {
        eprintln!("elpis: {e:#}");
        ExitCode::FAILURE
    })
}

/// The folder that a command means.
fn folder(scope: &Scope) -> &Path {
    scope.dir.as_deref().unwrap_or_else(|| Path::new(HERE))
}

fn run(scope: &Scope, order: Dev) -> Result<()> {
    let dir = folder(scope);
    match order {
        Dev::Up(options) => up::up(&Layout::create(dir)?, &options),
        Dev::Down => control::down(&Layout::open(dir)?),
        Dev::Remove => remove::remove(dir),
        Dev::Kill(node) => control::kill(&Layout::open(dir)?, &node.node),
        Dev::Stop(node) => control::stop(&Layout::open(dir)?, &node.node),
        Dev::Pause(node) => control::pause(&Layout::open(dir)?, &node.node),
        Dev::Resume(node) => control::resume(&Layout::open(dir)?, &node.node),
        Dev::Start(node) => control::start(&Layout::open(dir)?, &node.node),
        Dev::Status => show::status(&Layout::open(dir)?, scope.json),
        Dev::Env => show::env(&Layout::open(dir)?),
        Dev::Feed(options) => crate::run::small_runtime()?.block_on(feed::run(&Layout::open(dir)?, &options)),
        Dev::Demo(_) => Ok(()), // done above: it has exit codes of its own
        Dev::Supervise => {
            crate::log::to_stderr();
            let layout = Layout::open(dir)?;
            crate::run::small_runtime()?.block_on(supervisor::run(layout))
        }
    }
}

/// The last lines of a log, for an error message.
pub(crate) fn tail(log: &Path, lines: usize) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log)?;
        let size = file.metadata()?.len();
        file.seek(SeekFrom::Start(size.saturating_sub(8 << 10)))?;
        let mut end = Vec::new();
        file.take(8 << 10).read_to_end(&mut end)?;
        Ok(end)
    };
    let end = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&end);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}\n")).collect()
}
