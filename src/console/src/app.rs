//! What every request works with.

use crate::ConsoleConfig;
use crate::db::Db;
use crate::limit::Limiter;
use crate::metrics::Metrics;
use crate::sessions::Sessions;
use crate::status::NodeStatus;
use elpis_watch::Link;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Passwords checked at the same time: each takes 19 MiB for a while.
const HASHING: usize = 2;
/// Live pages at the same time.
pub(crate) const LIVE: usize = 64;

pub(crate) struct App {
    pub(crate) link: Link,
    pub(crate) db: Db,
    pub(crate) node: NodeStatus,
    pub(crate) sessions: Sessions,
    pub(crate) limiter: Limiter,
    pub(crate) hashing: Semaphore,
    pub(crate) live: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
    /// What `GET /metrics` over TLS has to bring.
    pub(crate) metrics_token: String,
    /// SHA-256 of the TLS port's certificate.
    pub(crate) certificate: String,
    /// Ends what goes on for long.
    pub(crate) stop: CancellationToken,
}

impl App {
    pub(crate) fn new(
        link: Link,
        config: &ConsoleConfig,
        metrics_token: String,
        certificate: String,
        stop: CancellationToken,
    ) -> App {
        App {
            db: Db::new(link.gate()),
            node: NodeStatus::new(config.socket.clone()),
            sessions: Sessions::default(),
            limiter: Limiter::default(),
            hashing: Semaphore::new(HASHING),
            live: Arc::new(Semaphore::new(LIVE)),
            metrics: Metrics::default(),
            metrics_token,
            certificate,
            stop,
            link,
        }
    }

    /// Cluster time in Unix seconds.
    pub(crate) fn now(&self) -> i64 {
        self.link.cluster_now_ms() / 1000
    }

    /// Live pages open now.
    pub(crate) fn live_streams(&self) -> usize {
        LIVE.saturating_sub(self.live.available_permits())
    }
}
