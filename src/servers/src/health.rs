//! Is the way to the database open? Two seconds of failure make the node unfit, so that its shards move.

use elpis_watch::Progress;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a part may fail before the node is unfit.
const PATIENCE: Duration = Duration::from_secs(2);

/// What each part of the server last knew of the database.
#[derive(Debug)]
pub(crate) struct Health {
    progress: Progress,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Since when, and why.
    failing: BTreeMap<&'static str, (Instant, String)>,
    unfit: bool,
}

impl Health {
    pub(crate) fn new(progress: Progress) -> Health {
        Health { progress, inner: Mutex::default() }
    }

    /// A part asks the database something: an answer that does not come counts as a failure, too.
    pub(crate) fn begin(&self, part: &'static str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.failing.entry(part).or_insert_with(|| (Instant::now(), "no answer yet".to_owned()));
    }

    /// A part has its answer.
    pub(crate) fn ok(&self, part: &'static str) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).failing.remove(part);
    }

    /// A part was refused.
    pub(crate) fn failed(&self, part: &'static str, why: &(dyn Display + Sync)) {
        let why = why.to_string();
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = inner.failing.entry(part).or_insert_with(|| (Instant::now(), String::new()));
        if entry.1 != why {
            tracing::warn!(part, error = %why, "the database did not do what was asked; trying again");
            entry.1 = why;
        }
    }

    /// A part of a session that is over has nothing to say any more.
    pub(crate) fn forget_all(&self) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).failing.clear();
    }

    /// Tells the node agent. Call it about every second.
    pub(crate) fn check(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let worst = inner
            .failing
            .iter()
            .filter(|(_, (since, _))| since.elapsed() > PATIENCE)
            .map(|(part, (since, why))| {
                format!("the database has failed for {} s ({part}): {why}", since.elapsed().as_secs())
            })
            .next();
        match (worst, inner.unfit) {
            (Some(why), _) => {
                self.progress.set_unfit(why);
                inner.unfit = true;
            }
            (None, true) => {
                self.progress.set_unfit("");
                inner.unfit = false;
            }
            (None, false) => {}
        }
    }
}
