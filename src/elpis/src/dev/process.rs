//! Processes of the cluster by their pid files. A pid counts only when the command line of the process names our
//! folder: a stale file must not hit a stranger.

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Runs,
    /// Stopped by a signal (SIGSTOP).
    Paused,
}

/// A running process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) condition: Condition,
}

/// The process of a pid file, when it runs and its command line has an argument at or under `folder`.
pub(crate) fn find(pid_file: &Path, folder: &Path) -> Option<Process> {
    let pid: i32 = fs::read_to_string(pid_file).ok()?.trim().parse().ok().filter(|pid| *pid > 1)?;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = arguments.split(|b| *b == 0).any(|argument| {
        let argument = String::from_utf8_lossy(argument);
        let value = argument.strip_prefix("--defaults-file=").unwrap_or(&argument);
        Path::new(value).starts_with(folder)
    });
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
    match (ours, state) {
        (false, _) | (_, 'Z' | 'X') => None,
        (true, 'T' | 't') => Some(Process { pid, condition: Condition::Paused }),
        (true, _) => Some(Process { pid, condition: Condition::Runs }),
    }
}

/// Sends a signal; a process that has just ended is no error.
pub(crate) fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("cannot send {signal} to process {pid}")),
    }
}

/// Waits until none of the pid files' processes runs; false = time is up.
pub(crate) fn wait_gone(files: &[(PathBuf, PathBuf)], limit: Duration) -> bool {
    let begin = Instant::now();
    loop {
        if files.iter().all(|(file, folder)| find(file, folder).is_none()) {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_our_processes_count() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().join("n1");
        let mut child =
            Command::new("sh").args(["-c", "sleep 60 & wait", "sh"]).arg(ours.join("x")).spawn().unwrap();
        let file = dir.path().join("p.pid");
        fs::write(&file, child.id().to_string()).unwrap();
        let begin = Instant::now();
        while find(&file, &ours).is_none() && begin.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(find(&file, &ours).unwrap().condition, Condition::Runs);
        assert!(find(&file, &dir.path().join("n10")).is_none());
        fs::write(&file, "1").unwrap();
        assert!(find(&file, Path::new("/")).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
