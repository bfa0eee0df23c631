//! The database as the console uses it: follows the announced endpoint, keeps this writer's fence row.

use crate::refusal::Refused;
use axum::http::StatusCode;
use elpis_store::{CommitError, Endpoint, Secret, Store, StoreError, Writer};
use elpis_watch::{Gate, Link};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often session and endpoint are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(1);
/// Times a write whose outcome is unknown is sent again: every write of the console counts once.
const AGAIN: u32 = 3;
const CONNECTIONS: u32 = 8;

/// Handle on the database; clones share it.
#[derive(Clone)]
pub(crate) struct Db {
    held: Arc<RwLock<Held>>,
    gate: Gate,
}

#[derive(Default)]
struct Held {
    store: Option<Store>,
    /// Registered with the fence.
    writer: Option<Writer>,
    /// Why there is no store.
    why: String,
}

impl Db {
    pub(crate) fn new(gate: Gate) -> Db {
        let why = "the database is not set up yet".to_owned();
        Db { held: Arc::new(RwLock::new(Held { why, ..Held::default() })), gate }
    }

    fn change(&self, change: impl FnOnce(&mut Held)) {
        change(&mut self.held.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// For reading.
    pub(crate) fn store(&self) -> Result<Store, Refused> {
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        held.store.clone().ok_or_else(|| {
            Refused::unavailable(format!("{}; `elpis cluster status` works without it", held.why))
        })
    }

    /// For writing: the store, and this process as the fence knows it.
    fn writer(&self) -> Result<(Store, Writer), Refused> {
        let store = self.store()?;
        let session = self.gate.session_if_valid().ok_or_else(read_only)?;
        let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
        match &held.writer {
            Some(writer) if writer.session == session => Ok((store, writer.clone())),
            _ => Err(Refused::unavailable(
                "this node has just got a new session and is registering with the database; try again in a second",
            )),
        }
    }

    /// True when changes can be made on this node right now.
    pub(crate) fn can_write(&self) -> bool {
        self.writer().is_ok()
    }

    /// Runs an operator's change; one whose outcome is unknown is sent again.
    pub(crate) async fn write<T, F>(&self, work: impl Fn(Store, Writer) -> F) -> Result<T, Refused>
    where
        F: Future<Output = Result<T, CommitError>>,
    {
        let mut tries = 0;
        loop {
            let (store, writer) = self.writer()?;
            match work(store, writer).await {
                Ok(done) => return Ok(done),
                Err(CommitError::Unknown(error)) if tries < AGAIN => {
                    tries += 1;
                    tracing::warn!(%error, tries, "outcome unknown; the same change is sent again");
                }
                Err(CommitError::NotDone(StoreError::Moved)) if tries < AGAIN => tries += 1,
                Err(CommitError::Fenced | CommitError::NoLease) => return Err(read_only()),
                Err(CommitError::NotDone(error)) => return Err(error.into()),
                Err(error @ CommitError::Unknown(_)) => {
                    return Err(Refused::internal(format!(
                        "{error}; look whether the change is there before you repeat it"
                    )));
                }
            }
        }
    }

    /// A deletion: when it is sent again and finds nothing, the first try has done it.
    pub(crate) async fn remove<F>(&self, work: impl Fn(Store, Writer) -> F) -> Result<(), Refused>
    where
        F: Future<Output = Result<(), CommitError>>,
    {
        let sent = AtomicU32::new(0);
        let done = self
            .write(|store, writer| {
                sent.fetch_add(1, Ordering::Relaxed);
                work(store, writer)
            })
            .await;
        match done {
            Err(refused) if refused.status == StatusCode::NOT_FOUND && sent.load(Ordering::Relaxed) > 1 => {
                Ok(())
            }
            done => done,
        }
    }

    /// Follows endpoint and session until told to stop.
    pub(crate) async fn follow(self, link: Link, stop: CancellationToken) {
        let work = async {
            let map = link.map();
            let progress = link.progress();
            progress.expect_bumps(Duration::from_secs(20));
            loop {
                progress.bump();
                let endpoint = map.borrow().database.as_ref().filter(|d| d.ready).map(endpoint);
                let pause = match endpoint {
                    Some(endpoint) => self.look(&link, &endpoint).await,
                    None => LOOK,
                };
                tokio::time::sleep(pause).await;
            }
        };
        // Boxed: a future of the database's depth lives as long as the process.
        stop.run_until_cancelled(Box::pin(work)).await;
    }

    async fn look(&self, link: &Link, endpoint: &Endpoint) -> Duration {
        let current = self.held.read().unwrap_or_else(PoisonError::into_inner).store.clone();
        let store = match current {
            Some(store) if store.epoch() >= endpoint.epoch => store,
            Some(store) => {
                self.change(|held| held.writer = None);
                if let Err(error) = store.switch(endpoint).await {
                    tracing::warn!(%error, epoch = endpoint.epoch, "the new address does not answer yet");
                    return PAUSE;
                }
                store
            }
            None => {
                let gate = self.gate.clone();
                let gate: elpis_store::Gate = Arc::new(move || gate.session_if_valid());
                match Store::connect(endpoint, CONNECTIONS, gate).await {
                    Ok(store) => {
                        tracing::info!(epoch = endpoint.epoch, "database connected");
                        self.change(|held| held.store = Some(store.clone()));
                        store
                    }
                    Err(error) => {
                        tracing::warn!(%error, "no database");
                        self.change(|held| held.why = format!("no database: {error}"));
                        return PAUSE;
                    }
                }
            }
        };
        self.register(link, &store).await
    }

    /// Each session anew: an earlier one's writer is shut out.
    async fn register(&self, link: &Link, store: &Store) -> Duration {
        let Some(session) = self.gate.session_if_valid() else { return LOOK };
        let standing = self.held.read().unwrap_or_else(PoisonError::into_inner).writer.clone();
        if standing.is_some_and(|writer| writer.session == session) {
            return LOOK;
        }
        let welcome = link.welcome();
        let writer =
            Writer { name: format!("{}/console", welcome.name), session, incarnation: welcome.incarnation };
        match store.register(&writer).await {
            Ok(()) => {
                tracing::info!(session, "registered with the fence");
                self.change(|held| held.writer = Some(writer));
                LOOK
            }
            Err(error) => {
                tracing::warn!(%error, session, "cannot register with the fence; pages are read-only");
                PAUSE
            }
        }
    }
}

fn read_only() -> Refused {
    Refused::unavailable(
        "this node holds no lease right now, so it changes nothing; use another node, or look at `elpis cluster status`",
    )
}

fn endpoint(database: &elpis_watch::Database) -> Endpoint {
    Endpoint {
        epoch: database.epoch,
        url: database.url.clone(),
        user: database.user.clone(),
        password: Secret::new(database.password.clone()),
    }
}
