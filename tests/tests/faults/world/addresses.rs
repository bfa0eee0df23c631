//! Virtual addresses, as the kernels of the nodes and a machine beside them see them.

use super::{NODES, World, space};
use elpis_watch::Method;
use serde_json::json;
use std::process::Command;

impl World {
    pub(crate) fn set_address(&self, address: &str, keep: bool) -> Result<(), String> {
        let order = json!({ "address": address, "keep": keep });
        self.ask(1, Method::POST, "/v1/cluster/address", Some(&order)).map(drop)
    }

    /// Nodes whose kernel has it.
    pub(crate) fn holders(&self, address: &str) -> Vec<u8> {
        let has = |node: &u8| {
            let mut ip = Command::new("ip");
            let shown = ip.args(["-n", &space(*node), "-o", "addr", "show", "to", address]).output().unwrap();
            !shown.stdout.is_empty()
        };
        (1..=NODES).filter(has).collect()
    }

    /// A Tentacle server answers there, asked from a machine beside the nodes.
    pub(crate) fn answers(&self, address: &str) -> bool {
        let connect = format!("exec 3<>/dev/tcp/{address}/7003");
        let mut asked = Command::new("ip");
        asked.args(["netns", "exec", &space(0), "timeout", "0.3", "bash", "-c", &connect]);
        asked.output().unwrap().status.success()
    }

    /// No work for this node any more, or again.
    pub(crate) fn drain(&self, node: u8, drain: bool) {
        let order = if drain { "/v1/node/drain" } else { "/v1/node/undrain" };
        self.ask(node, Method::POST, order, Some(&json!({ "node": super::name(node) }))).unwrap();
    }
}
