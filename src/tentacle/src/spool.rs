//! The spool: accepted files on their way to the database.
//!
//! Layout under the spool folder (one file system; owned by the tentacle server, used by the data server):
//!
//! | path | what | written by |
//! |---|---|---|
//! | `work/<shard>/<id>.entry` | entries to process; the shard in 3 hex digits | tentacle server |
//! | `done/<shard>/<id>.entry` | committed: to be deleted here and on the other holder | data server ([`Spool::done`]) |
//! | `forward/<shard>/<id>.entry` | belongs to another shard (`<shard>` names the true one) | data server ([`Spool::forward`]) |
//! | `bad/<name>`, `bad/<name>.reason` | refused files with a JSON reason, bounded, oldest go first | data server ([`Spool::bad`]) |
//! | `readiness` | text: its version, then a line a shard with the epoch for which all holders were asked | tentacle server |
//! | `sequence` | upper bound of the receiver's sequence numbers | tentacle server |
//! | `tmp/` | files being written; emptied when the tentacle server starts | tentacle server |
//!
//! `<id>` is `<receive ms>-<receiver>-<sequence>`, 16 hex digits each, so names sort in acceptance order. An entry is
//! one line of JSON ([`Header`]), a line feed, then the content. A file is seen under its name only when it is whole
//! and synced: temp file, sync, rename, sync of the folder.
//!
//! **How a data server uses it.** Owner of shard `s` with epoch `e` (watch stream): wait until
//! [`Spool::readiness`] has `(s, e)`; the tentacle server of this node writes that once every live node has handed over its
//! entries of the shard. Then, again and again: [`Spool::entries`]`(s)` (sorted), [`Spool::read`], process, commit
//! (with `header.key` in `treport_done`), then [`Spool::done`]; or [`Spool::bad`]; or [`Spool::forward`] when the
//! agent's name maps to another shard, at most once (`header.forwarded` is then set: process it all the same).
//! The same file may come twice, under two ids: the key tells. All calls block on the disk: use a blocking thread.

mod disk;
mod entry;
mod intake;

pub use entry::{Entry, EntryId, Header, Stored};
pub use intake::{Accepted, Intake};

use disk::{make_folder, remove, sync_folder, touch, write_synced};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Version of an entry's header.
pub const VERSION: u32 = 1;
const READINESS: &str = "readiness";
const READINESS_VERSION: &str = "1";

/// Bounds of a spool.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Bytes of content in `work`; above it nothing is accepted.
    pub bytes: u64,
    /// Entries in `work`.
    pub entries: u64,
    /// Files kept in `bad` (reasons not counted).
    pub bad_files: usize,
    /// Bytes kept in `bad`.
    pub bad_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        // A day of 10,000 agents is about 3 million files; an hour without a database must fit with room to spare.
        Limits { bytes: 8 << 30, entries: 2_000_000, bad_files: 1_000, bad_bytes: 256 << 20 }
    }
}

/// Why the spool could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk said no.
    #[error("the spool cannot {action} {path}; check the disk and the folder's owner")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The spool's own bounds or the disk are reached.
    #[error("the spool is full ({0}); it drains when the data server commits again")]
    Full(&'static str),
    /// An entry of that name with other content is waiting.
    #[error("another file named {0} is waiting in the spool")]
    Exists(String),
    /// An entry that cannot be trusted.
    #[error("spool entry {path} is damaged: {why}; move it away and let the sender send again")]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It was forwarded once already.
    #[error("spool entry {0} was forwarded before; it is processed where it is")]
    ForwardedTwice(EntryId),
}

impl SpoolError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                SpoolError::Full("no room on the disk")
            }
            _ => SpoolError::Io { action, path: path.to_owned(), source },
        }
    }

    /// True when the entry is not there any more: somebody else was faster, which is no fault.
    pub fn is_gone(&self) -> bool {
        matches!(self, SpoolError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Handle on the folders; cheap to clone. Two processes may hold one on the same folder.
#[derive(Clone, Debug)]
pub struct Spool {
    root: PathBuf,
    limits: Limits,
}

impl Spool {
    /// Opens the spool, making its folders where missing.
    pub fn open(root: impl Into<PathBuf>, limits: Limits) -> Result<Spool, SpoolError> {
        let root = root.into();
        for folder in ["work", "done", "forward", "bad", "tmp"] {
            make_folder(&root.join(folder))?;
        }
        Ok(Spool { root, limits })
    }

    /// The folder it stands in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Bounds it was opened with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Entries to process of a shard, in acceptance order.
    pub fn entries(&self, shard: u16) -> Result<Vec<Entry>, SpoolError> {
        list(&self.shard_folder("work", shard), shard)
    }

    /// Shards that have had entries here; some may be empty by now.
    pub fn shards(&self) -> Result<Vec<u16>, SpoolError> {
        self.shards_in("work")
    }

    /// True when some entry of the shard waits.
    pub fn has_work(&self, shard: u16) -> bool {
        let Ok(folder) = fs::read_dir(self.shard_folder("work", shard)) else { return false };
        folder.flatten().any(|file| file.file_name().to_str().is_some_and(|name| name.ends_with(".entry")))
    }

    /// Changes when an entry comes into `work`, to whatever shard; the clock of a folder is coarse, so one that has just
    /// changed may change again without saying so.
    pub fn news(&self) -> Option<SystemTime> {
        self.root.join("work").metadata().ok()?.modified().ok()
    }

    /// The same of one shard.
    pub fn news_of(&self, shard: u16) -> Option<SystemTime> {
        self.shard_folder("work", shard).metadata().ok()?.modified().ok()
    }

    /// Header and content, checked against the key.
    pub fn read(&self, entry: &Entry) -> Result<Stored, SpoolError> {
        entry::read(&entry.path)
    }

    /// Its samples are committed: leaves `work`; the tentacle server deletes both copies.
    pub fn done(&self, entry: &Entry) -> Result<(), SpoolError> {
        self.hand_over(entry, "done", entry.shard)
    }

    /// It cannot be processed: content and reason go to `bad`, within limits; then it is done.
    pub fn bad(&self, entry: &Entry, reason_json: &str) -> Result<(), SpoolError> {
        let stored = self.read(entry);
        let (name, content) = match stored {
            Ok(stored) => (stored.header.name, stored.content),
            // Not even readable as an entry: keep the raw bytes, they may tell why.
            Err(SpoolError::Damaged { .. }) => (
                format!("{}.entry", entry.id),
                fs::read(&entry.path).map_err(|e| SpoolError::io("read", &entry.path, e))?,
            ),
            Err(other) => return Err(other),
        };
        let bad = self.root.join("bad");
        self.write_file(&bad.join(format!("{name}.reason")), reason_json.as_bytes())?;
        self.write_file(&bad.join(&name), &content)?;
        self.prune_bad()?;
        self.done(entry)
    }

    /// The agent's name maps to `shard`: hands the entry to the tentacle server, which puts it at the true owner.
    pub fn forward(&self, entry: &Entry, shard: u16) -> Result<(), SpoolError> {
        if self.read(entry)?.header.forwarded {
            return Err(SpoolError::ForwardedTwice(entry.id));
        }
        self.hand_over(entry, "forward", shard)
    }

    /// Shards of which every live node has handed over its entries, with the epoch of that ownership. What is not there, or
    /// cannot be read, is not ready yet.
    pub fn readiness(&self) -> HashMap<u16, u64> {
        let text = fs::read_to_string(self.root.join(READINESS)).unwrap_or_default();
        let mut lines = text.lines();
        if lines.next() != Some(READINESS_VERSION) {
            return HashMap::new();
        }
        let mark = |line: &str| {
            let (shard, epoch) = line.split_once(' ')?;
            Some((u16::from_str_radix(shard, 16).ok()?, epoch.parse().ok()?))
        };
        lines.filter_map(mark).collect()
    }

    /// Tentacle server: the data server may work on these shards in these epochs, and on no others. One file for all: a node
    /// that takes two thousand shards over has other things to do than to write as many files.
    pub fn set_readiness(&self, marks: &HashMap<u16, u64>) -> Result<(), SpoolError> {
        let mut text = format!("{READINESS_VERSION}\n");
        for (shard, epoch) in marks {
            text.push_str(&format!("{} {epoch}\n", hex(*shard)));
        }
        // Not synced: after a crash the question is asked again, which is what is wanted.
        let (target, temp) = (self.root.join(READINESS), self.root.join("tmp").join(READINESS));
        fs::write(&temp, text).map_err(|e| SpoolError::io("write", &temp, e))?;
        fs::rename(&temp, &target).map_err(|e| SpoolError::io("rename", &target, e))
    }

    /// Tentacle server: entries the data server has committed.
    pub fn handed_done(&self) -> Result<Vec<Entry>, SpoolError> {
        self.all_in("done")
    }

    /// Tentacle server: entries that belong to another shard; `shard` of each is the true one.
    pub fn handed_forward(&self) -> Result<Vec<Entry>, SpoolError> {
        self.all_in("forward")
    }

    /// True when the entry has been committed here and its other copy is still to be deleted.
    pub fn is_done(&self, shard: u16, id: EntryId) -> bool {
        self.shard_folder("done", shard).join(id.file_name()).exists()
    }

    /// True when the entry waits here.
    pub fn has(&self, shard: u16, id: EntryId) -> bool {
        self.shard_folder("work", shard).join(id.file_name()).exists()
    }

    /// The entry as it would stand in `work`.
    pub fn entry(&self, shard: u16, id: EntryId) -> Entry {
        Entry { id, shard, path: self.shard_folder("work", shard).join(id.file_name()) }
    }

    /// Puts an entry as it is, durably; again = no harm.
    pub fn put(&self, header: &Header, content: &[u8]) -> Result<Entry, SpoolError> {
        let entry = self.entry(header.shard, header.id());
        if let Some(folder) = entry.path.parent() {
            make_folder(folder)?;
        }
        self.write_file(&entry.path, &entry::encode(header, content)?)?;
        // After the entry: who looks in between looks again. The entry stands without it, too, and is found later.
        if let Err(error) = touch(&self.root.join("work")) {
            tracing::warn!(entry = %entry.id, %error, "the data server is not told of a file");
        }
        Ok(entry)
    }

    /// Deletes an entry wherever it stands; not there = done.
    pub fn delete(&self, entry: &Entry) -> Result<(), SpoolError> {
        remove(&entry.path)
    }

    fn hand_over(&self, entry: &Entry, folder: &str, shard: u16) -> Result<(), SpoolError> {
        let folder = self.shard_folder(folder, shard);
        let target = folder.join(entry.id.file_name());
        // Not synced: if the rename is lost, the entry is processed again and its key is found.
        let moved = match fs::rename(&entry.path, &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !folder.is_dir() => {
                make_folder(&folder)?;
                fs::rename(&entry.path, &target)
            }
            moved => moved,
        };
        moved.map_err(|e| SpoolError::io("hand over", &entry.path, e))
    }

    fn shard_folder(&self, folder: &str, shard: u16) -> PathBuf {
        self.root.join(folder).join(hex(shard))
    }

    fn shards_in(&self, folder: &str) -> Result<Vec<u16>, SpoolError> {
        let path = self.root.join(folder);
        let mut shards: Vec<u16> = fs::read_dir(&path)
            .map_err(|e| SpoolError::io("list", &path, e))?
            .flatten()
            .filter_map(|file| u16::from_str_radix(file.file_name().to_str()?, 16).ok())
            .collect();
        shards.sort_unstable();
        Ok(shards)
    }

    fn all_in(&self, folder: &str) -> Result<Vec<Entry>, SpoolError> {
        let mut all = Vec::new();
        for shard in self.shards_in(folder)? {
            all.extend(list(&self.shard_folder(folder, shard), shard)?);
        }
        Ok(all)
    }

    /// Temp file, sync, rename, sync of the folder.
    fn write_file(&self, target: &Path, bytes: &[u8]) -> Result<(), SpoolError> {
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or("file");
        // Both processes write here (entries and bad files): the pid keeps their temp names apart, the counter the threads'.
        let number = TEMP.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let short: String = name.chars().rev().take(40).collect();
        let temp = self.root.join("tmp").join(format!("{}-{number}-{short}", std::process::id()));
        let written = write_synced(&temp, bytes).and_then(|()| {
            fs::rename(&temp, target).map_err(|e| SpoolError::io("rename", target, e))?;
            sync_folder(target.parent().unwrap_or(&self.root))
        });
        if written.is_err() {
            let _ = fs::remove_file(&temp);
        }
        written
    }

    fn prune_bad(&self) -> Result<(), SpoolError> {
        let folder = self.root.join("bad");
        let mut files: Vec<(std::time::SystemTime, u64, PathBuf)> = fs::read_dir(&folder)
            .map_err(|e| SpoolError::io("list", &folder, e))?
            .flatten()
            .filter(|file| !file.file_name().to_string_lossy().ends_with(".reason"))
            .filter_map(|file| {
                let meta = file.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), file.path()))
            })
            .collect();
        files.sort();
        let mut bytes: u64 = files.iter().map(|file| file.1).sum();
        let mut count = files.len();
        for (_, size, path) in files {
            if count <= self.limits.bad_files && bytes <= self.limits.bad_bytes {
                break;
            }
            remove(&path)?;
            let mut reason = path.into_os_string();
            reason.push(".reason");
            remove(Path::new(&reason))?;
            count -= 1;
            bytes -= size;
        }
        Ok(())
    }
}

static TEMP: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

fn hex(shard: u16) -> String {
    format!("{shard:03x}")
}

fn list(folder: &Path, shard: u16) -> Result<Vec<Entry>, SpoolError> {
    let files = match fs::read_dir(folder) {
        Ok(files) => files,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(SpoolError::io("list", folder, e)),
    };
    let mut entries: Vec<Entry> = files
        .flatten()
        .filter_map(|file| {
            let id = EntryId::from_file_name(file.file_name().to_str()?)?;
            Some(Entry { id, shard, path: file.path() })
        })
        .collect();
    entries.sort_unstable_by_key(|entry| entry.id);
    Ok(entries)
}

#[cfg(test)]
mod tests;
