//! Data server and network server: they follow the watch stream, own shards, and turn files and probes into committed
//! batches.
//!
//! Pure parts decide ([`shards`], [`planner`](network::planner), [`pack`]); thin loops around them wait, probe and
//! commit. Invariant: nothing is probed without a lease, nothing is read before the fence is raised, and no state in
//! memory outlives the session it was read in.
#![forbid(unsafe_code)]

mod base;
pub mod data;
mod fence;
mod flush;
mod health;
pub mod network;
pub mod pack;
mod reader;
mod roster;
pub mod shards;
mod thread;
mod unknown;

/// How a server ended without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop, and has written what it had.
    Stopped,
    /// Another process has its role: it must exit (code 3).
    Superseded,
}

/// Why a server cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The node agent is not there, or speaks another version.
    #[error("the server cannot follow its node agent: {0}")]
    Link(#[from] elpis_watch::LinkError),
    /// The spool's folders cannot be used.
    #[error("the data server cannot use its spool: {0}")]
    Spool(#[from] elpis_tentacle::spool::SpoolError),
    /// The system gives no thread for the main loop.
    #[error("the server's main loop cannot start: {0}; raise the limit of threads or free memory")]
    Thread(#[source] std::io::Error),
    /// A fault of the program.
    #[error("the server's main loop ended by a panic; the log says where; it has to be restarted")]
    Panicked,
}
