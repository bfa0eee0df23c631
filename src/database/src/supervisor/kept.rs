//! What a restarted node agent knows of the server that goes on: whom it follows through which port of the gate (MariaDB
//! itself knows the port alone), and whether it still has everything that it acknowledged.

use crate::Error;
use crate::folder::Folder;
use elpis_cluster::database::Memory;
use elpis_watch::NodeId;
use std::fs;
use std::path::PathBuf;

/// Kept on disk beside the copy, so that a restarted node agent knows.
#[derive(Debug)]
pub(super) struct Source {
    file: PathBuf,
    held: Option<(NodeId, u16)>,
}

impl Source {
    pub(super) fn read(folder: &Folder) -> Source {
        let file = folder.path("source");
        let read = || {
            let text = fs::read_to_string(&file).ok()?;
            let mut words = text.split_ascii_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
        };
        let held = read();
        Source { file, held }
    }

    pub(super) fn node(&self) -> Option<NodeId> {
        self.held.map(|held| held.0)
    }

    pub(super) fn port(&self) -> u16 {
        self.held.map_or(0, |held| held.1)
    }

    /// From now on. Written before the server is told: a source that it does not have yet is set again.
    pub(super) fn set(&mut self, held: Option<(NodeId, u16)>) -> Result<(), Error> {
        self.held = held;
        let text = held.map(|(node, port)| format!("{node} {port}\n")).unwrap_or_default();
        fs::write(&self.file, text)
            .map_err(|e| Error::File(format!("cannot write {}", self.file.display()), e))
    }
}

/// Another one after each start of the machine; without one nothing is believed.
fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The part of the memory that is about the server, not about its supervisor: instance, how often it began to follow,
/// whether it is whole. Written before what it is about is done; an instance that is no more says nothing.
#[derive(Debug)]
pub(super) struct Kept {
    file: PathBuf,
    last: (u64, u64, bool),
}

impl Kept {
    pub(super) fn new(folder: &Folder) -> Kept {
        let Memory { instance, follows, whole, .. } = Kept::read(folder);
        Kept { file: folder.path("whole"), last: (instance, follows, whole) }
    }

    pub(super) fn read(folder: &Folder) -> Memory {
        let read = || {
            let text = fs::read_to_string(folder.path("whole")).ok()?;
            let mut words = text.split_ascii_whitespace();
            // After a start of the machine another process may have the same start time.
            if words.next()? != boot_id() {
                return None;
            }
            let mut number = || words.next()?.parse::<u64>().ok();
            let (instance, follows, whole) = (number()?, number()?, number()? == 1);
            Some(Memory { instance, follows, whole, ..Memory::default() })
        };
        read().unwrap_or_default()
    }

    pub(super) fn keep(&mut self, memory: &Memory) {
        let now = (memory.instance, memory.follows, memory.whole);
        if now == self.last {
            return;
        }
        let text = format!("{} {} {} {}\n", boot_id(), now.0, now.1, u8::from(now.2));
        match fs::write(&self.file, text) {
            Ok(()) => self.last = now,
            // The worst that a restart then believes is what stood before: so what stood before goes.
            Err(error) => {
                let _ = fs::remove_file(&self.file);
                tracing::warn!(%error, file = %self.file.display(), "not kept");
            }
        }
    }
}
