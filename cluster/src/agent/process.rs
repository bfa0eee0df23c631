//! A process known by its id and its start time, so that a reused id is never taken for it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pid: i32,
    /// Clock ticks since boot.
    started: u64,
}

impl Process {
    /// The process that has this id now; `None` when there is none.
    #[must_use]
    pub fn find(pid: u32) -> Option<Process> {
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0)?;
        Some(Process { pid, started: started(pid)? })
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid.unsigned_abs()
    }

    /// Clock ticks from boot to its start: with its id, no other process has the same.
    #[must_use]
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Whether it still runs: a zombie does not.
    #[must_use]
    pub fn runs(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Kills it, unless its id belongs to another process by now, or to this one. A stopped process dies too.
    pub fn kill(&self) {
        if self.pid() == std::process::id() || !self.runs() {
            return;
        }
        if let Err(error) = kill(Pid::from_raw(self.pid), Signal::SIGKILL) {
            tracing::warn!(pid = self.pid, %error, "cannot kill a server process");
        }
    }
}

/// Start time of a process that runs.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let stat = String::from_utf8_lossy(&stat);
    // The name may hold blanks and brackets; the fields begin after the last one.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_killed_and_never_mistaken() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        assert!(process.runs());
        Process { started: process.started + 1, ..process }.kill();
        assert!(child.try_wait().unwrap().is_none(), "another process with this id lives on");
        process.kill();
        child.wait().unwrap();
        assert!(!process.runs());
        assert_eq!(Process::find(0), None);
        assert_eq!(Process::find(u32::MAX), None);
        // This very process is spared.
        Process::find(std::process::id()).unwrap().kill();
    }
}
