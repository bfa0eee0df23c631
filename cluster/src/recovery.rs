//! A node goes on alone because the majority is lost for good: its stores on disk, from the old generation to the new one.
//!
//! The order of an operator is one small file, [`Recovery`], renamed into place: from then on there is no way back. The
//! next start of the node agent carries it out, before anything opens the Raft store, in steps that are safe to repeat:
//!
//! | on disk | next step |
//! |---|---|
//! | the order | `raft.redb.recovered` is made of all that the old store holds, then the old store gets a second name |
//! | the second name, and the new store | the new store is renamed into the place of the old one |
//! | the second name, no new store beside | `node.json` says the new generation |
//! | `node.json` says it | the order goes |
//!
//! So after a crash at any moment there is the old store or the new one, never half of one; the old store stays as
//! `raft.redb.before-recovery-N`. A node of before that comes back finds the mark [`GivenUp`] and serves nothing.

mod given_up;

pub use given_up::GivenUp;

use crate::identity::{Identity, IdentityError, Place, write_whole};
use crate::log_store::LogStore;
use crate::state::{ClusterState, INDEX_JUMP, JUMP, Refused, recovery_audit};
use crate::types::TypeConfig;
use openraft::storage::RaftLogStorage;
use openraft::type_config::alias::{LogIdOf, SnapshotMetaOf, StoredMembershipOf, VoteOf};
use openraft::{BasicNode, EntryPayload, LogId, Membership, RaftLogReader};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Version of the order's file.
const FILE: u16 = 1;
/// Largest file of an order that is read.
const LARGEST: u64 = 64 * 1024;

/// The order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    pub version: u16,
    /// Uuid of the cluster, and the node that goes on: the file means nothing in another data folder.
    pub cluster: String,
    pub node: u64,
    /// The generation that it makes.
    pub generation: u64,
    /// Unix milliseconds, who ordered it, and what is given up: for the audit.
    pub at_ms: i64,
    pub who: String,
    pub what: String,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The new store lies beside the old one.
    Made,
    /// It has its place.
    Placed,
    /// The node's file says the new generation.
    Settled,
    /// All is done.
    Done,
}

/// Why a recovery does not go on. Nothing is lost: the next start tries again.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error(
        "the recovery cannot go on: {path}: {source}; make room or mend its rights, then start the node agent again"
    )]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{path} is no order for this node: {why}; nothing was changed: move that file away to start as before"
    )]
    Odd { path: PathBuf, why: String },
    #[error("the Raft store {path} does not give a state to go on with: {why}; recover on another survivor")]
    Store { path: PathBuf, why: String },
    #[error(
        "this node cannot go on alone: {0}; move recovery.json in its data folder away to start as before"
    )]
    State(#[source] Refused),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Files of a data folder.
struct Files {
    order: PathBuf,
    store: PathBuf,
    new: PathBuf,
}

impl Files {
    fn of(folder: &Path) -> Files {
        let file = |name: &str| folder.join(name);
        Files { order: file("recovery.json"), store: file("raft.redb"), new: file("raft.redb.recovered") }
    }

    fn kept(&self, generation: u64) -> PathBuf {
        self.store.with_file_name(format!("raft.redb.before-recovery-{generation}"))
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> RecoveryError {
    let path = path.to_owned();
    move |source| RecoveryError::File { path: path.clone(), source }
}

impl Recovery {
    /// Of the node in this place, which is to go on in the next generation.
    #[must_use]
    pub fn of(place: &Place, at_ms: i64, who: String, what: String) -> Recovery {
        let (cluster, node) = (place.cluster.clone(), place.node);
        Recovery { version: FILE, cluster, node, generation: place.generation + 1, at_ms, who, what }
    }

    /// Writes the order into the data folder; the point of no return.
    ///
    /// # Errors
    /// When it cannot be written; then nothing was changed.
    pub fn write(&self, folder: &Path) -> Result<(), RecoveryError> {
        let path = Files::of(folder).order;
        let body = serde_json::to_vec_pretty(self).map_err(io::Error::other).map_err(at(&path))?;
        write_whole(&path, &body).map_err(at(&path))
    }

    /// The order in the data folder, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is not for this place.
    pub fn read(folder: &Path, place: &Place) -> Result<Option<Recovery>, RecoveryError> {
        let path = Files::of(folder).order;
        let odd = |why: String| RecoveryError::Odd { path: path.clone(), why };
        let body = match std::fs::metadata(&path) {
            Ok(found) if found.len() > LARGEST => return Err(odd(format!("it has {} bytes", found.len()))),
            Ok(_) => std::fs::read(&path).map_err(at(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
        };
        let order: Recovery = serde_json::from_slice(&body).map_err(|e| odd(e.to_string()))?;
        if order.version != FILE {
            return Err(odd(format!("it has version {}, this program knows {FILE}", order.version)));
        }
        let follows = order.generation == place.generation || order.generation == place.generation + 1;
        if (&order.cluster, order.node) != (&place.cluster, place.node) || !follows {
            return Err(odd(format!(
                "it is for node {} and generation {}, this is node {} of generation {}",
                order.node, order.generation, place.node, place.generation
            )));
        }
        Ok(Some(order))
    }
}

/// Carries an order in the data folder out, as far as it is not done yet; the answer is the order.
///
/// # Errors
/// When a step fails; the next start goes on from there.
pub async fn roll_forward(identity: &mut Identity) -> Result<Option<Recovery>, RecoveryError> {
    let Some(place) = &identity.place else { return Ok(None) };
    let order = Recovery::read(identity.folder(), place)?;
    while let Some(step) = step(identity).await? {
        tracing::warn!(?step, "recovery");
    }
    Ok(order)
}

/// Does the next step; `None` = there is nothing to do.
///
/// # Errors
/// When it fails; what was done before stays done.
pub async fn step(identity: &mut Identity) -> Result<Option<Step>, RecoveryError> {
    let Some(place) = identity.place.clone() else { return Ok(None) };
    let folder = identity.folder().to_owned();
    let Some(order) = Recovery::read(&folder, &place)? else { return Ok(None) };
    let files = Files::of(&folder);
    if place.generation == order.generation {
        remove(&files.order)?;
        sync(&folder)?;
        return Ok(Some(Step::Done));
    }
    let kept = files.kept(order.generation);
    let there = |path: &Path| path.try_exists().map_err(at(path));
    let step = match (there(&kept)?, there(&files.new)?) {
        (false, _) => {
            make(&files, &order).await?;
            sync(&folder)?;
            // The second name of the old store says that the new one is whole.
            std::fs::hard_link(&files.store, &kept).map_err(at(&kept))?;
            Step::Made
        }
        (true, true) => {
            std::fs::rename(&files.new, &files.store).map_err(at(&files.store))?;
            Step::Placed
        }
        (true, false) => {
            identity.settle(Place { generation: order.generation, ..place })?;
            Step::Settled
        }
    };
    sync(&folder)?;
    Ok(Some(step))
}

fn remove(path: &Path) -> Result<(), RecoveryError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<(), RecoveryError> {
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))
}

/// All that a store holds: the state with everything that may have been committed, the last index, the term.
async fn read_all(path: &Path) -> Result<(ClusterState, u64, u64), RecoveryError> {
    let failed = |why: String| RecoveryError::Store { path: path.to_owned(), why };
    let io = |error: io::Error| failed(error.to_string());
    let mut store = LogStore::<TypeConfig>::open(path).await.map_err(io)?;
    let snapshot: Option<(SnapshotMetaOf<TypeConfig>, Vec<u8>)> = store.get_snapshot().await.map_err(io)?;
    let (mut state, mut last) = match snapshot {
        Some((meta, data)) => {
            let state = serde_json::from_slice(&data).map_err(|e| failed(e.to_string()))?;
            (state, meta.last_log_id.map(|id| id.index))
        }
        None => (ClusterState::default(), None),
    };
    let from = last.map_or(0, |last| last + 1);
    let entries = store.try_get_log_entries(from..).await.map_err(io)?;
    for (entry, wanted) in entries.into_iter().zip(from..) {
        if entry.log_id.index != wanted {
            return Err(failed(format!("entry {wanted} is missing")));
        }
        // Whether the lost majority had agreed on the last of them nobody knows: what it may have promised is kept.
        if let EntryPayload::Normal(proposal) = entry.payload
            && let Err(why) = state.apply(wanted, &proposal.0)
        {
            tracing::debug!(index = wanted, %why, "an entry changes nothing, as everywhere");
        }
        last = Some(wanted);
    }
    let purged = store.get_log_state().await.map_err(io)?.last_purged_log_id.map(|id| id.index);
    if purged > last {
        return Err(failed("its log begins behind its snapshot".to_owned()));
    }
    let vote = store.read_vote().await.map_err(io)?;
    Ok((state, last.unwrap_or(0), vote.map_or(0, |vote| vote.leader_id.term)))
}

/// Makes the new store beside the old one.
async fn make(files: &Files, order: &Recovery) -> Result<(), RecoveryError> {
    let (old, last, term) = read_all(&files.store).await?;
    let failed = |why: String| RecoveryError::Store { path: files.store.clone(), why };
    if old.uuid != order.cluster || old.generation + 1 != order.generation {
        return Err(failed(format!("it is of generation {} of cluster {}", old.generation, old.uuid)));
    }
    let (index, term) = (last + INDEX_JUMP, term + JUMP);
    let audit = recovery_audit(order.at_ms, order.who.clone(), &order.what);
    let state = old.recovered(order.node, index, &audit).map_err(RecoveryError::State)?;
    let address = state.nodes.get(&order.node).map(|node| node.address.clone()).unwrap_or_default();
    let vote = VoteOf::<TypeConfig>::new(term, order.node);
    let id: LogIdOf<TypeConfig> = LogId::new(vote.leader_id, index);
    let nodes = BTreeMap::from([(order.node, BasicNode::new(address))]);
    let membership = Membership::new(vec![BTreeSet::from([order.node])], nodes);
    let membership = membership.map_err(|e| failed(e.to_string()))?;
    let meta = SnapshotMetaOf::<TypeConfig> {
        last_log_id: Some(id),
        last_membership: StoredMembershipOf::<TypeConfig>::new(Some(id), membership),
    };
    let data = serde_json::to_vec(&state).map_err(|e| failed(e.to_string()))?;
    // One that a crash left half made.
    remove(&files.new)?;
    let mut store = LogStore::<TypeConfig>::open(&files.new).await.map_err(at(&files.new))?;
    store.put_snapshot(&meta, data).await.map_err(at(&files.new))?;
    store.save_vote(&vote).await.map_err(at(&files.new))?;
    store.purge(id).await.map_err(at(&files.new))
}

#[cfg(test)]
mod tests;
