//! What is known of the other members' positions, kept on disk, and the purge of binary logs under way.

use crate::copy::Given;
use crate::folder::Folder;
use crate::{Error, logs};
use elpis_cluster::database::{Applied, Logs, Note, Notes};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Pause between two looks.
const PACE: Duration = Duration::from_secs(10);
/// A node that was given a copy has so long to prepare it and to follow, however long it was away: no log goes before.
const COPIED: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Purging {
    folder: Folder,
    file: PathBuf,
    notes: Notes,
    given: watch::Receiver<Given>,
    last: Instant,
    /// What was there at the last look.
    pub(super) logs: Logs,
    task: Option<JoinHandle<Result<logs::Purged, Error>>>,
}

impl Purging {
    pub(super) fn new(folder: &Folder, given: watch::Receiver<Given>) -> Purging {
        let file = folder.path("members");
        let notes = read(&fs::read_to_string(&file).unwrap_or_default());
        Purging {
            folder: folder.clone(),
            file,
            notes,
            given,
            last: Instant::now(),
            logs: Logs::default(),
            task: None,
        }
    }

    /// Takes what the master says and, while the server answers, purges what nobody needs; on a disk that is short of
    /// room also what somebody far behind needs.
    pub(super) async fn step(&mut self, applied: Option<&Applied>, answers: bool, short: bool) {
        if let Some(task) = self.task.take_if(|task| task.is_finished()) {
            match task.await {
                Ok(Ok(purged)) => {
                    self.logs = purged.before;
                    if let Some(said) = purged.said {
                        tracing::info!(short, "{said}");
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "binary logs are not purged; trying again"),
                Err(error) => tracing::warn!(%error, "purging binary logs was cut short"),
            }
        }
        let Some(applied) = applied.filter(|_| self.last.elapsed() >= PACE && self.task.is_none()) else {
            return;
        };
        self.notes.hear(applied, self.last.elapsed().as_secs());
        self.last = Instant::now();
        if let Err(error) = fs::write(&self.file, write(&self.notes)) {
            // A restarted node agent would take old positions for new ones: older is only more careful.
            tracing::warn!(%error, file = %self.file.display(), "not kept");
        }
        let given = *self.given.borrow();
        let lately = given.under_way || given.last.is_some_and(|last| last.elapsed() < COPIED);
        let waited_for = lately && self.notes.0.values().any(|note| note.away_s > 0);
        if answers && (short || !waited_for) {
            let (socket, data) = (self.folder.socket(), self.folder.data());
            self.task = Some(tokio::spawn(logs::purge(socket, data, self.notes.clone(), short)));
        }
    }
}

/// First line of the file: what follows is in this version's form.
const VERSION: &str = "members 1\n";

/// A line a member: node, position or `-`, seconds away.
fn write(notes: &Notes) -> String {
    let seq = |note: &Note| note.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    let lines = notes.0.iter().map(|(node, note)| format!("{node} {} {}\n", seq(note), note.away_s));
    std::iter::once(VERSION.to_owned()).chain(lines).collect()
}

fn read(text: &str) -> Notes {
    let note = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let node = words.next()?.parse().ok()?;
        let seq = words.next()?;
        let seq = if seq == "-" { None } else { Some(seq.parse().ok()?) };
        Some((node, Note { seq, away_s: words.next()?.parse().ok()? }))
    };
    // Of another version nothing is known: then nothing goes until every member was heard of.
    Notes(text.strip_prefix(VERSION).unwrap_or_default().lines().filter_map(note).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_come_back_and_half_a_line_does_no_harm() {
        let some = Note { seq: Some(7), away_s: 30 };
        let notes = Notes([(2, some), (3, Note { seq: None, away_s: 5 })].into());
        assert_eq!(read(&write(&notes)), notes);
        assert_eq!(read("members 1\n2 7 30\n3 x 1\n4\n5 9"), Notes([(2, some)].into()));
        assert_eq!(read("members 2\n2 7 30\n"), Notes::default());
    }
}
