//! What both servers share: the link to the node agent, the database, the way into a session.

use crate::fence::{Raises, writer_name};
use crate::health::Health;
use crate::{Ended, ServerError};
use elpis_store::{Endpoint, Secret, Store, Writer};
use elpis_watch::{Database, Link, LinkError, Map, Role};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Pause before the database is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// How often a lease is looked for.
const LEASE_POLL: Duration = Duration::from_millis(10);

/// A server process that knows its node and has a database.
#[derive(Debug)]
pub(crate) struct Base {
    pub(crate) link: Link,
    pub(crate) store: Store,
    pub(crate) health: Health,
    /// Fence row of this process.
    pub(crate) name: String,
    database_epoch: AtomicU64,
    raises: Mutex<Raises>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Register again, read everything again.
    Again,
    /// The process ends.
    End(Ended),
}

fn endpoint(database: &Database) -> Endpoint {
    Endpoint {
        epoch: database.epoch,
        url: database.url.clone(),
        user: database.user.clone(),
        password: Secret::new(database.password.clone()),
    }
}

fn ready(map: &Map) -> Option<&Database> {
    map.database.as_ref().filter(|database| database.ready)
}

impl Base {
    /// Registers at the node agent and connects to the database as soon as there is one.
    pub(crate) async fn start(
        socket: &Path,
        role: Role,
        connections: u32,
        stop: &CancellationToken,
    ) -> Result<Result<Arc<Base>, Ended>, ServerError> {
        let connected = stop.run_until_cancelled(Link::connect(socket, role)).await;
        let link = match connected {
            None => return Ok(Err(Ended::Stopped)),
            Some(Err(LinkError::Superseded(_))) => return Ok(Err(Ended::Superseded)),
            Some(link) => link?,
        };
        tokio::select! {
            () = stop.cancelled() => Ok(Err(Ended::Stopped)),
            () = link.superseded() => Ok(Err(Ended::Superseded)),
            base = Self::with_database(link.clone(), role, connections) => Ok(Ok(Arc::new(base))),
        }
    }

    async fn with_database(link: Link, role: Role, connections: u32) -> Base {
        let health = Health::new(link.progress());
        let mut maps = link.map();
        let mut said = false;
        loop {
            let map = maps.borrow_and_update().clone();
            let Some(database) = ready(&map) else {
                if !std::mem::replace(&mut said, true) {
                    tracing::info!("waiting for a database that is set up");
                }
                // The stream never ends while the link lives.
                let _ = tokio::time::timeout(Duration::from_secs(1), maps.changed()).await;
                continue;
            };
            let gate = link.gate();
            let gate: elpis_store::Gate = Arc::new(move || gate.session_if_valid());
            match Store::connect(&endpoint(database), connections, gate).await {
                Ok(store) => {
                    health.ok("connect");
                    let name = writer_name(&link.welcome().name, role);
                    let database_epoch = AtomicU64::new(database.epoch);
                    return Base { link, store, health, name, database_epoch, raises: Mutex::default() };
                }
                Err(error) => {
                    health.failed("connect", &error);
                    health.check();
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// Waits for a lease and makes the fence row of this process say its session. Whatever was read before is void.
    pub(crate) async fn enter(&self, stop: &CancellationToken) -> Result<Writer, Ended> {
        tokio::select! {
            () = stop.cancelled() => Err(Ended::Stopped),
            () = self.link.superseded() => Err(Ended::Superseded),
            writer = self.register() => Ok(writer),
        }
    }

    async fn register(&self) -> Writer {
        let progress = self.link.progress();
        loop {
            progress.bump();
            self.health.check();
            let Some(session) = self.link.gate().session_if_valid() else {
                sleep(LEASE_POLL).await;
                continue;
            };
            let writer =
                Writer { name: self.name.clone(), session, incarnation: self.link.welcome().incarnation };
            self.health.begin("register");
            let registered = match self.follow_database().await {
                Ok(()) => self.store.register(&writer).await,
                failed => failed,
            };
            match registered {
                Ok(()) => {
                    self.health.ok("register");
                    tracing::info!(session, incarnation = writer.incarnation, "fence row registered");
                    return writer;
                }
                Err(error) => {
                    self.health.failed("register", &error);
                    sleep(AGAIN).await;
                }
            }
        }
    }

    /// True when the map names another database than the one in use.
    pub(crate) fn database_moved(&self, map: &Map) -> bool {
        ready(map).is_some_and(|database| database.epoch != self.database_epoch.load(Ordering::Relaxed))
    }

    async fn follow_database(&self) -> Result<(), elpis_store::StoreError> {
        let map = self.link.map().borrow().clone();
        if let (true, Some(database)) = (self.database_moved(&map), ready(&map)) {
            self.store.switch(&endpoint(database)).await?;
            self.database_epoch.store(database.epoch, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Number to follow changes from, and the settings: what is read before any shard.
    pub(crate) async fn first_reads(&self) -> (u64, elpis_monitor::Settings) {
        loop {
            self.link.progress().bump();
            self.health.begin("settings");
            let read = async { Ok((self.store.last_change().await?, self.store.settings().await?)) };
            match read.await {
                Ok(read) => {
                    self.health.ok("settings");
                    return read;
                }
                Err::<_, elpis_store::StoreError>(error) => self.health.failed("settings", &error),
            }
            self.health.check();
            sleep(AGAIN).await;
        }
    }

    /// Shuts writers of ended sessions out, as far as this map knows. Before state of a new shard is read.
    pub(crate) async fn raise(&self, map: &Map) -> Result<(), elpis_store::StoreError> {
        let rows = {
            let raises = self.raises.lock().unwrap_or_else(PoisonError::into_inner);
            raises.needed(map, self.link.welcome().node)
        };
        if rows.is_empty() {
            return Ok(());
        }
        self.store.raise(&rows).await?;
        self.raises.lock().unwrap_or_else(PoisonError::into_inner).raised(&rows);
        Ok(())
    }
}

/// Offset of local time to UTC in seconds at a Unix time: cron patterns are local.
pub(crate) fn local_offset_s(now: i64) -> i64 {
    let at = jiff::Timestamp::from_second(now).unwrap_or_default();
    jiff::tz::TimeZone::system().to_offset(at).seconds().into()
}
