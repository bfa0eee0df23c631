//! A node's copy of the database: MariaDB's folder, settings and process, the statements of replication, copies from
//! another node, and the gate through which all others reach the primary.
//!
//! It decides nothing: `elpis_cluster::database` says what to do next, [`run`] does it. The product's own tables are the
//! store's; here are only those of the group itself and the fence, which a new primary writes before it opens.
//!
//! | what runs | file |
//! |---|---|
//! | the supervisor: looks, asks what to do, does it, reports | `supervisor.rs` |
//! | rows that wait for an acknowledgement, the write probe | `rows.rs` |
//! | copies for other nodes | `copy.rs` |
//! | the purge of binary logs that no member needs | `logs.rs` |
//! | room on the disk, the reserve file | `disk.rs` |
//! | the comparison of a copy with the primary | `verify.rs` |
//! | the gate, a process of its own | `gate.rs` |

mod copy;
mod disk;
mod folder;
pub mod gate;
mod logs;
mod look;
mod rows;
mod server;
mod sql;
mod supervisor;
mod verify;

pub use folder::{program, user_name};
pub use supervisor::run;

use std::path::PathBuf;

/// What a supervisor is started with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data folder of the node.
    pub data: PathBuf,
    /// Memory for MariaDB's pages, MiB.
    pub memory_mib: u32,
    /// Bytes a second of a copy for another node, at most.
    pub copy_bytes_per_s: u64,
    /// Bytes of the reserve file; `None` = by the size of the disk.
    pub reserve_bytes: Option<u64>,
}

/// What went wrong, in words for an operator.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: {1}")]
    File(String, #[source] std::io::Error),
    #[error("MariaDB refuses {0}: {1}")]
    Sql(&'static str, #[source] sqlx::Error),
    #[error("MariaDB does not answer within {0} ms ({1})")]
    Silent(u128, &'static str),
    #[error("{0}")]
    Other(String),
}
