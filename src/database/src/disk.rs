//! Room on the node's disks, measured; the reserve file, made and freed. What counts as short, and when, is
//! `elpis_cluster::database`'s.

use crate::Error;
use crate::folder::Folder;
use elpis_cluster::agent::database::Events;
use elpis_cluster::database::{Disk, Disks, Logs, Reserve, Room, reserve, reserve_bytes};
use nix::fcntl::posix_fallocate;
use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pause between two looks, and while room is short or the server is not well.
const PACE: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_secs(1);
/// After so long without a full disk an error of the server is none of the disk's.
const LATELY: Duration = Duration::from_secs(300);
/// Bytes that are written to try a disk out.
const TRIAL: usize = 1 << 20;
/// Pause after a reserve file that could not be made.
const AGAIN: Duration = Duration::from_secs(60);

/// Bytes that are free for programs of this user's kind, and the size of the disk.
pub(crate) fn measure(folder: &Path) -> Option<(u64, u64)> {
    let found = nix::sys::statvfs::statvfs(folder).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
    Some((bytes(found.blocks_available()), bytes(found.blocks())))
}

/// Writes and waits for the disk: one that refuses that gets no copy.
pub(crate) fn try_out(folder: &Path) -> Result<(), Error> {
    let path = folder.join("trial");
    let written = fs::write(&path, vec![b'-'; TRIAL]);
    let tried = written.and_then(|()| fs::File::open(&path)?.sync_all());
    let _ = fs::remove_file(&path);
    let failed = || {
        format!(
            "the disk of {} does not take what is written there: no copy of the database is put there before it does; \
             see the kernel's log, and replace the disk",
            folder.display()
        )
    };
    tried.map_err(|error| Error::File(failed(), error))
}

/// Bytes that a folder takes on its disk.
pub(crate) fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).fold(0, u64::saturating_add)
}

/// What the supervisor knows of its disks.
#[derive(Debug)]
pub(crate) struct Watch {
    /// (what lies there, where), the database first; one disk once.
    places: Vec<(&'static str, PathBuf)>,
    known: Disks,
    reserve: PathBuf,
    wanted: Option<u64>,
    looked: Option<Instant>,
    full: Option<Instant>,
    making: Option<JoinHandle<Result<(), Error>>>,
    failed: Option<Instant>,
    events: Events,
}

impl Watch {
    /// The folders are there already.
    pub(crate) fn new(folder: &Folder, node: &Path, wanted: Option<u64>, events: Events) -> Watch {
        let all = [("database", folder.path("")), ("raft", node.to_owned()), ("spool", node.join("spool"))];
        Watch {
            places: all.into(),
            known: Disks::default(),
            reserve: folder.path("reserve"),
            wanted,
            looked: None,
            full: None,
            making: None,
            failed: None,
            events,
        }
    }

    /// Of the database's disk.
    pub(crate) fn room(&self) -> Room {
        self.known.disks.first().map_or(Room::Enough, |disk| disk.room)
    }

    /// For the status.
    pub(crate) fn known(&self, logs: &Logs) -> Disks {
        Disks { logs: logs.clone(), ..self.known.clone() }
    }

    /// The disk is full, or was a while ago: what the server failed at may have been that.
    pub(crate) fn full_lately(&self) -> bool {
        self.full.is_some_and(|full| full.elapsed() < LATELY)
    }

    /// Looks when it is time. `leads`: the server runs as the primary; `well`: it runs and does what it should.
    pub(crate) async fn step(&mut self, leads: bool, well: bool) {
        if let Some(making) = self.making.take_if(|making| making.is_finished()) {
            match making.await {
                Ok(Ok(())) => tracing::info!(file = %self.reserve.display(), "the reserve file is made"),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the reserve file is not made; trying again");
                    self.failed = Some(Instant::now());
                }
                Err(error) => tracing::warn!(%error, "making the reserve file was cut short"),
            }
        }
        let pace = if well && self.room() < Room::Critical { PACE } else { SHORT };
        if self.looked.is_none_or(|looked| looked.elapsed() >= pace) {
            self.look(leads);
        }
    }

    /// Looks now, and frees the reserve where it is needed.
    pub(crate) fn look(&mut self, leads: bool) {
        self.looked = Some(Instant::now());
        self.measure();
        let Some(disk) = self.known.disks.first().filter(|disk| disk.what == "database").cloned() else {
            return;
        };
        if disk.room == Room::Full {
            self.full = Some(Instant::now());
        }
        let wanted = self.wanted.unwrap_or_else(|| reserve_bytes(disk.total));
        self.known.reserve_wanted = wanted;
        self.known.reserve =
            fs::metadata(&self.reserve).map_or(0, |file| file.len().min(file.blocks() * 512));
        if self.making.is_some() {
            return;
        }
        match reserve(&disk, self.known.reserve, wanted, leads) {
            Some(Reserve::Free) => self.free(),
            Some(Reserve::Make) if self.failed.is_none_or(|failed| failed.elapsed() >= AGAIN) => {
                let path = self.reserve.clone();
                self.making = Some(tokio::task::spawn_blocking(move || make(&path, wanted)));
            }
            _ => {}
        }
    }

    fn measure(&mut self) {
        let mut disks: Vec<Disk> = Vec::new();
        let mut seen = Vec::new();
        for (what, place) in &self.places {
            let Ok(device) = fs::metadata(place).map(|found| found.dev()) else { continue };
            if seen.contains(&device) {
                continue;
            }
            seen.push(device);
            let before = self.known.disks.iter().find(|disk| disk.what == *what);
            let before = before.map_or(Room::Enough, |disk| disk.room);
            let Some((free, total)) = measure(place) else {
                tracing::warn!(place = %place.display(), "the room of a disk cannot be read");
                continue;
            };
            let room = before.next(free, total);
            let disk = Disk { what: (*what).to_owned(), room, free, total };
            if room != before {
                self.events.say("disk", &disk.words("this node"));
            }
            disks.push(disk);
        }
        self.known.disks = disks;
    }

    fn free(&mut self) {
        let mib = self.known.reserve >> 20;
        match fs::remove_file(&self.reserve) {
            Ok(()) => {
                self.known.reserve = 0;
                self.events.say(
                    "disk",
                    &format!("the disk of the database is full: its reserve file of {mib} MiB is freed, so that the server can start and follow; it is made again when there is room"),
                );
                self.measure();
            }
            Err(error) => {
                tracing::warn!(%error, file = %self.reserve.display(), "the reserve file is not freed");
            }
        }
    }
}

/// Blocks of its own, not a hole; half a file is none.
fn make(path: &Path, bytes: u64) -> Result<(), Error> {
    let failed = |what: &str, e| Error::File(format!("cannot {what} {}", path.display()), e);
    let file = fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path);
    let file = file.map_err(|e| failed("make", e))?;
    let length = i64::try_from(bytes).unwrap_or(i64::MAX);
    if let Err(error) = posix_fallocate(&file, 0, length) {
        let _ = fs::remove_file(path);
        return Err(failed("fill", error.into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn the_reserve_is_made_of_real_blocks_and_freed() {
        let data = tempfile::tempdir().unwrap();
        let reserve_bytes = Some(3 << 20);
        let config =
            Config { data: data.path().to_owned(), memory_mib: 64, copy_bytes_per_s: 1, reserve_bytes };
        let folder = Folder::new(&config);
        folder.make().unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let hears = Arc::clone(&said);
        let events = Events::new(move |kind, text| hears.lock().unwrap().push(format!("{kind}: {text}")));
        let mut watch = Watch::new(&folder, data.path(), reserve_bytes, events);
        watch.look(false);
        let known = watch.known(&Logs::default());
        assert_eq!(known.disks.len(), 1, "one disk is named once: {known:?}");
        assert_eq!(known.disks[0].what, "database");
        assert!(known.disks[0].free > 0 && known.disks[0].total >= known.disks[0].free);
        if watch.room() >= Room::Critical {
            println!("skipped: this machine's disk is nearly full");
            return;
        }
        while watch.known.reserve < 3 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            watch.step(false, true).await;
            watch.looked = None;
        }
        let file = fs::metadata(folder.path("reserve")).unwrap();
        assert_eq!((file.len(), file.blocks() * 512 >= 3 << 20), (3 << 20, true));
        watch.free();
        assert!(!folder.path("reserve").exists() && watch.known.reserve == 0);
        assert!(said.lock().unwrap().last().unwrap().contains("freed"), "{said:?}");
        fs::create_dir(folder.path("tmp/in")).unwrap();
        fs::write(folder.path("tmp/in/some"), vec![7; 100_000]).unwrap();
        assert!((100_000..300_000).contains(&size(&folder.path("tmp"))), "{}", size(&folder.path("tmp")));
        assert_eq!(size(&folder.path("nothing")), 0);
        try_out(&folder.path("tmp")).unwrap();
        assert!(!folder.path("tmp/trial").exists());
        let error = try_out(&folder.path("nothing")).unwrap_err().to_string();
        assert!(error.contains("does not take"), "{error}");
        // A disk that is not there, and a file that cannot be made, do no harm.
        assert_eq!(measure(&data.path().join("nothing")), None);
        assert!(make(&data.path().join("nothing/reserve"), 1).is_err());
    }
}
