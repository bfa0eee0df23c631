//! The cluster: one Raft group that says who may act, in which session, on which shards.
//!
//! `state` is pure (no clock, no I/O, no hashing order). Everything else here is glue around openraft and sockets.

pub mod agent;
pub mod bootstrap;
pub mod database;
pub mod identity;
pub mod key;
pub mod leader;
pub mod lease;
pub mod log_store;
pub mod network;
pub mod plan;
pub mod planted;
pub mod profile;
pub mod quiet;
pub mod raft_node;
pub mod recovery;
pub mod state;
pub mod state_machine;
pub mod tls;
pub mod types;
pub mod update;
pub mod words;
