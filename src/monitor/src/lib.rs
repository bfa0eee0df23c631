//! The monitoring model and its rules: what a value means, when a state changes, what is stored, what is due.
//!
//! Invariant: no clock, socket, SQL, randomness or task in this crate. Everything takes `now` and inputs, and returns
//! outcomes. Replaying samples, settings and times gives the same states and events.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod clean;
pub mod cron;
mod event;
mod flip_flop;
mod judge;
mod kind;
mod model;
mod pattern;
mod process;
mod rollup;
pub mod schedule;
mod settings;
mod shard;

pub use clean::{five_decimals, parse_number};
pub use judge::status_from_word;
pub use kind::{Kind, ModuleType};
pub use model::*;
pub use pattern::Pattern;
pub use process::{Outcome, detect_unknown, interval_of, process, process_error};
pub use rollup::{Counts, Shown};
pub use settings::{Context, Settings};
pub use shard::{SHARDS, Shard, data_file_prefix};
