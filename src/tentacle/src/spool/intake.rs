//! The tentacle server's side of the spool: acceptance, with order, limits and one entry a name.

use super::entry::{read_header, report_key};
use super::{Entry, EntryId, Header, READINESS, Spool, SpoolError, VERSION, remove};
use std::collections::HashMap;
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Sequence numbers reserved on disk at a time: one sync for so many acceptances; the rest is skipped after a crash.
const SEQUENCE_BLOCK: u64 = 10_000;

/// How an accepted file came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// A new entry stands.
    New(Header),
    /// The same file was waiting already.
    Known(Header),
}

impl Accepted {
    /// Header of the entry that stands.
    pub fn header(&self) -> &Header {
        match self {
            Accepted::New(header) | Accepted::Known(header) => header,
        }
    }
}

/// Accepts files into a spool. One per spool folder: it keeps the index of names and the sizes in memory.
#[derive(Debug)]
pub struct Intake {
    spool: Spool,
    receiver: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<String, Known>,
    sizes: HashMap<(u16, EntryId), (u64, String)>,
    bytes: u64,
    last_ms: i64,
    sequence: u64,
    reserved: u64,
}

#[derive(Clone, Debug)]
struct Known {
    key: String,
    shard: u16,
    id: EntryId,
}

impl Intake {
    /// Takes over the spool: reads what waits, empties `tmp`, forgets old readiness.
    pub fn open(spool: Spool, receiver: u64) -> Result<Intake, SpoolError> {
        let path = spool.root.join("tmp");
        for file in fs::read_dir(&path).map_err(|e| SpoolError::io("list", &path, e))?.flatten() {
            remove(&file.path())?;
        }
        remove(&spool.root.join(READINESS))?;
        // Of versions that wrote a file for each shard.
        let old = spool.root.join("ready");
        if old.exists() {
            fs::remove_dir_all(&old).map_err(|e| SpoolError::io("remove", &old, e))?;
        }
        let mut state = State::default();
        for shard in spool.shards()? {
            for entry in spool.entries(shard)? {
                match read_header(&entry.path) {
                    Ok((header, bytes)) => state.note(&header, bytes),
                    Err(error) => tracing::warn!(%error, "a spool entry is left to the data server"),
                }
                state.last_ms = state.last_ms.max(entry.id.receive_ms);
            }
        }
        let path = spool.root.join("sequence");
        match fs::read_to_string(&path) {
            Ok(text) => state.sequence = text.trim().parse().unwrap_or(u64::from(u32::MAX)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(SpoolError::io("read", &path, e)),
        }
        state.reserved = state.sequence;
        Ok(Intake { spool, receiver, state: Mutex::new(state) })
    }

    /// The spool it fills.
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Accepts a file: when this returns, it is on the disk of this node. `now_ms` is cluster time.
    pub fn accept(
        &self,
        name: &str,
        content: &[u8],
        shard: u16,
        now_ms: i64,
    ) -> Result<Accepted, SpoolError> {
        let key = report_key(name, content);
        let header = {
            let mut state = self.lock();
            if let Some(known) = state.names.get(name).cloned() {
                let entry = self.spool.entry(known.shard, known.id);
                match (entry.path.exists(), known.key == key) {
                    (true, true) => match super::entry::read(&entry.path) {
                        Ok(stored) => return Ok(Accepted::Known(stored.header)),
                        Err(error) => tracing::debug!(%error, "the known entry went while it was looked at"),
                    },
                    (true, false) => return Err(SpoolError::Exists(name.to_owned())),
                    (false, _) => {}
                }
                state.forget(known.shard, known.id);
            }
            state.check(&self.spool, content.len())?;
            let id = state.next_id(&self.spool, self.receiver, now_ms)?;
            let header = Header {
                version: VERSION,
                name: name.to_owned(),
                receive_ms: id.receive_ms,
                receiver: id.receiver,
                sequence: id.sequence,
                key,
                shard,
                forwarded: false,
            };
            // Noted before it is written, so that two senders of one name cannot both pass.
            state.note(&header, content.len() as u64);
            header
        };
        match self.spool.put(&header, content) {
            Ok(_) => Ok(Accepted::New(header)),
            Err(error) => {
                self.lock().forget(shard, header.id());
                Err(error)
            }
        }
    }

    /// Takes a copy from another node. False when it was here, or committed here, before.
    pub fn take_copy(&self, header: &Header, content: &[u8]) -> Result<bool, SpoolError> {
        let id = header.id();
        if report_key(&header.name, content) != header.key
            || header.version != VERSION
            || header.shard >= 4096
        {
            let why =
                format!("a copy from another node does not match its header (version {})", header.version);
            return Err(SpoolError::Damaged { path: id.file_name().into(), why });
        }
        if self.spool.has(header.shard, id) || self.spool.is_done(header.shard, id) {
            return Ok(false);
        }
        self.lock().check(&self.spool, content.len())?;
        self.spool.put(header, content)?;
        self.lock().note(header, content.len() as u64);
        Ok(true)
    }

    /// Deletes an entry and gives its room back.
    pub fn delete(&self, entry: &Entry) -> Result<(), SpoolError> {
        self.spool.delete(entry)?;
        self.lock().forget(entry.shard, entry.id);
        Ok(())
    }

    /// Entries and bytes that wait or are not yet deleted.
    pub fn waiting(&self) -> (u64, u64) {
        let state = self.lock();
        (state.sizes.len() as u64, state.bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn note(&mut self, header: &Header, bytes: u64) {
        let known = Known { key: header.key.clone(), shard: header.shard, id: header.id() };
        self.names.insert(header.name.clone(), known);
        let old = self.sizes.insert((header.shard, header.id()), (bytes, header.name.clone()));
        self.bytes = self.bytes + bytes - old.map_or(0, |old| old.0);
    }

    fn forget(&mut self, shard: u16, id: EntryId) {
        let Some((bytes, name)) = self.sizes.remove(&(shard, id)) else { return };
        self.bytes -= bytes;
        if self.names.get(&name).is_some_and(|known| known.id == id && known.shard == shard) {
            self.names.remove(&name);
        }
    }

    fn check(&self, spool: &Spool, size: usize) -> Result<(), SpoolError> {
        if self.bytes + size as u64 > spool.limits.bytes {
            return Err(SpoolError::Full("its limit of bytes is reached"));
        }
        if self.sizes.len() as u64 >= spool.limits.entries {
            return Err(SpoolError::Full("its limit of entries is reached"));
        }
        Ok(())
    }

    fn next_id(&mut self, spool: &Spool, receiver: u64, now_ms: i64) -> Result<EntryId, SpoolError> {
        if self.sequence >= self.reserved {
            let reserved = self.sequence + SEQUENCE_BLOCK;
            spool.write_file(&spool.root.join("sequence"), reserved.to_string().as_bytes())?;
            self.reserved = reserved;
        }
        self.sequence += 1;
        // Acceptance order never runs backwards, whatever a new leader's clock says.
        self.last_ms = self.last_ms.max(now_ms);
        Ok(EntryId { receive_ms: self.last_ms, receiver, sequence: self.sequence })
    }
}
