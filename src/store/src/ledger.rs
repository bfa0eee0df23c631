//! The run ledger: what ran, what was due, and where the two differ.

mod pack;
pub(crate) use pack::Packed;
