//! The monitoring model and its rules: what a value means, when a state changes, what is stored, what is due.
//!
//! Invariant: no clock, socket, SQL, randomness or task in this crate. Everything takes `now` and inputs, and returns
//! outcomes. Replaying samples, settings and times gives the same states and events.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod kind;
mod model;
mod shard;

pub use kind::{Kind, ModuleType};
pub use model::*;
pub use shard::{SHARDS, Shard, data_file_prefix};
