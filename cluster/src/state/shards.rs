//! The shards of the replicated state.

use elpis_watch::{NodeId, SHARDS};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// A shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// 0 = none.
    pub owner: NodeId,
    /// Epoch of the owner.
    pub epoch: u64,
    /// Highest epoch ever named, by an owner or a move.
    pub named: u64,
    /// New owner of the move under way, with `named` as its epoch.
    pub to: Option<NodeId>,
}

/// All shards, by number: always [`SHARDS`] of them.
///
/// Clones share them until one of them changes a shard: a state is cloned for every entry, and few entries change any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards(Arc<Vec<Shard>>);

impl Shards {
    /// Whether both are one and the same, which says at once that they are equal.
    #[must_use]
    pub fn shared(&self, other: &Shards) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Default for Shards {
    fn default() -> Shards {
        Shards(Arc::new(vec![Shard::default(); SHARDS]))
    }
}

impl Deref for Shards {
    type Target = [Shard];
    fn deref(&self) -> &[Shard] {
        &self.0
    }
}

impl DerefMut for Shards {
    fn deref_mut(&mut self) -> &mut [Shard] {
        Arc::<Vec<Shard>>::make_mut(&mut self.0)
    }
}

impl Serialize for Shards {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl<'a> Deserialize<'a> for Shards {
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Shards, D::Error> {
        let shards: Vec<Shard> = Vec::deserialize(from)?;
        if shards.len() != SHARDS {
            return Err(D::Error::custom(format!("{} shards instead of {SHARDS}", shards.len())));
        }
        Ok(Shards(Arc::new(shards)))
    }
}
