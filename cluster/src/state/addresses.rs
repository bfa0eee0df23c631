//! Virtual addresses: each is held by one node, as a job.

use super::{Applied, ClusterState, Node, Refused};
use elpis_watch::ADDRESS_JOB;
use std::net::Ipv4Addr;

/// Most of them.
pub const MAX_ADDRESSES: usize = 8;

impl ClusterState {
    pub(super) fn virtual_address(&mut self, address: &str, keep: bool) -> Result<Applied, Refused> {
        let Some(address) = parse(address) else {
            return Err(Refused::NoAddress(address.chars().take(64).collect()));
        };
        if !keep {
            self.jobs.remove(&format!("{ADDRESS_JOB}{address}"));
            return match self.addresses.remove(&address) {
                true => Ok(Applied::Done),
                false => Err(Refused::UnknownAddress(address)),
            };
        }
        if self.addresses.contains(&address) {
            return Ok(Applied::Unchanged);
        }
        let own = |node: &Node| {
            let all = [&node.address, &node.spool_address, &node.console_address, &node.gate_address];
            all.iter().any(|of| of.rsplit_once(':').is_some_and(|(host, _)| host == address))
        };
        if let Some((id, _)) = self.members().find(|(_, node)| own(node)) {
            return Err(Refused::AddressOfNode { address, node: id });
        }
        if self.addresses.len() >= MAX_ADDRESSES {
            return Err(Refused::TooManyAddresses(self.addresses.len()));
        }
        self.addresses.insert(address);
        Ok(Applied::Done)
    }

    /// Every job that some node has to do.
    #[must_use]
    pub fn job_names(&self, singletons: &[&str]) -> Vec<String> {
        let addresses = self.addresses.iter().map(|address| format!("{ADDRESS_JOB}{address}"));
        singletons.iter().map(|name| (*name).to_owned()).chain(addresses).collect()
    }
}

/// PURE: the address as it is written everywhere; `None` = it is none that a machine may have.
fn parse(text: &str) -> Option<String> {
    let address: Ipv4Addr = text.parse().ok()?;
    let odd = address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || address.is_link_local()
        || address.is_broadcast();
    (!odd).then(|| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Command;

    #[test]
    fn addresses_come_and_go_and_others_are_refused() {
        let mut state = ClusterState::default();
        let mut order = |address: &str, keep| {
            let done = state.apply(9, &Command::Address { address: address.into(), keep });
            (done, state.job_names(&["purge"]))
        };
        assert_eq!(
            order("10.0.0.50", true),
            (Ok(Applied::Done), vec!["purge".into(), "address/10.0.0.50".into()])
        );
        assert_eq!(order("10.0.0.50", true).0, Ok(Applied::Unchanged));
        assert_eq!(order("10.0.0.51", false).0, Err(Refused::UnknownAddress("10.0.0.51".into())));
        for text in ["", "10.0.0.50/24", "127.0.0.1", "224.0.0.1", "fe80::1", "10.0.0.050"] {
            assert!(matches!(order(text, true).0, Err(Refused::NoAddress(_))), "{text}");
        }
        for last in 1..8 {
            assert_eq!(order(&format!("10.1.0.{last}"), true).0, Ok(Applied::Done));
        }
        assert_eq!(order("10.1.0.9", true).0, Err(Refused::TooManyAddresses(8)));
        assert_eq!(order("10.0.0.50", false).0, Ok(Applied::Done));
        assert_eq!(state.addresses.len(), 7);
    }

    #[test]
    fn a_job_goes_with_its_address() {
        let mut state = crate::state::testing::live(1);
        let address = |keep| Command::Address { address: "10.0.0.50".into(), keep };
        state.apply(290, &address(true)).unwrap();
        let node = state.members().next().unwrap().0;
        state.nodes.get_mut(&node).unwrap().console_address = "10.0.0.60:443".into();
        let own = Command::Address { address: "10.0.0.60".into(), keep: true };
        let refused = Refused::AddressOfNode { address: "10.0.0.60".into(), node };
        assert_eq!(state.apply(291, &own), Err(refused));
        state.apply(292, &Command::SetJob { name: "address/10.0.0.50".into(), node }).unwrap();
        assert_eq!(state.map().addresses(node).collect::<Vec<_>>(), ["10.0.0.50"]);
        state.apply(293, &address(false)).unwrap();
        assert!(state.map().addresses(node).next().is_none());
    }
}
