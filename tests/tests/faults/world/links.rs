//! What fails on the way between nodes.

use super::{World, must, space};
use std::process::Command;

impl World {
    /// Takes the node's cable out.
    pub(crate) fn cut(&self, node: u8) {
        must(&format!("-n {} link set p{node} down", space(0)));
    }

    pub(crate) fn heal(&self, node: u8) {
        must(&format!("-n {} link set p{node} up", space(0)));
    }

    /// What it sends is lost; it still hears.
    pub(crate) fn mute(&self, node: u8) {
        self.nft(node, "add table inet elpis_test; add chain inet elpis_test out { type filter hook output priority 0; }; add rule inet elpis_test out oifname v0 drop");
    }

    pub(crate) fn unmute(&self, node: u8) {
        self.nft(node, "delete table inet elpis_test");
    }

    fn nft(&self, node: u8, rules: &str) {
        let done = Command::new("ip").args(["netns", "exec", &space(node), "nft", rules]).output().unwrap();
        assert!(done.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&done.stderr));
    }

    /// Nothing of the database gets to other nodes or from them; everything else does.
    pub(crate) fn cut_gate(&self, node: u8) {
        self.nft(node, "add table inet elpis_test; add chain inet elpis_test out { type filter hook output priority 0; }; add rule inet elpis_test out oifname v0 tcp dport 7004 drop; add rule inet elpis_test out oifname v0 tcp sport 7004 drop");
    }
}
