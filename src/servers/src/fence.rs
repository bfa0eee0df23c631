//! Which fence rows a new owner has to raise before it reads state. Pure.

use elpis_watch::{Map, NodeId, Role};
use std::collections::BTreeMap;

/// Roles whose writers touch the state of monitored agents.
const ROLES: [Role; 2] = [Role::NetworkServer, Role::DataServer];

/// Name of a writer's fence row.
pub(crate) fn writer_name(node: &str, role: Role) -> String {
    format!("{node}/{}", role.as_str())
}

/// Sessions to which this process has raised other nodes' rows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Raises {
    raised: BTreeMap<String, u64>,
}

impl Raises {
    /// Rows to raise before state is read under this map: those of every other node whose session grew.
    pub(crate) fn needed(&self, map: &Map, me: NodeId) -> Vec<(String, u64)> {
        map.nodes
            .iter()
            .filter(|(id, _)| **id != me)
            .flat_map(|(_, node)| ROLES.map(|role| (writer_name(&node.name, role), node.session)))
            .filter(|(writer, session)| self.raised.get(writer).is_none_or(|done| done < session))
            .collect()
    }

    /// These rows stand.
    pub(crate) fn raised(&mut self, rows: &[(String, u64)]) {
        for (writer, session) in rows {
            let done = self.raised.entry(writer.clone()).or_default();
            *done = (*session).max(*done);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_others_are_raised_when_their_session_grows() {
        let node = |name: &str, session| elpis_watch::Node {
            name: name.into(),
            session,
            live: true,
            spool_address: String::new(),
            gate_address: String::new(),
            spki: String::new(),
        };
        let mut map = Map { nodes: [(1, node("a", 4)), (2, node("b", 5))].into(), ..Map::default() };
        let mut raises = Raises::default();
        let rows = raises.needed(&map, 1);
        assert_eq!(rows, [("b/network-server".to_owned(), 5), ("b/data-server".to_owned(), 5)]);
        raises.raised(&rows);
        assert_eq!(raises.needed(&map, 1), []);
        map.nodes.insert(2, node("b", 6));
        assert_eq!(raises.needed(&map, 1).len(), 2);
        assert_eq!(raises.needed(&map, 2).len(), 2);
    }
}
