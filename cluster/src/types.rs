//! The types openraft works with here, and small things every part of the glue needs.

use crate::state::{Applied, Command, Refused};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;

/// What goes into the log: a [`Command`], shown by its `Display` so that no secret reaches a log line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Proposal(pub Command);

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What applying an entry answers; `None` for entries without a command.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome(pub Option<Result<Applied, Refused>>);

openraft::declare_raft_types!(
    /// Raft as this product uses it.
    pub TypeConfig:
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = openraft::BasicNode,
);

/// [`TypeConfig`] but for its runtime: log store and state machine run on tokio here and on virtual time in the
/// simulator.
pub trait Config:
    openraft::RaftTypeConfig<
        D = Proposal,
        R = Outcome,
        NodeId = u64,
        Node = openraft::BasicNode,
        Term = u64,
        LeaderId = LeaderId,
        Vote = openraft::impls::Vote<LeaderId>,
        Payload = Payload,
        Entry = openraft::Entry<openraft::vote::leader_id_adv::CommittedLeaderId<u64, u64>, Payload>,
    >
{
    /// Does blocking work outside the tasks of Raft.
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>>;
}

type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
type Payload = openraft::EntryPayload<Proposal, u64, openraft::BasicNode>;

impl Config for TypeConfig {
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> BoxFuture<'static, io::Result<T>> {
        Box::pin(async { tokio::task::spawn_blocking(work).await.map_err(io::Error::other)? })
    }
}

/// Raft id of the node that makes a cluster. A fresh log begins with the membership (0), the first leader's blank
/// entry (1) and then the entry that admits this node (2), so the rule "id = index of the admitting entry" holds for
/// it too.
pub const FIRST_NODE: u64 = 2;

/// Version of the protocol between nodes; the handshake refuses another one, naming both.
pub const PROTOCOL: u16 = 1;

/// Milliseconds of `CLOCK_BOOTTIME`, which goes on in suspend; no decision uses the wall clock.
#[must_use]
pub fn boot_ms() -> i64 {
    clock_ms(nix::time::ClockId::CLOCK_BOOTTIME)
}

/// Milliseconds of `CLOCK_MONOTONIC`, which stops in suspend; openraft's instants count with it.
#[must_use]
pub fn monotonic_ms() -> i64 {
    clock_ms(nix::time::ClockId::CLOCK_MONOTONIC)
}

/// Wall clock in Unix milliseconds, for what people read and for the expiry of join codes.
#[must_use]
pub fn unix_ms() -> i64 {
    clock_ms(nix::time::ClockId::CLOCK_REALTIME)
}

fn clock_ms(clock: nix::time::ClockId) -> i64 {
    // These three clocks exist on every kernel we start on; 0 makes every lease look over, the safe side.
    clock.now().map_or(0, |at| at.tv_sec() * 1000 + at.tv_nsec() / 1_000_000)
}

/// Timings of the Raft group (ha.md 2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timings {
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
}

impl Timings {
    /// One site, round trips below 5 ms.
    pub const LAN: Timings = Timings { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 };
    /// Noisy hypervisors.
    pub const SAFE: Timings = Timings { heartbeat_ms: 150, election_min_ms: 500, election_max_ms: 1000 };
    /// Round trips up to 20 ms.
    pub const METRO: Timings = Timings { heartbeat_ms: 250, election_min_ms: 1000, election_max_ms: 2000 };
}

impl Default for Timings {
    fn default() -> Self {
        Self::LAN
    }
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of hex digits; `None` when it is anything else.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}
