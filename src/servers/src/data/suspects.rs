//! Which file makes the database refuse a batch? Each file of a refused batch gets a batch to itself; one that is
//! refused alone is the one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Files under suspicion at most; above, all are forgotten and found again.
const MOST: usize = 10_000;

/// What is held against a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// It was in a refused batch: it has to come alone.
    Alone,
    /// The database refuses it; the reason.
    Guilty(String),
}

/// By report key. Lives as long as the process: sessions end with a refused batch.
#[derive(Debug, Default)]
pub(super) struct Suspects(Mutex<HashMap<[u8; 32], Suspicion>>);

impl Suspects {
    /// A batch of these reports was refused.
    pub(super) fn refused(&self, keys: &[[u8; 32]], why: &str) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if suspects.len() + keys.len() > MOST {
            suspects.clear();
        }
        match keys {
            [one] => {
                suspects.insert(*one, Suspicion::Guilty(why.to_owned()));
            }
            many => suspects.extend(many.iter().map(|key| (*key, Suspicion::Alone))),
        }
    }

    /// These reports are stored, or set aside: nothing is held against them any more.
    pub(super) fn stands(&self, keys: &[[u8; 32]]) {
        let mut suspects = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !suspects.is_empty() {
            suspects.retain(|key, _| !keys.contains(key));
        }
    }

    pub(super) fn of(&self, key: &[u8; 32]) -> Option<Suspicion> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alone_is_guilty_and_what_stands_is_free() {
        let suspects = Suspects::default();
        let keys = [[1; 32], [2; 32], [3; 32]];
        suspects.refused(&keys, "too long");
        assert!(keys.iter().all(|key| suspects.of(key) == Some(Suspicion::Alone)));
        suspects.stands(&keys[..1]);
        suspects.refused(&keys[1..2], "too long");
        assert_eq!(suspects.of(&keys[0]), None);
        assert_eq!(suspects.of(&keys[1]), Some(Suspicion::Guilty("too long".to_owned())));
        assert_eq!(suspects.of(&keys[2]), Some(Suspicion::Alone));
    }
}
