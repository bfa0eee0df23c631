//! The incarnation counters: one a role, on disk, synced before a number is handed out, so that no two processes of a
//! role ever write under the same one.

use elpis_watch::Role;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Format of the file.
const FILE: u32 = 1;

#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    version: u32,
    counters: BTreeMap<Role, u64>,
}

/// The counters.
#[derive(Debug)]
pub struct Incarnations {
    path: PathBuf,
    counters: BTreeMap<Role, u64>,
    /// No number up to this one is handed out.
    base: u64,
}

impl Incarnations {
    /// Reads `incarnations.json` of the folder; a missing file is a fresh node.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged: guessing low would let an old process write.
    pub fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join("incarnations.json");
        let counters = match std::fs::read(&path) {
            Ok(body) => {
                let stored: Stored = serde_json::from_slice(&body).map_err(io::Error::other)?;
                if stored.version != FILE {
                    return Err(io::Error::other(format!(
                        "{} has version {}, this program knows {FILE}",
                        path.display(),
                        stored.version
                    )));
                }
                stored.counters
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Incarnations { path, counters, base: 0 })
    }

    /// The last number handed out for the role, or the base; 0 = none.
    #[must_use]
    pub fn last(&self, role: Role) -> u64 {
        self.counters.get(&role).copied().unwrap_or(0).max(self.base)
    }

    /// From now on every number is above this one: processes of an earlier node of the same name had lower ones.
    pub fn above(&mut self, base: u64) {
        self.base = base;
    }

    /// The next number, on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be kept; then it must not be used.
    pub fn next(&mut self, role: Role) -> io::Result<u64> {
        let next = self.last(role).saturating_add(1);
        self.keep(role, next)?;
        Ok(next)
    }

    /// Takes note of a number that a living process holds although this file does not know it: the file was lost.
    /// Without this the next process would get a number that the database's fence refuses for ever.
    ///
    /// # Errors
    /// When it cannot be kept.
    pub fn seen(&mut self, role: Role, number: u64) -> io::Result<()> {
        if number > self.last(role) { self.keep(role, number) } else { Ok(()) }
    }

    fn keep(&mut self, role: Role, number: u64) -> io::Result<()> {
        let mut counters = self.counters.clone();
        counters.insert(role, number);
        let body = serde_json::to_vec(&Stored { version: FILE, counters: counters.clone() })
            .map_err(io::Error::other)?;
        crate::identity::write_whole(&self.path, &body)?;
        self.counters = counters;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_on_through_a_restart_and_refuses_a_damaged_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut counters = Incarnations::open(folder.path()).unwrap();
        assert_eq!(counters.next(Role::Console).unwrap(), 1);
        assert_eq!(counters.next(Role::Console).unwrap(), 2);
        assert_eq!(counters.next(Role::DataServer).unwrap(), 1);
        let mut again = Incarnations::open(folder.path()).unwrap();
        assert_eq!(again.last(Role::Console), 2);
        assert_eq!(again.next(Role::Console).unwrap(), 3);
        again.seen(Role::Console, 9).unwrap();
        again.seen(Role::Console, 2).unwrap();
        assert_eq!(again.next(Role::Console).unwrap(), 10);
        again.above(1 << 40);
        assert_eq!(again.next(Role::Console).unwrap(), (1 << 40) + 1);
        again.above(0);
        assert_eq!(again.next(Role::Console).unwrap(), (1 << 40) + 2);
        std::fs::write(folder.path().join("incarnations.json"), b"{}").unwrap();
        assert!(Incarnations::open(folder.path()).is_err());
    }
}
