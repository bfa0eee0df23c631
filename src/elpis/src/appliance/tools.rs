//! What installing and updating share: programs of the system, mounts for a while, progress that the screen reads.

use anyhow::{Context, Result, ensure};
use elpis_appliance::install::Progress;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Also where what is written is mounted meanwhile.
pub(super) const WORK: &str = "/run/elpis-appliance";
const PROGRESS: &str = "/run/elpis-appliance/progress.json";

/// How far the last work on a disk is; `None` = there was none since the start.
pub(super) fn progress() -> Option<Progress> {
    serde_json::from_slice(&fs::read(PROGRESS).ok()?).ok()
}

/// Does the work, and writes down how it ended. One at a time: a person and a rollout may want the same slot.
pub(super) fn told(progress: Progress, work: impl FnOnce(&mut Told) -> Result<()>) -> Result<()> {
    let lock = Path::new(WORK).join("lock");
    let lock = fs::File::create(&lock).with_context(|| format!("cannot make {}", lock.display()))?;
    ensure!(lock.try_lock().is_ok(), "something is done on the disk already: wait for it");
    let mut told = Told { progress };
    told.keep()?;
    let done = work(&mut told);
    match &done {
        Ok(()) => told.progress.finish(),
        Err(error) => told.progress.fail(&format!("{error:#}")),
    }
    told.keep()?;
    done
}

/// A file system that is mounted for a while.
pub(super) struct Mounted {
    pub(super) at: PathBuf,
}

impl Mounted {
    pub(super) fn new(device: &str, name: &str, options: &[&str]) -> Result<Mounted> {
        let at = Path::new(WORK).join(name);
        fs::create_dir_all(&at)?;
        let target = at.display().to_string();
        run("mount", &[options, &[device, &target]].concat())?;
        Ok(Mounted { at })
    }

    /// Everything is on the disk after it.
    pub(super) fn end(self) -> Result<()> {
        run("umount", &[&self.at.display().to_string()]).map(drop)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After an error; after `end` there is nothing to do.
        let _ = Command::new("umount").arg(&self.at).output();
    }
}

/// Progress, and the file that the screen reads.
pub(super) struct Told {
    pub(super) progress: Progress,
}

impl Told {
    pub(super) fn step(&mut self, what: &str) -> Result<()> {
        self.progress.step(what);
        println!("step {} of {}: {what}", self.progress.step, self.progress.work.steps());
        self.keep()
    }

    pub(super) fn percent(&mut self, percent: u64) -> Result<()> {
        if self.progress.at(percent) { self.keep() } else { Ok(()) }
    }

    pub(super) fn keep(&self) -> Result<()> {
        let draft = format!("{PROGRESS}.new");
        fs::write(&draft, serde_json::to_vec(&self.progress)?)
            .and_then(|()| fs::rename(&draft, PROGRESS))
            .with_context(|| format!("cannot write {PROGRESS}"))
    }
}

pub(super) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("{program} cannot be started"))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{program} {} failed: {}", arguments.join(" "), said.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// The last errors of the kernel and the last warnings of our units since the start, each oldest first; of a unit that
/// failed all that it said last.
pub(super) fn log() -> Result<Vec<String>> {
    let common = ["--quiet", "--no-pager", "--boot", "--no-hostname"];
    let of = |more: &[&str]| run("journalctl", &[&common, more].concat());
    let kernel = of(&["--dmesg", "--priority", "err", "--lines", "2"])?;
    let ours = of(&["--unit", "elpis-*", "--priority", "warning", "--lines", "6"])?;
    let failed = match failed_unit() {
        Some(unit) => of(&["--unit", &unit, "--lines", "4"])?,
        None => String::new(),
    };
    Ok([kernel, ours, failed].iter().flat_map(|said| said.lines()).map(str::to_owned).collect())
}

/// A unit of ours that failed.
pub(super) fn failed_unit() -> Option<String> {
    let said = run("systemctl", &["list-units", "--failed", "--plain", "--no-legend", "elpis-*"]).ok()?;
    let mut units = said.lines().filter_map(|line| line.split_whitespace().next());
    // A stick stops nothing.
    units.find(|unit| !unit.starts_with("elpis-stick")).map(str::to_owned)
}
