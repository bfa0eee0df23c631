//! What tests of whole nodes share.

use elpis_cluster::profile::Profile;
use elpis_cluster::raft_node::Config;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

/// An address that was free a moment ago.
pub(crate) fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A node of this name, with a folder and a port of its own.
pub(crate) fn config(folder: &Path, name: &str) -> Config {
    let listen = free_port();
    Config {
        data_dir: folder.join(name),
        name: name.to_owned(),
        listen,
        advertise: listen.to_string(),
        spool_address: String::new(),
        gate_address: String::new(),
        console_address: String::new(),
        profile: Profile::Lan,
    }
}
