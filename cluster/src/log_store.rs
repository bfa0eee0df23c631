//! Raft's log, vote and snapshot on disk: one redb file, one durable write transaction a batch.
//!
//! Every record begins with `RECORD`, its version; the rest is JSON, so that a later version can add fields.

use crate::planted;
use crate::types::{Config, TypeConfig};
use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use openraft::{OptionalSend, RaftLogReader};
use redb::{Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

/// Version of every record in the file.
const RECORD: u8 = 1;
const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");
const META: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("meta");

/// The file. Clones share it.
pub struct LogStore<C = TypeConfig> {
    db: Arc<Database>,
    config: PhantomData<fn() -> C>,
}

impl<C> Clone for LogStore<C> {
    fn clone(&self) -> Self {
        LogStore { db: Arc::clone(&self.db), config: PhantomData }
    }
}

impl<C> Debug for LogStore<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogStore")
    }
}

impl<C: Config> LogStore<C> {
    /// Opens or makes the file and checks it through.
    ///
    /// # Errors
    /// When it cannot be opened, or is damaged: then this node must be replaced under a new id.
    pub async fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        C::blocking(move || Self::check(Database::create(&path).map_err(other)?, &path.display().to_string()))
            .await
    }

    /// The same on something else than a file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn open_backend(backend: impl StorageBackend) -> io::Result<Self> {
        C::blocking(move || {
            let db = Database::builder().create_with_backend(backend).map_err(other)?;
            Self::check(db, "backend")
        })
        .await
    }

    fn check(mut db: Database, name: &str) -> io::Result<Self> {
        if !db.check_integrity().map_err(other)? {
            // redb repaired what a crash left open; a second check must be clean.
            tracing::warn!(name, "the Raft log was not closed cleanly and was repaired");
            if !db.check_integrity().map_err(other)? {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the Raft log {name} is damaged; remove this node and join it again"),
                ));
            }
        }
        let write = db.begin_write().map_err(other)?;
        write.open_table(LOG).map_err(other)?;
        write.open_table(META).map_err(other)?;
        write.commit().map_err(other)?;
        Ok(LogStore { db: Arc::new(db), config: PhantomData })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let db = Arc::clone(&self.db);
        C::blocking(move || work(&db)).await
    }

    /// Reads a record of the meta table.
    pub(crate) async fn get<T: DeserializeOwned + Send + 'static>(
        &self,
        key: &'static str,
    ) -> io::Result<Option<T>> {
        self.run(move |db| read_meta(db, key)).await
    }

    /// Writes a record of the meta table.
    pub(crate) async fn put<T: Serialize>(
        &self,
        key: &'static str,
        value: &T,
        durability: Durability,
    ) -> io::Result<()> {
        let record = encode(value)?;
        self.run(move |db| {
            let mut write = db.begin_write().map_err(other)?;
            write.set_durability(durability).map_err(other)?;
            write.open_table(META).map_err(other)?.insert(key, record.as_slice()).map_err(other)?;
            write.commit().map_err(other)
        })
        .await
    }

    /// Writes the snapshot: its meta record and its bytes, in one transaction.
    pub(crate) async fn put_snapshot<T: Serialize>(&self, meta: &T, data: Vec<u8>) -> io::Result<()> {
        let meta = encode(meta)?;
        self.run(move |db| {
            let write = db.begin_write().map_err(other)?;
            {
                let mut table = write.open_table(META).map_err(other)?;
                table.insert("snapshot-meta", meta.as_slice()).map_err(other)?;
                table.insert("snapshot-data", data.as_slice()).map_err(other)?;
            }
            write.commit().map_err(other)
        })
        .await
    }

    /// Reads the snapshot.
    pub(crate) async fn get_snapshot<T: DeserializeOwned + Send + 'static>(
        &self,
    ) -> io::Result<Option<(T, Vec<u8>)>> {
        self.run(|db| {
            let read = db.begin_read().map_err(other)?;
            let table = read.open_table(META).map_err(other)?;
            let Some(meta) = table.get("snapshot-meta").map_err(other)? else { return Ok(None) };
            let data = table
                .get("snapshot-data")
                .map_err(other)?
                .map(|data| data.value().to_vec())
                .unwrap_or_default();
            Ok(Some((decode(meta.value())?, data)))
        })
        .await
    }

    /// Who led before the leader `me` of `term`: the last other one that the log names. openraft lets two lead one
    /// term, the one with the higher id after the other.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn leader_before(&self, term: u64, me: u64) -> io::Result<Option<u64>> {
        self.run(move |db| {
            let read = db.begin_read().map_err(other)?;
            let table = read.open_table(LOG).map_err(other)?;
            for row in table.iter().map_err(other)?.rev() {
                let (_, record) = row.map_err(other)?;
                let entry: EntryOf<C> = decode(record.value())?;
                let leader = entry.log_id.leader_id;
                if (leader.term, leader.node_id) < (term, me) {
                    return Ok(Some(leader.node_id));
                }
            }
            let purged: Option<LogIdOf<C>> = read_meta(db, "purged")?;
            let purged = purged.map(|id| id.leader_id);
            Ok(purged
                .filter(|leader| (leader.term, leader.node_id) < (term, me))
                .map(|leader| leader.node_id))
        })
        .await
    }
}

fn read_meta<T: DeserializeOwned>(db: &Database, key: &str) -> io::Result<Option<T>> {
    let read = db.begin_read().map_err(other)?;
    let table = read.open_table(META).map_err(other)?;
    table.get(key).map_err(other)?.map(|record| decode(record.value())).transpose()
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut record = vec![RECORD];
    serde_json::to_writer(&mut record, value).map_err(io::Error::other)?;
    Ok(record)
}

fn decode<T: DeserializeOwned>(record: &[u8]) -> io::Result<T> {
    match record.split_first() {
        Some((&RECORD, body)) => serde_json::from_slice(body).map_err(io::Error::other),
        Some((version, _)) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "a record of the Raft log has version {version}, this program reads {RECORD}; start the newer program"
            ),
        )),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "an empty record in the Raft log")),
    }
}

impl<C: Config> RaftLogReader<C> for LogStore<C> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<EntryOf<C>>, io::Error> {
        let range: (Bound<u64>, Bound<u64>) = (range.start_bound().cloned(), range.end_bound().cloned());
        self.run(move |db| {
            let read = db.begin_read().map_err(other)?;
            let table = read.open_table(LOG).map_err(other)?;
            let rows = table.range::<u64>(range).map_err(other)?;
            rows.map(|row| row.map_err(other).and_then(|(_, record)| decode(record.value()))).collect()
        })
        .await
    }

    async fn read_vote(&mut self) -> Result<Option<VoteOf<C>>, io::Error> {
        self.get("vote").await
    }
}

impl<C: Config> RaftLogStorage<C> for LogStore<C> {
    type LogReader = LogStore<C>;

    async fn get_log_state(&mut self) -> Result<LogState<C>, io::Error> {
        self.run(|db| {
            let last_purged_log_id: Option<LogIdOf<C>> = read_meta(db, "purged")?;
            let read = db.begin_read().map_err(other)?;
            let table = read.open_table(LOG).map_err(other)?;
            let last = match table.last().map_err(other)? {
                Some((_, record)) => Some(decode::<EntryOf<C>>(record.value())?.log_id),
                None => None,
            };
            Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
        })
        .await
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<C>) -> Result<(), io::Error> {
        let durability =
            if planted::on("vote-not-synced") { Durability::None } else { Durability::Immediate };
        self.put("vote", vote, durability).await
    }

    async fn save_committed(&mut self, committed: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        // Only spares a restarted node the wait for its leader: losing it is harmless, so no fsync.
        self.put("committed", &committed, Durability::None).await
    }

    async fn read_committed(&mut self) -> Result<Option<LogIdOf<C>>, io::Error> {
        Ok(self.get::<Option<LogIdOf<C>>>("committed").await?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<C>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = EntryOf<C>> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows: io::Result<Vec<(u64, Vec<u8>)>> =
            entries.into_iter().map(|entry| Ok((entry.log_id.index, encode(&entry)?))).collect();
        let rows = rows?;
        self.run(move |db| {
            let write = db.begin_write().map_err(other)?;
            {
                let mut table = write.open_table(LOG).map_err(other)?;
                for (index, record) in &rows {
                    table.insert(index, record.as_slice()).map_err(other)?;
                }
            }
            write.commit().map_err(other)
        })
        .await?;
        callback.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<C>>) -> Result<(), io::Error> {
        let from = last.map_or(0, |last| last.index + 1);
        self.run(move |db| {
            let write = db.begin_write().map_err(other)?;
            write.open_table(LOG).map_err(other)?.retain_in::<u64, _>(from.., |_, _| false).map_err(other)?;
            write.commit().map_err(other)
        })
        .await
    }

    async fn purge(&mut self, upto: LogIdOf<C>) -> Result<(), io::Error> {
        let record = encode(&upto)?;
        self.run(move |db| {
            let write = db.begin_write().map_err(other)?;
            write.open_table(META).map_err(other)?.insert("purged", record.as_slice()).map_err(other)?;
            write
                .open_table(LOG)
                .map_err(other)?
                .retain_in::<u64, _>(..=upto.index, |_, _| false)
                .map_err(other)?;
            write.commit().map_err(other)
        })
        .await
    }
}
