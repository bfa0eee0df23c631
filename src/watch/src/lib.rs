//! The contract between a node agent and the server processes of its node: the plain types of the watch stream, and
//! the client that obeys them.
//!
//! A server asks the local socket `node.sock` (HTTP/1.1, JSON) for its orders: until when it may act, in which
//! session, which shards it owns, where the database is. Silence past the deadline means stop.
//! Invariant: nothing here knows Raft, SQL or monitoring rules; both sides may use it without knowing each other.

mod client;
mod clock;
pub mod durable;
mod gate;
mod heartbeat;
mod http;
pub mod log;
mod types;

pub use client::Link;
pub use clock::boottime_ms;
pub use gate::Gate;
pub use heartbeat::Progress;
pub use http::{LinkError, file_body, request, request_text, upload};
pub use hyper::Method;
pub use types::*;
