//! Tentacle, the transfer protocol of the agents: session, server, client, and the spool that keeps accepted files.
//!
//! Invariant: nothing here knows XML, SQL, Raft or monitoring rules. Which shard a file belongs to is asked of the
//! caller; who owns a shard comes from the watch stream. What a peer sends is bounded in size and time.

#![warn(missing_docs)]

pub mod client;
mod peer;
pub mod protocol;
pub mod server;
pub mod spool;
mod tls;
