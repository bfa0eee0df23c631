//! The machine's journal goes out to a log server: records of syslog (RFC 5424) over TLS (RFC 5425).
//!
//! The server acknowledges nothing in that protocol. What a broken connection may have swallowed is sent again: a record
//! may come twice, and none is left out that the journal still holds.

mod forward;
mod position;
mod record;
mod tls;

pub use forward::{Config, Pace, run};
pub use tls::Server;

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log server is not reached, or refused.
    #[error("the log server {server}: {why}")]
    Server {
        /// Host and port.
        server: String,
        /// What happened.
        why: String,
    },
    /// A file of this machine.
    #[error("{what}: {error}")]
    File {
        /// What was tried.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// The journal is not read.
    #[error("the journal: {0}")]
    Journal(String),
}
