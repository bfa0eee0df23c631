//! Web pages and the API.
//!
//! One process a node. It reads the database directly and changes it under its own fence row (`<node>/console`);
//! without a lease it is read-only and says so. What concerns the cluster it asks the node agent, so that the cluster
//! page works without the database. The API is served twice: on the local socket `run/api.sock` for the command line
//! (whoever may open the socket may do everything), and over TLS for people and programs that have signed in.
//!
//! Pages are HTML made here; a small script makes them follow what changes and nothing needs it. Style and script are
//! built in, the browser is told to load nothing from elsewhere.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod again;
mod api;
mod app;
mod assets;
mod auth;
mod db;
mod fetch;
mod graph;
mod limit;
mod live;
mod metrics;
mod orders;
mod pages;
pub mod parse_check;
mod password;
mod refusal;
mod routes;
mod secrets;
mod serve;
mod sessions;
mod status;
mod tls;
mod update;

pub use fetch::fetch;
pub use tls::{fingerprint, make as make_certificate};

use app::App;
use elpis_watch::{Link, LinkError, Role};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What the console process is told.
#[derive(Clone, Debug)]
pub struct ConsoleConfig {
    /// `node.sock` of this node.
    pub socket: PathBuf,
    /// Folder of this node; `run/api.sock`, certificate, key and the token of `/metrics` are in it.
    pub data: PathBuf,
    /// Address for browsers and programs (TLS).
    pub listen: SocketAddr,
    /// Password of the first administrator, read (and made, where it is missing) while nobody can sign in yet.
    pub admin_password: PathBuf,
    /// That password counts as chosen by a person. Else it must be changed before anything else is done.
    pub admin_password_stands: bool,
    /// The operator's certificate chain and key (PEM); without, one is made once.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl ConsoleConfig {
    /// The usual settings for a node with this socket and folder.
    pub fn new(socket: PathBuf, data: PathBuf) -> ConsoleConfig {
        ConsoleConfig {
            socket,
            listen: SocketAddr::from(([0, 0, 0, 0], 443)),
            admin_password: data.join("admin.password"),
            admin_password_stands: false,
            certificate: None,
            data,
        }
    }
}

/// Why the console ended.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// The node agent.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A socket or an address.
    #[error(
        "cannot listen on {what}: {source}; is it in use by another process, or out of reach for this user?"
    )]
    Listen {
        /// Which one.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the node's folder.
    #[error("cannot use {what}: {source}")]
    File {
        /// Which one.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> ConsoleError {
    let what = path.display().to_string();
    move |source| ConsoleError::File { what, source }
}

/// Registers at the node agent and serves until told to stop. Ends with [`LinkError::Superseded`] when another process
/// has taken its place.
pub async fn run(config: ConsoleConfig, stop: CancellationToken) -> Result<(), ConsoleError> {
    let Some(link) = stop.run_until_cancelled(Link::connect(&config.socket, Role::Console)).await else {
        return Ok(());
    };
    let link = link?;
    let end = stop.child_token();
    let (certificate, key) = match &config.certificate {
        Some(given) => given.clone(),
        None => {
            let own = (config.data.join("console.crt"), config.data.join("console.key"));
            tls::make(&own.0, &own.1, &link.welcome().name, config.listen.ip()).map_err(file(&own.0))?;
            own
        }
    };
    let acceptor = tls::acceptor(&certificate, &key).map_err(file(&certificate))?;
    let fingerprint = tls::fingerprint(&certificate).map_err(file(&certificate))?;
    let token = config.data.join("metrics.token");
    let (token, _) = secrets::read_or_make(&token, secrets::random).map_err(file(&token))?;
    let app = Arc::new(App::new(link.clone(), &config, token, fingerprint, end.clone()));
    let origin = if config.admin_password_stands { auth::Origin::Chosen } else { auth::Origin::Made };
    let refused = |what: String| move |source| ConsoleError::Listen { what, source };
    let port = TcpListener::bind(config.listen).await.map_err(refused(config.listen.to_string()))?;
    let path = config.data.join("run/api.sock");
    let local = serve::bind_socket(&path).map_err(refused(path.display().to_string()))?;
    tracing::info!(socket = %path.display(), listen = %config.listen, certificate = app.certificate, "console is ready");
    let work = async {
        tokio::join!(
            app.db.clone().follow(link.clone(), end.clone()),
            auth::first_user(app.clone(), config.admin_password.clone(), origin),
            serve::local(local, routes::local(app.clone()), end.clone()),
            serve::tls(port, acceptor, routes::web(app.clone()), end.clone()),
        );
    };
    tokio::select! {
        () = work => Ok(()),
        () = link.superseded() => {
            end.cancel();
            Err(LinkError::Superseded("another process registered as this node's console".into()).into())
        }
    }
}
