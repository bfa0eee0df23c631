//! The cluster: one Raft group that says who may act, in which session, on which shards.
//!
//! `state`, `plan`, `lease` and `leader` are pure (no clock, no I/O, no hashing order): the node agent feeds them times
//! and messages and does what they return. Everything else is glue around openraft and sockets.

pub mod planted;
pub mod state;
