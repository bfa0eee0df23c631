//! A process held by a file descriptor of the kernel's (a pidfd), so that a reused id is never taken for it.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How often a process is looked at whose end somebody waits for.
const LOOK: Duration = Duration::from_millis(20);

/// A process of this machine.
#[derive(Clone, Debug)]
pub struct Process {
    pid: Pid,
    /// Clock ticks since boot.
    started: u64,
    /// Readable once it has ended.
    handle: Arc<OwnedFd>,
}

impl PartialEq for Process {
    fn eq(&self, other: &Process) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }
}

impl Eq for Process {}

impl Process {
    /// The process that has this id now; `None` when there is none.
    #[must_use]
    pub fn find(pid: u32) -> Option<Process> {
        let pid = Pid::from_raw(i32::try_from(pid).ok().filter(|pid| *pid > 0)?)?;
        let handle = Arc::new(pidfd_open(pid, PidfdFlags::empty()).ok()?);
        let process = Process { pid, started: started(pid)?, handle };
        // While it runs its id is nobody else's: what was read is of the process that is held.
        process.runs().then_some(process)
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_pid().unsigned_abs()
    }

    /// Clock ticks from boot to its start: with its id, no other process has the same.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Whether it still runs: a zombie does not. One system call that never waits.
    #[must_use]
    pub fn runs(&self) -> bool {
        let mut ended = [PollFd::new(&self.handle, PollFlags::IN)];
        // Only without memory it fails: then nothing has been seen to end.
        poll(&mut ended, Some(&Timespec::default())).unwrap_or(0) == 0
    }

    /// Waits for its end.
    pub async fn ended(&self) {
        while self.runs() {
            sleep(LOOK).await;
        }
    }

    /// Kills it, unless it has ended, or is this one. A stopped process dies too.
    pub fn kill(&self) {
        if self.pid() == std::process::id() || !self.runs() {
            return;
        }
        if let Err(error) = pidfd_send_signal(&self.handle, Signal::KILL) {
            tracing::warn!(pid = self.pid(), %error, "cannot kill a server process");
        }
    }
}

/// Start time of a process that runs.
fn started(pid: Pid) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{}/stat", pid.as_raw_pid())).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold blanks and brackets; the fields begin after the last one.
    stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_found_killed_and_seen_to_end() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert!(process.runs() && process.started() > 0);
        assert_eq!(Process::find(child.id()), Some(process.clone()));
        let waits = process.clone();
        let ended = tokio::spawn(async move { waits.ended().await });
        tokio::task::yield_now().await;
        assert!(!ended.is_finished(), "it lives");
        process.kill();
        ended.await.unwrap();
        // Nobody has waited for it yet: a zombie has ended.
        assert!(!process.runs());
        assert_eq!(Process::find(child.id()), None);
        child.wait().unwrap();
        process.kill();
        assert_eq!((Process::find(0), Process::find(u32::MAX)), (None, None));
        // This very process is spared.
        Process::find(std::process::id()).unwrap().kill();
    }
}
