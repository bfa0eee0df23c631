//! Copies of the database on the nodes.

use super::{NODES, PASSWORD, World, name, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sqlx::ConnectOptions;
use sqlx::mysql::MySqlConnectOptions;
use std::path::PathBuf;
use std::process::Command;

impl World {
    /// The way that a server of this node takes to the primary.
    pub(crate) fn through_gate(&self, node: u8) -> MySqlConnectOptions {
        let options = MySqlConnectOptions::new().socket(self.socket(node, "gate/db.sock"));
        options.username("elpis-admin").password(PASSWORD).database("elpis").disable_statement_logging()
    }

    /// The socket of a node's own server.
    pub(crate) fn own_socket(&self, node: u8) -> PathBuf {
        self.folder(node).join("database/gate/s")
    }

    /// Number of the primary's node, as this status has it.
    pub(crate) fn primary(status: &Value) -> u8 {
        (1..=NODES).find(|node| status["database"]["primary"] == name(*node).as_str()).unwrap()
    }

    /// Servers outlive their node agents.
    pub(super) fn end_databases(&self) {
        if !self.managed {
            let dir = self.dir.path().join("dev");
            let _ = Command::new(program()).args(["dev", "down", "--dir"]).arg(dir).output();
            return;
        }
        for node in 1..=NODES {
            let pid = std::fs::read_to_string(self.socket(node, "mariadbd.pid"));
            if let Some(pid) = pid.ok().and_then(|text| text.trim().parse().ok()) {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }
}
