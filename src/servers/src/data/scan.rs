//! Finds and reads spooled files of the shards that are held. Blocks on the disk: runs on a blocking thread.

use elpis_agentxml::{AgentReport, Limits, decode, parse};
use elpis_tentacle::spool::{Entry, EntryId, Header, Spool, SpoolError};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant, SystemTime};

/// Entries of a shard listed ahead.
const LISTED: usize = 2_000;
/// Entries of all shards listed ahead.
const LISTED_ALL: usize = 20_000;
/// Pause between two looks at the folders while files wait in memory.
const LIST_EVERY: Duration = Duration::from_millis(100);
/// All folders are looked at so often, whatever the spool says.
const LIST_ALL_EVERY: Duration = Duration::from_secs(20);
/// Files of one gathering.
const FILES: usize = 500;
/// Bytes of one gathering.
const BYTES: usize = 16 << 20;
/// Files of one shard before the next shard has its turn.
const A_TURN: usize = 32;

/// A file as far as it could be read.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) entry: Entry,
    pub(super) content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
    /// A report.
    Report(Header, AgentReport),
    /// Accepted, but no report: reason and line.
    Bad(Header, String, Option<usize>),
    /// Not even an entry.
    Damaged(String),
}

#[derive(Debug, Default)]
struct Slot {
    epoch: u64,
    ready: bool,
    /// Time of the folder at the last listing.
    changed: Option<SystemTime>,
    /// List again although the folder's time stands: its clock is coarse.
    again: bool,
    waiting: BTreeMap<EntryId, Entry>,
    /// Given out and not finished.
    out: BTreeSet<EntryId>,
}

/// The shards of one lane, and what waits in them.
#[derive(Debug)]
pub(super) struct Scanner {
    spool: Spool,
    limits: Limits,
    slots: BTreeMap<u16, Slot>,
    next_list: Instant,
    next_full_list: Instant,
    /// The spool's news at the last listing.
    news: Option<SystemTime>,
    /// Some folder was left out, or the clock of the news is too coarse to be sure.
    unsure: bool,
    /// Some shard is not ready yet, or is to be listed again.
    due: bool,
    /// Entries of all shards that wait.
    listed: usize,
    /// Shard after which the next gathering begins.
    turn: u16,
}

impl Scanner {
    pub(super) fn new(spool: Spool) -> Scanner {
        Scanner {
            spool,
            limits: Limits::default(),
            slots: BTreeMap::new(),
            next_list: Instant::now(),
            next_full_list: Instant::now(),
            news: None,
            unsure: true,
            due: true,
            listed: 0,
            turn: 0,
        }
    }

    /// This shard is worked on in this epoch.
    pub(super) fn keep(&mut self, shard: u16, epoch: u64) {
        if self.slots.get(&shard).is_none_or(|slot| slot.epoch != epoch) {
            self.remove(shard);
            self.slots.insert(shard, Slot { epoch, ..Slot::default() });
            self.due = true;
        }
    }

    pub(super) fn remove(&mut self, shard: u16) {
        if let Some(slot) = self.slots.remove(&shard) {
            self.listed -= slot.waiting.len();
        }
    }

    /// These entries left the work folder.
    pub(super) fn finished(&mut self, shard: u16, id: EntryId) {
        if let Some(slot) = self.slots.get_mut(&shard) {
            slot.out.remove(&id);
        }
    }

    /// This entry was not dealt with: it is found again.
    pub(super) fn again(&mut self, shard: u16, id: EntryId) {
        if let Some(slot) = self.slots.get_mut(&shard) {
            slot.out.remove(&id);
            (slot.again, self.due) = (true, true);
        }
    }

    /// Lists folders that changed, ten times a second at most, then reads files up to the bounds: `values` values, [`FILES`] files.
    pub(super) fn gather(&mut self, values: usize) -> Vec<Parsed> {
        if Instant::now() >= self.next_list {
            self.list();
            self.next_list = Instant::now() + LIST_EVERY;
        }
        let (mut found, mut taken, mut bytes) = (Vec::new(), 0, 0);
        if self.listed == 0 {
            return found;
        }
        let in_turn = self.slots.range(self.turn..).chain(self.slots.range(..self.turn));
        let waits = in_turn.filter(|(_, slot)| !slot.waiting.is_empty());
        let shards: Vec<u16> = waits.map(|(shard, _)| *shard).collect();
        loop {
            let before = found.len();
            for &shard in &shards {
                for _ in 0..A_TURN {
                    if taken >= values || found.len() >= FILES || bytes >= BYTES {
                        self.turn = shard;
                        return found;
                    }
                    let Some(slot) = self.slots.get_mut(&shard) else { break };
                    let Some((id, entry)) = slot.waiting.pop_first() else { break };
                    self.listed -= 1;
                    slot.out.insert(id);
                    let Some((content, size)) = self.read(&entry) else {
                        self.again(shard, id);
                        break;
                    };
                    bytes += size;
                    if let Content::Report(_, report) = &content {
                        taken += report.modules.iter().map(|module| module.items.len()).sum::<usize>();
                    }
                    found.push(Parsed { entry, content });
                }
            }
            if found.len() == before {
                return found;
            }
        }
    }

    /// Files are listed that no gathering has taken yet.
    pub(super) fn has_waiting(&self) -> bool {
        self.listed > 0
    }

    fn read(&self, entry: &Entry) -> Option<(Content, usize)> {
        match self.spool.read(entry) {
            Ok(stored) => {
                let size = stored.content.len();
                let report =
                    decode(&stored.content, &self.limits).and_then(|text| parse(&text, &self.limits));
                Some(match report {
                    Ok(report) => (Content::Report(stored.header, report), size),
                    Err(error) => (Content::Bad(stored.header, error.to_string(), error.line()), size),
                })
            }
            Err(error @ SpoolError::Damaged { .. }) => Some((Content::Damaged(error.to_string()), 0)),
            Err(error) => {
                if !error.is_gone() {
                    tracing::warn!(entry = %entry.id, %error, "a spooled file cannot be read; trying again");
                }
                None
            }
        }
    }

    fn list(&mut self) {
        // Before the folders: what comes meanwhile is seen next time.
        let news = self.spool.news();
        let moved = news != self.news;
        let full = moved || self.unsure || Instant::now() >= self.next_full_list;
        (self.news, self.unsure) = (news, moved);
        if full {
            self.next_full_list = Instant::now() + LIST_ALL_EVERY;
        } else if !self.due {
            return;
        }
        self.due = false;
        let unready = self.slots.values().any(|slot| !slot.ready);
        let readiness = if unready { self.spool.readiness() } else { HashMap::new() };
        for (&shard, slot) in &mut self.slots {
            if !slot.ready {
                slot.ready = readiness.get(&shard) == Some(&slot.epoch);
                slot.again = slot.ready;
            }
            self.due |= !slot.ready || slot.again;
            if !slot.ready || !(full || slot.again) {
                continue;
            }
            if self.listed >= LISTED_ALL {
                self.unsure = true;
                continue;
            }
            let time = self.spool.news_of(shard);
            let moved = time != slot.changed;
            if !moved && !slot.again {
                continue;
            }
            slot.again = moved;
            slot.changed = time;
            match self.spool.entries(shard) {
                Ok(entries) => {
                    for entry in entries {
                        if slot.waiting.len() >= LISTED {
                            slot.again = true;
                            break;
                        }
                        if !slot.out.contains(&entry.id) && slot.waiting.insert(entry.id, entry).is_none() {
                            self.listed += 1;
                        }
                    }
                }
                Err(error) => {
                    slot.again = true;
                    tracing::warn!(shard, %error, "a folder of the spool cannot be listed; trying again");
                }
            }
            self.due |= slot.again;
        }
    }
}
