//! PURE: what stands against admitting a node, all of it at once.

use super::wire::Request;
use crate::state::{ClusterState, JoinCode, MAX_NODES, Node, NodeState};
use crate::types::PROTOCOL;

/// Clocks may differ by so much.
const SKEW_MS: i64 = 5 * 60 * 1000;
/// Longest address, name and version of a newcomer.
const ADDRESS: usize = 128;
const NAME: usize = 64;
const VERSION: usize = 32;

/// What the member found out for the checks.
pub(super) struct Found<'a> {
    pub(super) request: &'a Request,
    /// Pin of the key that the joiner showed in TLS.
    pub(super) spki: &'a str,
    pub(super) code: &'a JoinCode,
    /// Cluster time, Unix milliseconds.
    pub(super) now_ms: i64,
    /// Why its cluster port could not be reached or did not prove its key.
    pub(super) unreachable: Option<String>,
    pub(super) leader: bool,
}

/// The member with this key that only lost our answer: admitted, never up, and asking for the same again.
pub(super) fn admitted_before<'a>(
    state: &'a ClusterState,
    request: &Request,
    spki: &str,
) -> Option<(u64, &'a Node)> {
    state.members().find(|(_, node)| {
        node.spki == spki
            && node.state == NodeState::Joining
            // Who takes a place bears the name of that place.
            && node.address == request.address
    })
}

/// Everything that is wrong, or nothing.
pub(super) fn reasons(state: &ClusterState, found: &Found<'_>) -> Vec<String> {
    let request = found.request;
    let mut reasons = super::wire::plain(request.reasons.clone());
    let again = admitted_before(state, request, found.spki).is_some();
    if !again {
        if found.code.tries == 0 {
            reasons.push(
                "the code was used or had five wrong tries; make a new one with `elpis cluster add-node`"
                    .to_owned(),
            );
        } else if found.now_ms >= found.code.expires_ms {
            reasons.push("the code has expired; make a new one with `elpis cluster add-node`".to_owned());
        }
        taken(state, found, &mut reasons);
    }
    let skew = request.wall_ms.saturating_sub(found.now_ms);
    if skew.saturating_abs() > SKEW_MS {
        let direction = if skew > 0 { "ahead of" } else { "behind" };
        reasons.push(format!(
            "the clock of the new node is {} s {direction} the cluster's; set it (at most {} s are taken)",
            skew.saturating_abs() / 1000,
            SKEW_MS / 1000
        ));
    }
    if request.protocol != PROTOCOL {
        reasons.push(format!(
            "the new node speaks protocol {} (version {}), the cluster {PROTOCOL} (version {}); update the older program",
            request.protocol,
            clip(&request.version, VERSION),
            env!("CARGO_PKG_VERSION")
        ));
    }
    if !request.profiles && state.profile.step > 0 {
        reasons.push(
            "the program of the new node is too old to know the timings that the cluster agreed on; update it".to_owned(),
        );
    }
    if let Some(why) = &found.unreachable {
        reasons.push(why.clone());
    }
    if !found.leader {
        reasons.push(
            "the cluster has no leader now, so it can admit nobody; start the nodes that are down".to_owned(),
        );
    }
    shape(request, &mut reasons);
    reasons
}

/// Names, addresses, keys and places that are taken.
fn taken(state: &ClusterState, found: &Found<'_>, reasons: &mut Vec<String>) {
    let request = found.request;
    let mine = [&request.address, &request.spool_address, &request.console_address, &request.gate_address];
    for (id, node) in &state.nodes {
        if node.spki == found.spki || node.uuid == request.uuid {
            let rest = if node.state == NodeState::Removed { ", which was removed" } else { "" };
            reasons.push(format!(
                "the key of the new node is that of node {id} ({}){rest}; empty its data folder, every node makes its own key",
                node.name
            ));
        }
    }
    let place = found.code.replaces;
    if let Some(id) = place {
        reasons.extend(against_place(state, id));
    }
    for (id, node) in state.members().filter(|(id, _)| Some(*id) != place) {
        if node.name == request.name && place.is_none() {
            reasons.push(format!(
                "the name {} belongs to node {id}; choose another with --name, or remove that node first",
                node.name
            ));
        }
        for address in [&node.address, &node.spool_address, &node.console_address, &node.gate_address] {
            if !address.is_empty() && mine.contains(&address) {
                reasons.push(format!(
                    "the address {address} belongs to node {id} ({}); choose another address or port",
                    node.name
                ));
            }
        }
    }
    if state.members().count() >= MAX_NODES && place.is_none() {
        reasons.push(format!("the cluster has {MAX_NODES} nodes, the most it carries; remove one first"));
    }
}

/// PURE: why a newcomer cannot take the place of this node (any more).
pub(super) fn against_place(state: &ClusterState, id: u64) -> Option<String> {
    let node = match state.nodes.get(&id) {
        Some(node) if node.state != NodeState::Removed => node,
        _ => {
            return Some(format!(
                "node {id} is no member any more: its place is taken, or it was removed; let the \
             new node in with `elpis cluster add-node`"
            ));
        }
    };
    if node.live() {
        return Some(format!(
            "{0} lives, so nobody takes its place; to take it out run `elpis node drain {0}` and `elpis node remove {0}`",
            node.name
        ));
    }
    let leads = state.group.as_ref().is_some_and(|group| group.primary == id);
    leads.then(|| {
        format!(
            "{} is still the database's primary: wait until another one is made, or see `elpis cluster status` for the \
             way without it",
            node.name
        )
    })
}

fn shape(request: &Request, reasons: &mut Vec<String>) {
    let name = &request.name;
    let well = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME || !name.chars().all(well) || name.parse::<u64>().is_ok() {
        reasons.push(format!(
            "{:?} is no name for a node; take letters, digits, dot, dash and underscore, at most {NAME}, not a number",
            clip(name, NAME)
        ));
    }
    let port = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let others = [&request.spool_address, &request.console_address, &request.gate_address];
    let addresses = std::iter::once((&request.address, true)).chain(others.map(|address| (address, false)));
    for (address, needed) in addresses {
        let fits = address.len() <= ADDRESS && port(address).is_some_and(|port| port > 0);
        if (needed || !address.is_empty()) && !fits {
            reasons.push(format!(
                "{:?} is no address; give host:port, at most {ADDRESS} letters",
                clip(address, ADDRESS)
            ));
        }
    }
    if request.uuid.is_empty() || request.uuid.len() > 64 || request.version.len() > VERSION {
        reasons.push("the request is damaged; use the same program on both nodes".to_owned());
    }
}

fn clip(text: &str, most: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(most).collect()
}

#[cfg(test)]
mod tests;
