//! The mark of a node that the cluster went on without.

use crate::identity::{Place, write_whole};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Version of the mark.
const FILE: u16 = 1;
const NAME: &str = "given-up.json";

/// Another node of the same cluster is of a later generation: this one belongs to it no more. Its data stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    pub version: u16,
    pub cluster: String,
    /// The generation of the node that was met, and its id.
    pub generation: u64,
    pub by: u64,
}

impl GivenUp {
    /// A member said so.
    #[must_use]
    pub fn new(cluster: String, generation: u64, by: u64) -> GivenUp {
        GivenUp { version: FILE, cluster, generation, by }
    }

    /// Keeps it for the next starts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        write_whole(&folder.join(NAME), &serde_json::to_vec_pretty(self).map_err(io::Error::other)?)
    }

    /// The mark in the data folder of the node in this place; one of another cluster or of an earlier generation says
    /// nothing.
    ///
    /// # Errors
    /// When it is there and cannot be read: then nobody knows whether this node may serve.
    pub fn read(folder: &Path, place: &Place) -> io::Result<Option<GivenUp>> {
        let body = match std::fs::read(folder.join(NAME)) {
            Ok(body) => body,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mark: GivenUp = serde_json::from_slice(&body).map_err(io::Error::other)?;
        if mark.version != FILE {
            let why = format!("{NAME} has version {}, this program knows {FILE}", mark.version);
            return Err(io::Error::other(why));
        }
        Ok(Some(mark).filter(|mark| mark.cluster == place.cluster && mark.generation > place.generation))
    }

    /// In words: what happened and what to do.
    #[must_use]
    pub fn words(&self, mine: u64) -> String {
        format!(
            "the cluster went on without this node: it is in generation {} now, this node in generation {mine}; nothing \
             is served here. Reset it: empty its data folder and join it again (docs/lost-majority.md)",
            self.generation
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_counts_in_its_cluster_and_generation_only() {
        let folder = tempfile::tempdir().unwrap();
        let place = |cluster: &str, generation| Place {
            version: 1,
            node: 2,
            uuid: String::new(),
            cluster: cluster.to_owned(),
            generation,
            peers: Default::default(),
            profile: None,
        };
        assert_eq!(GivenUp::read(folder.path(), &place("c", 1)).unwrap(), None);
        let mark = GivenUp::new("c".into(), 2, 4);
        mark.write(folder.path()).unwrap();
        assert_eq!(GivenUp::read(folder.path(), &place("c", 1)).unwrap(), Some(mark.clone()));
        assert_eq!(GivenUp::read(folder.path(), &place("c", 2)).unwrap(), None, "it joined again");
        assert_eq!(GivenUp::read(folder.path(), &place("d", 1)).unwrap(), None, "of another cluster");
        assert!(mark.words(1).contains("empty its data folder"));
        for damaged in ["{", r#"{"version":9,"cluster":"c","generation":2,"by":4}"#] {
            std::fs::write(folder.path().join(NAME), damaged).unwrap();
            assert!(GivenUp::read(folder.path(), &place("c", 1)).is_err(), "{damaged}");
        }
    }
}
