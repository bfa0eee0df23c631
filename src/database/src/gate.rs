//! The database gate: the only way to the primary, for the servers of this node and of all others.
//!
//! ```text
//! servers ─ db.sock ──────► gate ──────────────► primary here
//!                          gate ═ mTLS, pinned ═► gate of the primary's node ─► primary
//! mariadbd ─ loopback ───► gate ═══════════════► gate of the source's node ──► its server
//! ```
//!
//! Statements pass only while this node's server leads the epoch they were opened for, and only while the node holds
//! its lease; replication passes only to and from whom the node agent says. A new order is answered when nothing of
//! the old one is open any more: the node agent builds on that. A gate that is stopped, killed or hung lets nothing
//! through. MariaDB itself listens to nothing but its socket.

mod relay;
mod table;
mod wire;

use crate::copy::{SHARED, in_socket, out_socket};
use crate::folder::{make_own, socket};
use elpis_cluster::identity::{Identity, IdentityError};
use elpis_cluster::state::MANAGED;
use elpis_cluster::tls;
use elpis_watch::{Gate, Link, Map, NodeId};
use relay::{Serving, relay};
use rustls::pki_types::ServerName;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use table::{Kind, Place, Table};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use wire::{Answer, Ask};

/// Most connections at a time, each way.
const CONNECTIONS: usize = 512;
/// Connections whose node is not known yet, at a time.
const GUESTS: usize = 64;
/// Time for a connection, a handshake and the words at its begin.
const BEGIN: Duration = Duration::from_secs(5);
/// A connection that comes while no primary is open is held for so long before it is closed, here and at the gate that
/// it was brought to: who asks again costs a handshake each time, and a hundred wait after a failover.
const WAIT: Duration = Duration::from_secs(2);
/// Pauses between two tries; the next one is twice as long, and none lasts longer than what is allowed stays the same.
const LOOK: Duration = Duration::from_millis(20);
const LOOK_MOST: Duration = Duration::from_millis(320);
/// Rights of the socket for the servers: owner and group.
const MODE: u32 = 0o660;
/// ALPN of a gate.
const ALPN: &[u8] = b"elpis-gate/1";

/// What a gate is started with.
#[derive(Clone, Debug)]
pub struct GateConfig {
    /// Data folder of the node.
    pub data: PathBuf,
    /// Folder with the node's own key.
    pub keys: PathBuf,
    /// Address for the gates of other nodes.
    pub listen: SocketAddr,
}

/// Why a gate cannot work.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error("the node's key cannot be used: {0}")]
    Key(#[from] rustls::Error),
    #[error("cannot listen on {0}: {1}; is another gate running?")]
    Listen(String, #[source] std::io::Error),
}

/// What all connections share.
struct Shared {
    data: PathBuf,
    identity: Identity,
    node: NodeId,
    lease: Gate,
    map: RwLock<Arc<Map>>,
    table: Table,
    places: Arc<Semaphore>,
    /// Handshakes at a time.
    guests: Arc<Semaphore>,
}

impl Serving for Shared {
    fn may(&self) -> bool {
        self.lease.session_if_valid().is_some()
    }
    fn slow_ms(&self) -> u32 {
        self.table.slow_ms()
    }
}

/// Runs the gate until the token is cancelled.
///
/// # Errors
/// When the key or an address cannot be used.
pub async fn run(config: GateConfig, link: Link, stop: CancellationToken) -> Result<(), GateError> {
    let identity = Identity::open(&config.keys)?;
    let mut server = (*tls::server(&identity)?).clone();
    server.alpn_protocols = vec![ALPN.to_vec()];
    let refused = |what: &dyn std::fmt::Display| {
        let what = what.to_string();
        move |error| GateError::Listen(what, error)
    };
    let peers = TcpListener::bind(config.listen).await.map_err(refused(&config.listen))?;
    let statements = unix(&config.data.join("run/gate/db.sock"), MODE)?;
    let own = replication_listener(&config.data).await.map_err(refused(&"a port of the loopback"))?;
    let port = own.local_addr().map_err(refused(&"a port of the loopback"))?.port();
    let copies = unix(&in_socket(&config.data), SHARED)?;
    let shared = Arc::new(Shared {
        data: config.data,
        identity,
        node: link.welcome().node,
        lease: link.gate(),
        map: RwLock::new(link.map().borrow().clone()),
        table: Table::default(),
        places: Arc::new(Semaphore::new(CONNECTIONS)),
        guests: Arc::new(Semaphore::new(GUESTS)),
    });
    let acceptor = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(stop.clone().run_until_cancelled_owned(obey(Arc::clone(&shared), link.clone(), port)));
    tokio::spawn(stop.clone().run_until_cancelled_owned(follow_map(Arc::clone(&shared), link.clone())));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = link.superseded() => return Ok(()),
            Ok((stream, _)) = peers.accept() => {
                // Whoever is not known yet takes no place of those who are.
                let Ok(guest) = Arc::clone(&shared.guests).try_acquire_owned() else { continue };
                shared.spawn(|shared| from_peer(shared, acceptor.clone(), stream, guest));
            }
            Ok((stream, _)) = statements.accept() => shared.spawn(|shared| from_server(shared, stream)),
            Ok((stream, _)) = own.accept() => shared.spawn(|shared| from_replica(shared, stream)),
            Ok((stream, _)) = copies.accept() => shared.spawn(|shared| from_copier(shared, stream)),
        }
    }
}

/// Carries out the node agent's orders, and says when.
async fn obey(shared: Arc<Shared>, link: Link, port: u16) {
    let mut orders = link.traffic();
    loop {
        let order = orders.borrow_and_update().clone();
        if let Some(order) = order {
            let number = order.number;
            shared.table.allow(order).await;
            while let Err(error) = link.traffic_done(number, port).await {
                tracing::debug!(%error, "the node agent does not hear that its order is obeyed");
                sleep(LOOK).await;
            }
        }
        if orders.changed().await.is_err() {
            return;
        }
    }
}

async fn follow_map(shared: Arc<Shared>, link: Link) {
    let mut maps = link.map();
    loop {
        let map = maps.borrow_and_update().clone();
        let epoch = map.database.as_ref().map_or(0, |named| named.epoch);
        *shared.map.write().unwrap_or_else(PoisonError::into_inner) = map;
        shared.table.in_epoch(epoch).await;
        if maps.changed().await.is_err() {
            return;
        }
    }
}

impl Shared {
    fn map(&self) -> Arc<Map> {
        self.map.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Works on a connection, if there is room.
    fn spawn<Fut>(self: &Arc<Self>, work: impl FnOnce(Arc<Shared>) -> Fut)
    where
        Fut: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let Ok(room) = Arc::clone(&self.places).try_acquire_owned() else {
            tracing::warn!("{CONNECTIONS} connections are open; one more is closed");
            return;
        };
        let work = work(Arc::clone(self));
        tokio::spawn(async move {
            if let Err(error) = work.await {
                tracing::debug!(%error, "a connection to the database ended");
            }
            drop(room);
        });
    }

    /// Primary and epoch of a database that the nodes run.
    fn primary(&self) -> Option<(NodeId, u64)> {
        let map = self.map();
        let named = map.database.as_ref().filter(|named| named.mode == MANAGED)?;
        Some((named.primary, named.epoch))
    }

    async fn own_server(&self) -> std::io::Result<UnixStream> {
        UnixStream::connect(socket(&self.data)).await
    }

    /// Goes to the gate of another node; it may refuse.
    async fn peer(
        &self,
        node: NodeId,
        ask: Ask,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let map = self.map();
        let Some(known) = map.nodes.get(&node).filter(|known| !known.gate_address.is_empty()) else {
            return Err(other("the node has no gate"));
        };
        let config = tls::client(&self.identity, Some(&known.spki), ALPN).map_err(other)?;
        let begin = async {
            let tcp = TcpStream::connect(&known.gate_address).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
            let mut stream = TlsConnector::from(config).connect(name, tcp).await?;
            wire::send(&mut stream, ask).await?;
            match wire::answer(&mut stream).await? {
                Answer::Welcome => Ok(stream),
                Answer::Refused => {
                    Err(other("the gate there refuses: it does not serve this, or not any more"))
                }
            }
        };
        timeout(BEGIN, begin).await.map_err(|_| other("no answer"))?
    }
}

fn other(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> std::io::Error {
    std::io::Error::other(error)
}

/// Tries again, less and less often.
struct Patience {
    begin: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Patience {
        Patience { begin: Instant::now(), pause: LOOK }
    }

    /// Waits for the next try, or for a change; the error when it was tried for long enough.
    async fn wait(
        &mut self,
        changed: impl Future<Output = ()>,
        error: std::io::Error,
    ) -> std::io::Result<()> {
        if self.begin.elapsed() > WAIT {
            return Err(error);
        }
        let _ = timeout(self.pause, changed).await;
        self.pause = (self.pause * 2).min(LOOK_MOST);
        Ok(())
    }
}

/// A server of this node wants the primary.
async fn from_server(shared: Arc<Shared>, stream: UnixStream) -> std::io::Result<()> {
    let mut patience = Patience::new();
    loop {
        let changed = shared.table.changed();
        let mut why = other("the nodes run no database");
        if let Some((primary, epoch)) = shared.primary() {
            // Our own words are needed twice when the primary is here: as the one who asks, and as the one who serves.
            match shared.table.open(Kind::Reach { epoch }) {
                None => {}
                Some(place) if primary == shared.node => match shared.table.open(Kind::Serve { epoch }) {
                    Some(serving) => {
                        let work = async {
                            let server = shared.own_server().await?;
                            relay(stream, server, Some(&*shared)).await
                        };
                        return both(&serving, &place, work).await;
                    }
                    None => why = other("this node's server is not open yet"),
                },
                Some(place) => match place.during(shared.peer(primary, Ask::Statements { epoch })).await {
                    Ok(peer) => return place.during(relay(stream, peer, None::<&Shared>)).await,
                    Err(error) => why = error,
                },
            }
        }
        patience.wait(changed, why).await?;
    }
}

/// Until one of two places is closed.
async fn both(
    one: &Place<'_>,
    two: &Place<'_>,
    work: impl Future<Output = std::io::Result<()>>,
) -> std::io::Result<()> {
    one.during(two.during(work)).await
}

/// This node's server wants its source.
async fn from_replica(shared: Arc<Shared>, stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(source) = shared.table.source() else {
        return Err(other("this node's server has no source now"));
    };
    let Some(place) = shared.table.open(Kind::Follow { source }) else { return Ok(()) };
    let mut patience = Patience::new();
    let work = async {
        loop {
            let changed = shared.table.changed();
            match shared.peer(source, Ask::Replication).await {
                Ok(peer) => return relay(stream, peer, None::<&Shared>).await,
                // MariaDB itself would wait for a second before its next try.
                Err(error) => patience.wait(changed, error).await?,
            }
        }
    };
    place.during(work).await
}

/// This node's supervisor wants the primary's files.
async fn from_copier(shared: Arc<Shared>, stream: UnixStream) -> std::io::Result<()> {
    let Some((primary, _)) = shared.primary() else { return Err(other("the nodes run no database")) };
    relay(stream, shared.peer(primary, Ask::Copy).await?, None::<&Shared>).await
}

/// The gate of another node.
async fn from_peer(
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    guest: OwnedSemaphorePermit,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let begin = async {
        let mut stream = acceptor.accept(stream).await?;
        let pin = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|shown| elpis_cluster::identity::spki_pin(shown.first()?));
        let map = shared.map();
        let node = map.nodes.iter().find(|(_, known)| Some(&known.spki) == pin.as_ref()).map(|(id, _)| *id);
        let node = node.ok_or_else(|| other("a key that belongs to no member"))?;
        let ask = wire::asked(&mut stream).await?;
        Ok::<_, std::io::Error>((stream, node, ask))
    };
    let (mut stream, node, ask) = timeout(BEGIN, begin).await.map_err(|_| other("no words in time"))??;
    drop(guest);
    let kind = match ask {
        Ask::Statements { epoch } => Kind::Serve { epoch },
        Ask::Replication => Kind::Feed { node },
        Ask::Copy => Kind::Copy,
    };
    let Some(place) = shared.table.opened(kind, WAIT).await else {
        return wire::reply(&mut stream, Answer::Refused).await;
    };
    let serving = matches!(ask, Ask::Statements { .. }).then_some(&*shared);
    let work = async {
        let server = match ask {
            Ask::Copy => UnixStream::connect(out_socket(&shared.data)).await,
            _ => shared.own_server().await,
        };
        let Ok(server) = server else {
            return wire::reply(&mut stream, Answer::Refused).await;
        };
        wire::reply(&mut stream, Answer::Welcome).await?;
        relay(stream, server, serving).await
    };
    place.during(work).await
}

/// The port at which MariaDB finds its source: the same again after a restart, if it is free.
async fn replication_listener(data: &Path) -> std::io::Result<TcpListener> {
    let file = data.join("run/gate/replication.port");
    let before = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u16>().ok());
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, before.unwrap_or(0))).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?,
    };
    std::fs::write(file, listener.local_addr()?.port().to_string())?;
    Ok(listener)
}

fn unix(path: &Path, mode: u32) -> Result<UnixListener, GateError> {
    let failed = |error| GateError::Listen(path.display().to_string(), error);
    if let Some(folder) = path.parent() {
        make_own(folder).map_err(failed)?;
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).map_err(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(listener)
}
