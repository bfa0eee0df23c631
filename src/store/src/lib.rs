//! The only SQL of the product: connections that follow the database endpoint, fenced batches, loading, reading,
//! the run ledger, migrations.
//!
//! Every write transaction begins with its writer's row in `cluster_fence` ([`Writer`]); without that row nothing is
//! written. Right before its COMMIT the lease is asked once more ([`Gate`]). Tables are locked in one order
//! (`tmodule_state`, `tagent_contact`, `tagent_count`, `tagent`, `tagent_module`), rows in key order, so that writers
//! that share agents do not deadlock; should the server still break a tie, the whole transaction is repeated.
//!
//! Texts longer than their column are cut, numbers beyond what a column holds are held at its end: one bad value must
//! not take a batch of a thousand with it. Names are identities and are refused instead.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod access;
mod accounts;
mod batch;
mod bulk;
mod changes;
mod columns;
mod create;
mod endpoint;
mod error;
mod facts;
mod fence;
mod ledger;
mod load;
mod migrate;
mod operate;
mod pool;
mod purge;
mod read;
mod seen;
mod server;
mod statements;
#[cfg(feature = "testdb")]
pub mod testdb;

pub use access::{AccessError, AccessRole, Account, provide_access};
pub use accounts::{OpenSession, Session, User};
pub use batch::{AgentSeen, Batch, Committed, Contact, Flush, ModuleSeen, Row};
pub use changes::Changes;
pub use endpoint::{Endpoint, Secret};
pub use error::{CommitError, StoreError};
pub use facts::{DatabaseFacts, TableSize};
pub use fence::Writer;
pub use ledger::{LedgerReport, unpack_runs};
pub use migrate::{Migrated, migrate};
pub use operate::NewCheck;
pub use pool::{Gate, Store};
pub use purge::Purged;
pub use read::{
    AgentFilter, AgentRow, EventFilter, EventRow, Group, GroupRow, ModuleFilter, ModuleRow, Overview, Samples,
};
pub use seen::Seen;
pub use server::ServerRow;

use elpis_monitor::{Agent, Module, ModuleState};

/// Which server runs a module (`tagent_module.id_module`, `tagent_contact.server_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ServerKind {
    /// Data server: values that agents send.
    Data = 1,
    /// Network server: module types 6 to 18.
    Network = 2,
}

impl ServerKind {
    /// Number as stored.
    pub fn number(self) -> u8 {
        self as u8
    }
    /// Who runs modules of this type.
    pub fn of(module_type: elpis_monitor::ModuleType) -> ServerKind {
        if module_type.is_network() { ServerKind::Network } else { ServerKind::Data }
    }
}

/// An agent with all that its owner works from.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadedAgent {
    /// The agent.
    pub agent: Agent,
    /// Its modules of one kind, by id, with state as after the last committed sample.
    pub modules: Vec<(Module, ModuleState)>,
    /// Contact row of that kind.
    pub seen: Seen,
    /// Place that the next new module gets.
    pub next_position: u16,
}
