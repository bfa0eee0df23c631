//! What every request works with.

use crate::db::Db;
use crate::metrics::Metrics;
use elpis_watch::Link;

pub(crate) struct App {
    pub(crate) link: Link,
    pub(crate) db: Db,
    pub(crate) metrics: Metrics,
}

impl App {
    pub(crate) fn new(link: Link) -> App {
        App { db: Db::new(link.gate()), metrics: Metrics::default(), link }
    }

    /// Cluster time in Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.link.cluster_now_ms() / 1000
    }
}
