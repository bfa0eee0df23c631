//! Whom the server follows, and through which port of the gate: MariaDB itself knows the port alone.

use crate::Error;
use crate::folder::Folder;
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
        fs::write(&self.file, text).map_err(|e| Error::File(format!("cannot write {}", self.file.display()), e))
    }
}
