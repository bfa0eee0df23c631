//! Two copies of every accepted file, and the way of each to the shard's owner.

use super::Cluster;
use crate::peer::{Peers, Reply, Request};
use crate::spool::{Accepted, Entry, EntryId, Header, Intake, SpoolError, Stored};
use elpis_watch::{Map, Node, NodeId, Owner};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Time the owner has to take a copy before another node is asked.
const PUT: Duration = Duration::from_secs(1);
/// Time for the other questions.
const ASK: Duration = Duration::from_secs(5);
/// Pause between rounds of keeping.
const ROUND: Duration = Duration::from_millis(500);
/// Shards in one question, deletions in one order.
const BATCH: usize = 512;

pub(super) struct Copies {
    cluster: Cluster,
    intake: Arc<Intake>,
    peers: Option<Peers>,
    local_only: AtomicU64,
}

/// What a round remembers for the next.
#[derive(Default)]
struct Memory {
    ready: HashMap<u16, u64>,
    /// The data server does not know all of it yet.
    untold: bool,
    /// Entries known to stand at the owner.
    delivered: HashMap<u16, (Owner, HashSet<EntryId>)>,
}

impl Copies {
    pub(super) fn new(cluster: Cluster, intake: Arc<Intake>, peers: Option<Peers>) -> Copies {
        Copies { cluster, intake, peers, local_only: AtomicU64::new(0) }
    }

    /// Accepts a file here and on a second node. False = here only.
    pub(super) async fn accept(
        &self,
        name: String,
        content: Vec<u8>,
        shard: u16,
        now_ms: i64,
    ) -> Result<bool, SpoolError> {
        let content = Arc::new(content);
        let accepted = {
            let content = content.clone();
            self.blocking(move |intake| intake.accept(&name, &content, shard, now_ms)).await?
        };
        // A file that was known may have lost its second copy's race the first time: put again, it is no harm.
        let (Accepted::New(header) | Accepted::Known(header)) = accepted;
        let copied = self.second_copy(&header, &content).await;
        if !copied {
            let count = self.local_only.fetch_add(1, Ordering::Relaxed) + 1;
            tracing::warn!(
                name = header.name,
                shard,
                count,
                "file accepted on this node only: no other node took it"
            );
        }
        Ok(copied)
    }

    /// At the owner, or where it is us or does not take it, on the next live node by rendezvous hash.
    async fn second_copy(&self, header: &Header, content: &[u8]) -> bool {
        let map = self.cluster.map();
        for id in order(&map, header.shard, self.cluster.node) {
            let Some(node) = map.nodes.get(&id) else { continue };
            match self.ask(id, node, &Request::Put(header.clone()), content, PUT).await {
                Ok((Reply::Kept(_), _)) => return true,
                Ok((reply, _)) => tracing::warn!(node = id, ?reply, "odd answer to a copy"),
                Err(error) => tracing::info!(node = id, %error, "copy not taken"),
            }
        }
        false
    }

    /// Rounds of keeping, until told to stop.
    pub(super) async fn keep(&self, stop: &CancellationToken) {
        let mut memory = Memory::default();
        let mut changes = self.cluster.map.clone();
        loop {
            if let Some(Err(error)) = stop.run_until_cancelled(self.round(&mut memory)).await {
                tracing::warn!(%error, "spool round failed");
            }
            let wait = async {
                tokio::select! {
                    () = tokio::time::sleep(ROUND) => {}
                    Ok(()) = changes.changed() => {}
                }
            };
            if stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    async fn round(&self, memory: &mut Memory) -> Result<(), SpoolError> {
        let map = self.cluster.map();
        // Where that fails for want of room, the rest makes some.
        let taken_over = self.take_over(&map, memory).await;
        self.delete_done(&map).await?;
        self.forward(&map).await?;
        self.deliver(&map, memory).await?;
        taken_over
    }

    /// Newly owned shards: every live node hands over what it holds; then the data server may start.
    async fn take_over(&self, map: &Map, memory: &mut Memory) -> Result<(), SpoolError> {
        let owned: BTreeMap<u16, u64> = shards(map)
            .filter(|(_, owner)| owner.node == self.cluster.node)
            .map(|(shard, owner)| (shard, owner.epoch))
            .collect();
        let before = memory.ready.len();
        memory.ready.retain(|shard, _| owned.contains_key(shard));
        memory.untold |= before != memory.ready.len();
        let new: Vec<u16> = owned
            .iter()
            .filter(|(shard, epoch)| memory.ready.get(shard) != Some(epoch))
            .map(|item| *item.0)
            .collect();
        for shards in new.chunks(BATCH) {
            for (id, node) in others(map, self.cluster.node) {
                if let Err(error) = self.collect(id, node, shards).await {
                    tracing::info!(node = id, %error, "take-over waits for a node's entries");
                    return Ok(());
                }
            }
            memory.ready.extend(shards.iter().map(|shard| (*shard, owned[shard])));
            memory.untold = true;
            self.tell_readiness(memory).await?;
        }
        self.tell_readiness(memory).await
    }

    async fn tell_readiness(&self, memory: &mut Memory) -> Result<(), SpoolError> {
        if memory.untold {
            let marks = memory.ready.clone();
            self.blocking(move |intake| intake.spool().set_readiness(&marks)).await?;
            memory.untold = false;
        }
        Ok(())
    }

    async fn collect(&self, id: NodeId, node: &Node, shards: &[u16]) -> io::Result<()> {
        let mut after = None;
        loop {
            let request = Request::List { shards: shards.to_vec(), after };
            let (Reply::Listed(items, more), _) = self.ask(id, node, &request, &[], ASK).await? else {
                return Err(io::Error::other("it did not list"));
            };
            for (shard, entry) in &items {
                let spool = self.intake.spool();
                if spool.has(*shard, *entry) || spool.is_done(*shard, *entry) {
                    continue;
                }
                match self.ask(id, node, &Request::Fetch(*shard, *entry), &[], ASK).await? {
                    (Reply::Content(header), content) => {
                        let taken = self.blocking(move |intake| intake.take_copy(&header, &content)).await;
                        taken.map_err(io::Error::other)?;
                    }
                    (Reply::Gone, _) => {}
                    _ => return Err(io::Error::other("it did not hand over an entry")),
                }
            }
            if !more {
                return Ok(());
            }
            after = items.last().copied();
        }
    }

    /// What the data server committed: away on every other node, then here.
    async fn delete_done(&self, map: &Map) -> Result<(), SpoolError> {
        let done = self.blocking(|intake| intake.spool().handed_done()).await?;
        for batch in done.chunks(BATCH) {
            let items: Vec<(u16, EntryId)> = batch.iter().map(|entry| (entry.shard, entry.id)).collect();
            if self.delete_elsewhere(map, items).await {
                let batch = batch.to_vec();
                self.blocking(move |intake| batch.iter().try_for_each(|entry| intake.delete(entry))).await?;
            }
        }
        Ok(())
    }

    async fn delete_elsewhere(&self, map: &Map, items: Vec<(u16, EntryId)>) -> bool {
        let request = Request::Delete(items);
        let mut all = true;
        for (id, node) in others(map, self.cluster.node) {
            if let Err(error) = self.ask(id, node, &request, &[], ASK).await {
                tracing::debug!(node = id, %error, "deletion waits");
                all = false;
            }
        }
        all
    }

    /// Entries filed under the wrong shard: accepted again at the true owner with id and time kept; the old ones go
    /// when two copies stand there.
    async fn forward(&self, map: &Map) -> Result<(), SpoolError> {
        for entry in self.blocking(|intake| intake.spool().handed_forward()).await? {
            let stored = self.read(&entry).await?;
            let old = (stored.header.shard, entry.id);
            let header = Header { shard: entry.shard, forwarded: true, ..stored.header };
            let content = Arc::new(stored.content);
            {
                let (header, content) = (header.clone(), content.clone());
                self.blocking(move |intake| intake.take_copy(&header, &content)).await?;
            }
            let alone = others(map, self.cluster.node).next().is_none();
            if !self.second_copy(&header, &content).await && !alone {
                continue;
            }
            if self.delete_elsewhere(map, vec![old]).await {
                self.blocking(move |intake| {
                    intake.spool().delete(&entry)?;
                    intake.delete(&intake.spool().entry(old.0, old.1))
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Entries whose owner is another node and may not have them: it did not take them in time, or is new.
    async fn deliver(&self, map: &Map, memory: &mut Memory) -> Result<(), SpoolError> {
        let held = self.blocking(|intake| intake.spool().shards()).await?;
        for (shard, owner) in shards(map).filter(|(shard, _)| held.binary_search(shard).is_ok()) {
            let Some(node) =
                map.nodes.get(&owner.node).filter(|node| node.live && owner.node != self.cluster.node)
            else {
                continue;
            };
            let known = memory.delivered.entry(shard).or_default();
            if known.0 != owner {
                *known = (owner, HashSet::new());
            }
            let entries = self.blocking(move |intake| intake.spool().entries(shard)).await?;
            known.1.retain(|id| entries.binary_search_by_key(id, |entry| entry.id).is_ok());
            for entry in entries {
                if known.1.contains(&entry.id) {
                    continue;
                }
                let stored = match self.read(&entry).await {
                    Ok(stored) => stored,
                    Err(error) if error.is_gone() => continue,
                    Err(error) => return Err(error),
                };
                match self.ask(owner.node, node, &Request::Put(stored.header), &stored.content, ASK).await {
                    Ok((Reply::Kept(true), _)) => {
                        known.1.insert(entry.id);
                    }
                    // The owner has committed it: this copy is over.
                    Ok((Reply::Kept(false), _)) => self.blocking(move |intake| intake.delete(&entry)).await?,
                    Ok(_) | Err(_) => break,
                }
            }
        }
        Ok(())
    }

    async fn read(&self, entry: &Entry) -> Result<Stored, SpoolError> {
        let entry = entry.clone();
        self.blocking(move |intake| intake.spool().read(&entry)).await
    }

    async fn ask(
        &self,
        id: NodeId,
        node: &Node,
        request: &Request,
        content: &[u8],
        within: Duration,
    ) -> io::Result<(Reply, Vec<u8>)> {
        match &self.peers {
            Some(peers) => peers.ask(id, node, request, content, within).await,
            None => Err(io::Error::other("this node has no spool port")),
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Intake) -> Result<T, SpoolError> + Send + 'static,
    ) -> Result<T, SpoolError> {
        let intake = self.intake.clone();
        match tokio::task::spawn_blocking(move || work(&intake)).await {
            Ok(result) => result,
            Err(_) => Err(SpoolError::Full("the server is stopping")),
        }
    }
}

fn shards(map: &Map) -> impl Iterator<Item = (u16, Owner)> + '_ {
    (0u16..).zip(map.shards.iter().copied())
}

fn others(map: &Map, own: NodeId) -> impl Iterator<Item = (NodeId, &Node)> {
    map.nodes
        .iter()
        .filter(move |(id, node)| **id != own && node.live && !node.spool_address.is_empty())
        .map(|(id, node)| (*id, node))
}

/// Whom to ask for a second copy: the owner, then by rendezvous hash, which spreads without any agreement.
fn order(map: &Map, shard: u16, own: NodeId) -> Vec<NodeId> {
    let owner = map.shards.get(usize::from(shard)).map_or(0, |owner| owner.node);
    let mut nodes: Vec<NodeId> = others(map, own).map(|(id, _)| id).collect();
    nodes.sort_by_cached_key(|id| {
        let seed = [shard.to_be_bytes().as_slice(), &id.to_be_bytes()].concat();
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &seed);
        (*id != owner, digest.as_ref().to_vec())
    });
    nodes
}
