//! Data server and network server against a real database and a fake node agent.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a failed step ends the test

#[path = "servers/data.rs"]
mod data;
#[path = "servers/fake.rs"]
mod fake;
#[path = "servers/network.rs"]
mod network;
