//! The disk under redb: what was not synced may be lost or torn at a crash.

use crate::node;
use crate::rt::spawn_at;
use crate::world::Rng;
use redb::StorageBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

#[derive(Debug, Default)]
struct Disk {
    durable: Vec<u8>,
    current: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// The process that may use it.
    user: u64,
    /// Writes until the machine fails in the middle of one.
    fails_in: Option<u64>,
}

/// A disk of a host; it outlives its users.
#[derive(Clone, Debug, Default)]
pub(crate) struct SharedDisk(Arc<Mutex<Disk>>);

/// The disk as one process sees it.
#[derive(Debug)]
pub(crate) struct Backend {
    host: usize,
    user: u64,
    disk: SharedDisk,
}

impl SharedDisk {
    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, host: usize, user: u64) -> Backend {
        self.lock().user = user;
        Backend { host, user, disk: self.clone() }
    }

    /// Its user was killed.
    pub(crate) fn close(&self) {
        self.lock().user = 0;
    }

    /// No failure is planned any more.
    pub(crate) fn heal(&self) {
        self.lock().fails_in = None;
    }

    /// The machine fails in the middle of the write after so many.
    pub(crate) fn fail_in(&self, writes: u64) {
        self.lock().fails_in = Some(writes);
    }

    /// The machine stops: of what was not synced a part stays, torn at sectors.
    pub(crate) fn crash(&self, rng: &mut Rng) {
        let mut disk = self.lock();
        let disk = &mut *disk;
        (disk.user, disk.fails_in) = (0, None);
        if disk.durable.len() != disk.current.len() && (disk.durable.is_empty() || rng.chance(50)) {
            disk.durable.resize(disk.current.len(), 0);
        }
        let mood = rng.between(0, 2);
        for page in std::mem::take(&mut disk.dirty) {
            for sector in 0..PAGE / SECTOR {
                let keep = match mood {
                    0 => false,
                    1 => rng.chance(50),
                    _ => sector % 2 == 0 || rng.chance(50),
                };
                let at = page * PAGE + sector * SECTOR;
                let end = (at + SECTOR).min(disk.current.len()).min(disk.durable.len());
                if keep && at < end {
                    disk.durable[at..end].copy_from_slice(&disk.current[at..end]);
                }
            }
        }
        disk.current = disk.durable.clone();
    }
}

impl Backend {
    fn disk(&self) -> io::Result<MutexGuard<'_, Disk>> {
        let disk = self.disk.lock();
        if disk.user == self.user { Ok(disk) } else { Err(io::Error::other("the machine is off")) }
    }

    fn count(&self, disk: &mut Disk) -> io::Result<()> {
        match &mut disk.fails_in {
            Some(0) => {
                disk.user = 0;
                let host = self.host;
                spawn_at(0, async move {
                    if node::host(host, |host| host.up) {
                        node::crash(host, true);
                    }
                });
                return Err(io::Error::other("the machine fails"));
            }
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk()?.current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.disk()?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let from = disk.current.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.disk()?;
        self.count(&mut disk)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        disk.current.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.disk()?;
        self.count(&mut disk)?;
        let disk = &mut *disk;
        disk.durable.resize(disk.current.len(), 0);
        for page in std::mem::take(&mut disk.dirty) {
            let at = page * PAGE;
            let end = (at + PAGE).min(disk.current.len());
            if at < end {
                disk.durable[at..end].copy_from_slice(&disk.current[at..end]);
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.disk()?;
        self.count(&mut disk)?;
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let end = at + data.len();
        if disk.current.len() < end {
            disk.current.resize(end, 0);
        }
        disk.current[at..end].copy_from_slice(data);
        disk.dirty.extend(at / PAGE..=(end.max(1) - 1) / PAGE);
        Ok(())
    }
}
