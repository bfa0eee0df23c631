//! `elpis tentacle-server`: takes agents' files into the spool, on two disks before the second `SEND OK`.

mod copies;
mod files;
mod session;

pub use files::{FilterError, Filters};

use crate::peer::{self, Peers};
use crate::protocol;
use crate::spool::{Intake, Limits, Spool, SpoolError};
use crate::tls::{self, NodeKey, TlsError};
use copies::Copies;
use elpis_watch::{Map, NodeId};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Time for a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A connection between nodes this long without a request is closed.
const PEER_IDLE: Duration = Duration::from_secs(120);
/// Connections from other nodes at once.
const PEER_CONNECTIONS: usize = 256;

/// What the server knows of its cluster: from the watch stream (`Link` of elpis-watch).
#[derive(Clone)]
pub struct Cluster {
    /// This node.
    pub node: NodeId,
    /// The newest map.
    pub map: watch::Receiver<Arc<Map>>,
    /// Cluster time in Unix milliseconds.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Cluster {
    pub(crate) fn map(&self) -> Arc<Map> {
        self.map.borrow().clone()
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Certificates towards agents, PEM.
#[derive(Clone, Debug)]
pub struct AgentTls {
    /// Chain.
    pub cert: PathBuf,
    /// Key.
    pub key: PathBuf,
    /// With it, agents must show a certificate of this CA.
    pub ca: Option<PathBuf>,
}

/// Settings of the server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Address for agents.
    pub listen: SocketAddr,
    /// Address for other nodes; none = no second copies.
    pub spool_listen: Option<SocketAddr>,
    /// Key of this node, PEM; made by the node agent.
    pub node_key: PathBuf,
    /// Spool folder.
    pub spool: PathBuf,
    /// Its bounds.
    pub spool_limits: Limits,
    /// Folder for files that are no agent's data (configurations and the like), with the filters' folders in it.
    pub files: PathBuf,
    /// `regex:folder;…` for them.
    pub filters: String,
    /// They may be replaced.
    pub overwrite: bool,
    /// Bounds of a session.
    pub session: protocol::Limits,
    /// Agents at once.
    pub connections: usize,
    /// Password, if any.
    pub password: Option<String>,
    /// TLS, if any.
    pub tls: Option<AgentTls>,
    /// Networks (address, prefix length) that may come without TLS.
    pub plain_from: Vec<(IpAddr, u8)>,
}

impl ServerConfig {
    /// Defaults around a spool folder: plain only from this machine, the original's filters.
    pub fn new(listen: SocketAddr, spool: PathBuf, node_key: PathBuf) -> ServerConfig {
        ServerConfig {
            listen,
            spool_listen: None,
            node_key,
            files: spool.join("files"),
            spool,
            spool_limits: Limits::default(),
            filters: r".*\.conf:conf;.*\.md5:md5;.*\.zip:collections;.*\.lock:trans;.*\.rcmd:commands"
                .to_owned(),
            overwrite: false,
            session: protocol::Limits::default(),
            connections: 1_000,
            password: None,
            tls: None,
            plain_from: vec![([127, 0, 0, 0].into(), 8), (std::net::Ipv6Addr::LOCALHOST.into(), 128)],
        }
    }
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The spool.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Filters.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A port.
    #[error("cannot listen on {0}; is another server on it?")]
    Listen(SocketAddr, #[source] io::Error),
}

/// Says which shard a file belongs to; `None` = it is no agent's data.
pub type ShardOf = Arc<dyn Fn(&str) -> Option<u16> + Send + Sync>;

pub(crate) struct Shared {
    config: ServerConfig,
    shard_of: ShardOf,
    cluster: Cluster,
    filters: Filters,
    copies: Copies,
}

/// Runs until told to stop.
pub async fn run(
    config: ServerConfig,
    cluster: Cluster,
    shard_of: ShardOf,
    stop: CancellationToken,
) -> Result<(), ServerError> {
    let filters = Filters::parse(&config.filters)?;
    filters.make_folders(&config.files)?;
    let intake =
        Arc::new(Intake::open(Spool::open(&config.spool, config.spool_limits.clone())?, cluster.node)?);
    let acceptor = match &config.tls {
        Some(tls) => Some(TlsAcceptor::from(tls::agents(&tls.cert, &tls.key, tls.ca.as_deref())?)),
        None => None,
    };
    let listener = bind(config.listen).await?;
    let tasks = TaskTracker::new();
    let peers = match config.spool_listen {
        Some(address) => {
            let key = NodeKey::open(&config.node_key)?;
            let acceptor = TlsAcceptor::from(key.acceptor(&cluster)?);
            let listener = bind(address).await?;
            tracing::info!(%address, "spool port open");
            tasks.spawn(serve_peers(listener, acceptor, intake.clone(), tasks.clone(), stop.clone()));
            Some(Peers::new(key))
        }
        None => None,
    };
    tracing::info!(address = %config.listen, tls = acceptor.is_some(), "tentacle server open");
    let copies = Copies::new(cluster.clone(), intake, peers);
    let shared = Arc::new(Shared { config, shard_of, cluster, filters, copies });
    tasks.spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move { shared.copies.keep(&stop).await }
    });
    let slots = Arc::new(Semaphore::new(shared.config.connections));
    while let Some((stream, peer)) = accept(&listener, &stop).await {
        let Ok(Some(slot)) = stop.run_until_cancelled(slots.clone().acquire_owned()).await.transpose() else {
            break;
        };
        let (shared, acceptor, stop) = (shared.clone(), acceptor.clone(), stop.clone());
        tasks.spawn(async move {
            if let Err(error) = agent(&shared, acceptor, stream, peer.ip(), &stop).await {
                tracing::info!(%peer, %error, "connection failed");
            }
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|e| ServerError::Listen(address, e))
}

/// The next connection; `None` = stop.
async fn accept(listener: &TcpListener, stop: &CancellationToken) -> Option<(TcpStream, SocketAddr)> {
    loop {
        match stop.run_until_cancelled(listener.accept()).await? {
            Ok(accepted) => return Some(accepted),
            Err(error) => {
                // Out of file descriptors, mostly: some will come back.
                tracing::warn!(%error, "cannot accept a connection");
                stop.run_until_cancelled(tokio::time::sleep(Duration::from_millis(100))).await?;
            }
        }
    }
}

/// Tells TLS from plain by the first byte: a TLS handshake begins with 0x16, a command never does.
async fn agent(
    shared: &Shared,
    acceptor: Option<TlsAcceptor>,
    stream: TcpStream,
    peer: IpAddr,
    stop: &CancellationToken,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut first = [0];
    match timeout(shared.config.session.idle, stream.peek(&mut first)).await {
        Ok(Ok(0)) | Err(_) => return Ok(()),
        Ok(Err(error)) => return Err(error),
        Ok(Ok(_)) => {}
    }
    match (first[0] == 0x16, acceptor) {
        (true, Some(acceptor)) => {
            let shaken = timeout(HANDSHAKE, acceptor.accept(stream)).await;
            let stream = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            session::run(shared, stream, peer, stop).await
        }
        (true, None) => Err(io::Error::other("a TLS client came where TLS is not set up")),
        (false, _) if shared.config.plain_from.iter().any(|network| holds(*network, peer)) => {
            session::run(shared, stream, peer, stop).await
        }
        (false, _) => Err(io::Error::other("a plain client came from a network that must use TLS")),
    }
}

fn holds((network, bits): (IpAddr, u8), peer: IpAddr) -> bool {
    match (network, peer.to_canonical()) {
        (IpAddr::V4(network), IpAddr::V4(peer)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            u32::from(network) & mask == u32::from(peer) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(peer)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            u128::from(network) & mask == u128::from(peer) & mask
        }
        _ => false,
    }
}

async fn serve_peers(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    intake: Arc<Intake>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(PEER_CONNECTIONS));
    while let Some((stream, address)) = accept(&listener, &stop).await {
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let (acceptor, intake, stop) = (acceptor.clone(), intake.clone(), stop.clone());
        tasks.spawn(async move {
            let served = stop.run_until_cancelled(serve_peer(stream, acceptor, intake)).await;
            if let Some(Err(error)) = served {
                tracing::debug!(%address, %error, "connection from another node ended");
            }
            drop(slot);
        });
    }
}

async fn serve_peer(stream: TcpStream, acceptor: TlsAcceptor, intake: Arc<Intake>) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut stream = timeout(HANDSHAKE, acceptor.accept(stream)).await??;
    loop {
        let (request, content) = timeout(PEER_IDLE, peer::read(&mut stream)).await??;
        let intake = intake.clone();
        let (reply, content) =
            tokio::task::spawn_blocking(move || peer::serve(&intake, request, &content)).await?;
        timeout(PEER_IDLE, peer::write(&mut stream, reply, &content)).await??;
    }
}

#[cfg(test)]
mod tests;
