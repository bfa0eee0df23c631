//! What MariaDB makes and does not sync is synced. It writes a table's list of partitions (`.par`) and never calls
//! fsync for it: after a power cut the file may be empty, and the table cannot be opened any more (error 1696).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pause between two looks.
const PACE: Duration = Duration::from_millis(500);
/// The file system is synced so long after a change, and once more: a file may be written long after it was made.
const AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(6)];
/// Pause after a failure.
const AGAIN: Duration = Duration::from_secs(5);

/// Each schema's folder, and when a file of it was made, renamed or removed: seconds and nanoseconds.
type Schemas = BTreeMap<OsString, (i64, i64)>;

#[derive(Debug)]
pub(super) struct Settling {
    data: PathBuf,
    looked: Option<Instant>,
    seen: Schemas,
    /// When to sync, the next one last.
    due: Vec<Instant>,
    task: Option<JoinHandle<std::io::Result<()>>>,
}

impl Settling {
    /// `data`: MariaDB's folder. All that is in it already is synced too.
    pub(super) fn new(data: PathBuf) -> Settling {
        Settling { data, looked: None, seen: Schemas::new(), due: Vec::new(), task: None }
    }

    /// Looks for tables that were made or changed, and syncs the file system when it is time.
    pub(super) async fn step(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now < looked + PACE) {
            return;
        }
        self.looked = Some(now);
        let seen = schemas(&self.data);
        if seen != self.seen {
            self.seen = seen;
            self.due = AFTER.iter().rev().map(|after| now + *after).collect();
        }
        if let Some(task) = self.task.take_if(|task| task.is_finished())
            && let Err(error) = task.await.unwrap_or_else(|cut_short| Err(std::io::Error::other(cut_short)))
        {
            tracing::warn!(%error, folder = %self.data.display(), "not synced; trying again");
            self.due.push(now + AGAIN);
        }
        if self.task.is_none() && self.due.pop_if(|due| *due <= now).is_some() {
            let data = self.data.clone();
            self.task = Some(tokio::task::spawn_blocking(move || sync(&data)));
        }
    }
}

/// Empty where there is no copy.
fn schemas(data: &Path) -> Schemas {
    let Ok(entries) = fs::read_dir(data) else { return Schemas::new() };
    let folder = |entry: fs::DirEntry| {
        let known = entry.metadata().ok().filter(fs::Metadata::is_dir)?;
        Some((entry.file_name(), (known.mtime(), known.mtime_nsec())))
    };
    entries.flatten().filter_map(folder).collect()
}

fn sync(data: &Path) -> std::io::Result<()> {
    Ok(nix::unistd::syncfs(File::open(data)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn syncs_twice_after_each_change_and_then_rests() {
        let folder = tempfile::tempdir().expect("a folder");
        let schema = folder.path().join("pandora");
        fs::create_dir(&schema).expect("a schema");
        let mut settling = (Settling::new(folder.path().to_owned()), Instant::now());
        assert_eq!(syncs(&mut settling).await, 2, "what is there already");
        assert_eq!(syncs(&mut settling).await, 0, "nothing changed");
        fs::write(schema.join("t.par"), "0").expect("a file");
        assert_eq!(syncs(&mut settling).await, 2, "a table was made");
        fs::write(folder.path().join("binlog.000001"), "0").expect("a file");
        assert_eq!(syncs(&mut settling).await, 0, "no table");
        fs::remove_dir_all(&schema).expect("removed");
        assert_eq!(syncs(&mut settling).await, 2, "a schema was removed");
    }

    /// How often it syncs within 20 s.
    async fn syncs((settling, now): &mut (Settling, Instant)) -> usize {
        let mut count = 0;
        for _ in 0..40 {
            settling.step(*now).await;
            if let Some(task) = settling.task.take() {
                task.await.expect("runs").expect("synced");
                count += 1;
            }
            *now += PACE;
        }
        count
    }
}
